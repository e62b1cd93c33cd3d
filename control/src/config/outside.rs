//! `outside:`: the way out of the cell and into it, the same on every cell.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;

use ipnet::Ipv4Net;
use sarcenet_agent_api::parse_ports;
use sarcenet_dataplane_api::{
    ConnectionLimit, HostService, Logging, MAX_LISTED, PortRange, Protocol, Rate,
};
use serde::{Deserialize, Serialize};

use super::reader::Reader;
use super::tree::{At, Node, Place};

/// Ports that source NAT uses: below those that Linux gives to the cell's own sockets (32768 to
/// 60999) and those that Diego maps to containers (61000 and above).
pub const DEFAULT_SNAT_PORTS: PortRange = PortRange { first: 16_384, last: 32_767 };

/// Most entries of other lists. What the dataplane takes, with room for what is added to them here.
pub(crate) const LIST_MAX: usize = MAX_LISTED / 2;

/// Most name servers: more than resolvers use (`MAXNS` of resolv.conf(5) is 3).
const DNS_SERVERS_MAX: usize = 16;

/// What `outside:` says. Its names and defaults are those of the kernel stack where there are any
/// (contract section 13.6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutsideSpec {
    /// Ports of the cell that source NAT uses.
    pub snat_ports: PortRange,
    /// Conversations to the outside that one container may have at a time; 0 for no limit.
    pub max_connections_per_container: u32,
    /// Destinations that see a container's own address.
    pub no_masquerade: Vec<Ipv4Net>,
    /// What of the cell itself containers reach.
    pub host_services: Vec<HostService>,
    /// Name servers of containers.
    pub dns_servers: Vec<Ipv4Addr>,
    /// Destinations that no security group can open.
    pub deny_networks: DenyNetworks,
    /// Limit on new TCP connections to one destination and port.
    pub outbound_connections: Option<ConnectionLimit>,
    /// Limit on what a container sends and, separately, is sent, unless the runtime says another.
    pub bandwidth: Option<Rate>,
    /// What is recorded as events.
    pub logging: Logging,
    /// Where events are recorded.
    pub log_file: Option<PathBuf>,
}

/// `deny_networks:`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DenyNetworks {
    /// For all containers.
    pub always: Vec<Ipv4Net>,
    /// For running ones.
    pub running: Vec<Ipv4Net>,
    /// For staging ones.
    pub staging: Vec<Ipv4Net>,
}

impl Default for OutsideSpec {
    /// What `outside: {}` says.
    fn default() -> Self {
        Self {
            snat_ports: DEFAULT_SNAT_PORTS,
            max_connections_per_container: 0,
            no_masquerade: Vec::new(),
            host_services: Vec::new(),
            dns_servers: Vec::new(),
            deny_networks: DenyNetworks::default(),
            outbound_connections: None,
            bandwidth: None,
            logging: Logging::default(),
            log_file: None,
        }
    }
}

impl OutsideSpec {
    /// What of the cell containers reach: the services, and name servers on link-local addresses
    /// (contract section 7.7).
    pub fn services(&self) -> Vec<HostService> {
        let near = self.dns_servers.iter().filter(|server| server.is_link_local());
        let dns = near.flat_map(|&address| {
            [Protocol::Tcp, Protocol::Udp].map(|protocol| HostService {
                address,
                protocol,
                port: 53,
            })
        });
        let mut services: Vec<_> = self.host_services.iter().copied().chain(dns).collect();
        services.sort();
        services.dedup();
        services
    }
}

