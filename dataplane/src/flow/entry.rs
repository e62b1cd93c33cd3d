//! One conversation, in one cache line.

use std::net::Ipv4Addr;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64};

use sarcenet_dataplane_api::{FlowInfo, FlowState, PortId, RuleId};
use std::net::SocketAddrV4;

use super::tracking::{Admission, Status};
use super::window::Scales;
use super::{FlowKey, NewFlow};
use crate::nat::{Nat, Side, outer_view};
use crate::packet::Via;

/// A conversation, both directions of it.
///
/// 64 bytes, all atomic: workers read and count without a lock. Each direction's counters are
/// written by the one worker that owns the door it comes from, so plain loads and stores do not
/// lose counts; the status, which both directions change, is exchanged in one step.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct Flow {
    /// `side << 56 | protocol << 48 | address << 16 | port` of who began; see [`SOURCE_NAT`].
    source: AtomicU64,
    /// `cell port << 48 | address << 16 | port` of the other side.
    destination: AtomicU64,
    /// Doors, `from << 32 | to`; see [`encode`].
    doors: AtomicU64,
    rule: AtomicU32,
    generation: AtomicU32,
    last_seen: AtomicU32,
    tag: AtomicU16,
    status: AtomicU8,
    /// See [`Scales`].
    scales: AtomicU8,
    /// For each direction `bytes << 10 | packets`: one store counts both.
    volume: [AtomicU64; 2],
    /// The packets' bits that do not fit there.
    packets_high: [AtomicU32; 2],
}

const _: () = assert!(size_of::<Flow>() == 64);

/// The beginner has the cell's address in the outer view.
const SOURCE_NAT: u64 = 1 << 56;
/// The other side has.
const DESTINATION_NAT: u64 = 1 << 57;

const PACKET_BITS: u32 = 10;
const PACKET_MASK: u64 = (1 << PACKET_BITS) - 1;

impl Flow {
    /// The conversation as its first packet said.
    pub fn key(&self) -> FlowKey {
        let source = self.source.load(Relaxed);
        let destination = self.destination.load(Relaxed);
        FlowKey {
            source: Ipv4Addr::from((source >> 16) as u32),
            destination: Ipv4Addr::from((destination >> 16) as u32),
            source_port: source as u16,
            destination_port: destination as u16,
            protocol: (source >> 48) as u8,
        }
    }

    /// Whether this is the conversation of a packet with that key: `Some(true)` when the packet
    /// runs as the first one did, `Some(false)` when it runs the other way.
    #[inline]
    pub(super) fn direction(&self, key: &FlowKey) -> Option<bool> {
        let (source, destination) = key.ends();
        let protocol = u64::from(key.protocol) << 48;
        let (ours, theirs) = (self.source.load(Relaxed), self.destination.load(Relaxed));
        if ours == source | protocol && theirs == destination {
            Some(true)
        } else if ours == destination | protocol && theirs == source {
            Some(false)
        } else {
            None
        }
    }

    /// As [`Flow::direction`], but for a conversation that is translated, which that does not
    /// know: either of its views may be the packet's. `cell` is the address of the outer one.
    ///
    /// Out of line, so that the look-up of other flows stays short.
    #[inline(never)]
    pub(super) fn translated_direction(&self, key: &FlowKey, cell: Ipv4Addr) -> Option<bool> {
        let (side, port) = self.translated()?;
        let inner = self.key();
        let outer = outer_view(&inner, side, cell, port);
        if *key == inner || *key == outer {
            Some(true)
        } else if *key == inner.reversed() || *key == outer.reversed() {
            Some(false)
        } else {
            None
        }
    }

    /// Which side of the conversation appears with the cell's address, and with which port (or
    /// ICMP identifier); none when it is not translated.
    #[inline]
    pub fn translated(&self) -> Option<(Side, u16)> {
        let side = match self.source.load(Relaxed) & (SOURCE_NAT | DESTINATION_NAT) {
            0 => return None,
            SOURCE_NAT => Side::Source,
            _ => Side::Destination,
        };
        Some((side, (self.destination.load(Relaxed) >> 48) as u16))
    }

    /// Door on the side of who began.
    pub fn from(&self) -> Via {
        decode((self.doors.load(Relaxed) >> 32) as u32)
    }

    /// Door on the other side.
    pub fn to(&self) -> Via {
        decode(self.doors.load(Relaxed) as u32)
    }

