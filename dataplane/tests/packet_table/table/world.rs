//! The cell all rows play on, and who is around it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use sarcenet_dataplane::limit::{ConnectionLimiter, TokenBucket};
use sarcenet_dataplane::packet::Via;
use sarcenet_dataplane::policy::egress::EgressTable;
use sarcenet_dataplane::topology::{ConnectionBudget, Grants, Topology};
use sarcenet_dataplane_api::{
    Attach, Cell, ConnectionLimit, Container, EgressRule, HostService, Logging, Mapping, Outside,
    Peer, PortId, PortRange, Protocol, Rate, Revoke, Rule, RuleId, RuleKey, Tracking, Traffic,
    UplinkMode,
};

/// The overlay's network identifier.
pub(crate) const VNI: u32 = 1;

/// MAC address of the cell's VTEP: `ee:ee` and its subnet's base address.
pub(crate) const WORLD_MAC: [u8; 6] = [0xee, 0xee, 10, 255, 55, 0];

/// Largest inner packet.
pub(crate) const MTU: u16 = 1450;

/// Somebody who sends or receives: an address, and the door to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct End {
    pub door: Via,
    pub address: Ipv4Addr,
    pub tag: u16,
}

const fn here(port: u16, last: u8, tag: u16) -> End {
    let address = Ipv4Addr::new(10, 255, 55, last);
    End { door: Via::Container(PortId(port)), address, tag }
}

const fn there(cell: u8, third: u8, last: u8, tag: u16) -> End {
    let door = Via::Tunnel(Ipv4Addr::new(10, 77, 0, cell));
    End { door, address: Ipv4Addr::new(10, 255, third, last), tag }
}

/// App a (tag 1): an instance here.
pub(crate) const A: End = here(1, 2, 1);
/// App a: a second instance here.
pub(crate) const A2: End = here(2, 3, 1);
/// App b (tag 2): an instance here.
pub(crate) const B: End = here(3, 4, 2);
/// App c (tag 3): an instance here.
pub(crate) const C: End = here(4, 5, 3);
/// An app that is the source of no policy and has no tag: an instance here.
pub(crate) const UNTAGGED: End = here(5, 6, 0);
/// App a on another cell.
pub(crate) const REMOTE_A: End = there(12, 62, 2, 1);
/// App b on another cell.
pub(crate) const REMOTE_B: End = there(12, 62, 3, 2);
/// App c on a third cell.
pub(crate) const THIRD_C: End = there(13, 73, 5, 3);
/// The other cell itself.
pub(crate) const REMOTE_HOST: End = there(12, 62, 0, 0);
/// This cell itself.
pub(crate) const HOST: End =
    End { door: Via::Host, address: Ipv4Addr::new(10, 255, 55, 0), tag: 0 };

/// This cell itself, when it is a router's.
pub(crate) const ROUTER: End = End { tag: 6, ..HOST };

/// This cell on the underlay, and for the outside.
pub(crate) const CELL: End = End { door: Via::Host, address: Ipv4Addr::new(10, 77, 0, 11), tag: 0 };
/// Somebody outside.
pub(crate) const OUTSIDE: End =
    End { door: Via::Host, address: Ipv4Addr::new(198, 51, 100, 7), tag: 0 };
/// Somebody else there.
pub(crate) const OUTSIDE_2: End =
    End { door: Via::Host, address: Ipv4Addr::new(203, 0, 113, 7), tag: 0 };
/// The one port for source NAT; that of clients, so that it stays as it is.
pub(crate) const SNAT_PORT: u16 = 40_000;

/// An address somewhere, for packets to or from whoever should not be there. Its door is the
/// one of a container, so that such packets can also be sent.
pub(crate) const fn nobody(address: [u8; 4]) -> End {
    let [a, b, c, d] = address;
    End { address: Ipv4Addr::new(a, b, c, d), ..A }
}

/// Desired state of the cell.
#[derive(Debug, Clone)]
pub(crate) struct World {
    pub cell: Option<Cell>,
    pub peers: Vec<Peer>,
    pub containers: Vec<Container>,
    pub rules: Vec<Rule>,
    /// What containers may do beyond that; egress rules as they were written.
    pub grants: BTreeMap<PortId, Granted>,
}

/// What a container may do beyond app-to-app rules.
#[derive(Debug, Clone, Default)]
pub(crate) struct Granted {
    denied: Vec<EgressRule>,
    allowed: Vec<EgressRule>,
    mappings: Vec<Mapping>,
    connections: Option<ConnectionLimit>,
    receive: Option<Rate>,
}

impl Default for World {
    fn default() -> Self {
        let cell = Cell {
            underlay: Ipv4Addr::new(10, 77, 0, 11),
            subnet: "10.255.55.0/24".parse().unwrap(),
            overlay: "10.255.0.0/16".parse().unwrap(),
            vni: VNI,
            tunnel_port: 4789,
            mtu: MTU,
            revoke: Revoke::Drain,
            uplink: UplinkMode::Udp,
            host: true,
            outside: None,
            logging: Logging::default(),
            tracking: Tracking::default(),
            tag: 0,
            open: false,
        };
        let containers = [A, A2, B, C, UNTAGGED].into_iter().map(container).collect();
        let peers = [REMOTE_A, THIRD_C].map(peer).to_vec();
        let (rules, grants) = (Vec::new(), BTreeMap::new());
        Self { cell: Some(cell), peers, containers, rules, grants }
    }
}

