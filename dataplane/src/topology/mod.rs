//! Who is where: this cell, its containers, its peers.
//!
//! A [`Topology`] is an immutable snapshot. The control thread builds one for every change and
//! publishes it ([`crate::pipeline::Shared::publish`]); workers look at the one they hold until
//! they notice a newer one, once per batch. So nothing here needs a lock.

#![forbid(unsafe_code)]

mod outside;

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::Ipv4Net;
use sarcenet_dataplane_api::{Cell, Container, HostService, Peer, PortId, Protocol};

pub use outside::{ConnectionBudget, Grants};

use crate::packet::Via;
use crate::table::PrefixMap;
use crate::wire::tunnel::{TunnelTemplate, vtep_mac};
use outside::OutsideView;

/// A container of this cell.
#[derive(Debug, Clone)]
pub struct ContainerEntry {
    /// Its port.
    pub port: PortId,
    /// Its one overlay address.
    pub address: Ipv4Addr,
    /// The tag its packets carry, 0 for none.
    pub tag: u16,
    /// What people call it.
    pub name: String,
    /// What it may do beyond app-to-app rules; nothing by default.
    pub grants: Arc<Grants>,
}

/// Another cell.
#[derive(Debug, Clone)]
pub struct PeerEntry {
    /// Its part of the overlay.
    pub subnet: Ipv4Net,
    /// Its address on the underlay.
    pub underlay: Ipv4Addr,
    /// MAC address of its VTEP.
    pub mac: [u8; 6],
    /// The 22 bytes in front of every inner packet to it, without a tag.
    pub template: TunnelTemplate,
}

/// Multiplicative hashing (Fibonacci) of 32-bit addresses. The keys are our own configuration,
/// not an attacker's choice.
#[derive(Default)]
struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u32(u32::from(byte));
        }
    }

    fn write_u32(&mut self, value: u32) {
        self.0 = (self.0 ^ u64::from(value)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }
}

type AddressMap = HashMap<u32, u32, BuildHasherDefault<AddressHasher>>;

/// An immutable picture of the cell and of the overlay around it.
#[derive(Debug, Default)]
pub struct Topology {
    generation: u32,
    cell: Option<Cell>,
    local_mac: [u8; 6],
    /// By address, so that each address answers with an index into this list.
    containers: Vec<ContainerEntry>,
    by_address: AddressMap,
    by_port: Vec<Option<u32>>,
    /// By base address of the subnet.
    peers: Vec<PeerEntry>,
    by_subnet: PrefixMap<u32>,
    by_underlay: AddressMap,
    outside: Option<OutsideView>,
}

impl Topology {
    /// Takes a picture.
    ///
    /// `generation` is the low half of the generation of the desired state: flows that were
    /// decided under another one are decided again on their next packet. Without a `cell` nothing
    /// can be carried, and every packet is dropped as not configured. Of peers whose subnets
    /// overlap the one with the longer prefix counts, of containers with the same port or
    /// address the last one.
    pub fn new(
        generation: u32,
        cell: Option<Cell>,
        peers: impl Iterator<Item = Peer>,
        containers: impl Iterator<Item = Container>,
    ) -> Self {
        let mut topology = Self { generation, ..Self::default() };
        if let Some(cell) = &cell {
            topology.local_mac = vtep_mac(cell.subnet.network());
            topology.add_peers(cell, peers);
            topology.outside = cell.outside.as_ref().map(OutsideView::new);
        }
        topology.cell = cell;
        for container in containers {
            topology.add_container(container);
        }
        topology
    }

    fn add_peers(&mut self, cell: &Cell, peers: impl Iterator<Item = Peer>) {
        self.peers = peers
            .map(|peer| PeerEntry {
                subnet: peer.subnet,
                underlay: peer.underlay,
                mac: peer.mac,
                template: TunnelTemplate::new(cell.vni, self.local_mac, peer.mac),
            })
            .collect();
        self.peers.sort_by_key(|peer| peer.subnet.network());
        self.by_subnet = PrefixMap::new((0..).zip(&self.peers).map(|(i, peer)| (peer.subnet, i)));
        for (index, peer) in self.peers.iter().enumerate() {
            self.by_underlay.insert(peer.underlay.to_bits(), index as u32);
        }
    }

