//! Packets of conversations that are known.

use std::net::Ipv4Addr;

use sarcenet_dataplane_api::{DropReason, TraceStep};
use smoltcp::wire::Ipv4Packet;

use super::parse::{Headers, ICMP_HEADER_LEN, parse_quoted};
use super::route::check_source;
use super::segment::segment;
use super::{Out, Run};
use crate::flow::{Admission, FlowKey, Hit, Segment};
use crate::nat::{Side, Translation};
use crate::packet::{Batch, Via};

/// Whether packets of this direction come in by the door `from`.
#[inline]
fn enters_by(hit: &Hit<'_>, from: Via) -> bool {
    // Not as one comparison with the door of the direction: choosing between two doors first
    // sends them through memory, byte by byte.
    if hit.forward { hit.flow.from() == from } else { hit.flow.to() == from }
}

/// The door by which packets of this direction leave.
#[inline]
fn exit(hit: &Hit<'_>) -> Via {
    if hit.forward { hit.flow.to() } else { hit.flow.from() }
}

impl<'g> Run<'g> {
    /// Decides packet `i` by its conversation, if `hit` is one.
    #[inline]
    pub(super) fn follow(
        &mut self,
        batch: &Batch,
        i: usize,
        headers: &Headers,
        hit: Option<&Hit<'g>>,
    ) -> Result<Out, DropReason> {
        let packet = batch.packet(i);
        let (from, trace) = (packet.from, packet.trace);
        let again;
        let hit = if self.changed {
            again = self.flows.lookup(&headers.key, self.guard);
            again.as_ref()
        } else {
            hit
        };
        let segment = segment(batch.head(i), headers);
        let Some(hit) = hit else {
            self.trace.step(trace, || TraceStep::FlowMiss { stale: false });
            return self.open(headers, segment, from, trace);
        };
        let flow = hit.flow;
        self.trace.step(trace, || TraceStep::FlowHit {
            state: flow.state(),
            forward: hit.forward,
            rule: flow.rule(),
        });
        if !enters_by(hit, from) {
            return self.enter_elsewhere(headers, segment, from, hit, trace);
        }
        let admission = self.flows.admits(hit, segment.as_ref());
        match admission {
            Admission::Continue | Admission::Aside | Admission::Anew => {}
            Admission::Reopen => {
                self.forget(hit);
                return self.open(headers, segment, from, trace);
            }
            Admission::Invalid => return Err(DropReason::Untracked),
            Admission::OutOfWindow => return Err(DropReason::OutOfWindow),
        }
        let other_tag = hit.forward && flow.tag() != headers.tag && !flow.established();
        if (flow.generation() != self.topology.generation() || other_tag)
            && !self.decide_again(headers, hit, trace)?
        {
            return self.open(headers, segment, from, trace);
        }
        let translation = self.flows.translation(flow, hit.forward);
        if let Some(translation) = translation {
            self.check_view(&headers.key, from, translation)?;
        }
        self.track(hit, admission, headers, segment.as_ref());
        Ok(Out { to: exit(hit), tag: headers.tag, translation })
    }

    /// Whether a packet of a translated conversation shows what is seen of it at its door: the
    /// cell's address outside, the container's inside.
    #[inline]
    fn check_view(
        &self,
        key: &FlowKey,
        from: Via,
        translation: Translation,
    ) -> Result<(), DropReason> {
        let shown = match translation.side {
            Side::Source => key.source,
            Side::Destination => key.destination,
        };
        match (from, shown == self.cell.underlay) {
            (Via::Host, false) => Err(DropReason::PolicyDenied),
            (Via::Container(_) | Via::Tunnel(_), true) => Err(DropReason::SpoofedSource),
            _ => Ok(()),
        }
    }

    /// A packet of a known conversation at another door than the conversation's: somebody
    /// pretends, or the address has moved. When its source does belong there, the conversation is
    /// outdated.
    #[cold]
    fn enter_elsewhere(
        &mut self,
        headers: &Headers,
        segment: Option<Segment>,
        from: Via,
        hit: &Hit<'g>,
        trace: Option<u16>,
    ) -> Result<Out, DropReason> {
        check_source(self.topology, from, headers.key.source)?;
        self.forget(hit);
        self.open(headers, segment, from, trace)
    }

    /// Accounts for a packet in its conversation.
    #[inline(always)]
    pub(super) fn track(
        &mut self,
        hit: &Hit<'g>,
        admission: Admission,
        headers: &Headers,
        segment: Option<&Segment>,
    ) {
        let packets = u32::from(headers.segments);
        let bytes = u32::from(headers.total_len);
        self.flows.track(hit, admission, segment, packets, bytes, self.now);
    }

    /// Decides packet `i`, an ICMP error: it follows the conversation of the packet it quotes
    /// back to that packet's sender, if it comes from the other side. So path MTU discovery
    /// works, and nobody can disturb conversations that he has no part in.
    #[cold]
    pub(super) fn relate(
        &mut self,
        batch: &Batch,
        i: usize,
        headers: &Headers,
    ) -> Result<Out, DropReason> {
        let packet = batch.packet(i);
        let (from, trace) = (packet.from, packet.trace);
        check_source(self.topology, from, headers.key.source)?;
        self.trace.step(trace, || TraceStep::SourceChecked);
        let head = batch.head(i);
        let quoted = &head[usize::from(headers.header_len) + ICMP_HEADER_LEN..];
        let sender: Ipv4Addr = Ipv4Packet::new_unchecked(head).dst_addr();
        let hit = parse_quoted(quoted)
            .filter(|key| key.source == sender)
            .and_then(|key| self.flows.lookup(&key, self.guard));
        let Some(hit) = hit else {
            return self.give_back(from, sender).ok_or(DropReason::UnrelatedIcmp);
        };
        // What is quoted ran from the sender's door to the one this error has come in by.
        let back = Hit { forward: !hit.forward, ..hit };
        let sender_door = exit(&back);
        let key = back.flow.key();
        let inner_sender = if back.forward { key.destination } else { key.source };
        if !enters_by(&back, from) || self.topology.place_of(inner_sender) != Some(sender_door) {
            return Err(DropReason::UnrelatedIcmp);
        }
        self.trace.step(trace, || TraceStep::FlowHit {
            state: back.flow.state(),
            forward: back.forward,
            rule: back.flow.rule(),
        });
        let translation = self.flows.translation(back.flow, back.forward);
        Ok(Out { to: sender_door, tag: headers.tag, translation })
    }
}
