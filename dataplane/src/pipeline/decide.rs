//! The decision about a conversation: the first packet of a new one, and the next packet of one
//! that was decided under an older generation.

use sarcenet_dataplane_api::{DropReason, Revoke, RuleId, TraceStep};

use super::parse::{Headers, Kind};
use super::route::{Route, check_source, route};
use super::{Out, Run};
use crate::flow::{
    Admission, FlowKey, Hit, InsertError, NewFlow, Segment, TCP_ACK as ACK, TCP_FIN as FIN,
    TCP_RST as RST, TCP_SYN as SYN, tcp_flags_valid,
};
use crate::nat::Nat;
use crate::packet::Via;

/// How a conversation is admitted.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Judgement {
    /// The rule that admits it, where one had to.
    pub(super) rule: Option<RuleId>,
    /// Whether that rule asks for a record.
    pub(super) log: bool,
}

/// What a packet that belongs to no known conversation can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opening {
    /// Open one.
    Opens,
    /// Take up one that was under way before this cell knew of it, where policy admits it.
    PicksUp,
    /// Nothing.
    Never(DropReason),
}

/// Replies (SYN-ACK, RST, echo reply) never open a conversation, nor do impossible TCP flags.
fn opening(kind: Kind) -> Opening {
    match kind {
        Kind::Tcp(flags) if tcp_flags_valid(flags) => match flags & (SYN | ACK | RST | FIN) {
            SYN => Opening::Opens,
            bits if bits & (SYN | RST) == 0 => Opening::PicksUp,
            _ => Opening::Never(DropReason::Untracked),
        },
        Kind::Tcp(_) | Kind::EchoReply => Opening::Never(DropReason::Untracked),
        Kind::Udp | Kind::EchoRequest | Kind::Other => Opening::Opens,
        Kind::IcmpOther { .. } => Opening::Never(DropReason::PolicyDenied),
        Kind::IcmpError => Opening::Never(DropReason::UnrelatedIcmp),
        Kind::LaterFragment => Opening::Never(DropReason::OrphanFragment),
    }
}

impl<'g> Run<'g> {
    /// Decides a packet of which no conversation is known, and remembers the conversation.
    #[cold]
    pub(super) fn open(
        &mut self,
        headers: &Headers,
        segment: Option<Segment>,
        from: Via,
        trace: Option<u16>,
    ) -> Result<Out, DropReason> {
        let key = &headers.key;
        check_source(self.topology, from, key.source)?;
        self.trace.step(trace, || TraceStep::SourceChecked);
        let opening = opening(headers.kind);
        if let Opening::Never(reason) = opening {
            return self.give_back(from, key.destination).ok_or(reason);
        }
        let route = route(self.topology, self.cell, from, key)?;
        let (to, inner, nat) = match route {
            Route::Through(to) => (to, *key, Nat::None),
            Route::Masqueraded => (Via::Host, *key, Nat::Source),
            Route::Mapped(to, destination, destination_port) => {
                let inner = FlowKey { destination, destination_port, ..*key };
                (to, inner, Nat::Destination { cell_port: key.destination_port })
            }
            Route::Kernel => return Ok(Out::KERNEL),
        };
        self.trace.step(trace, || TraceStep::Routed { to: to.into() });
        if opening == Opening::PicksUp && matches!((from, to), (Via::Container(_), Via::Tunnel(_)))
        {
            // Only the other cell knows the rules of its container. This is more likely a reply
            // of a conversation that was forgotten than one that its opener lost.
            return Err(DropReason::Untracked);
        }
        if headers.kind == Kind::Tcp(SYN) {
            self.spend_connection(from, to, headers.tag, &inner)?;
        }
        let judged = self.judge(from, to, headers.tag, &inner, trace);
        let Judgement { rule, log } =
            judged.inspect_err(|_| self.record_refused(from, to, headers.tag, &inner))?;
        let new = NewFlow {
            key: inner,
            from,
            to,
            tag: headers.tag,
            rule,
            generation: self.topology.generation(),
            nat,
        };
        let hit = self.flows.insert(&new, self.now, self.guard).map_err(|e| match e {
            InsertError::Full => DropReason::FlowTableFull,
            InsertError::HalfOpen => DropReason::HalfOpenLimit,
            InsertError::NatExhausted => DropReason::SnatExhausted,
        })?;
        self.changed = true;
        self.trace.step(trace, || TraceStep::FlowCreated);
        if hit.created {
            self.record_admitted(from, to, headers.tag, &inner, rule, log);
        }
        self.track(&hit, Admission::Continue, headers, segment.as_ref());
        let translation = self.flows.translation(hit.flow, true);
        Ok(Out { to, tag: headers.tag, translation })
    }

