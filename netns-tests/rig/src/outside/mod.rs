//! The outside: a host behind a router, and how containers may reach it.

mod description;
mod group;
mod host;

pub use description::{Bandwidth, ContainerSpec, PortMapping, Workload};
pub use group::{GroupRule, SecurityGroup};
pub use host::OutsideHost;
pub(crate) use host::unlimited_icmp_errors;

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::RangeInclusive;

use ipnet::Ipv4Net;

/// Networks of the outside host; all their addresses are its own. See [`OutsideHost`].
pub mod network {
    use super::{Ipv4Addr, Ipv4Net};

    /// Nothing is special about these (TEST-NET-3, RFC 5737).
    pub const PLAIN: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(203, 0, 113, 0), 25);
    /// Refused to all containers (`deny_networks.always`).
    pub const DENIED: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(203, 0, 113, 128), 28);
    /// Refused to apps and tasks (`deny_networks.running`).
    pub const DENIED_RUNNING: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(203, 0, 113, 144), 28);
    /// Refused to staging containers (`deny_networks.staging`).
    pub const DENIED_STAGING: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(203, 0, 113, 160), 28);
    /// All of the above, as the router sees it.
    pub const ROUTED: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(203, 0, 113, 0), 24);
    /// Sees the containers' own addresses (`no_masquerade_cidr_range`). The next network is the
    /// overlay, so that one range of Silk's configuration covers both.
    pub const OWN_ADDRESS: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 254, 0, 0), 24);
    /// Behind a link of the router with [`super::NARROW_MTU`] (TEST-NET-1, RFC 5737).
    pub const NARROW: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(192, 0, 2, 0), 24);
}

/// MTU of the router's link to [`network::NARROW`], in bytes.
pub const NARROW_MTU: u16 = 1300;
/// The router's address on the underlay.
pub const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// Link-local DNS server of every cell (`dns_servers`).
pub const DNS_SERVER: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 2);
/// TCP and UDP service of every cell that containers may use (`host_tcp_services`,
/// `host_udp_services`).
pub const HOST_SERVICE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(169, 254, 10, 1), 7070);
/// Ports that source NAT uses on Sarcenet cells.
pub const SNAT_PORTS: RangeInclusive<u16> = 16384..=32767;
/// `no_masquerade_cidr_range`: [`network::OWN_ADDRESS`] and the overlay.
pub(crate) const NO_MASQUERADE: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 254, 0, 0), 15);

/// How a world's containers may reach the outside, besides security groups.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OutsidePlan {
    /// Limit on new TCP connections of each container to one destination address and port.
    pub connections: Option<ConnectionLimit>,
    /// Whether conversations to the outside and between apps are recorded.
    pub logging: bool,
    /// Conversations to the outside that one container of a Sarcenet cell may have at a time; 0
    /// for no limit.
    pub per_container: u32,
}

/// `outbound_connections`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLimit {
    /// Connections at once after a quiet time.
    pub burst: u32,
    /// Connections per second.
    pub per_second: u32,
    /// Whether what is refused is recorded.
    pub logging: bool,
    /// Whether nothing is refused, only recorded.
    pub dry_run: bool,
}

impl OutsidePlan {
    /// Networks that containers of this workload reach by no rule, in the order of effect.
    pub(crate) fn denied(workload: Workload) -> [Ipv4Net; 2] {
        let own = match workload {
            Workload::App | Workload::Task => network::DENIED_RUNNING,
            Workload::Staging => network::DENIED_STAGING,
        };
        [network::DENIED, own]
    }

    /// The part of the network file about it, but security groups.
    pub(crate) fn network_file(&self) -> String {
        let mut text = format!(
            "\
outside:
  snat_ports: {}-{}
  no_masquerade: [{NO_MASQUERADE}]
  dns_servers: [{DNS_SERVER}]
  host_services:
    tcp: [\"{HOST_SERVICE}\"]
    udp: [\"{HOST_SERVICE}\"]
  deny_networks:
    always: [{}]
    running: [{}]
    staging: [{}]
",
            SNAT_PORTS.start(),
            SNAT_PORTS.end(),
            network::DENIED,
            network::DENIED_RUNNING,
            network::DENIED_STAGING,
        );
        if self.per_container > 0 {
            let _ = writeln!(text, "  max_connections_per_container: {}", self.per_container);
        }
        if let Some(limit) = self.connections {
            let ConnectionLimit { burst, per_second, logging, dry_run } = limit;
            let _ = writeln!(
                text,
                "  outbound_connections: {{limit: true, burst: {burst}, rate_per_sec: {per_second}, logging: {logging}, dry_run: {dry_run}}}"
            );
        }
        if self.logging {
            text.push_str("  logging: {asg: true, c2c: true}\n");
        }
        text
    }
}
