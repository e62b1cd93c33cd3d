//! What is recorded of conversations: who was admitted and who refused, for those who ask.
//!
//! Workers record on the cold paths only (the first packet of a conversation, refusals), without
//! lock or allocation: into one bounded queue, within each container's budgets ([`budget`]).
//! Observers take from it whenever they like; each gets everything. Without observers recording
//! is one relaxed load, and nothing is kept.

#![forbid(unsafe_code)]

mod budget;

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam_queue::ArrayQueue;
use parking_lot::Mutex;
use sarcenet_dataplane_api::{Event, EventKind, Logging, PortId, Protocol, RuleId};

use crate::flow::FlowKey;
use budget::Budgets;

/// Events that wait for an observer to come by; more are thrown away and counted. About a
/// megabyte, claimed when somebody observes for the first time.
const WAITING: usize = 16_384;

/// Events that wait for one observer while others come by more often.
const WAITING_FOR_ONE: usize = 4 * WAITING;

/// The conversation that an event is about.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Port of the container: the sender's for the outside, the receiver's between apps.
    pub port: PortId,
    /// Address of that container.
    pub container: Ipv4Addr,
    /// Tag of the sender, 0 for none.
    pub tag: u16,
    /// The conversation as its beginner sees it, before any translation.
    pub key: &'a FlowKey,
    /// The rule that decided, if one did.
    pub rule: Option<RuleId>,
    /// Whether the rule or the limit that decided asks for a record by itself, whatever is
    /// recorded of the cell at large.
    pub asked: bool,
}

/// What workers record and observers take. Shared by all of them.
#[derive(Default)]
pub struct EventLog {
    active: AtomicBool,
    recorder: OnceLock<Recorder>,
    observers: Mutex<Observers>,
}

struct Recorder {
    queue: ArrayQueue<Event>,
    lost: AtomicU64,
    budgets: Budgets,
}

#[derive(Default)]
struct Observers {
    next: u64,
    inboxes: Vec<Inbox>,
}

/// What one observer has not taken yet. Times are still the dataplane's own.
struct Inbox {
    observer: u64,
    events: VecDeque<Event>,
    lost: u64,
}

impl EventLog {
    /// Records an event, if somebody observes, it is asked for, and the container's budget of the
    /// kind is not used up.
    ///
    /// To be called for every refused packet, and once for every admitted conversation: an
    /// admitted one in any protocol but UDP has no budget, so that each is recorded once.
    /// `logging` is that of the cell, `now_ns` the time since start in nanoseconds.
    #[inline]
    pub fn record(&self, logging: &Logging, now_ns: u64, kind: EventKind, subject: &Subject<'_>) {
        if self.active.load(Ordering::Relaxed) {
            self.write(logging, now_ns, kind, subject);
        }
    }

    #[cold]
    fn write(&self, logging: &Logging, now_ns: u64, kind: EventKind, subject: &Subject<'_>) {
        let Some(recorder) = self.recorder.get() else { return };
        let key = subject.key;
        if !subject.asked && !is_recorded(logging, kind) {
            return;
        }
        if let Some(per_second) = limit(logging, kind, key.protocol)
            && !recorder.budgets.take(subject.port, kind, now_ns, per_second)
        {
            return;
        }
        let event = Event {
            at_ns: now_ns,
            kind,
            port: subject.port,
            container: subject.container,
            tag: subject.tag,
            protocol: key.protocol,
            source: SocketAddrV4::new(key.source, key.source_port),
            destination: SocketAddrV4::new(key.destination, key.destination_port),
            rule: subject.rule,
        };
        if recorder.queue.push(event).is_err() {
            recorder.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Records from now on, until the observer is dropped.
    pub fn observe(&self) -> EventObserver<'_> {
        let recorder = self.recorder.get_or_init(|| Recorder {
            queue: ArrayQueue::new(WAITING),
            lost: AtomicU64::new(0),
            budgets: Budgets::default(),
        });
        let mut observers = self.observers.lock();
        // What is there is for those who observe already; what came after the last of them had
        // gone is for nobody.
        observers.distribute(recorder);
        let observer = observers.next;
        observers.next += 1;
        observers.inboxes.push(Inbox { observer, events: VecDeque::new(), lost: 0 });
        self.active.store(true, Ordering::Release);
        EventObserver { log: self, recorder, observer }
    }
}

impl Observers {
    /// Gives everybody what has been recorded.
    fn distribute(&mut self, recorder: &Recorder) {
        // Not more than fit at once, or workers that never stop would hold this up for ever.
        for event in std::iter::from_fn(|| recorder.queue.pop()).take(WAITING) {
            for inbox in &mut self.inboxes {
                if inbox.events.len() < WAITING_FOR_ONE {
                    inbox.events.push_back(event);
                } else {
                    inbox.lost += 1;
                }
            }
        }
        let lost = recorder.lost.swap(0, Ordering::Relaxed);
        for inbox in &mut self.inboxes {
            inbox.lost += lost;
        }
    }
}

/// Events to be taken. Dropping it ends the observation.
pub struct EventObserver<'log> {
    log: &'log EventLog,
    recorder: &'log Recorder,
    observer: u64,
}

impl EventObserver<'_> {
    /// Takes at most `limit` events, in the order they were recorded, and says how many were lost
    /// since the last call. `started_ns` is when the dataplane's clock started, in nanoseconds
    /// since 1970: events have unix time.
    pub fn take(&self, started_ns: u64, limit: usize) -> (Vec<Event>, u64) {
        let mut observers = self.log.observers.lock();
        observers.distribute(self.recorder);
        let own = observers.inboxes.iter_mut().find(|inbox| inbox.observer == self.observer);
        let Some(inbox) = own else { return (Vec::new(), 0) };
        let count = inbox.events.len().min(limit);
        let unix = |event: Event| Event { at_ns: started_ns.saturating_add(event.at_ns), ..event };
        let events = inbox.events.drain(..count).map(unix).collect();
        (events, std::mem::take(&mut inbox.lost))
    }
}

impl Drop for EventObserver<'_> {
    fn drop(&mut self) {
        let mut observers = self.log.observers.lock();
        observers.inboxes.retain(|inbox| inbox.observer != self.observer);
        self.log.active.store(!observers.inboxes.is_empty(), Ordering::Release);
    }
}

/// Whether events of the kind are recorded of all conversations of the cell.
const fn is_recorded(logging: &Logging, kind: EventKind) -> bool {
    match kind {
        EventKind::EgressAllowed | EventKind::EgressDenied => logging.egress,
        EventKind::OverlayAllowed | EventKind::OverlayDenied => logging.overlay,
        EventKind::ConnectionLimited { .. } => false,
    }
}

/// How many events of the kind a container may cause in a second; none for no limit.
const fn limit(logging: &Logging, kind: EventKind, protocol: u8) -> Option<u32> {
    match kind {
        EventKind::EgressDenied
        | EventKind::OverlayDenied
        | EventKind::ConnectionLimited { .. } => Some(logging.denied_per_second),
        EventKind::EgressAllowed | EventKind::OverlayAllowed => {
            if protocol == Protocol::Udp.number() {
                Some(logging.accepted_udp_per_second)
            } else {
                None
            }
        }
    }
}

#[cfg(test)]
mod tests;
