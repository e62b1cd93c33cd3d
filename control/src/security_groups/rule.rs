//! Rules for traffic to the outside: from the forms in which platforms write them to what the
//! dataplane compares (contract section 7.6).
//!
//! There are two forms. Cloud Controller's is text ([`RuleText`]); it occurs in the network file
//! and in answers of policy servers. Garden's is typed ([`NetOutRule`]); runtimes pass it with a
//! container.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use sarcenet_agent_api::{AddressRange, IcmpControl, NetOutRule, PortsError, parse_ports};
use sarcenet_dataplane_api::{EgressRule, PortRange, RuleId, Traffic};
use serde::Deserialize;

/// A rule as Cloud Controller writes it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct RuleText {
    /// `tcp`, `udp`, `icmp` or `all`.
    pub protocol: String,
    /// Addresses, networks and ranges of addresses, separated by commas.
    pub destination: String,
    /// Ports and ranges of ports, separated by commas, for `tcp` and `udp`; empty is none.
    pub ports: Option<String>,
    /// ICMP type: 0 if not given, any if -1 or 255.
    #[serde(rename = "type")]
    pub kind: Option<i64>,
    /// ICMP code, likewise.
    pub code: Option<i64>,
    /// Whether conversations that it admits are recorded.
    pub log: bool,
    /// What it is for.
    pub description: Option<String>,
}

/// A rule that was read: every destination with every kind of traffic.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EgressSpec {
    /// Where to.
    pub destinations: Vec<AddressRange>,
    /// What.
    pub traffic: Vec<Traffic>,
    /// Whether conversations that it admits are recorded.
    pub log: bool,
}

/// The part of a rule that is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// `protocol`.
    Protocol,
    /// `destination`, Garden's `networks`.
    Destination,
    /// `ports`.
    Ports,
    /// `type`, in Garden's rules `icmps`.
    Type,
    /// `code`.
    Code,
}

/// Why a rule makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// Not one of the four.
    #[error("protocol `{0}` is not known; use tcp, udp, icmp or all")]
    Protocol(String),
    /// None at all.
    #[error("it has no protocol; use tcp, udp, icmp or all")]
    NoProtocol,
    /// A protocol of IPv6.
    #[error("protocol icmpv6 is one of IPv6; containers have IPv4 addresses only, use icmp")]
    Icmpv6,
    /// No destination at all.
    #[error("it has no destination; use 0.0.0.0/0 for everywhere")]
    NoDestination,
    /// A destination that is none.
    #[error(
        "destination `{0}` is not an IPv4 address, a network or a range; write it like 10.0.0.1, \
         10.0.0.0/8 or 10.0.0.1-10.0.0.9, several separated by commas without spaces"
    )]
    Destination(String),
    /// A destination of IPv6.
    #[error("destination `{0}` is one of IPv6; containers have IPv4 addresses only")]
    Ipv6(String),
    /// A range of addresses that is none.
    #[error("address range {first}-{last} ends before it begins; write {last}-{first}")]
    InvertedAddresses {
        /// Its first address as written.
        first: Ipv4Addr,
        /// Its last address as written.
        last: Ipv4Addr,
    },
    /// Ports that are none.
    #[error(transparent)]
    Ports(#[from] PortsError),
    /// TCP or UDP to no port.
    #[error("a rule for {0} needs ports; use 1-65535 for all")]
    NoPorts(&'static str),
    /// Ports where there are none.
    #[error("a rule for {0} cannot have ports; remove them, or use tcp or udp")]
    PortsWithout(&'static str),
    /// A number that no type or code can be.
    #[error("ICMP {what} {got} is not in 0 to 255; use -1 for any")]
    Icmp {
        /// Type or code.
        what: &'static str,
        /// What was given.
        got: i64,
    },
    /// A type or code where there is none.
    #[error("a rule for {protocol} cannot have an ICMP {what}; remove it, or use icmp")]
    IcmpWithout {
        /// The protocol.
        protocol: &'static str,
        /// Type or code.
        what: &'static str,
    },
    /// Garden's ICMP rules must say what they mean.
    #[error("a rule for icmp needs a type and a code; use 255 for any")]
    NoIcmp,
}

impl RuleError {
    /// Where the mistake is.
    pub fn field(&self) -> Field {
        match self {
            Self::Protocol(_) | Self::NoProtocol | Self::Icmpv6 => Field::Protocol,
            Self::NoDestination
            | Self::Destination(_)
            | Self::Ipv6(_)
            | Self::InvertedAddresses { .. } => Field::Destination,
            Self::Ports(_) | Self::NoPorts(_) | Self::PortsWithout(_) => Field::Ports,
            Self::Icmp { what: "code", .. } | Self::IcmpWithout { what: "code", .. } => Field::Code,
            Self::Icmp { .. } | Self::IcmpWithout { .. } | Self::NoIcmp => Field::Type,
        }
    }

    /// Whether the kernel stack leaves such a rule out instead of failing. Garden's rules are
    /// treated alike, so that a container that starts there starts here.
    pub fn is_left_out(&self) -> bool {
        matches!(self, Self::NoPorts(_) | Self::PortsWithout(_) | Self::NoIcmp)
    }
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    All,
    Tcp,
    Udp,
    Icmp,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
        }
    }

    /// The traffic of this kind. `icmp` is asked only where it matters.
    fn traffic(
        self,
        ports: &[PortRange],
        icmp: impl FnOnce() -> Result<Traffic, RuleError>,
    ) -> Result<Vec<Traffic>, RuleError> {
        match self {
            Self::Tcp | Self::Udp if ports.is_empty() => Err(RuleError::NoPorts(self.name())),
            Self::Tcp => Ok(ports.iter().copied().map(Traffic::Tcp).collect()),
            Self::Udp => Ok(ports.iter().copied().map(Traffic::Udp).collect()),
            Self::All | Self::Icmp if !ports.is_empty() => {
                Err(RuleError::PortsWithout(self.name()))
            }
            Self::All => Ok(vec![Traffic::All]),
            Self::Icmp => Ok(vec![icmp()?]),
        }
    }
}