    /// Tag of the beginner's packets, 0 for none.
    pub fn tag(&self) -> u16 {
        self.tag.load(Relaxed)
    }

    /// Rule that admitted it, where this cell decided.
    pub fn rule(&self) -> Option<RuleId> {
        Some(RuleId(self.rule.load(Relaxed))).filter(|rule| rule.0 != 0)
    }

    /// Generation under which it was last decided; 0 when it was taken over from a dataplane
    /// before this one. Once it is read, everything else that was decided with it is seen too.
    #[inline]
    pub fn generation(&self) -> u32 {
        self.generation.load(Acquire)
    }

    /// Where the conversation stands.
    pub fn state(&self) -> FlowState {
        self.status().state()
    }

    /// Whether it was closed or reset, so that its ends can only begin a new one.
    pub(super) fn has_finished(&self) -> bool {
        matches!(self.state(), FlowState::TimeWait | FlowState::Closed)
    }

    /// Whether the other side has answered: the kernel's `ctstate ESTABLISHED`.
    #[inline]
    pub fn established(&self) -> bool {
        self.status().replied()
    }

    /// Puts a new decision about this conversation in force. Its doors stay: a conversation whose
    /// ends have moved is another one.
    pub fn decide(&self, tag: u16, rule: Option<RuleId>, generation: u32) {
        self.tag.store(tag, Relaxed);
        self.rule.store(rule.map_or(0, |rule| rule.0), Relaxed);
        // Last: whoever sees the new generation sees the decision.
        self.generation.store(generation, Release);
    }

    /// Whether a packet may be carried as part of this conversation, by its flags. `tcp_flags` is
    /// none for other protocols.
    #[inline]
    pub(super) fn admits(&self, forward: bool, tcp_flags: Option<u8>) -> Admission {
        self.status().admits(forward, tcp_flags)
    }

    /// Counts packets of this conversation that are carried. `now` is in tenths of a second since
    /// the dataplane started. Counters go round after 2^42 packets and 2^54 bytes.
    #[inline]
    pub(super) fn count(&self, forward: bool, packets: u32, bytes: u32, now: u32) {
        // Stores only what is new, so that two workers do not fight over the cache line.
        if self.last_seen.load(Relaxed) != now {
            self.last_seen.store(now, Relaxed);
        }
        let side = usize::from(!forward);
        let volume = self.volume[side].load(Relaxed);
        let counted = (volume & PACKET_MASK) + u64::from(packets);
        let total = (volume >> PACKET_BITS) + u64::from(bytes);
        self.volume[side].store(total << PACKET_BITS | counted & PACKET_MASK, Relaxed);
        let carry = (counted >> PACKET_BITS) as u32;
        if carry != 0 {
            let high = self.packets_high[side].load(Relaxed);
            self.packets_high[side].store(high.wrapping_add(carry), Relaxed);
        }
    }

    /// Follows the state of this conversation over one more packet. Returns whether that was the
    /// first answer of the other side while the flow is in the table.
    #[inline]
    pub(super) fn advance(&self, forward: bool, tcp_flags: Option<u8>) -> bool {
        self.change(|status| status.after(forward, tcp_flags))
    }

    /// Begins a connection anew with an answered SYN. Returns as [`Flow::advance`].
    pub(super) fn renew(&self) -> bool {
        self.change(Status::renewed)
    }

    #[inline]
    fn change(&self, next: impl Fn(Status) -> Status) -> bool {
        let mut status = self.status();
        loop {
            let next = next(status);
            if next == status {
                return false;
            }
            match self.status.compare_exchange_weak(status.0, next.0, Relaxed, Relaxed) {
                Ok(_) => return status.waits() && !next.waits(),
                Err(seen) => status = Status(seen),
            }
        }
    }

    /// The window scales of a TCP connection.
    #[inline]
    pub(super) fn scales(&self) -> Scales {
        Scales(self.scales.load(Relaxed))
    }

    /// Stores the window scales of a TCP connection.
    #[inline]
    pub(super) fn set_scales(&self, scales: Scales) {
        self.scales.store(scales.0, Relaxed);
    }

