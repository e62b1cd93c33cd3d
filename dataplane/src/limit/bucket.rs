//! A limit in bits that workers share without a lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sarcenet_dataplane_api::Rate;

use super::meter::{FULL, Meter};

/// How much a receiver's queue holds beside its burst: what arrives at its rate in this time. That
/// is the latency that the kernel stack gives its tbf (contract section 6.6).
const QUEUE: Duration = Duration::from_millis(25);

/// A token bucket of bits that shapes, in two ways. Senders: [`TokenBucket::charge`] takes what was
/// sent, whatever it is, and until [`TokenBucket::ready_at`] the sender is not listened to.
/// Receivers, whose senders cannot be stopped: [`TokenBucket::book`] says when a packet may leave
/// (its earliest departure time), or that the queue before it is too long.
///
/// Packets of any size pass: each does as soon as nothing is owed, and what it takes beyond the
/// bucket's content is waited for afterwards. So a rate is kept exactly over time, and over any
/// period to within the burst and one packet.
///
/// Rates up to 100 Gbit/s hold for five years after the bucket was made (2^64 bits); after that it
/// no longer limits. A rate of 0 admits one burst.
#[derive(Debug)]
pub struct TokenBucket {
    meter: Meter,
    /// Longest that a packet waits, in nanoseconds.
    longest_ns: u64,
    /// The bucket's mark on the meter. Nothing else is published with it.
    mark: AtomicU64,
}

impl TokenBucket {
    /// A full bucket.
    pub const fn new(rate: &Rate, now_ns: u64) -> Self {
        let meter = Meter::new(rate.bits_per_second, rate.burst_bits, now_ns);
        let longest_ns = QUEUE.as_nanos() as u64 + meter.time_of_burst();
        Self { meter, longest_ns, mark: AtomicU64::new(FULL) }
    }

    /// From when on a packet of so many bits may pass, in nanoseconds: `now_ns` for at once; later
    /// packets are behind it. None if it would have to wait for more than [`QUEUE`] and the time
    /// that a burst takes, as in the kernel's tbf; then nothing is taken.
    #[inline]
    pub fn book(&self, now_ns: u64, bits: u64) -> Option<u64> {
        let clock = self.meter.clock(now_ns);
        let mut departure = now_ns;
        let book = |mark| {
            departure = self.ready(mark, clock, now_ns);
            let waits = departure - now_ns;
            (waits <= self.longest_ns).then(|| self.meter.withdraw(mark, clock, bits))
        };
        self.mark.fetch_update(Ordering::Relaxed, Ordering::Relaxed, book).ok()?;
        Some(departure)
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
        self.ready(self.mark.load(Ordering::Relaxed), self.meter.clock(now_ns), now_ns)
    }

    #[inline]
    fn ready(&self, mark: u64, clock: u64, now_ns: u64) -> u64 {
        if mark <= clock { now_ns } else { self.meter.moment(mark).max(now_ns) }
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
        assert_eq!(bucket.book(77, 2000), Some(77));
        assert_eq!(bucket.book(77, 3000), Some(77));
        assert_eq!(bucket.book(77, 1000), Some(77), "nothing is owed yet");
        assert_eq!(bucket.book(77, 2000), Some(77 + SECOND));
        assert_eq!(bucket.book(77 + SECOND, 500), Some(77 + 3 * SECOND), "in the order of coming");
        let later = 77 + 3600 * SECOND;
        assert_eq!(bucket.book(later, 6000), Some(later), "full after a quiet time");
        assert_eq!(bucket.book(later, 1), Some(later + SECOND), "and no fuller");
    }

    #[test]
    fn the_queue_holds_a_burst_and_a_moment() {
        let bucket = bucket(1000, 1000);
        assert_eq!(bucket.book(77, 2000), Some(77));
        assert_eq!(bucket.book(77, 26), Some(77 + SECOND));
        for _ in 0..100 {
            assert_eq!(bucket.book(77, 1), None);
        }
        let soon = 77 + SECOND / 1000;
        assert_eq!(
            bucket.book(soon, 1),
            Some(77 + SECOND + 26 * SECOND / 1000),
            "refusals are free"
        );
    }

    #[test]
    fn packets_larger_than_the_burst_pass() {
        for burst in [0, 1, 1000, LARGEST - 1] {
            let bucket = bucket(LARGEST, burst);
            let passed =
                (0..1000).filter_map(|i| bucket.book(77 + i * SECOND / 10, LARGEST)).count();
            assert!((99..=103).contains(&passed), "burst {burst}: {passed} in 100 seconds");
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
        let (now, owed) = (77 + SECOND, 1_000);
        assert_eq!(bucket.book(now, 1000 + owed), Some(now));
        assert_eq!(bucket.book(now - 500, 1), Some(now + owed), "no second burst");
        assert_eq!(bucket.book(0, 1), None, "nor before it was made");
        assert_eq!(bucket.book(now + owed + 1, 1000), Some(now + owed + 1));
    }

    #[test]
    fn no_rate_admits_one_burst() {
        let bucket = bucket(0, 1000);
        assert_eq!(bucket.book(77, 1001), Some(77));
        assert_eq!(bucket.book(u64::MAX / 2, 1), None);
        bucket.charge(77, 1);
        assert_eq!(bucket.ready_at(77), u64::MAX);
    }

    #[test]
    fn a_spent_clock_blocks_nobody() {
        let bucket = bucket(u64::MAX, 0);
        for i in 2..100 {
            assert!(bucket.book(77 + i * SECOND, u64::MAX).is_some());
            bucket.charge(77 + i * SECOND, u64::MAX);
            assert_eq!(bucket.ready_at(77 + i * SECOND), 77 + i * SECOND);
        }
    }

    #[test]
    fn workers_together_get_no_more_than_one() {
        let bucket = bucket(1, 100_000);
        let taken: usize = std::thread::scope(|scope| {
            let take = || (0..100_000).filter(|_| bucket.book(77, 3) == Some(77)).count();
            let workers: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            workers.into_iter().map(|worker| worker.join().expect("no panic")).sum()
        });
        assert_eq!(taken, 33_334);
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
            let mean = sizes.iter().sum::<u64>() / sizes.len() as u64;
            let slow = mean * per_second;
            // Without a burst each packet waits for up to a nanosecond too long: 100 bits, that is.
            let fast = fast.filter(|_| mean > 20_000);
            let period = if fast.is_some() { SECOND / 100 } else { SECOND };
            Load { sizes, rate: fast.unwrap_or(slow), burst, period }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn receivers_get_the_rate(load in any_load()) {
            const PAUSE: u64 = 10_000;
            let bucket = bucket(load.rate, load.burst);
            let (mut now, mut passed) = (77, [0; PERIODS]);
            for &size in load.sizes.iter().cycle() {
                let departure = loop {
                    if let Some(departure) = bucket.book(now, size) {
                        break departure;
                    }
                    now += PAUSE;
                };
                prop_assert!(departure >= now);
                let Some(period) = passed.get_mut(((departure - 77) / load.period) as usize) else {
                    break;
                };
                *period += size;
            }
            load.check(passed)?;
        }

        #[test]
        fn senders_keep_the_rate(load in any_load()) {
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
