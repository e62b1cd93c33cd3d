//! Probes: single first packets, sent on both cells, and what becomes of each.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use sarcenet_rig::outside::{DNS_SERVER, HOST_SERVICE, ROUTER, SNAT_PORTS, network};

use crate::packet::{ACK, Content, Ends, FIN, ICMP, Outgoing, RST, SYN, Seen};
use crate::random::Random;
use crate::rules::{CONTAINERS, HOST_PORTS, Rules, SERVED};

/// The overlay of all cells.
const OVERLAY: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 255, 0, 0), 16);

/// A place, in words that mean the same on each cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// An address of the outside host.
    Outside(Ipv4Addr),
    /// A container of the cell.
    Container(usize),
    /// A container of the other cell.
    Remote(usize),
    /// The cell's underlay address.
    Cell,
    /// The other cell's.
    OtherCell,
    /// The first address of the cell's subnet.
    Vtep,
    /// An address of the cell that offers a service.
    Service(Ipv4Addr),
}

/// A packet from a place to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Probe {
    pub(crate) from: Place,
    pub(crate) to: Place,
    pub(crate) content: Content,
}

impl Probe {
    /// The conversation of a packet without ports between the cell's address and an outside one.
    pub(crate) fn without_ports(&self) -> Option<(u8, Ipv4Addr)> {
        match (self.content, self.from, self.to) {
            (Content::Other(protocol), Place::Outside(address), _)
            | (Content::Other(protocol), _, Place::Outside(address)) => Some((protocol, address)),
            _ => None,
        }
    }

    pub(crate) fn random(random: &mut Random, rules: &Rules, mapped: &[u16]) -> Self {
        if random.chance(20) {
            let from = Place::Outside(rules.near_address(random));
            let container = Place::Container(random.below(CONTAINERS as u32) as usize);
            let to = if random.chance(75) { Place::Cell } else { container };
            let port = match random.below(10) {
                0..=5 if !mapped.is_empty() => *random.pick(mapped),
                6..=7 => HOST_PORTS + random.below(4500) as u16,
                _ => *random.pick(&SERVED),
            };
            return Self { from, to, content: content(random, port) };
        }
        let from = Place::Container(random.below(CONTAINERS as u32) as usize);
        let (to, port) = match random.below(20) {
            0..=11 => (Place::Outside(rules.near_address(random)), rules.near_port(random)),
            12..=14 => {
                let number = random.below(CONTAINERS as u32) as usize;
                let to = if random.chance(50) {
                    Place::Container(number)
                } else {
                    Place::Remote(number)
                };
                (to, rules.near_port(random))
            }
            15 => (Place::Cell, *random.pick(mapped)),
            16 => (Place::Cell, rules.near_port(random)),
            17 => (Place::OtherCell, rules.near_port(random)),
            18 => (Place::Vtep, rules.near_port(random)),
            _ => (
                Place::Service(*random.pick(&[DNS_SERVER, *HOST_SERVICE.ip()])),
                *random.pick(&[53, HOST_SERVICE.port(), 80]),
            ),
        };
        let content = match content(random, port) {
            // The same goes the other way at the same time. Nothing in it tells a question from the
            // answer to the other one.
            Content::Other(_) if matches!(to, Place::Remote(_) | Place::OtherCell) => {
                Content::Udp(port)
            }
            content => content,
        };
        Self { from, to, content }
    }
}

fn content(random: &mut Random, port: u16) -> Content {
    match random.below(20) {
        0..=8 => Content::Tcp(port, SYN),
        9 => Content::Tcp(port, ACK),
        10 => Content::Tcp(port, *random.pick(&[SYN | ACK, RST, FIN, RST | ACK, 0])),
        11..=15 => Content::Udp(port),
        16..=17 => Content::Icmp(8, 0),
        18 => {
            let (kind, code) = *random.pick(&[(0, 0), (13, 0), (8, 1), (15, 0), (17, 0), (42, 0)]);
            Content::Icmp(kind, code)
        }
        _ => Content::Other(*random.pick(&[47, 115, 253])),
    }
}

/// What the places are on one cell.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    pub(crate) underlay: Ipv4Addr,
    pub(crate) subnet: Ipv4Net,
    pub(crate) other: Ipv4Addr,
    pub(crate) containers: Vec<Ipv4Addr>,
    pub(crate) remote: Vec<Ipv4Addr>,
    /// Whether its source ports must be of the range for source NAT.
    pub(crate) sarcenet: bool,
}

impl Cell {
    fn address(&self, place: Place) -> Ipv4Addr {
        match place {
            Place::Outside(address) | Place::Service(address) => address,
            Place::Container(number) => self.containers[number],
            Place::Remote(number) => self.remote[number],
            Place::Cell => self.underlay,
            Place::OtherCell => self.other,
            Place::Vtep => self.subnet.network(),
        }
    }

    /// A probe as a packet.
    pub(crate) fn outgoing(&self, probe: &Probe, port: u16, marker: u32) -> Outgoing {
        let (source, destination) = (self.address(probe.from), self.address(probe.to));
        Outgoing { source, destination, content: probe.content, port, marker }
    }

