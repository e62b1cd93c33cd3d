//! When to look again at once, and when to sleep.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

/// A yield that takes longer means that somebody else has work for this processor.
const CONTENDED: Duration = Duration::from_micros(100);

/// How long not to spin after that.
const PAUSE: Duration = Duration::from_millis(50);

/// Spins for a while after the last work, but never against others: where they are waiting for
/// the processor, a spinning thread is scheduled as the greedy one that it is, and its next packet
/// waits for milliseconds.
#[derive(Debug)]
pub(super) struct Spin {
    budget: Duration,
    last_work: Instant,
    paused_until: Instant,
}

impl Spin {
    /// Spins for `budget` after the last work.
    pub(super) fn new(budget: Duration, now: Instant) -> Self {
        Self { budget, last_work: now, paused_until: now }
    }

    /// There was work at `now`.
    pub(super) fn worked(&mut self, now: Instant) {
        self.last_work = now;
    }

    /// Whether to look again at once instead of sleeping.
    pub(super) fn again(&self, now: Instant) -> bool {
        now >= self.paused_until && now.saturating_duration_since(self.last_work) < self.budget
    }

    /// The processor was offered to others from `before` to `after`.
    pub(super) fn yielded(&mut self, before: Instant, after: Instant) {
        if after.saturating_duration_since(before) > CONTENDED {
            self.paused_until = after + PAUSE;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: Duration = Duration::from_micros(1);

    #[test]
    fn spins_for_the_budget_after_work() {
        let start = Instant::now();
        let mut spin = Spin::new(50 * US, start);
        assert!(spin.again(start + 49 * US));
        assert!(!spin.again(start + 50 * US));
        spin.worked(start + 60 * US);
        assert!(spin.again(start + 100 * US));
        assert!(!spin.again(start + 110 * US));
    }

    #[test]
    fn stops_for_a_while_when_others_need_the_processor() {
        let start = Instant::now();
        let mut spin = Spin::new(50 * US, start);
        spin.yielded(start, start + 100 * US);
        assert!(spin.again(start), "100 us is not contended yet");
        spin.yielded(start, start + 101 * US);
        let before_end = start + 100 * US + PAUSE;
        spin.worked(before_end);
        assert!(!spin.again(before_end));
        assert!(spin.again(before_end + US));
    }

    #[test]
    fn no_budget_never_spins() {
        let start = Instant::now();
        assert!(!Spin::new(Duration::ZERO, start).again(start));
    }
}