    fn add_container(&mut self, container: Container) {
        let Container { port, address, tag, name, attach: _ } = container;
        let index = self.containers.len() as u32;
        self.by_address.insert(address.to_bits(), index);
        let slot = usize::from(port.0);
        if self.by_port.len() <= slot {
            self.by_port.resize(slot + 1, None);
        }
        self.by_port[slot] = Some(index);
        self.containers.push(ContainerEntry { port, address, tag, name, grants: Arc::default() });
    }

    /// The same with what its containers may do beyond app-to-app rules; of containers that are
    /// not here nothing is taken.
    #[must_use]
    pub fn with_grants(mut self, grants: impl Iterator<Item = (PortId, Arc<Grants>)>) -> Self {
        let mut mappings = Vec::new();
        for (port, granted) in grants {
            let Some(&Some(index)) = self.by_port.get(usize::from(port.0)) else { continue };
            let Some(container) = self.containers.get_mut(index as usize) else { continue };
            mappings.extend(granted.mappings.iter().map(|mapping| (container.address, *mapping)));
            container.grants = granted;
        }
        if let Some(outside) = &mut self.outside {
            outside.add_mappings(mappings);
        }
        self
    }

    /// Low half of the desired state's generation.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// This cell; none before the controller has spoken.
    pub fn cell(&self) -> Option<&Cell> {
        self.cell.as_ref()
    }

    /// MAC address of this cell's VTEP; all zeros without a cell.
    pub fn local_mac(&self) -> [u8; 6] {
        self.local_mac
    }

    /// The container that has this address.
    #[inline]
    pub fn container_at(&self, address: Ipv4Addr) -> Option<&ContainerEntry> {
        let index = *self.by_address.get(&address.to_bits())?;
        self.containers.get(index as usize)
    }

    /// The container behind this port.
    #[inline]
    pub fn container(&self, port: PortId) -> Option<&ContainerEntry> {
        let index = (*self.by_port.get(usize::from(port.0))?)?;
        self.containers.get(index as usize)
    }

    /// Whether this is the overlay address of another cell itself: its subnet's base.
    pub fn is_vtep(&self, address: Ipv4Addr) -> bool {
        self.peer_for(address).is_some_and(|peer| peer.subnet.network() == address)
    }

    /// The peer whose subnet contains this address.
    pub fn peer_for(&self, address: Ipv4Addr) -> Option<&PeerEntry> {
        self.peers.get(*self.by_subnet.get(address)? as usize)
    }

    /// The peer with this underlay address. A cell that holds several subnets answers with one of
    /// them; what is sent to it is the same but for the inner MAC address.
    #[inline]
    pub fn peer_at(&self, underlay: Ipv4Addr) -> Option<&PeerEntry> {
        let index = *self.by_underlay.get(&underlay.to_bits())?;
        self.peers.get(index as usize)
    }

    /// The door behind which an overlay address is: a container's, the host's for the cell's own
    /// address, or the tunnel to a peer.
    pub fn door_of(&self, address: Ipv4Addr) -> Option<Via> {
        let cell = self.cell.as_ref()?;
        if cell.subnet.contains(&address) {
            if address == cell.subnet.network() {
                return Some(Via::Host);
            }
            return self.container_at(address).map(|container| Via::Container(container.port));
        }
        self.peer_for(address).map(|peer| Via::Tunnel(peer.underlay))
    }

    /// The same for any address: what lies outside the overlay is behind the host's door, where
    /// there is a way to it.
    pub fn place_of(&self, address: Ipv4Addr) -> Option<Via> {
        self.door_of(address).or_else(|| {
            let cell = self.cell.as_ref().filter(|cell| cell.outside.is_some())?;
            (!cell.overlay.contains(&address)).then_some(Via::Host)
        })
    }

    /// Whether this is one of the cell's own addresses, or one that only the cell can have
    /// (loopback, link-local); without an outside only those and the underlay's are known.
    pub fn is_local(&self, address: Ipv4Addr) -> bool {
        let underlay = self.cell.as_ref().map(|cell| cell.underlay);
        Some(address) == underlay
            || outside::is_never_outside(address)
            || self.outside.as_ref().is_some_and(|outside| outside.is_local(address))
    }

    /// Whether a packet that came from the kernel to this address is the kernel's to deliver, when
    /// it belongs to nothing here: where there is a way to the outside, more is taken from the
    /// kernel than concerns containers.
    pub fn is_kernels(&self, address: Ipv4Addr) -> bool {
        self.outside.is_some() && self.is_local(address)
    }