    /// An address, in words that mean the same on each cell.
    pub(crate) fn name(&self, address: Ipv4Addr) -> &'static str {
        let outside = [network::ROUTED, network::OWN_ADDRESS, network::NARROW];
        match address {
            _ if address == self.underlay => "cell",
            _ if self.containers.contains(&address) => "container",
            _ if self.remote.contains(&address) => "remote",
            _ if address == self.other => "other cell",
            ROUTER => "router",
            _ if outside.iter().any(|network| network.contains(&address)) => "outside",
            // Whichever of its addresses a cell refuses from.
            _ if address.is_link_local() || address == self.subnet.network() => "cell",
            // The other cell refuses in the name of its tunnel.
            _ if OVERLAY.contains(&address) => "other cell",
            _ => "somebody",
        }
    }
}

/// What has been seen where: of the host outside, and of each container of the cell and of the
/// other one.
#[derive(Debug, Default)]
pub(crate) struct Sightings {
    /// By place and marker.
    markers: BTreeMap<(&'static str, u32), Vec<Seen>>,
    /// By whom they are for.
    receivers: BTreeMap<Ipv4Addr, Vec<Seen>>,
}

impl Sightings {
    /// Adds what was seen in a place.
    pub(crate) fn add(&mut self, place: &'static str, seen: impl IntoIterator<Item = Seen>) {
        for seen in seen {
            self.markers.entry((place, seen.marker)).or_default().push(seen.clone());
            self.receivers.entry(seen.ends.destination).or_default().push(seen);
        }
    }

    /// What became of a packet, one line for each thing that did.
    pub(crate) fn fate(&self, cell: &Cell, probe: &Probe, sent: &Outgoing) -> BTreeSet<String> {
        let mut fate = BTreeSet::new();
        for place in ["outside", "container", "remote"] {
            let arrived = self.markers.get(&(place, sent.marker)).into_iter().flatten();
            // Where it was sent it is seen as well.
            for seen in arrived.filter(|seen| place != home(probe.from) || !same(seen, sent)) {
                // Answers to echo requests bring back what was in those.
                let echoed = matches!(probe.content, Content::Icmp(kind, code) if seen.icmp != Some((kind, code)));
                if seen.ends.protocol != probe.content.protocol() || echoed {
                    continue;
                }
                fate.insert(arrival(cell, sent, seen, place));
            }
        }
        let received = self.receivers.get(&sent.source).into_iter().flatten();
        fate.extend(received.filter_map(|seen| answer(cell, sent, seen)));
        fate
    }
}

fn home(place: Place) -> &'static str {
    match place {
        Place::Outside(_) => "outside",
        Place::Remote(_) => "remote",
        _ => "container",
    }
}

fn same(seen: &Seen, sent: &Outgoing) -> bool {
    let Ends { source, destination, to, .. } = seen.ends;
    (source, destination) == (sent.source, sent.destination) && to == sent.content.port()
}

fn arrival(cell: &Cell, sent: &Outgoing, seen: &Seen, place: &str) -> String {
    let Ends { source, destination, from, to, .. } = seen.ends;
    let source = if source == sent.source { "itself" } else { cell.name(source) };
    let target = if destination == sent.destination { "" } else { " translated" };
    let port = if to == sent.content.port() { String::new() } else { format!(" to port {to}") };
    let ours = cell.sarcenet
        && source == "cell"
        && matches!(sent.content, Content::Tcp(..) | Content::Udp(_));
    let range =
        if ours && !SNAT_PORTS.contains(&from) { ", a port that is not the cell's" } else { "" };
    let sound = if seen.sound { "" } else { ", a checksum wrong" };
    format!("arrives at {place} from {source}{target}{port}{range}{sound}")
}

/// If that is an answer to the packet, what it is.
fn answer(cell: &Cell, sent: &Outgoing, seen: &Seen) -> Option<String> {
    let who = if seen.ends.source == sent.destination {
        match cell.name(sent.destination) {
            // The cell answers for itself from whichever address.
            "cell" => "cell",
            _ => "target",
        }
    } else {
        cell.name(seen.ends.source)
    };
    if let Some(about) = seen.about {
        let (kind, code) = seen.icmp?;
        let protocol = sent.content.protocol();
        let from = if matches!(sent.content, Content::Other(_)) { 0 } else { sent.port };
        let expected = Ends {
            protocol,
            source: sent.source,
            destination: sent.destination,
            from,
            to: sent.content.port(),
        };
        return (about == expected).then(|| format!("ICMP {kind}/{code} from {who}"));
    }
    let Ends { protocol, source, from, to, .. } = seen.ends;
    if protocol != sent.content.protocol() || source != sent.destination {
        return None;
    }
    match sent.content {
        Content::Tcp(port, _) if (from, to) == (port, sent.port) => {
            let flags = seen.flags & (SYN | RST | FIN | ACK);
            let what = match flags {
                _ if flags & RST != 0 => "reset",
                _ if flags & SYN != 0 => "SYN-ACK",
                _ => "segment",
            };
            Some(format!("{what} from {who}"))
        }
        Content::Udp(port) if (from, to) == (port, sent.port) => {
            Some(format!("datagram from {who}"))
        }
        Content::Icmp(..) if protocol == ICMP && from == sent.port => {
            let (kind, code) = seen.icmp?;
            Some(format!("ICMP {kind}/{code} from {who}"))
        }
        _ => None,
    }
}