/// ICMP messages; 255 stands for any, and any type means any code.
fn icmp_traffic(kind: u8, code: u8) -> Traffic {
    let given = |number: u8| (number != u8::MAX).then_some(number);
    let kind = given(kind);
    Traffic::Icmp { kind, code: given(code).filter(|_| kind.is_some()) }
}

impl RuleText {
    /// Reads the rule.
    ///
    /// # Errors
    /// Says what of it makes no sense. Nothing is ignored.
    pub fn parse(&self) -> Result<EgressSpec, RuleError> {
        let kind = match self.protocol.as_str() {
            "all" => Kind::All,
            "tcp" => Kind::Tcp,
            "udp" => Kind::Udp,
            "icmp" => Kind::Icmp,
            "" => return Err(RuleError::NoProtocol),
            "icmpv6" => return Err(RuleError::Icmpv6),
            other => return Err(RuleError::Protocol(other.to_owned())),
        };
        if self.destination.is_empty() {
            return Err(RuleError::NoDestination);
        }
        let destinations =
            self.destination.split(',').map(destination).collect::<Result<_, _>>()?;
        let ports = match self.ports.as_deref().map(str::trim) {
            None | Some("") => Vec::new(),
            Some(text) => text.split(',').map(parse_ports).collect::<Result<_, _>>()?,
        };
        let numbers = [(self.kind, "type"), (self.code, "code")];
        if !matches!(kind, Kind::Icmp)
            && let Some((_, what)) = numbers.into_iter().find(|(n, _)| n.is_some_and(|n| n != 0))
        {
            return Err(RuleError::IcmpWithout { protocol: kind.name(), what });
        }
        let traffic = kind.traffic(&ports, || {
            let byte = |(number, what): (Option<i64>, _)| match number.unwrap_or(0) {
                -1 => Ok(u8::MAX),
                got => u8::try_from(got).map_err(|_| RuleError::Icmp { what, got }),
            };
            Ok(icmp_traffic(byte(numbers[0])?, byte(numbers[1])?))
        })?;
        Ok(EgressSpec { destinations, traffic, log: self.log })
    }
}

/// Reads an address, a network or a range.
fn destination(text: &str) -> Result<AddressRange, RuleError> {
    let none = || match text.split(['-', '/']).next().map(str::parse) {
        Some(Ok(IpAddr::V6(_))) => RuleError::Ipv6(text.to_owned()),
        _ => RuleError::Destination(text.to_owned()),
    };
    if let Some((first, last)) = text.split_once('-') {
        let (Ok(first), Ok(last)) = (first.parse(), last.parse()) else { return Err(none()) };
        return address_range(first, last);
    }
    match text.parse::<IpNet>() {
        Ok(IpNet::V4(net)) => Ok(network(net)),
        Ok(IpNet::V6(_)) => Err(none()),
        Err(_) => {
            let address: Ipv4Addr = text.parse().map_err(|_| none())?;
            Ok(AddressRange { first: address, last: address })
        }
    }
}

/// All addresses of a network; host bits are ignored, as elsewhere on the platform.
pub fn network(net: Ipv4Net) -> AddressRange {
    AddressRange { first: net.network(), last: net.broadcast() }
}

fn address_range(first: Ipv4Addr, last: Ipv4Addr) -> Result<AddressRange, RuleError> {
    if first > last {
        return Err(RuleError::InvertedAddresses { first, last });
    }
    Ok(AddressRange { first, last })
}

impl EgressSpec {
    /// Reads a rule of Garden's.
    ///
    /// # Errors
    /// Says what of it makes no sense; [`RuleError::is_left_out`] tells what to do about it.
    pub fn from_garden(rule: &NetOutRule) -> Result<Self, RuleError> {
        let kind = match rule.protocol {
            0 => Kind::All,
            1 => Kind::Tcp,
            2 => Kind::Udp,
            3 => Kind::Icmp,
            other => return Err(RuleError::Protocol(other.to_string())),
        };
        let destinations = rule.networks.iter().map(|net| address_range(net.first, net.last));
        let destinations = destinations.collect::<Result<_, _>>()?;
        for &PortRange { first, last } in &rule.ports {
            if first == 0 {
                return Err(PortsError::NotAPort("0".into()).into());
            }
            if first > last {
                return Err(PortsError::Inverted { first, last }.into());
            }
        }
        let traffic = kind.traffic(&rule.ports, || match rule.icmp {
            Some(IcmpControl { kind, code: Some(code) }) => Ok(icmp_traffic(kind, code)),
            _ => Err(RuleError::NoIcmp),
        })?;
        Ok(Self { destinations, traffic, log: rule.log })
    }

    /// Everything to one network.
    pub fn everything_to(net: Ipv4Net) -> Self {
        Self { destinations: vec![network(net)], traffic: vec![Traffic::All], log: false }
    }

    /// Rules of the dataplane that say the same, all of that name.
    pub fn rules(&self, id: RuleId) -> impl Iterator<Item = EgressRule> {
        self.destinations.iter().flat_map(move |&AddressRange { first, last }| {
            self.traffic.iter().map(move |&traffic| EgressRule {
                id,
                first,
                last,
                traffic,
                log: self.log,
            })
        })
    }
}

#[cfg(test)]
mod tests;
