//! Conversations that nobody has answered, and how many of them a container may have.
//!
//! A container that scans makes flows as fast as it sends. Only so many of them, a share of the
//! table, may be there at a time: a further one takes the place of another one of the same
//! container. So it cannot fill the table, and what others have in it stays.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

use crossbeam_epoch::Guard;

use super::store::Store;
use super::{Flow, InsertError, eviction};
use crate::packet::Via;

/// Unanswered flows of every container, by its port.
pub(super) struct HalfOpen {
    counts: Box<[AtomicU32]>,
    limit: AtomicU32,
}

impl HalfOpen {
    /// Without a limit yet.
    pub(super) fn new() -> Self {
        Self {
            counts: (0..=u16::MAX).map(|_| AtomicU32::default()).collect(),
            limit: AtomicU32::new(u32::MAX),
        }
    }

    pub(super) fn set_limit(&self, per_container: u32) {
        self.limit.store(per_container.max(1), Relaxed);
    }

    pub(super) fn count(&self, from: Via) -> Option<&AtomicU32> {
        match from {
            Via::Container(port) => self.counts.get(usize::from(port.0)),
            Via::Host | Via::Tunnel(_) => None,
        }
    }

    /// Counts one more. False when that is too many.
    fn charge(&self, from: Via) -> bool {
        let Some(count) = self.count(from) else { return true };
        let fits = count.fetch_add(1, Relaxed) < self.limit.load(Relaxed);
        if !fits {
            count.fetch_sub(1, Relaxed);
        }
        fits
    }

    /// One that was counted has been answered, or is gone.
    #[cold]
    pub(super) fn discharge(&self, from: Via) {
        if let Some(count) = self.count(from) {
            count.fetch_sub(1, Relaxed);
        }
    }
}

impl Store {
    /// Counts one more unanswered flow from this door, if need be in the place of another one.
    pub(super) fn charge_half_open(
        self: &Arc<Self>,
        from: Via,
        hash: u64,
        now: u32,
        guard: &Guard,
    ) -> Result<(), InsertError> {
        if self.half_open.charge(from) {
            return Ok(());
        }
        let flow_at = |place| self.slab.get(place);
        let is_alike = |flow: &Flow| flow.status().waits() && flow.from() == from;
        // Another worker may choose the same one, and take it first.
        for attempt in 0..4 {
            let seed = hash ^ attempt;
            let places = self.slab.high_water();
            if let Some(victim) = eviction::choose_alike(seed, places, now, flow_at, is_alike)
                && self.remove(victim, guard)
            {
                self.replaced.fetch_add(1, Relaxed);
            }
            if self.half_open.charge(from) {
                return Ok(());
            }
        }
        Err(InsertError::HalfOpen)
    }
}
