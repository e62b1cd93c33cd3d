//! What a runtime asks for beside the interface: ports of the cell, rules for traffic to the
//! outside, limits.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use sarcenet_dataplane_api::{HostService, Mapping, PortRange, Protocol, Rate};
use serde::{Deserialize, Serialize};

/// A port of the cell that leads to the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortMapping {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Port of the cell, never 0.
    pub host_port: u16,
    /// Port of the container, never 0.
    pub container_port: u16,
}

impl std::fmt::Display for PortMapping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { protocol, host_port, container_port } = self;
        write!(f, "{host_port}:{container_port}/{protocol}")
    }
}

/// Addresses from `first` to `last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AddressRange {
    /// Lowest address.
    pub first: Ipv4Addr,
    /// Highest address.
    pub last: Ipv4Addr,
}

/// ICMP messages as Garden names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IcmpControl {
    /// Type; 255 for any.
    pub kind: u8,
    /// Code; 255 for any, none in rules that the kernel stack skips.
    pub code: Option<u8>,
}

/// A rule for traffic to the outside as Garden writes it (contract section 7.1).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct NetOutRule {
    /// 0 for every protocol, 1 for TCP, 2 for UDP, 3 for ICMP.
    pub protocol: u8,
    /// Destinations.
    pub networks: Vec<AddressRange>,
    /// Ports, for TCP and UDP.
    pub ports: Vec<PortRange>,
    /// Messages, for ICMP.
    pub icmp: Option<IcmpControl>,
    /// Whether conversations that it admits are recorded.
    pub log: bool,
}

/// Limits on a container's traffic; none means no limit of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Bandwidth {
    /// On what it sends.
    pub send: Option<Rate>,
    /// On what it is sent.
    pub receive: Option<Rate>,
}

/// What the platform says about a container (contract section 7.11). Texts may be empty.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Metadata {
    /// App.
    pub app_id: Option<String>,
    /// What policies name; most often the app.
    pub policy_group_id: Option<String>,
    /// Space.
    pub space_id: Option<String>,
    /// Organization.
    pub org_id: Option<String>,
    /// Ports that the app listens on, separated by commas.
    pub ports: Option<String>,
    /// `app`, `task` or `staging`.
    pub container_workload: Option<String>,
    /// Where the app's log lines go, as JSON.
    pub log_config: Option<String>,
}

impl Metadata {
    /// The ports of [`Self::ports`], in order and each once. What is no port is left out.
    pub fn listening(&self) -> BTreeSet<u16> {
        let parts = self.ports.iter().flat_map(|ports| ports.split(','));
        parts.filter_map(|part| part.trim().parse().ok().filter(|port| *port != 0)).collect()
    }
}

/// What a plugin's configuration says of the cell, where Silk's has it (contract section 7.1). It
/// holds for all containers of the cell as long as one is attached that came with it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CellTerms {
    /// What of the cell itself containers reach.
    pub services: Vec<HostService>,
    /// Destinations that see a container's own address.
    pub not_masqueraded: Vec<Ipv4Net>,
}

/// What a runtime says about a container beside its interface.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Terms {
    /// What the platform calls it.
    pub metadata: Metadata,
    /// Ports of the cell that lead to it.
    pub mappings: Vec<PortMapping>,
    /// Where it may go, when security groups do not say.
    pub net_out: Vec<NetOutRule>,
    /// Limits on its traffic.
    pub bandwidth: Bandwidth,
    /// What is said of the cell beside it.
    pub cell: CellTerms,
}

/// Mappings in as few ranges as say the same, in order.
pub fn ranges(mappings: &[PortMapping]) -> Vec<Mapping> {
    let mut sorted = mappings.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let mut ranges: Vec<Mapping> = Vec::new();
    for PortMapping { protocol, host_port, container_port } in sorted {
        if let Some(range) = ranges.last_mut()
            && range.protocol == protocol
            && range.cell.last.checked_add(1) == Some(host_port)
            && range.container.checked_add(host_port - range.cell.first) == Some(container_port)
        {
            range.cell.last = host_port;
        } else {
            let cell = PortRange { first: host_port, last: host_port };
            ranges.push(Mapping { protocol, cell, container: container_port });
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mapping(protocol: Protocol, host_port: u16, container_port: u16) -> PortMapping {
        PortMapping { protocol, host_port, container_port }
    }

    #[test]
    fn neighbours_become_ranges() {
        use Protocol::{Tcp, Udp};
        let mappings = [
            mapping(Tcp, 61_002, 8082),
            mapping(Tcp, 61_000, 8080),
            mapping(Tcp, 61_001, 8081),
            mapping(Tcp, 61_003, 8080),
            mapping(Udp, 61_004, 8081),
        ];
        let said: Vec<_> = ranges(&mappings)
            .iter()
            .map(|range| format!("{} {} {}", range.protocol, range.cell, range.container))
            .collect();
        assert_eq!(said, ["tcp 61000-61002 8080", "tcp 61003 8080", "udp 61004 8081"]);
        assert_eq!(mapping(Tcp, 61_000, 8080).to_string(), "61000:8080/tcp");
    }

    #[test]
    fn ports_that_an_app_listens_on() {
        let table: [(Option<&str>, &[u16]); 6] = [
            (None, &[]),
            (Some(""), &[]),
            (Some("8080"), &[8080]),
            (Some(" 9090, 8080 ,8080"), &[8080, 9090]),
            (Some("0,65536,-1,http,,1,65535"), &[1, 65_535]),
            (Some("8080-8090"), &[]),
        ];
        for (ports, listening) in table {
            let metadata = Metadata { ports: ports.map(Into::into), ..Metadata::default() };
            assert!(metadata.listening().iter().eq(listening), "{ports:?}");
        }
    }

    proptest! {
        #[test]
        fn ranges_say_the_same(
            ports in prop::collection::vec((any::<bool>(), 65_500..=u16::MAX, 65_500..=u16::MAX), 0..40),
        ) {
            let mappings: BTreeSet<_> = ports
                .into_iter()
                .map(|(tcp, host, container)| {
                    mapping(if tcp { Protocol::Tcp } else { Protocol::Udp }, host, container)
                })
                .collect();
            let ranges = ranges(&mappings.iter().copied().collect::<Vec<_>>());
            let mut spread = BTreeSet::new();
            for Mapping { protocol, cell, container } in ranges {
                for host in cell.first..=cell.last {
                    spread.insert(mapping(protocol, host, container + (host - cell.first)));
                }
            }
            prop_assert_eq!(spread, mappings);
        }
    }
}
