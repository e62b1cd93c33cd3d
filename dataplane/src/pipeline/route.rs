//! Whether a source belongs where its packet came from, and where a destination is.

use std::net::Ipv4Addr;

use sarcenet_dataplane_api::{Cell, DropReason, HostService, Protocol};

use crate::flow::FlowKey;
use crate::packet::Via;
use crate::topology::Topology;

/// Where the first packet of a conversation goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    /// Through this door, with addresses and ports as they are.
    Through(Via),
    /// To the outside, by the host's door, under the cell's address.
    Masqueraded,
    /// From the outside to a port of the cell that leads to a container: to this door, address
    /// and port.
    Mapped(Via, Ipv4Addr, u16),
    /// It is not ours: back to the kernel, from which it came.
    Kernel,
}

/// Whether a packet that came in by `from` may carry this source address: a container its own,
/// a peer those of the subnets leased to it, the host the cell's own, and, where there is a way
/// to the outside, everything outside the overlay.
pub(super) fn check_source(
    topology: &Topology,
    from: Via,
    source: Ipv4Addr,
) -> Result<(), DropReason> {
    match from {
        Via::Tunnel(underlay) if topology.peer_at(underlay).is_none() => {
            Err(DropReason::UnknownPeer)
        }
        _ if topology.place_of(source) == Some(from) => Ok(()),
        Via::Tunnel(_) => Err(DropReason::ForeignSource),
        Via::Container(_) | Via::Host => Err(DropReason::SpoofedSource),
    }
}

/// Where the first packet of a conversation goes.
///
/// Containers and peers may not open conversations with the cell itself but to its services: what
/// INPUT rules of a kernel cell would let through is not wanted here, and replies are known by
/// their flow. Ports that lead to containers are for the outside: not for containers of the same
/// cell (contract section 7.5). Nothing goes from one peer to another, whose tunnels end at each
/// other.
pub(super) fn route(
    topology: &Topology,
    cell: &Cell,
    from: Via,
    key: &FlowKey,
) -> Result<Route, DropReason> {
    let destination = key.destination;
    if destination == cell.overlay.broadcast() {
        return Err(DropReason::NotUnicast);
    }
    match topology.door_of(destination) {
        Some(to) if to == from => Err(DropReason::NoRoute),
        Some(Via::Tunnel(_)) if matches!(from, Via::Tunnel(_)) => Err(DropReason::NoRoute),
        Some(Via::Host) => Err(DropReason::HostDenied),
        // A kernel cell would take VXLAN to its VTEP's address for a peer's, whatever tag is in it.
        Some(Via::Tunnel(_))
            if matches!(from, Via::Container(_)) && topology.is_vtep(destination) =>
        {
            Err(DropReason::HostDenied)
        }
        // What the kernel was sent by others and routed here.
        Some(_) if from == Via::Host && !is_own(topology, key.source) => {
            Err(DropReason::PolicyDenied)
        }
        Some(to) => Ok(Route::Through(to)),
        None if cell.overlay.contains(&destination) => Err(DropReason::NoRoute),
        None => match from {
            Via::Container(_) => leave(topology, cell, key),
            Via::Host if topology.is_kernels(destination) => Ok(enter(topology, key)),
            Via::Host | Via::Tunnel(_) => Err(DropReason::NoRoute),
        },
    }
}

/// Whether this is an address of the cell: on the overlay, or another one.
fn is_own(topology: &Topology, address: Ipv4Addr) -> bool {
    topology.door_of(address) == Some(Via::Host) || topology.is_local(address)
}

/// A container's packet to an address outside the overlay.
fn leave(topology: &Topology, cell: &Cell, key: &FlowKey) -> Result<Route, DropReason> {
    if topology.is_local(key.destination) {
        let service = protocol(key).map(|protocol| HostService {
            address: key.destination,
            protocol,
            port: key.destination_port,
        });
        return match service {
            Some(service) if topology.is_service(service) => Ok(Route::Through(Via::Host)),
            _ => Err(DropReason::HostDenied),
        };
    }
    // Under the cell's address it would be believed there, whatever tag is in it.
    if protocol(key) == Some(Protocol::Udp)
        && key.destination_port == cell.tunnel_port
        && topology.peer_at(key.destination).is_some()
    {
        return Err(DropReason::HostDenied);
    }
    match topology.masquerade(key.destination) {
        Some(true) => Ok(Route::Masqueraded),
        Some(false) => Ok(Route::Through(Via::Host)),
        None => Err(DropReason::EgressDenied),
    }
}

/// A packet from the outside to an address of the cell.
fn enter(topology: &Topology, key: &FlowKey) -> Route {
    let underlay = topology.cell().is_some_and(|cell| cell.underlay == key.destination);
    let mapped = protocol(key)
        .filter(|_| underlay)
        .and_then(|protocol| topology.mapping(protocol, key.destination_port))
        .and_then(|(address, port)| Some((topology.door_of(address)?, address, port)));
    mapped.map_or(Route::Kernel, |(to, address, port)| Route::Mapped(to, address, port))
}

fn protocol(key: &FlowKey) -> Option<Protocol> {
    [Protocol::Tcp, Protocol::Udp].into_iter().find(|p| p.number() == key.protocol)
}
