//! How long to wait before asking again: never all cells at the same moment.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// First and longest pause after failures.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// A time that is random between nine and eleven tenths of `interval`.
pub fn around(interval: Duration) -> Duration {
    // Keys of a new hasher are as random as this needs.
    let random = RandomState::new().hash_one(()) as f64 / u64::MAX as f64;
    interval.mul_f64(0.9 + 0.2 * random)
}

/// Pauses that grow from failure to failure.
#[derive(Debug, Clone)]
pub struct BackOff(Duration);

impl Default for BackOff {
    fn default() -> Self {
        Self(BACK_OFF.0)
    }
}

impl BackOff {
    /// The next pause.
    pub fn pause(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(BACK_OFF.1);
        around(pause)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn pauses_differ_and_stay_near() {
        let whole = Duration::from_secs(30);
        let pauses: BTreeSet<_> = (0..64).map(|_| around(whole)).collect();
        assert!(pauses.len() > 32, "{pauses:?}");
        let near = Duration::from_secs(27)..=Duration::from_secs(33);
        assert!(pauses.iter().all(|pause| near.contains(pause)), "{pauses:?}");
        assert_eq!(around(Duration::ZERO), Duration::ZERO);
    }

    #[test]
    fn pauses_grow_to_a_limit() {
        let mut back_off = BackOff::default();
        let pauses: Vec<_> = (0..8).map(|_| back_off.pause().as_secs_f64().round()).collect();
        assert!(pauses[0] <= 2.0 && pauses[7] >= 27.0 && pauses[7] <= 33.0, "{pauses:?}");
    }
}
