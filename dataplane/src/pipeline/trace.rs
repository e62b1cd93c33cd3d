//! The walk of chosen packets: who wants to see which, and the steps collected so far.
//!
//! Nobody watching costs one relaxed load per batch and one predicted branch per stage. With
//! observers, every packet of a batch keeps its steps until the inner header is known; packets
//! that nobody asked for are let go there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use parking_lot::Mutex;
use sarcenet_dataplane_api::{TraceFilter, TraceStep, Walk};

use crate::flow::FlowKey;

/// Finished walks that wait for an observer; more are thrown away and counted.
const WALKS_WAITING: usize = 1_024;

struct Watch {
    filter: TraceFilter,
    walks: Sender<Walk>,
    lost: AtomicU64,
}

/// Where observers say which packets they want to see. Shared by all workers.
#[derive(Default)]
pub struct TraceHub {
    active: AtomicBool,
    version: AtomicU64,
    watches: Mutex<Vec<Arc<Watch>>>,
}

impl TraceHub {
    /// Follows packets that match `filter` until the observer is dropped.
    pub fn observe(&self, filter: TraceFilter) -> TraceObserver<'_> {
        let (walks, receiver) = bounded(WALKS_WAITING);
        let watch = Arc::new(Watch { filter, walks, lost: AtomicU64::new(0) });
        self.change(|watches| watches.push(Arc::clone(&watch)));
        TraceObserver { hub: self, watch, walks: receiver }
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Arc<Watch>>)) {
        let mut watches = self.watches.lock();
        change(&mut watches);
        self.version.fetch_add(1, Ordering::Release);
        self.active.store(!watches.is_empty(), Ordering::Release);
    }

    #[inline]
    fn is_active(&self) -> bool {
        self.active.load(Ordering::Relaxed)
    }
}

/// Walks as they come. Dropping it ends the watch.
pub struct TraceObserver<'hub> {
    hub: &'hub TraceHub,
    watch: Arc<Watch>,
    walks: Receiver<Walk>,
}

impl TraceObserver<'_> {
    /// Waits up to `timeout` for a first walk and takes at most `limit` of those that are there.
    /// Empty when none came.
    pub fn wait(&self, timeout: Duration, limit: usize) -> Vec<Walk> {
        match self.walks.recv_timeout(timeout) {
            Ok(first) => {
                std::iter::once(first).chain(self.walks.try_iter()).take(limit.max(1)).collect()
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Vec::new(),
        }
    }

    /// How many walks were thrown away since the last call because nobody took them.
    pub fn take_lost(&self) -> u64 {
        self.watch.lost.swap(0, Ordering::Relaxed)
    }
}

impl Drop for TraceObserver<'_> {
    fn drop(&mut self) {
        self.hub.change(|watches| watches.retain(|watch| !Arc::ptr_eq(watch, &self.watch)));
    }
}

/// Steps of a packet that may turn out to be wanted.
#[derive(Default)]
struct Draft {
    key: Option<FlowKey>,
    steps: Vec<TraceStep>,
}

/// A worker's side: the packets in its hands.
#[derive(Default)]
pub(super) struct TraceLog {
    version: u64,
    watches: Vec<Arc<Watch>>,
    drafts: Vec<Draft>,
    used: usize,
}

impl TraceLog {
    /// Takes up changes among the observers; once per batch.
    #[inline]
    pub(super) fn refresh(&mut self, hub: &TraceHub) {
        if hub.is_active() || !self.watches.is_empty() {
            self.take_up(hub);
        }
    }

    #[cold]
    fn take_up(&mut self, hub: &TraceHub) {
        self.used = 0;
        let version = hub.version.load(Ordering::Acquire);
        if version != self.version {
            self.watches.clone_from(&hub.watches.lock());
            self.version = version;
        }
    }

    /// Begins to record a packet, if anybody is watching.
    #[inline]
    pub(super) fn begin(&mut self, first: impl FnOnce() -> TraceStep) -> Option<u16> {
        if self.watches.is_empty() { None } else { Some(self.draft(first())) }
    }

    #[cold]
    fn draft(&mut self, first: TraceStep) -> u16 {
        if self.used == self.drafts.len() {
            self.drafts.push(Draft::default());
        }
        let draft = &mut self.drafts[self.used];
        draft.key = None;
        draft.steps.clear();
        draft.steps.push(first);
        self.used += 1;
        (self.used - 1) as u16
    }

    /// Adds a step to a packet that is being recorded.
    #[inline]
    pub(super) fn step(&mut self, slot: Option<u16>, step: impl FnOnce() -> TraceStep) {
        if let Some(slot) = slot {
            self.append(slot, step());
        }
    }

    #[cold]
    fn append(&mut self, slot: u16, step: TraceStep) {
        self.drafts[usize::from(slot)].steps.push(step);
    }

    /// Says whose packet it is. False when nobody wants it.
    #[cold]
    pub(super) fn identify(&mut self, slot: u16, key: FlowKey) -> bool {
        self.drafts[usize::from(slot)].key = Some(key);
        self.watches.iter().any(|watch| matches(&watch.filter, Some(&key)))
    }

    /// Hands the walk of a packet to everybody who wants it.
    #[cold]
    pub(super) fn finish(&mut self, slot: u16, worker: u16, at_ns: u64, dropped: bool) {
        let draft = &self.drafts[usize::from(slot)];
        for watch in &self.watches {
            let wanted = dropped || !watch.filter.drops_only;
            if !wanted || !matches(&watch.filter, draft.key.as_ref()) {
                continue;
            }
            let walk = Walk { at_ns, worker, steps: draft.steps.clone() };
            if watch.walks.try_send(walk).is_err() {
                watch.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Whether a packet, in either direction, is one that `filter` asks for. A packet whose headers
/// could not be read matches only a filter that asks for nothing in them.
fn matches(filter: &TraceFilter, key: Option<&FlowKey>) -> bool {
    let Some(key) = key else {
        return filter.from.is_none()
            && filter.to.is_none()
            && filter.protocol.is_none()
            && filter.port.is_none();
    };
    let ends = |source, destination| {
        filter.from.is_none_or(|net| net.contains(source))
            && filter.to.is_none_or(|net| net.contains(destination))
    };
    filter.protocol.is_none_or(|protocol| protocol == key.protocol)
        && filter.port.is_none_or(|port| [key.source_port, key.destination_port].contains(&port))
        && (ends(&key.source, &key.destination) || ends(&key.destination, &key.source))
}
