//! What a worker counts.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crossbeam_utils::CachePadded;
use sarcenet_dataplane_api::{DropReason, Drops};

const REASONS: usize = DropReason::ALL.len();

/// The outcomes of one worker's packets. Only that worker adds; anybody reads, at any time.
///
/// Every received packet is counted once: as forwarded when its verdict is to forward it, as
/// dropped otherwise. A packet that then fails at its door is counted as dropped there, and
/// [`Totals::transmitted`] leaves it out.
#[derive(Debug)]
pub struct Counters {
    forwarded: CachePadded<AtomicU64>,
    answered: AtomicU64,
    answers_suppressed: AtomicU64,
    dropped: CachePadded<[AtomicU64; REASONS]>,
}

/// Adds without a locked instruction: a counter has one writer.
#[inline]
fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(n), Relaxed);
}

impl Default for Counters {
    fn default() -> Self {
        let dropped = CachePadded::new([const { AtomicU64::new(0) }; REASONS]);
        Self {
            forwarded: CachePadded::default(),
            answered: AtomicU64::default(),
            answers_suppressed: AtomicU64::default(),
            dropped,
        }
    }
}

impl Counters {
    /// All zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// `n` packets are to be sent on. Called by the pipeline, once per batch.
    #[inline]
    pub fn forwarded(&self, n: u64) {
        add(&self.forwarded, n);
    }

    /// `n` packets ended for `reason`. Called by the pipeline for what it decides, and by the
    /// worker for packets that were forwarded but failed at their door ([`DropReason::LinkGone`],
    /// [`DropReason::LinkFull`], [`DropReason::LinkError`], [`DropReason::NextHopUnknown`]), or
    /// before they became packets ([`DropReason::NoBuffer`]).
    #[inline]
    pub fn dropped(&self, reason: DropReason, n: u64) {
        add(&self.dropped[reason as usize], n);
    }

    /// `n` ICMP errors were made.
    #[inline]
    pub fn answered(&self, n: u64) {
        add(&self.answered, n);
    }

    /// `n` ICMP errors were due but not made, because too many had been.
    #[inline]
    pub fn suppressed(&self, n: u64) {
        add(&self.answers_suppressed, n);
    }

    /// How many packets ended for `reason`.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.dropped[reason as usize].load(Relaxed)
    }
}

/// The counters of several workers, added up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Totals {
    /// Packets that were sent on.
    pub transmitted: u64,
    /// ICMP errors made.
    pub answered: u64,
    /// ICMP errors due but not made.
    pub answers_suppressed: u64,
    /// Packets that ended here, by reason; only reasons that occurred.
    pub drops: Vec<Drops>,
}

impl Totals {
    /// Adds up.
    pub fn of<'a>(workers: impl IntoIterator<Item = &'a Counters>) -> Self {
        let mut totals = Self::default();
        let mut by_reason = [0; REASONS];
        for counters in workers {
            totals.transmitted += counters.forwarded.load(Relaxed);
            totals.answered += counters.answered.load(Relaxed);
            totals.answers_suppressed += counters.answers_suppressed.load(Relaxed);
            for (sum, n) in by_reason.iter_mut().zip(counters.dropped.iter()) {
                *sum += n.load(Relaxed);
            }
        }
        for &reason in DropReason::ALL {
            let packets = by_reason[reason as usize];
            if packets == 0 {
                continue;
            }
            if matches!(
                reason,
                DropReason::LinkGone
                    | DropReason::LinkFull
                    | DropReason::LinkError
                    | DropReason::NextHopUnknown
            ) {
                totals.transmitted = totals.transmitted.saturating_sub(packets);
            }
            totals.drops.push(Drops { reason, packets });
        }
        totals
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_add_up_and_take_off_what_failed_at_the_door() {
        let (one, other) = (Counters::new(), Counters::new());
        one.forwarded(10);
        other.forwarded(5);
        one.dropped(DropReason::LinkFull, 2);
        other.dropped(DropReason::PolicyDenied, 3);
        other.answered(3);
        one.suppressed(1);
        let totals = Totals::of([&one, &other]);
        assert_eq!((totals.transmitted, totals.answered, totals.answers_suppressed), (13, 3, 1));
        let drops: Vec<_> = totals.drops.iter().map(|d| (d.reason, d.packets)).collect();
        assert_eq!(drops, [(DropReason::PolicyDenied, 3), (DropReason::LinkFull, 2)]);
    }
}
