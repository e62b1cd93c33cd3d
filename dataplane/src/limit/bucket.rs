//! A limit in bits that workers share without a lock.

use std::sync::atomic::{AtomicU64, Ordering};

use sarcenet_dataplane_api::Rate;

use super::meter::{FULL, Meter};

/// A token bucket of bits, in two forms. [`TokenBucket::take`] *polices*: what exceeds the limit is
/// to be dropped. [`TokenBucket::charge`] and [`TokenBucket::ready_at`] *shape*: what was sent is
/// charged whatever it is, and the sender is not listened to until nothing is owed.
///
/// Packets of any size pass: one that is larger than the burst does when the bucket is full, and
/// the excess is waited for afterwards. So a rate is kept exactly over time, and over any period to
/// within the burst and one packet.
///
/// Rates up to 100 Gbit/s hold for five years after the bucket was made (2^64 bits); after that it
/// no longer limits. A rate of 0 admits one burst.
#[derive(Debug)]
pub struct TokenBucket {
    meter: Meter,
    /// The bucket's mark on the meter. Nothing else is published with it.
    mark: AtomicU64,
}

impl TokenBucket {
    /// A full bucket.
    pub const fn new(rate: &Rate, now_ns: u64) -> Self {
        let meter = Meter::new(rate.bits_per_second, rate.burst_bits, now_ns);
        Self { meter, mark: AtomicU64::new(FULL) }
    }

