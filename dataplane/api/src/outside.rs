//! What containers may do beyond talking to each other: the outside, the cell itself, limits, and
//! what is recorded of it.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::messages::{PortId, PortRange, Protocol, RuleId};

/// Most entries of each list of [`Outside`], so that a cell fits a frame.
pub const MAX_LISTED: usize = 2048;

/// Most mappings of one container, so that its settings fit a frame.
pub const MAX_MAPPINGS: usize = 4096;

/// Most rules of one set of egress rules.
pub const MAX_EGRESS_RULES: usize = 100_000;

/// How containers of a cell reach the outside, and what of the cell they reach. Each list has at
/// most [`MAX_LISTED`] entries.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Outside {
    /// Ports of the cell's underlay address that source NAT uses; nobody else may. None: nothing
    /// leaves with the cell's address.
    pub snat_ports: Option<PortRange>,
    /// Conversations to the outside that one container may have at a time; 0 for no limit but
    /// that of the flow table.
    pub snat_per_container: u32,
    /// Destinations that see a container's own address (`no_masquerade_cidr_range`). The overlay
    /// is always one.
    pub not_masqueraded: Vec<Ipv4Net>,
    /// All addresses of the cell itself besides [`crate::Cell::underlay`] and those of loopback.
    pub local: Vec<Ipv4Addr>,
    /// What of the cell itself containers reach.
    pub services: Vec<HostService>,
}

/// A port of the cell that containers may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HostService {
    /// One of the cell's addresses.
    pub address: Ipv4Addr,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Port.
    pub port: u16,
}

/// Ports of the cell that lead to a container. The first of `cell` leads to `container`, the
/// second to the next one, and so on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Mapping {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Ports of the cell's underlay address.
    pub cell: PortRange,
    /// Port of the container that the first of them leads to.
    pub container: u16,
}

/// The controller's name for a set of egress rules. A set never changes its rules under the same
/// name, but grows by further pieces before settings name it. It has at most [`MAX_EGRESS_RULES`]
/// rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SetId(pub u32);

/// A piece of a set of egress rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EgressSet {
    /// Its name.
    pub id: SetId,
    /// Index of the first of `rules` in the whole set: pieces come in order, without gaps.
    pub from: u32,
    /// Rules; of several that match, the last one of the set counts.
    pub rules: Vec<EgressRule>,
}

/// "Traffic of this kind to these addresses."
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EgressRule {
    /// The controller's name for it, shown in traces, flows and events; 0 for none.
    pub id: RuleId,
    /// Lowest destination address.
    pub first: Ipv4Addr,
    /// Highest destination address; not below `first`.
    pub last: Ipv4Addr,
    /// Which traffic.
    pub traffic: Traffic,
    /// Whether conversations that it admits are recorded as events.
    pub log: bool,
}

/// What an egress rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Traffic {
    /// Everything, whatever the protocol.
    All,
    /// TCP to these ports.
    Tcp(PortRange),
    /// UDP to these ports.
    Udp(PortRange),
    /// ICMP messages.
    Icmp {
        /// Type; none for any.
        kind: Option<u8>,
        /// Code; none for any.
        code: Option<u8>,
    },
}

/// What a container may do beyond app-to-app rules, and how much of it. Without these it reaches
/// nothing outside and has no limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Whose.
    pub port: PortId,
    /// Destinations refused before anything else (`deny_networks`).
    pub denied: Option<SetId>,
    /// Destinations admitted (security groups). None: nothing.
    pub allowed: Option<SetId>,
    /// Ports of the cell that lead here, at most [`MAX_MAPPINGS`] entries.
    pub mappings: Vec<Mapping>,
    /// Limit on what the container sends.
    pub send: Option<Rate>,
    /// Limit on what the container is sent.
    pub receive: Option<Rate>,
    /// Limit on new TCP connections to the outside.
    pub connections: Option<ConnectionLimit>,
}

/// A limit in bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Bits per second, IPv4 headers included.
    pub bits_per_second: u64,
    /// Bits that may be sent at once after a quiet time.
    pub burst_bits: u64,
}

/// A limit on new TCP connections for each destination address and port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionLimit {
    /// Connections per second.
    pub per_second: u32,
    /// Connections at once after a quiet time.
    pub burst: u32,
    /// Only record what would have been refused.
    pub dry_run: bool,
    /// Record what is refused; always so in a dry run.
    pub log: bool,
}

/// What is recorded as events. Each container has its own budgets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logging {
    /// Conversations between apps, admitted and refused.
    pub overlay: bool,
    /// Conversations to the outside, admitted (also by rules that do not ask for it) and refused.
    pub egress: bool,
    /// Refusals recorded per container and second.
    pub denied_per_second: u32,
    /// Admitted UDP packets recorded per container and second.
    pub accepted_udp_per_second: u32,
}

impl Default for Logging {
    /// Nothing but what rules ask for, at the rates of the kernel stack (contract section 7.1).
    fn default() -> Self {
        Self { overlay: false, egress: false, denied_per_second: 1, accepted_udp_per_second: 100 }
    }
}