impl Reader {
    /// Reads `outside:`. What is wrong is remembered; what is missing has its default.
    pub(super) fn outside(&mut self, node: At<Node>) -> Option<At<OutsideSpec>> {
        let place = node.place;
        let known = [
            "snat_ports",
            "max_connections_per_container",
            "no_masquerade",
            "host_services",
            "dns_servers",
            "deny_networks",
            "outbound_connections",
            "bandwidth",
            "logging",
        ];
        let mut top = self.map(node, "outside", &known)?;
        let snat_ports = top.take("snat_ports").and_then(|node| self.snat_ports(node));
        let most = top.take("max_connections_per_container").and_then(|node| {
            let hint = "0 for no limit";
            self.number(node, "max_connections_per_container", 0..=u32::MAX.into(), hint)
        });
        let no_masquerade = self.networks(top.take("no_masquerade"), "no_masquerade");
        let host_services = top.take("host_services").map(|node| self.host_services(node));
        let servers = top.take("dns_servers");
        let servers_place = servers.as_ref().map(|node| node.place);
        let servers = self.each(servers, "dns_servers", Self::dns_server);
        let servers = self.bounded(servers_place, "dns_servers", servers, DNS_SERVERS_MAX);
        let deny_networks = top.take("deny_networks").and_then(|node| self.deny_networks(node));
        let outbound = top.take("outbound_connections");
        let outbound_connections = outbound.and_then(|node| self.outbound_connections(node));
        let bandwidth = top.take("bandwidth").and_then(|node| self.bandwidth(node));
        let (logging, log_file) =
            top.take("logging").and_then(|node| self.logging(node)).unwrap_or_default();
        let value = OutsideSpec {
            snat_ports: snat_ports.unwrap_or(DEFAULT_SNAT_PORTS),
            max_connections_per_container: most.map_or(0, |most| most.value as u32),
            no_masquerade,
            host_services: host_services.unwrap_or_default(),
            dns_servers: servers.into_iter().map(|server| server.value).collect(),
            deny_networks: deny_networks.unwrap_or_default(),
            outbound_connections,
            bandwidth,
            logging,
            log_file,
        };
        Some(At { place, value })
    }

    fn snat_ports(&mut self, node: At<Node>) -> Option<PortRange> {
        let text = self.text(node, "snat_ports")?;
        match parse_ports(&text.value) {
            Ok(ports) => Some(ports),
            Err(e) => {
                self.wrong(text.place, format!("snat_ports: {e}"));
                None
            }
        }
    }

    fn networks(&mut self, list: Option<At<Node>>, key: &str) -> Vec<Ipv4Net> {
        let place = list.as_ref().map(|node| node.place);
        let read = |reader: &mut Self, node| reader.network_address(node, key);
        let networks: Vec<_> =
            self.each(list, key, read).into_iter().map(|net| net.value.value).collect();
        self.bounded(place, key, networks, LIST_MAX)
    }

    /// The list, which must not be longer than `most`.
    fn bounded<T>(&mut self, place: Option<Place>, key: &str, list: Vec<T>, most: usize) -> Vec<T> {
        if let Some(place) = place.filter(|_| list.len() > most) {
            let count = list.len();
            self.wrong(place, format!("{key} has {count} entries, at most {most} are possible"));
        }
        list
    }

    fn host_services(&mut self, node: At<Node>) -> Vec<HostService> {
        let place = node.place;
        let Some(mut entry) = self.map(node, "host_services", &["tcp", "udp"]) else {
            return Vec::new();
        };
        let mut services = Vec::new();
        for (key, protocol) in [("tcp", Protocol::Tcp), ("udp", Protocol::Udp)] {
            let read = |reader: &mut Self, node| reader.host_service(node, protocol);
            let list = self.each(entry.take(key), key, read);
            services.extend(list.into_iter().map(|service| service.value));
        }
        self.bounded(Some(place), "host_services", services, LIST_MAX)
    }

    fn host_service(&mut self, node: At<Node>, protocol: Protocol) -> Option<HostService> {
        let At { place, value } = self.text(node, "a service of the cell")?;
        let message = match value.parse::<SocketAddrV4>() {
            Ok(at) if at.port() == 0 => "port 0 is no port".to_owned(),
            Ok(at) if at.ip().is_loopback() => {
                "addresses of the cell's loopback cannot be reached from containers; give the \
                 service another address"
                    .to_owned()
            }
            Ok(at) => return Some(HostService { address: *at.ip(), protocol, port: at.port() }),
            Err(_) => "write it like 169.254.0.3:9090".to_owned(),
        };
        self.wrong(place, format!("host service `{value}`: {message}"));
        None
    }

