//! A limit on new connections to each destination.

use std::net::Ipv4Addr;

use parking_lot::Mutex;
use sarcenet_dataplane_api::ConnectionLimit;

use super::meter::{FULL, Meter};
use crate::table::hash_pair;

/// Destinations that may share one row of the table.
const WAYS: usize = 16;
/// Rows of the table.
const ROWS: usize = 256;
/// Tokens that a connection costs: the budget grows in parts of one, so that a connection is
/// admitted when its time has come, not at the next whole one.
const COST: u64 = 1024;

/// What becomes of a new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It is within the limit, and was counted.
    Admitted,
    /// It is beyond the limit; it was not counted.
    Exceeded,
}

/// The budgets of one container: one for each destination address and port, as with the kernel's
/// `hashlimit` match (`net/netfilter/xt_hashlimit.c`) in mode `dstip,dstport`. A burst passes at
/// once, then connections at the rate; refused ones cost nothing. A budget that was not used for
/// burst / rate seconds is full again, and forgotten.
///
/// Memory is bounded: 4096 budgets ([`ConnectionLimiter::CAPACITY`]), 64 KiB. Where there is no
/// room for another one, of 16 chosen by a secret hash the one goes that was idle for longest, that
/// is, the one nearest to being full; [`ConnectionLimiter::replaced`] counts them. Its destination
/// begins with a whole burst again, so a scan makes the limit milder, never stricter. A container
/// that wants a budget forgotten must use up those of 16 other destinations before, whose names it
/// cannot know.
///
/// Only new connections come here, so workers share it with a lock.
#[derive(Debug)]
pub struct ConnectionLimiter {
    meter: Meter,
    budgets: Mutex<Budgets>,
}

#[derive(Debug)]
struct Budgets {
    rows: Box<[[Budget; WAYS]]>,
    replaced: u64,
}

/// The budget of a destination; one that is full is nobody's.
#[derive(Debug, Clone, Copy)]
struct Budget {
    destination: (u32, u16),
    /// The bucket's mark on the meter.
    mark: u64,
}

impl ConnectionLimiter {
    /// Destinations whose budgets are remembered at the same time.
    pub const CAPACITY: usize = ROWS * WAYS;

    /// No destination was connected to yet.
    pub fn new(limit: &ConnectionLimit, now_ns: u64) -> Self {
        let (rate, burst) = (u64::from(limit.per_second), u64::from(limit.burst));
        let nobody = Budget { destination: (0, 0), mark: FULL };
        Self {
            meter: Meter::new(rate * COST, burst * COST, now_ns),
            budgets: Mutex::new(Budgets { rows: vec![[nobody; WAYS]; ROWS].into(), replaced: 0 }),
        }
    }

    /// Whether one more connection to this destination is within the limit; if it is, it counts.
    pub fn admit(&self, now_ns: u64, destination: Ipv4Addr, port: u16) -> Admission {
        let destination = (u32::from(destination), port);
        let row = hash_pair(u64::from(destination.0), u64::from(port)) as usize % ROWS;
        let clock = self.meter.clock(now_ns);
        let mut budgets = self.budgets.lock();
        let row = &mut budgets.rows[row];
        let known = row.iter_mut().find(|budget| budget.destination == destination);
        let mark = known.as_ref().map_or(FULL, |budget| budget.mark);
        let Some(mark) = self.meter.take(mark, clock, COST) else { return Admission::Exceeded };
        let after = Budget { destination, mark };
        if let Some(known) = known {
            *known = after;
        } else if let Some(idlest) = row.iter_mut().min_by_key(|budget| budget.mark) {
            let lost = !self.meter.is_full(idlest.mark, clock);
            *idlest = after;
            budgets.replaced += u64::from(lost);
        }
        Admission::Admitted
    }

