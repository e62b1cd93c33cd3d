//! What was decided about conversations, for those who keep records ([`crate::events`]).

use std::net::Ipv4Addr;

use sarcenet_dataplane_api::{ConnectionLimit, EventKind, PortId, RuleId};

use super::Run;
use crate::events::Subject;
use crate::flow::FlowKey;
use crate::packet::Via;

/// What a conversation is recorded as.
struct Record {
    admitted: EventKind,
    refused: EventKind,
    port: PortId,
    container: Ipv4Addr,
}

impl Run<'_> {
    /// The record of a conversation: with the outside, or with a container of this cell that an app
    /// talks to. Others are none: what goes to another cell is recorded there, and what the cell
    /// itself begins or lets in by a mapped port is decided by nobody's rule; nor is what goes to
    /// the containers of an open cell.
    fn record_of(&self, from: Via, to: Via, key: &FlowKey) -> Option<Record> {
        match (from, to) {
            (Via::Container(port), Via::Host) if !self.topology.is_local(key.destination) => {
                Some(Record {
                    admitted: EventKind::EgressAllowed,
                    refused: EventKind::EgressDenied,
                    port,
                    container: key.source,
                })
            }
            (Via::Container(_) | Via::Tunnel(_), Via::Container(port)) if !self.cell.open => {
                Some(Record {
                    admitted: EventKind::OverlayAllowed,
                    refused: EventKind::OverlayDenied,
                    port,
                    container: key.destination,
                })
            }
            _ => None,
        }
    }

    /// Records an admitted conversation; `asked` if its rule asks for that.
    pub(super) fn record_admitted(
        &self,
        from: Via,
        to: Via,
        tag: u16,
        key: &FlowKey,
        rule: Option<RuleId>,
        asked: bool,
    ) {
        if let Some(Record { admitted, port, container, .. }) = self.record_of(from, to, key) {
            self.record(admitted, &Subject { port, container, tag, key, rule, asked });
        }
    }

    /// Records a refused packet.
    pub(super) fn record_refused(&self, from: Via, to: Via, tag: u16, key: &FlowKey) {
        if let Some(Record { refused, port, container, .. }) = self.record_of(from, to, key) {
            let subject = Subject { port, container, tag, key, rule: None, asked: false };
            self.record(refused, &subject);
        }
    }

    /// Records a connection beyond a container's limit.
    pub(super) fn record_limited(
        &self,
        port: PortId,
        tag: u16,
        key: &FlowKey,
        limit: &ConnectionLimit,
    ) {
        let kind = EventKind::ConnectionLimited { enforced: !limit.dry_run };
        let asked = limit.log || limit.dry_run;
        let subject = Subject { port, container: key.source, tag, key, rule: None, asked };
        self.record(kind, &subject);
    }

    fn record(&self, kind: EventKind, subject: &Subject<'_>) {
        self.events.record(&self.cell.logging, self.now_ns, kind, subject);
    }
}