    /// Whether containers may use this port of the cell.
    pub fn is_service(&self, service: HostService) -> bool {
        self.outside.as_ref().is_some_and(|outside| outside.is_service(service))
    }

    /// Whether conversations with this destination leave under the cell's address; none when they
    /// cannot leave.
    pub fn masquerade(&self, destination: Ipv4Addr) -> Option<bool> {
        self.outside.as_ref()?.masquerade(destination)
    }

    /// The container's address and port that a port of the cell leads to.
    pub fn mapping(&self, protocol: Protocol, port: u16) -> Option<(Ipv4Addr, u16)> {
        self.outside.as_ref()?.mapping(protocol, port)
    }

    /// Containers of this cell.
    pub fn containers(&self) -> impl Iterator<Item = &ContainerEntry> {
        self.containers.iter()
    }

    /// Other cells, by subnet.
    pub fn peers(&self) -> &[PeerEntry] {
        &self.peers
    }
}

#[cfg(test)]
mod tests {
    use sarcenet_dataplane_api::{Attach, Logging, Revoke, Tracking, UplinkMode};

    use super::*;

    fn cell() -> Cell {
        Cell {
            underlay: [10, 77, 0, 11].into(),
            subnet: "10.255.55.0/24".parse().unwrap(),
            overlay: "10.255.0.0/16".parse().unwrap(),
            vni: 1,
            tunnel_port: 4789,
            mtu: 1450,
            revoke: Revoke::Drain,
            uplink: UplinkMode::Udp,
            host: true,
            outside: None,
            logging: Logging::default(),
            tracking: Tracking::default(),
            tag: 0,
            open: false,
        }
    }

    fn peer(third: u8, underlay: u8) -> Peer {
        let base = Ipv4Addr::new(10, 255, third, 0);
        Peer {
            subnet: Ipv4Net::new(base, 24).unwrap(),
            underlay: [10, 77, 0, underlay].into(),
            mac: vtep_mac(base),
        }
    }

    fn container(port: u16, last: u8) -> Container {
        Container {
            port: PortId(port),
            address: [10, 255, 55, last].into(),
            tag: port + 100,
            name: format!("container-{port}"),
            attach: Attach::Tun,
        }
    }

    #[test]
    fn finds_everybody() {
        let peers = [peer(62, 12), peer(3, 13)];
        let containers = [container(7, 2), container(0, 3)];
        let topology = Topology::new(9, Some(cell()), peers.into_iter(), containers.into_iter());
        assert_eq!(topology.generation(), 9);
        assert_eq!(topology.container_at([10, 255, 55, 2].into()).unwrap().port, PortId(7));
        assert_eq!(topology.container(PortId(0)).unwrap().tag, 100);
        assert!(topology.container(PortId(1)).is_none());
        assert!(topology.container(PortId(u16::MAX)).is_none());
        for (address, door) in [
            ([10, 255, 55, 0], Some(Via::Host)),
            ([10, 255, 55, 2], Some(Via::Container(PortId(7)))),
            ([10, 255, 55, 9], None),
            ([10, 255, 62, 0], Some(Via::Tunnel([10, 77, 0, 12].into()))),
            ([10, 255, 62, 255], Some(Via::Tunnel([10, 77, 0, 12].into()))),
            ([10, 255, 3, 4], Some(Via::Tunnel([10, 77, 0, 13].into()))),
            ([10, 255, 2, 255], None),
            ([10, 255, 4, 0], None),
            ([10, 255, 63, 0], None),
            ([8, 8, 8, 8], None),
        ] {
            assert_eq!(topology.door_of(address.into()), door, "{address:?}");
        }
        let at = topology.peer_at([10, 77, 0, 12].into()).unwrap();
        assert_eq!(at.mac, [0xee, 0xee, 10, 255, 62, 0]);
        assert!(topology.peer_at([10, 77, 0, 11].into()).is_none());
    }

    #[test]
    fn without_a_cell_nobody_is_anywhere() {
        let topology =
            Topology::new(0, None, [peer(62, 12)].into_iter(), [container(1, 2)].into_iter());
        assert!(topology.cell().is_none());
        assert_eq!(topology.door_of([10, 255, 55, 2].into()), None);
        assert_eq!(topology.door_of([10, 255, 62, 2].into()), None);
    }
}