    /// Budgets that were forgotten before they were full, because there was no room.
    pub fn replaced(&self) -> u64 {
        self.budgets.lock().replaced
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use Admission::{Admitted, Exceeded};
    use proptest::prelude::*;

    const MILLISECOND: u64 = 1_000_000;
    const SECOND: u64 = 1000 * MILLISECOND;
    const A: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    const B: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

    fn limiter(per_second: u32, burst: u32) -> ConnectionLimiter {
        let limit = ConnectionLimit { per_second, burst, dry_run: false, log: false };
        ConnectionLimiter::new(&limit, 77)
    }

    fn admitted(limiter: &ConnectionLimiter, now: u64, tries: usize) -> usize {
        (0..tries).filter(|_| limiter.admit(now, A, 80) == Admitted).count()
    }

    #[test]
    fn a_burst_at_once_and_the_rate_afterwards() {
        let limiter = limiter(100, 1000);
        let start = 77 + 12_345;
        assert_eq!(admitted(&limiter, start, 5000), 1000);
        assert_eq!(admitted(&limiter, start + 9 * MILLISECOND, 10), 0);
        assert_eq!(admitted(&limiter, start + 10 * MILLISECOND, 10), 1);
        assert_eq!(admitted(&limiter, start + 510 * MILLISECOND, 100), 50);
        let later: usize = (1..=1000)
            .map(|i| admitted(&limiter, start + 510 * MILLISECOND + i * MILLISECOND, 3))
            .sum();
        assert_eq!(later, 100);
    }

    #[test]
    fn every_destination_and_port_has_its_own() {
        let limiter = limiter(1, 2);
        for (address, port) in [(A, 80), (A, 81), (B, 80)] {
            let admissions = [(); 3].map(|()| limiter.admit(77, address, port));
            assert_eq!(admissions, [Admitted, Admitted, Exceeded], "{address}:{port}");
        }
        assert_eq!(limiter.replaced(), 0);
    }

    #[test]
    fn an_idle_budget_is_a_new_one() {
        let limiter = limiter(2, 10);
        assert_eq!(admitted(&limiter, 77, 20), 10);
        assert_eq!(admitted(&limiter, 77 + 4 * SECOND, 20), 8);
        assert_eq!(admitted(&limiter, 77 + 9 * SECOND, 20), 10, "burst / rate seconds");
        assert_eq!(admitted(&limiter, 77 + 3600 * SECOND, 20), 10);
    }

    #[test]
    fn the_destination_of_an_unused_place_is_one_like_others() {
        let limiter = limiter(1, 1);
        let zero = Ipv4Addr::UNSPECIFIED;
        assert_eq!(limiter.admit(77, zero, 0), Admitted);
        assert_eq!(limiter.admit(77, zero, 0), Exceeded);
    }

    #[test]
    fn a_scan_replaces_the_idlest_and_is_counted() {
        let limiter = limiter(1, 100);
        assert_eq!(admitted(&limiter, 77, 200), 100);
        for i in 0..100_000_u32 {
            let now = 77 + u64::from(i);
            assert_eq!(limiter.admit(now, Ipv4Addr::from(i), (i % 65_536) as u16), Admitted);
        }
        assert_eq!(limiter.admit(77 + 100_000, A, 80), Exceeded, "what is used up outlives a scan");
        let replaced = limiter.replaced();
        assert!(replaced >= 100_000 - ConnectionLimiter::CAPACITY as u64, "{replaced}");
        assert!(replaced < 100_000, "{replaced}");
        // One connection each: full again a second later, so nothing is lost any more.
        for i in 0..1000_u32 {
            assert_eq!(limiter.admit(77 + 2 * SECOND, Ipv4Addr::from(!i), 80), Admitted);
        }
        assert_eq!(limiter.replaced(), replaced);
    }

    #[test]
    fn impossible_limits_block_nobody_for_ever() {
        let none = limiter(1, 0);
        assert_eq!(admitted(&none, 77, 10), 1);
        assert_eq!(admitted(&none, 77 + SECOND, 10), 1);
        assert_eq!(admitted(&limiter(u32::MAX, u32::MAX), 77, 1000), 1000);
        let stopped = limiter(0, 3);
        assert_eq!(admitted(&stopped, 77, 10), 3);
        assert_eq!(admitted(&stopped, u64::MAX, 10), 0);
    }

    #[test]
    fn workers_together_get_no_more_than_one() {
        let limiter = limiter(1, 1000);
        let total: usize = std::thread::scope(|scope| {
            let workers: Vec<_> =
                (0..4).map(|_| scope.spawn(|| admitted(&limiter, 77, 1000))).collect();
            workers.into_iter().map(|worker| worker.join().expect("no panic")).sum()
        });
        assert_eq!(total, 1000);
    }

    proptest! {
        /// Credit as `hashlimit` keeps it: grows with time up to the burst, one for a connection.
        #[test]
        fn answers_as_hashlimit_would(
            per_second in 1_u32..2000,
            burst in 1_u32..50,
            tries in prop::collection::vec((0_u64..40, 0_u32..4, 80_u16..82), 1..500),
        ) {
            let limiter = limiter(per_second, burst);
            let mut credits: HashMap<(u32, u16), (f64, u64)> = HashMap::new();
            let mut now = 77;
            for (pause, address, port) in tries {
                now += pause * MILLISECOND;
                let full = f64::from(burst);
                let (credit, last) = credits.entry((address, port)).or_insert((full, now));
                let gained = (now - *last) as f64 / SECOND as f64 * f64::from(per_second);
                (*credit, *last) = ((*credit + gained).min(full), now);
                let answer = limiter.admit(now, Ipv4Addr::from(address), port);
                // Within the grain of the budget either answer is right.
                let grain = 1.0 / COST as f64 + 1e-6;
                if (*credit - 1.0).abs() > grain {
                    prop_assert_eq!(answer == Admitted, *credit > 1.0, "credit {}", *credit);
                }
                if answer == Admitted {
                    *credit -= 1.0;
                }
            }
        }
    }
}
