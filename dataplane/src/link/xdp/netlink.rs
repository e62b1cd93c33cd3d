//! What rtnetlink's messages say about routes and neighbours.
#![forbid(unsafe_code)]

use std::io;
use std::net::Ipv4Addr;

use netlink_packet_route::AddressFamily;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};

/// Where a route leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gateway {
    /// By the uplink, to this neighbour.
    Here(Ipv4Addr),
    /// By another interface, of this index.
    Elsewhere(u32),
    /// Nowhere.
    Nowhere,
}

/// Index of the loopback interface (`LOOPBACK_IFINDEX` of the Linux kernel).
const LOOPBACK: u32 = 1;

/// Where a route to `peer` leads, seen from the interface of that index.
pub(super) fn gateway_of(route: &RouteMessage, peer: Ipv4Addr, index: u32) -> Gateway {
    if route.header.kind != RouteType::Unicast {
        let local = route.header.kind == RouteType::Local;
        return if local { Gateway::Elsewhere(LOOPBACK) } else { Gateway::Nowhere };
    }
    let (mut out, mut gateway) = (0, peer);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => out = *index,
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => gateway = *address,
            _ => {}
        }
    }
    if out == index { Gateway::Here(gateway) } else { Gateway::Elsewhere(out) }
}

/// Address and MAC of a resolved neighbour, and whether the kernel is sure of it.
pub(super) fn resolved(message: &NeighbourMessage) -> Option<(Ipv4Addr, ([u8; 6], bool))> {
    if message.header.family != AddressFamily::Inet {
        return None;
    }
    let fresh = match message.header.state {
        NeighbourState::Reachable | NeighbourState::Permanent | NeighbourState::Noarp => true,
        NeighbourState::Stale | NeighbourState::Delay | NeighbourState::Probe => false,
        _ => return None,
    };
    let (mut address, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(found)) => {
                address = Some(*found);
            }
            NeighbourAttribute::LinkLayerAddress(found) => mac = found.as_slice().try_into().ok(),
            _ => {}
        }
    }
    Some((address?, (mac?, fresh)))
}

/// The operating system's error in one of rtnetlink.
pub(super) fn into_io(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}
