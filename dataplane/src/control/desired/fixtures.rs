//! A cell, and who could be there.

use sarcenet_dataplane_api::{
    Attach, Cell, Container, Logging, Peer, PortId, PortRange, Protocol, Revoke, Rule, RuleId,
    RuleKey, Tracking, UplinkMode,
};

use crate::wire::tunnel::vtep_mac;

pub(crate) fn cell() -> Cell {
    Cell {
        underlay: [192, 0, 2, 11].into(),
        subnet: "10.255.55.0/24".parse().unwrap(),
        overlay: "10.255.0.0/16".parse().unwrap(),
        vni: 1,
        tunnel_port: 4789,
        mtu: 1450,
        revoke: Revoke::Drain,
        uplink: UplinkMode::Udp,
        host: false,
        outside: None,
        logging: Logging::default(),
        tracking: Tracking::default(),
        tag: 0,
        open: false,
    }
}

pub(crate) fn peer(subnet: &str) -> Peer {
    let subnet: ipnet::Ipv4Net = subnet.parse().unwrap();
    let [_, _, third, _] = subnet.network().octets();
    Peer { subnet, underlay: [192, 0, 2, third].into(), mac: vtep_mac(subnet.network()) }
}

pub(crate) fn container(port: u16, last: u8) -> Container {
    let address = [10, 255, 55, last].into();
    Container {
        port: PortId(port),
        address,
        tag: port + 1,
        name: format!("c{port}-{last}"),
        attach: Attach::Tun,
    }
}

pub(crate) fn rule(id: u32, source: u16, last: u8, first: u16, last_port: u16) -> Rule {
    let key = RuleKey {
        source,
        destination: [10, 255, 55, last].into(),
        protocol: Protocol::Tcp,
        ports: PortRange { first, last: last_port },
    };
    Rule { id: RuleId(id), key }
}