    /// Decides a known conversation once more, as its beginner's packets would be decided now.
    ///
    /// False when its ends are no longer where they were: then it is forgotten, and the packet is
    /// one of an unknown conversation.
    #[cold]
    pub(super) fn decide_again(
        &mut self,
        headers: &Headers,
        hit: &Hit<'g>,
        trace: Option<u16>,
    ) -> Result<bool, DropReason> {
        let flow = hit.flow;
        self.trace.step(trace, || TraceStep::FlowMiss { stale: true });
        let (key, from, to) = (flow.key(), flow.from(), flow.to());
        let topology = self.topology;
        if topology.place_of(key.source) != Some(from)
            || topology.place_of(key.destination) != Some(to)
        {
            self.forget(hit);
            return Ok(false);
        }
        self.trace.step(trace, || TraceStep::Routed { to: to.into() });
        let tag = match from {
            _ if hit.forward => headers.tag,
            Via::Container(port) => topology.container(port).map_or(0, |c| c.tag),
            Via::Tunnel(_) | Via::Host => flow.tag(),
        };
        let (tag, rule) = match self.judge(from, to, tag, &key, trace) {
            Ok(judged) => (tag, judged.rule),
            Err(reason) if hit.forward && !flow.established() => {
                // A packet with another tag says nothing about those with the right one.
                if flow.generation() != topology.generation() {
                    self.forget(hit);
                }
                self.record_refused(from, to, tag, &key);
                return Err(reason);
            }
            Err(_) if self.cell.revoke == Revoke::Immediate => {
                self.forget(hit);
                return Err(DropReason::PolicyRevoked);
            }
            // The first reply too: refused, it would leave the beginner, whose packet was
            // admitted, without any answer.
            Err(_) => (flow.tag(), flow.rule()),
        };
        flow.decide(tag, rule, topology.generation());
        Ok(true)
    }

    /// Whether a conversation may be, as this cell's rules say it: what goes to its containers is
    /// judged by app-to-app rules, unless the cell is open, what leaves them for the outside by
    /// their egress rules. What goes to other cells is judged there. What the cell itself begins,
    /// and what comes in by a mapped port, is always admitted, as in a kernel cell.
    fn judge(
        &mut self,
        from: Via,
        to: Via,
        tag: u16,
        key: &FlowKey,
        trace: Option<u16>,
    ) -> Result<Judgement, DropReason> {
        match (from, to) {
            (Via::Host, _) | (_, Via::Tunnel(_)) => Ok(Judgement::default()),
            (_, Via::Container(_)) if self.cell.open => Ok(Judgement::default()),
            (_, Via::Container(_)) => {
                let rule = self.admit(tag, key, trace);
                let judged = rule.map(|rule| Judgement { rule: Some(rule), log: false });
                judged.ok_or(DropReason::PolicyDenied)
            }
            (Via::Container(port), Via::Host) => self.judge_egress(port, key, trace),
            (Via::Tunnel(_), Via::Host) => Err(DropReason::HostDenied),
        }
    }

    /// The rule that admits a conversation. Rules name TCP and UDP only, so everything else is
    /// refused.
    fn admit(&mut self, tag: u16, key: &FlowKey, trace: Option<u16>) -> Option<RuleId> {
        let rule =
            self.policy.admit(tag, key.destination, key.protocol, key.destination_port, self.guard);
        self.trace.step(trace, || TraceStep::Policy { tag, rule });
        rule
    }

    /// Forgets a conversation.
    pub(super) fn forget(&mut self, hit: &Hit<'g>) {
        self.flows.remove(hit.flow, self.guard);
        self.changed = true;
    }
}