impl World {
    /// What the workers look at.
    pub(crate) fn topology(&self, generation: u32) -> Topology {
        let Self { cell, peers, containers, grants, .. } = self.clone();
        let grants = grants.into_iter().map(|(port, granted)| (port, granted.ready()));
        Topology::new(generation, cell, peers.into_iter(), containers.into_iter())
            .with_grants(grants)
    }
}

impl Granted {
    fn ready(self) -> Arc<Grants> {
        let table = |rules: &[EgressRule]| Some(Arc::new(EgressTable::compile(rules)));
        Arc::new(Grants {
            denied: table(&self.denied),
            allowed: table(&self.allowed),
            mappings: self.mappings,
            connections: self.connections.map(|limit| ConnectionBudget {
                limit,
                limiter: Arc::new(ConnectionLimiter::new(&limit, 0)),
            }),
            receive: self.receive.map(|rate| Arc::new(TokenBucket::new(&rate, 0))),
            send: None,
        })
    }
}

/// Gives the cell a way out.
pub(crate) fn with_outside(world: &mut World) {
    if let Some(cell) = &mut world.cell {
        cell.outside = Some(Outside {
            snat_ports: Some(ports(SNAT_PORT, SNAT_PORT)),
            snat_per_container: 0,
            not_masqueraded: Vec::new(),
            local: vec![[192, 0, 2, 11].into()],
            services: vec![HostService {
                address: [169, 254, 0, 2].into(),
                protocol: Protocol::Udp,
                port: 53,
            }],
        });
    }
}

/// The cell's own packets carry the tag of [`ROUTER`].
pub(crate) fn as_router(world: &mut World) {
    if let Some(cell) = &mut world.cell {
        cell.tag = ROUTER.tag;
    }
}

/// Everybody in the overlay may talk to the cell's containers, or no longer.
pub(crate) fn set_open(world: &mut World, open: bool) {
    if let Some(cell) = &mut world.cell {
        cell.open = open;
    }
}

/// These ports.
pub(crate) const fn ports(first: u16, last: u16) -> PortRange {
    PortRange { first, last }
}

fn egress_rule(destinations: &str, traffic: Traffic) -> EgressRule {
    let (first, last) = destinations.split_once('-').expect("a range");
    let (first, last) = (first.parse().unwrap(), last.parse().unwrap());
    EgressRule { id: RuleId(7), first, last, traffic, log: false }
}

fn granted(world: &mut World, end: End) -> &mut Granted {
    let Via::Container(port) = end.door else { panic!("{end:?} is no container of this cell") };
    world.grants.entry(port).or_default()
}

/// A container may send such traffic to these destinations.
pub(crate) fn allow_out(world: &mut World, from: End, destinations: &str, traffic: Traffic) {
    granted(world, from).allowed.push(egress_rule(destinations, traffic));
}

/// A container may send nothing to these destinations, whatever else is said.
pub(crate) fn deny_out(world: &mut World, from: End, destinations: &str) {
    granted(world, from).denied.push(egress_rule(destinations, Traffic::All));
}

/// TCP ports of the cell lead to a container.
pub(crate) fn map_port(world: &mut World, to: End, first: u16, last: u16, container: u16) {
    let mapping = Mapping { protocol: Protocol::Tcp, cell: ports(first, last), container };
    granted(world, to).mappings.push(mapping);
}

/// A container may open `burst` connections to the same end at once, and one more a second.
pub(crate) fn limit_connections(world: &mut World, from: End, burst: u32, dry_run: bool) {
    let limit = ConnectionLimit { per_second: 1, burst, dry_run, log: false };
    granted(world, from).connections = Some(limit);
}

/// A container may be sent so many bits at once, and `bits_per_second` afterwards.
pub(crate) fn limit_rate(world: &mut World, to: End, bits_per_second: u64, burst_bits: u64) {
    granted(world, to).receive = Some(Rate { bits_per_second, burst_bits });
}

/// The container of an end on this cell.
pub(crate) fn container(end: End) -> Container {
    let Via::Container(port) = end.door else { panic!("{end:?} is no container of this cell") };
    Container {
        port,
        address: end.address,
        tag: end.tag,
        name: format!("container-{}", port.0),
        attach: Attach::Tun,
    }
}

/// The cell of a remote end.
pub(crate) fn peer(end: End) -> Peer {
    let Via::Tunnel(underlay) = end.door else { panic!("{end:?} is not on another cell") };
    let [a, b, c, _] = end.address.octets();
    let subnet = format!("{a}.{b}.{c}.0/24").parse().unwrap();
    Peer { subnet, underlay, mac: peer_mac(end) }
}

/// MAC address of the VTEP of a remote end's cell.
pub(crate) fn peer_mac(end: End) -> [u8; 6] {
    let [a, b, c, _] = end.address.octets();
    [0xee, 0xee, a, b, c, 0]
}

/// "App `from` may talk to `to` on these ports."
pub(crate) fn rule(id: u32, from: End, to: End, protocol: Protocol, first: u16, last: u16) -> Rule {
    let key = RuleKey {
        source: from.tag,
        destination: to.address,
        protocol,
        ports: PortRange { first, last },
    };
    Rule { id: RuleId(id), key }
}

/// A rule for one TCP port.
pub(crate) fn tcp_rule(from: End, to: End, port: u16) -> Rule {
    rule(1, from, to, Protocol::Tcp, port, port)
}

/// A rule for one UDP port.
pub(crate) fn udp_rule(from: End, to: End, port: u16) -> Rule {
    rule(2, from, to, Protocol::Udp, port, port)
}
