//! The arithmetic of token buckets.

const NANOS: u64 = 1_000_000_000;

/// A rate and a burst, without the state of any bucket.
///
/// The meter is a clock that counts tokens: it stands at the burst in the beginning and goes on
/// at the rate. A bucket is one number on that clock, its *mark*: the bucket is empty when the
/// clock stands at the mark, holds as many tokens as the clock has gone beyond it, at most the
/// burst, and owes as many as the mark is ahead. Withdrawing moves the mark on. (This is the
/// generic cell rate algorithm of ITU-T I.371 with time in units of tokens: withdrawals are exact
/// whatever the rate, and nothing rounded ever adds up.)
///
/// A clock that has come to 2^64 tokens stands still, and no longer limits anything.
#[derive(Debug, Clone, Copy)]
pub(super) struct Meter {
    /// Tokens per second.
    rate: u64,
    burst: u64,
    /// When the clock stood at the burst, in nanoseconds.
    start: u64,
}

/// The mark of a full bucket, whatever the clock says.
pub(super) const FULL: u64 = 0;

impl Meter {
    pub(super) const fn new(tokens_per_second: u64, burst: u64, now_ns: u64) -> Self {
        Self { rate: tokens_per_second, burst, start: now_ns }
    }

    /// Where the clock stands.
    #[inline]
    pub(super) const fn clock(&self, now_ns: u64) -> u64 {
        let passed = now_ns.saturating_sub(self.start);
        let (seconds, nanos) = (passed / NANOS, passed % NANOS);
        // nanos * rate / NANOS in two parts, of which the second one fits in 64 bits.
        let part = nanos.saturating_mul(self.rate / NANOS) + nanos * (self.rate % NANOS) / NANOS;
        seconds.saturating_mul(self.rate).saturating_add(part).saturating_add(self.burst)
    }

    /// The mark after withdrawing `tokens`, paid or not.
    #[inline]
    pub(super) const fn withdraw(&self, mark: u64, clock: u64, tokens: u64) -> u64 {
        self.filled(mark, clock).saturating_add(tokens)
    }

    /// The mark after withdrawing `tokens` that the bucket holds. A full bucket gives more than
    /// it can hold, and owes the rest: else what is larger than the burst would never pass.
    #[inline]
    pub(super) const fn take(&self, mark: u64, clock: u64, tokens: u64) -> Option<u64> {
        let mark = self.filled(mark, clock);
        let needed = if tokens < self.burst { tokens } else { self.burst };
        if clock == u64::MAX || needed <= clock.saturating_sub(mark) && mark <= clock {
            Some(mark.saturating_add(tokens))
        } else {
            None
        }
    }

    /// Whether a bucket with this mark is full.
    #[inline]
    pub(super) const fn is_full(&self, mark: u64, clock: u64) -> bool {
        mark <= clock.saturating_sub(self.burst)
    }

    /// The first moment, in nanoseconds, at which the clock stands at the mark or behind it;
    /// `u64::MAX` for never.
    pub(super) const fn moment(&self, mark: u64) -> u64 {
        let Some(tokens) = mark.checked_sub(self.burst) else { return self.start };
        if tokens == 0 {
            return self.start;
        }
        if self.rate == 0 {
            return u64::MAX;
        }
        let passed = (tokens as u128 * NANOS as u128).div_ceil(self.rate as u128);
        if passed > u64::MAX as u128 {
            return u64::MAX;
        }
        self.start.saturating_add(passed as u64)
    }

    /// How long a burst takes at the rate, in nanoseconds, at most a day.
    pub(super) const fn time_of_burst(&self) -> u64 {
        const DAY: u128 = 86_400 * NANOS as u128;
        let time = match self.rate {
            0 => 0,
            rate => self.burst as u128 * NANOS as u128 / rate as u128,
        };
        if time < DAY { time as u64 } else { DAY as u64 }
    }

    /// The mark of a bucket that has held more than the burst, brought up to the burst.
    const fn filled(&self, mark: u64, clock: u64) -> u64 {
        let full = clock.saturating_sub(self.burst);
        if mark > full { mark } else { full }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_clock_is_exact(rate: u64, burst: u64, start: u64, passed: u64) {
            let meter = Meter::new(rate, burst, start);
            let now = start.saturating_add(passed);
            let passed = u128::from(now - start);
            // Seconds and the rest are each rounded down.
            let exact = (passed * u128::from(rate) / u128::from(NANOS)).saturating_add(burst.into());
            let exact = u64::try_from(exact).unwrap_or(u64::MAX);
            prop_assert_eq!(meter.clock(now), exact);
        }

        #[test]
        fn the_moment_is_the_first_one(
            rate in 1_u64..1 << 38,
            burst in 0_u64..1 << 40,
            start in 0_u64..1 << 40,
            mark in 0_u64..1 << 45,
        ) {
            let meter = Meter::new(rate, burst, start);
            let moment = meter.moment(mark);
            prop_assert!(moment == u64::MAX || meter.clock(moment) >= mark);
            prop_assert!(moment <= start || meter.clock(moment - 1) < mark);
        }

        #[test]
        fn no_input_overflows(
            rate: u64, burst: u64, start: u64, now: u64, mark: u64, tokens: u64,
        ) {
            let meter = Meter::new(rate, burst, start);
            let clock = meter.clock(now);
            meter.moment(mark);
            prop_assert!(meter.withdraw(mark, clock, tokens) >= mark);
            if meter.is_full(mark, clock) {
                prop_assert!(meter.take(mark, clock, tokens).is_some());
            }
        }
    }
}
