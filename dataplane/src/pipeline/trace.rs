//! The walk of chosen packets: who wants to see which, and the steps collected so far.
//!
//! Nobody watching costs one relaxed load per batch and one predicted branch per stage. With
//! observers, every packet of a batch keeps its steps until the inner header is known; packets
//! that nobody asked for are let go there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use parking_lot::Mutex;
use sarcenet_dataplane_api::{TraceFilter, TraceStep, Walk};
use std::time::Duration;

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
    pub fn observe(self: &TraceHub, filter: TraceFilter) -> TraceObserver<'_> {
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