    /// Everything about it, for people. `now` as in [`Flow::count`]; `cell` is the address of the
    /// outer view.
    pub(super) fn info(&self, now: u32, cell: Ipv4Addr) -> FlowInfo {
        let key = self.key();
        let volume = [0, 1].map(|side: usize| self.volume[side].load(Relaxed));
        FlowInfo {
            protocol: key.protocol,
            source: SocketAddrV4::new(key.source, key.source_port),
            destination: SocketAddrV4::new(key.destination, key.destination_port),
            from: self.from().into(),
            to: self.to().into(),
            tag: self.tag(),
            state: self.state(),
            rule: self.rule(),
            generation: self.generation(),
            idle_s: self.idle(now) / 10,
            packets: [0, 1].map(|side: usize| {
                u64::from(self.packets_high[side].load(Relaxed)) << PACKET_BITS
                    | volume[side] & PACKET_MASK
            }),
            bytes: volume.map(|volume| volume >> PACKET_BITS),
            nat: self.translated().map(|(_, port)| SocketAddrV4::new(cell, port)),
        }
    }

    /// Tenths of a second since the last packet. A worker may be a tick ahead of another.
    pub(super) fn idle(&self, now: u32) -> u32 {
        now.saturating_sub(self.last_seen.load(Relaxed))
    }

    #[inline]
    pub(super) fn status(&self) -> Status {
        Status(self.status.load(Acquire))
    }

    /// Writes a new flow into an entry that nobody else can reach. `chosen` is the port of the
    /// cell where the flow table has chosen one.
    pub(super) fn fill(&self, new: &NewFlow, chosen: u16, now: u32) {
        let (source, destination) = new.key.ends();
        let (side, cell_port) = match new.nat {
            Nat::None => (0, 0),
            Nat::Source => (SOURCE_NAT, chosen),
            Nat::Destination { cell_port } => (DESTINATION_NAT, cell_port),
        };
        self.source.store(source | u64::from(new.key.protocol) << 48 | side, Relaxed);
        self.destination.store(destination | u64::from(cell_port) << 48, Relaxed);
        self.doors.store(u64::from(encode(new.from)) << 32 | u64::from(encode(new.to)), Relaxed);
        for side in 0..2 {
            self.volume[side].store(0, Relaxed);
            self.packets_high[side].store(0, Relaxed);
        }
        self.last_seen.store(now, Relaxed);
        self.set_scales(Scales::default());
        self.decide(new.tag, new.rule, new.generation);
        // Last: an entry is in use only when all of it is written, also for the next dataplane
        // if this one is killed right here.
        self.status.store(Status::FRESH.0, Release);
    }

    /// Marks it as taken out of the table; stays so until the entry is filled again. Returns
    /// whether it still waited for an answer.
    pub(super) fn mark_removed(&self) -> bool {
        Status(self.status.fetch_or(Status::REMOVED, AcqRel)).waits()
    }

    /// Takes over an entry that the dataplane before has left: as if its last packet came just
    /// now, and to be decided again. False when it holds no flow.
    pub(super) fn adopt(&self) -> bool {
        let status = self.status();
        // Bits without a meaning would make it a flow that no packet finds.
        let cell_port = self.destination.load(Relaxed) >> 48;
        let side_makes_sense = match self.source.load(Relaxed) & !(SOURCE_NAT - 1) {
            0 => cell_port == 0,
            SOURCE_NAT | DESTINATION_NAT => true,
            _ => false,
        };
        if !status.is_live() || !status.is_valid() || !side_makes_sense {
            return false;
        }
        self.last_seen.store(0, Relaxed);
        self.generation.store(0, Release);
        true
    }
}

/// A door in 32 bits: a peer's address as it is, everything else inside 0.0.0.0/8, which no host
/// has (RFC 1122 section 3.2.1.3).
fn encode(via: Via) -> u32 {
    match via {
        Via::Host => HOST,
        Via::Container(port) => CONTAINER | u32::from(port.0),
        Via::Tunnel(peer) => match u32::from(peer) {
            address if address >> 24 == 0 => NOWHERE,
            address => address,
        },
    }
}

fn decode(word: u32) -> Via {
    match word {
        HOST => Via::Host,
        word if word & 0xffff_0000 == CONTAINER => Via::Container(PortId(word as u16)),
        word => Via::Tunnel(word.into()),
    }
}

const HOST: u32 = 0;
const CONTAINER: u32 = 0x0001_0000;
const NOWHERE: u32 = 0x00ff_ffff;

#[cfg(test)]
mod tests;