    fn dns_server(&mut self, node: At<Node>) -> Option<Ipv4Addr> {
        let At { place, value } = self.text(node, "a DNS server")?;
        let address = value.parse().ok();
        if address.is_none() {
            let message = format!("invalid DNS server `{value}`, must be a valid IPv4 address");
            self.wrong(place, message);
        }
        address
    }

    fn deny_networks(&mut self, node: At<Node>) -> Option<DenyNetworks> {
        let mut entry = self.map(node, "deny_networks", &["always", "running", "staging"])?;
        Some(DenyNetworks {
            always: self.networks(entry.take("always"), "always"),
            running: self.networks(entry.take("running"), "running"),
            staging: self.networks(entry.take("staging"), "staging"),
        })
    }

    fn outbound_connections(&mut self, node: At<Node>) -> Option<ConnectionLimit> {
        let known = ["limit", "logging", "burst", "rate_per_sec", "dry_run"];
        let mut entry = self.map(node, "outbound_connections", &known)?;
        let mut flag = |key: &str| entry.take(key).and_then(|node| self.flag(node, key));
        let (limit, log, dry_run) = (flag("limit"), flag("logging"), flag("dry_run"));
        let mut number = |key: &str, default: u32| {
            entry.take(key).map_or(Some(default), |node| {
                let number = self.number(node, key, 1..=u32::MAX.into(), "0 would let nothing out");
                number.map(|number| number.value as u32)
            })
        };
        let (burst, per_second) = (number("burst", 1000)?, number("rate_per_sec", 100)?);
        let dry_run = dry_run.unwrap_or(false);
        let wanted = limit.unwrap_or(false) || dry_run;
        let log = log.unwrap_or(false);
        wanted.then_some(ConnectionLimit { per_second, burst, dry_run, log })
    }

    fn bandwidth(&mut self, node: At<Node>) -> Option<Rate> {
        let place = node.place;
        let mut entry = self.map(node, "bandwidth", &["rate_kbps", "burst_kb"])?;
        let mut number = |key: &str, hint| {
            let number = entry.take(key).map_or(Some(0), |node| {
                self.number(node, key, 0..=1 << 40, hint).map(|number| number.value as u64)
            })?;
            Some(number * 1024)
        };
        let bits_per_second = number("rate_kbps", "units of 1024 bits per second, 0 for no limit")?;
        let burst_bits = number("burst_kb", "units of 1024 bits, 0 for no limit")?;
        match (bits_per_second, burst_bits) {
            (0, 0) => None,
            (0, _) | (_, 0) => {
                self.wrong(place, "bandwidth needs both rate_kbps and burst_kb, or neither");
                None
            }
            _ => Some(Rate { bits_per_second, burst_bits }),
        }
    }

    fn logging(&mut self, node: At<Node>) -> Option<(Logging, Option<PathBuf>)> {
        let known = ["asg", "c2c", "denied_per_sec", "accepted_udp_per_sec", "file"];
        let mut entry = self.map(node, "logging", &known)?;
        let default = Logging::default();
        let mut flag = |key: &str| entry.take(key).and_then(|node| self.flag(node, key));
        let (egress, overlay) = (flag("asg"), flag("c2c"));
        let mut number = |key: &str, default: u32| {
            let number = entry.take(key).and_then(|node| {
                self.number(node, key, 1..=1_000_000, "events per second and container")
            });
            number.map_or(default, |number| number.value as u32)
        };
        let logging = Logging {
            overlay: overlay.unwrap_or(default.overlay),
            egress: egress.unwrap_or(default.egress),
            denied_per_second: number("denied_per_sec", default.denied_per_second),
            accepted_udp_per_second: number(
                "accepted_udp_per_sec",
                default.accepted_udp_per_second,
            ),
        };
        let file = entry.take("file").and_then(|node| self.absolute_path(node, "file"));
        Some((logging, file))
    }
}
