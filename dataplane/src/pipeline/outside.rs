//! What leaves a container for the outside, or for services of the cell itself.
//!
//! The order of effect is that of the kernel stack (contract section 7.6): the limit on new
//! connections, denied networks, security groups. Services of the cell are open to everybody
//! ([`super::route`] has let nothing else pass).

use std::net::Ipv4Addr;

use sarcenet_dataplane_api::{DropReason, PortId, RuleId, TraceStep};

use super::{Out, Run};
use crate::flow::FlowKey;
use crate::limit::Admission;
use crate::packet::Via;
use crate::policy::egress::Question;

/// Type and code of an ICMP echo request: the only ICMP message that opens a conversation.
const ECHO_REQUEST: (u8, u8) = (8, 0);

/// What a conversation asks of egress rules.
fn question(key: &FlowKey) -> Question {
    match key.protocol {
        1 => Question::icmp(key.destination, ECHO_REQUEST.0, ECHO_REQUEST.1),
        protocol => {
            Question { destination: key.destination, protocol, selector: key.destination_port }
        }
    }
}

impl Run<'_> {
    /// Where a packet goes that came in by `from` to this address and belongs to nothing here: back
    /// to the kernel, if it came from there and the address is the cell's.
    pub(super) fn give_back(&self, from: Via, destination: Ipv4Addr) -> Option<Out> {
        (from == Via::Host && self.topology.is_kernels(destination)).then_some(Out::KERNEL)
    }

    /// Whether a container may begin a conversation with the outside, and by which rule.
    pub(super) fn judge_egress(
        &mut self,
        port: PortId,
        key: &FlowKey,
        trace: Option<u16>,
    ) -> Result<Option<RuleId>, DropReason> {
        if self.topology.is_local(key.destination) {
            return Ok(None);
        }
        let grants = self.topology.container(port).map(|container| &container.grants);
        let question = question(key);
        let denied = grants.and_then(|grants| grants.denied.as_ref()?.decide(&question));
        let allowed = match denied {
            Some(_) => None,
            None => grants.and_then(|grants| grants.allowed.as_ref()?.decide(&question)),
        };
        self.trace.step(trace, || TraceStep::Egress {
            denied: denied.map(|matched| matched.rule),
            allowed: allowed.map(|matched| matched.rule),
        });
        allowed.map(|matched| Some(matched.rule)).ok_or(DropReason::EgressDenied)
    }

    /// Takes a new TCP connection from the container's budget for its destination.
    pub(super) fn spend_connection(
        &mut self,
        from: Via,
        to: Via,
        key: &FlowKey,
        _trace: Option<u16>,
    ) -> Result<(), DropReason> {
        let (Via::Container(port), Via::Host) = (from, to) else { return Ok(()) };
        let Some(budget) = self
            .topology
            .container(port)
            .and_then(|container| container.grants.connections.as_ref())
        else {
            return Ok(());
        };
        if self.topology.is_local(key.destination) {
            return Ok(());
        }
        let admission = budget.limiter.admit(self.now_ns, key.destination, key.destination_port);
        match admission {
            Admission::Exceeded if !budget.limit.dry_run => Err(DropReason::ConnectionLimit),
            Admission::Exceeded | Admission::Admitted => Ok(()),
        }
    }
}