    /// Whether so many bits may pass now; if they may, they are taken.
    #[inline]
    pub fn take(&self, now_ns: u64, bits: u64) -> bool {
        let clock = self.meter.clock(now_ns);
        let take = |mark| self.meter.take(mark, clock, bits);
        self.mark.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    /// Takes so many bits, on credit if need be.
    #[inline]
    pub fn charge(&self, now_ns: u64, bits: u64) {
        let clock = self.meter.clock(now_ns);
        let withdraw = |mark| Some(self.meter.withdraw(mark, clock, bits));
        // Never refused: the closure always has a new value.
        let _ = self.mark.fetch_update(Ordering::Relaxed, Ordering::Relaxed, withdraw);
    }

    /// From when on nothing is owed, in nanoseconds: `now_ns` if that is so already, `u64::MAX` if
    /// it never will be.
    #[inline]
    pub fn ready_at(&self, now_ns: u64) -> u64 {
        let mark = self.mark.load(Ordering::Relaxed);
        if mark <= self.meter.clock(now_ns) { now_ns } else { self.meter.moment(mark).max(now_ns) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;
    const GIGABIT: u64 = 1_000_000_000;
    /// The largest packet of a link, in bits.
    const LARGEST: u64 = 65_535 * 8;

    fn bucket(bits_per_second: u64, burst_bits: u64) -> TokenBucket {
        TokenBucket::new(&Rate { bits_per_second, burst_bits }, 77)
    }

    #[test]
    fn a_burst_at_once_and_the_rate_afterwards() {
        let bucket = bucket(1000, 5000);
        assert!(bucket.take(77, 2000));
        assert!(bucket.take(77, 3000));
        assert!(!bucket.take(77, 1));
        assert!(!bucket.take(77 + SECOND - 1, 1000));
        assert!(bucket.take(77 + SECOND, 1000));
        assert!(!bucket.take(77 + SECOND, 1));
        assert!(bucket.take(77 + 3600 * SECOND, 5000), "full after a quiet time");
        assert!(!bucket.take(77 + 3600 * SECOND, 1), "and no fuller");
    }

    #[test]
    fn what_is_refused_costs_nothing() {
        let bucket = bucket(1000, 1000);
        assert!(bucket.take(77, 1000));
        for _ in 0..100 {
            assert!(!bucket.take(77 + SECOND / 2, 600));
        }
        assert!(bucket.take(77 + SECOND / 2, 500));
    }

    #[test]
    fn packets_larger_than_the_burst_pass() {
        for burst in [0, 1, 1000, LARGEST - 1] {
            let bucket = bucket(LARGEST, burst);
            let passed = (0..1000).filter(|i| bucket.take(77 + i * SECOND / 10, LARGEST)).count();
            assert!((99..=101).contains(&passed), "burst {burst}: {passed} in 100 seconds");
        }
    }

    #[test]
    fn a_debt_is_paid_at_the_rate() {
        let bucket = bucket(8000, 8000);
        assert_eq!(bucket.ready_at(77), 77);
        bucket.charge(77, 8000);
        assert_eq!(bucket.ready_at(77), 77, "paid from the burst");
        bucket.charge(77, 16_000);
        assert_eq!(bucket.ready_at(77), 77 + 2 * SECOND);
        assert_eq!(bucket.ready_at(77 + SECOND), 77 + 2 * SECOND);
        assert_eq!(bucket.ready_at(78 + 2 * SECOND), 78 + 2 * SECOND);
        bucket.charge(77 + SECOND, 800);
        assert_eq!(bucket.ready_at(77 + SECOND), 77 + 2 * SECOND + SECOND / 10);
    }

    #[test]
    fn a_clock_that_is_a_little_behind_does_no_harm() {
        let bucket = bucket(GIGABIT, 1000);
        assert!(bucket.take(77 + SECOND, 1000));
        assert!(!bucket.take(77 + SECOND - 500, 1), "no second burst");
        assert!(!bucket.take(0, 1), "nor before it was made");
        assert!(bucket.take(77 + SECOND + 1000, 1000));
    }

    #[test]
    fn no_rate_admits_one_burst() {
        let bucket = bucket(0, 1000);
        assert!(bucket.take(77, 1000));
        assert!(!bucket.take(u64::MAX, 1));
        bucket.charge(77, 1);
        assert_eq!(bucket.ready_at(77), u64::MAX);
    }

    #[test]
    fn a_spent_clock_blocks_nobody() {
        let bucket = bucket(u64::MAX, 0);
        for i in 2..100 {
            assert!(bucket.take(77 + i * SECOND, u64::MAX));
            bucket.charge(77 + i * SECOND, u64::MAX);
            assert_eq!(bucket.ready_at(77 + i * SECOND), 77 + i * SECOND);
        }
    }

    #[test]
    fn workers_together_get_no_more_than_one() {
        let bucket = bucket(1, 100_000);
        let taken: usize = std::thread::scope(|scope| {
            let take = || (0..100_000).filter(|_| bucket.take(77, 3)).count();
            let workers: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            workers.into_iter().map(|worker| worker.join().expect("no panic")).sum()
        });
        assert_eq!(taken, 33_333);
    }

    /// Offered load that is never less than the limit.
    #[derive(Debug, Clone)]
    struct Load {
        /// Sizes of packets, in bits, over and over.
        sizes: Vec<u64>,
        rate: u64,
        burst: u64,
        /// What is counted together, in nanoseconds.
        period: u64,
    }

    const PERIODS: usize = 3;

    impl Load {
        /// Bits that pass in each period. `wait` passes a packet, or says for how long not.
        fn passed(&self, mut wait: impl FnMut(u64, u64) -> Option<u64>) -> [u64; PERIODS] {
            let (mut now, mut passed) = (77, [0; PERIODS]);
            for &size in self.sizes.iter().cycle() {
                while let Some(pause) = wait(now, size) {
                    now += pause;
                }
                let Some(period) = passed.get_mut(((now - 77) / self.period) as usize) else {
                    break;
                };
                *period += size;
            }
            passed
        }

        fn check(&self, passed: [u64; PERIODS]) -> Result<(), TestCaseError> {
            let share = self.rate / (SECOND / self.period);
            for (i, bits) in passed.into_iter().enumerate() {
                // The burst passes in the beginning; a period begins and ends inside a packet.
                let wanted = share + if i == 0 { self.burst } else { 0 };
                let off = bits.abs_diff(wanted);
                prop_assert!(off <= share / 100 + LARGEST, "{} bits, not {}", bits, wanted);
            }
            Ok(())
        }
    }

    prop_compose! {
        /// A few thousand packets in a second, or the highest rates for a hundredth of one.
        fn any_load()(
            sizes in prop::collection::vec(prop_oneof![160..12_000_u64, 12_000..=LARGEST], 1..50),
            per_second in 3_000_u64..6_000,
            burst in prop_oneof![Just(0), 1..LARGEST, LARGEST..20 * LARGEST],
            fast in prop::option::of(prop::sample::select(vec![10 * GIGABIT, 100 * GIGABIT])),
        ) -> Load {
            let slow = sizes.iter().sum::<u64>() / sizes.len() as u64 * per_second;
            let period = if fast.is_some() { SECOND / 100 } else { SECOND };
            Load { sizes, rate: fast.unwrap_or(slow), burst, period }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn policing_keeps_the_rate(mut load in any_load()) {
            const PAUSE: u64 = 10_000;
            // A bucket must hold what it gains between two tries, and a packet.
            load.burst += load.rate / (SECOND / PAUSE) + LARGEST;
            let bucket = bucket(load.rate, load.burst);
            let wait = |now, size| (!bucket.take(now, size)).then_some(PAUSE);
            load.check(load.passed(wait))?;
        }

        #[test]
        fn shaping_keeps_the_rate(load in any_load()) {
            let bucket = bucket(load.rate, load.burst);
            load.check(load.passed(|now, size| {
                let ready = bucket.ready_at(now);
                if ready > now {
                    return Some(ready - now);
                }
                bucket.charge(now, size);
                None
            }))?;
        }
    }
}
