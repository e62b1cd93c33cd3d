//! Whether a source belongs where its packet came from, and where a destination is.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use sarcenet_dataplane_api::{Cell, DropReason};

use crate::packet::Via;
use crate::topology::Topology;

/// Addresses of the cell's own services that containers see (RFC 3927 link-local).
const LINK_LOCAL: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16);

/// Whether a packet that came in by `from` may carry this source address: a container its own,
/// the host the cell's, and a peer those of the subnets leased to it.
pub(super) fn check_source(
    topology: &Topology,
    from: Via,
    source: Ipv4Addr,
) -> Result<(), DropReason> {
    match from {
        Via::Tunnel(underlay) if topology.peer_at(underlay).is_none() => {
            Err(DropReason::UnknownPeer)
        }
        _ if topology.door_of(source) == Some(from) => Ok(()),
        Via::Tunnel(_) => Err(DropReason::ForeignSource),
        Via::Container(_) | Via::Host => Err(DropReason::SpoofedSource),
    }
}

/// The door behind which `destination` is, for the first packet of a conversation.
///
/// Containers and peers may not open conversations with the cell itself: what INPUT rules of a
/// kernel cell would let through is not wanted here, and replies are known by their flow. Nothing
/// goes from one peer to another, whose tunnels end at each other.
pub(super) fn route(
    topology: &Topology,
    cell: &Cell,
    from: Via,
    destination: Ipv4Addr,
) -> Result<Via, DropReason> {
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
        Some(to) => Ok(to),
        None if !matches!(from, Via::Container(_)) || cell.overlay.contains(&destination) => {
            Err(DropReason::NoRoute)
        }
        None if destination == cell.underlay || LINK_LOCAL.contains(&destination) => {
            Err(DropReason::HostDenied)
        }
        None => Err(DropReason::EgressDenied),
    }
}
