//! Packet tables: what a cell does with packets, row by row. They are data, so that the same rows
//! can be run against the pipeline and through real links.

mod bad_input;
mod default_deny;
mod fragments;
mod generations;
mod host;
mod icmp;
mod limits;
mod open;
mod outside;
pub(crate) mod packet;
mod policy;
mod tracking;
mod tunnel;
mod windows;
pub(crate) mod world;

use std::time::Duration;

use sarcenet_dataplane::packet::{Offload, Via};
use sarcenet_dataplane_api::{DropReason, Revoke, Rule};

use packet::{Packet, Tunnel, encapsulated, one_hop_on};
use world::{End, WORLD_MAC, World, peer_mac};

/// One behaviour.
pub(crate) struct Row {
    /// What it is, as a sentence.
    pub name: &'static str,
    /// State at its beginning.
    pub world: World,
    /// What happens.
    pub steps: Vec<Step>,
    /// Why it is not played through real links, if it is not.
    pub pipeline_only: Option<PipelineOnly>,
}

/// Why a row cannot be played through real links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PipelineOnly {
    /// More time passes in it than a test may take.
    TakesTime,
    /// The kernel refuses its packets at the packet socket, or puts them right, so that they never
    /// reach a TUN as they are.
    KernelIntervenes,
}

/// What happens next in a row.
pub(crate) enum Step {
    /// A packet comes in.
    Send(Sent),
    /// The desired state changes, and with it its generation.
    Change(fn(&mut World)),
    /// Time passes.
    Wait(Duration),
}

/// A packet and what is to become of it.
pub(crate) struct Sent {
    /// The packet.
    pub packet: Packet,
    /// What leaves, or why nothing does.
    pub outcome: Outcome,
    /// ICMP error to its sender.
    pub answer: Option<Answer>,
}

/// What becomes of a packet.
pub(crate) enum Outcome {
    /// These packets leave by this door; several when it is fragmented.
    Forward(Via, Vec<Leaving>),
    /// It ends.
    Drop(DropReason),
}

/// A packet as it leaves.
pub(crate) struct Leaving {
    /// As its door gets it, with the tunnel header for the tunnel.
    pub bytes: Vec<u8>,
    /// Its offload state.
    pub offload: Offload,
}

/// As it is, without a tunnel.
impl From<Packet> for Leaving {
    fn from(packet: Packet) -> Self {
        Self { bytes: packet.ip_bytes(), offload: packet.offload }
    }
}

/// An ICMP error: type, code, next-hop MTU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answer(pub u8, pub u8, pub u16);

/// Destination unreachable: port.
pub(crate) const PORT_UNREACHABLE: Answer = Answer(3, 3, 0);
/// Destination unreachable: host.
pub(crate) const HOST_UNREACHABLE: Answer = Answer(3, 1, 0);
/// Time to live exceeded in transit.
pub(crate) const TIME_EXCEEDED: Answer = Answer(11, 0, 0);
/// Fragmentation needed; the tunnel's MTU.
pub(crate) const FRAGMENTATION_NEEDED: Answer = Answer(3, 4, world::MTU);

/// All rows.
pub(crate) fn rows() -> Vec<Row> {
    [
        default_deny::rows(),
        policy::rows(),
        tracking::rows(),
        windows::rows(),
        tunnel::rows(),
        host::rows(),
        open::rows(),
        icmp::rows(),
        fragments::rows(),
        limits::rows(),
        outside::rows(),
        generations::rows(),
        bad_input::rows(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A row that begins with the default state.
pub(crate) fn row(name: &'static str) -> Row {
    Row { name, world: World::default(), steps: Vec::new(), pipeline_only: None }
}

/// What a packet looks like on the way to `to` when it passes: one hop on, unless the cell itself
/// is at one end, and behind the tunnel header with the sender's tag if `to` is on another cell.
pub(crate) fn leaving(packet: &Packet, ip: &[u8], to: End, tag: u16) -> Vec<u8> {
    let routed = packet.door != Via::Host && to.door != Via::Host;
    let ip = if routed { one_hop_on(ip) } else { ip.to_vec() };
    match to.door {
        Via::Tunnel(_) => encapsulated(&ip, Tunnel::tagged(tag, peer_mac(to)), WORLD_MAC),
        Via::Host | Via::Container(_) => ip,
    }
}

impl Row {
    /// Admitted by these rules from the beginning.
    pub(crate) fn allow(mut self, rule: Rule) -> Self {
        self.world.rules.push(rule);
        self
    }

    /// Revocation is immediate.
    pub(crate) fn revoke_immediately(self) -> Self {
        self.given(|world| {
            if let Some(cell) = &mut world.cell {
                cell.revoke = Revoke::Immediate;
            }
        })
    }

    /// Is played against the pipeline alone, for a reason.
    pub(crate) fn pipeline_only(mut self, reason: PipelineOnly) -> Self {
        self.pipeline_only = Some(reason);
        self
    }

    /// Begins with another state.
    pub(crate) fn given(mut self, change: fn(&mut World)) -> Self {
        change(&mut self.world);
        self
    }

    /// The desired state changes.
    pub(crate) fn change(mut self, change: fn(&mut World)) -> Self {
        self.steps.push(Step::Change(change));
        self
    }

    /// Seconds pass.
    pub(crate) fn wait(mut self, seconds: u64) -> Self {
        self.steps.push(Step::Wait(Duration::from_secs(seconds)));
        self
    }

    /// A packet passes, with the tag `tag` if by the tunnel.
    pub(crate) fn passes_with_tag(self, packet: Packet, to: End, tag: u16) -> Self {
        let ip = packet.ip_bytes();
        let len = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
        let bytes = leaving(&packet, &ip[..len.min(ip.len())], to, tag);
        let offload = packet.offload;
        self.becomes(packet, Outcome::Forward(to.door, vec![Leaving { bytes, offload }]))
    }

    /// A packet passes; by the tunnel it carries the tag of the container it comes from.
    pub(crate) fn passes(self, packet: Packet, from: End, to: End) -> Self {
        self.passes_with_tag(packet, to, from.tag)
    }

    /// A packet leaves by this door as that one.
    pub(crate) fn translates(self, packet: Packet, door: Via, into: Packet) -> Self {
        self.becomes(packet, Outcome::Forward(door, vec![into.into()]))
    }

    /// A packet ends here.
    pub(crate) fn drops(self, packet: Packet, reason: DropReason) -> Self {
        self.becomes(packet, Outcome::Drop(reason))
    }

    /// A packet ends here, and its sender is told.
    pub(crate) fn refuses(mut self, packet: Packet, reason: DropReason, answer: Answer) -> Self {
        self.steps.push(Step::Send(Sent {
            packet,
            outcome: Outcome::Drop(reason),
            answer: Some(answer),
        }));
        self
    }

    /// Something becomes of a packet, without an answer.
    pub(crate) fn becomes(mut self, packet: Packet, outcome: Outcome) -> Self {
        self.steps.push(Step::Send(Sent { packet, outcome, answer: None }));
        self
    }
}
