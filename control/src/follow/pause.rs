//! How long to wait before a server is asked again. Cells that wait for the same moment, the return of
//! a server, must not come back together.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// The longest pause after the first failure, and after many.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// The longest time that a server can ask to be left alone.
const LONGEST: Duration = Duration::from_mins(5);

/// A pause of some length between two bounds, which chance decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pause {
    least: Duration,
    spread: Duration,
}

impl Pause {
    /// None at all.
    pub const NONE: Self = Self { least: Duration::ZERO, spread: Duration::ZERO };

    /// A time of that order: a tenth less or more.
    pub fn about(time: Duration) -> Self {
        Self { least: time.mul_f64(0.9), spread: time.mul_f64(0.2) }
    }

    /// Any time up to this one.
    pub fn up_to(time: Duration) -> Self {
        Self { least: Duration::ZERO, spread: time }
    }

    /// What is due after so many failures in a row: twice as long after each, up to half a minute.
    pub fn after(failures: u32) -> Self {
        let doubled = 2_u32.saturating_pow(failures.saturating_sub(1));
        let most = BACK_OFF.0.saturating_mul(doubled).min(BACK_OFF.1);
        Self { least: most / 2, spread: most / 2 }
    }

    /// What a server asks for (`Retry-After`): that, up to five minutes, or half of it more.
    pub fn asked(time: Duration) -> Self {
        let least = time.min(LONGEST);
        Self { least, spread: least / 2 }
    }

    /// The longest that it can be.
    pub fn most(self) -> Duration {
        self.least + self.spread
    }

    /// One of the times between the bounds.
    pub fn time(self) -> Duration {
        // A hasher's keys are random.
        let random = RandomState::new().hash_one(()) as u32;
        let part = f64::from(random) / f64::from(u32::MAX);
        self.least + self.spread.mul_f64(part)
    }
}

/// A time that is random between nine and eleven tenths of `interval`.
pub fn around(interval: Duration) -> Duration {
    Pause::about(interval).time()
}

/// Pauses that grow from failure to failure.
#[derive(Debug, Clone, Default)]
pub struct BackOff(u32);

impl BackOff {
    /// The next pause.
    pub fn pause(&mut self) -> Duration {
        self.0 = self.0.saturating_add(1);
        Pause::after(self.0).time()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end_growing() {
        let most = |failures| Pause::after(failures).most().as_millis();
        let table =
            [(1, 500), (2, 1_000), (3, 2_000), (7, 30_000), (40, 30_000), (u32::MAX, 30_000)];
        for (failures, millis) in table {
            assert_eq!(most(failures), millis, "after {failures}");
        }
    }

    #[test]
    fn times_differ_and_stay_between_their_bounds() {
        for pause in [
            Pause::NONE,
            Pause::about(Duration::from_secs(5)),
            Pause::up_to(Duration::from_millis(200)),
            Pause::after(3),
            Pause::asked(Duration::from_secs(5)),
            Pause::asked(Duration::MAX),
        ] {
            let times: Vec<_> = (0..100).map(|_| pause.time()).collect();
            assert!(
                times.iter().all(|time| (pause.least..=pause.most()).contains(time)),
                "{pause:?}"
            );
            assert_eq!(times.iter().all(|time| *time == times[0]), pause == Pause::NONE);
        }
        assert_eq!(Pause::asked(Duration::MAX).least, LONGEST);
    }
}
