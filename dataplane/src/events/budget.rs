//! How many events a container may cause: so many a second, and so many at once after a quiet
//! second, as `-m limit --limit N/s --limit-burst N` of iptables counts.

use std::sync::atomic::{AtomicU64, Ordering};

use sarcenet_dataplane_api::{EventKind, PortId};

/// Budgets that there are. Containers whose ports differ by a multiple of it share theirs, which
/// needs a cell with more containers than that.
const CONTAINERS: usize = 4096;

/// Kinds of events that are counted apart, as each has a rule of its own in the kernel's lists.
const KINDS: usize = 5;

const SECOND: u64 = 1_000_000_000;

/// The budgets of all containers.
pub(super) struct Budgets(Box<[[AtomicU64; KINDS]]>);

impl Default for Budgets {
    fn default() -> Self {
        Self((0..CONTAINERS).map(|_| Default::default()).collect())
    }
}

const fn place(kind: EventKind) -> usize {
    match kind {
        EventKind::EgressAllowed => 0,
        EventKind::EgressDenied => 1,
        EventKind::OverlayAllowed => 2,
        EventKind::OverlayDenied => 3,
        EventKind::ConnectionLimited { .. } => 4,
    }
}

impl Budgets {
    /// Whether a container may cause one more event of the kind at `now_ns` nanoseconds since
    /// start, of `per_second` a second.
    pub(super) fn take(&self, port: PortId, kind: EventKind, now_ns: u64, per_second: u32) -> bool {
        take(&self.0[usize::from(port.0) % CONTAINERS][place(kind)], now_ns, per_second)
    }
}

/// A token bucket in one number: the time up to which tokens have been used. Unlike a count of
/// tokens, it means the same when the rate is changed. Times are shifted by a second, so that 0 is
/// a full bucket.
fn take(used_up_to: &AtomicU64, now_ns: u64, per_second: u32) -> bool {
    if per_second == 0 {
        return false;
    }
    let per_second = u64::from(per_second);
    let token = (SECOND / per_second).max(1);
    let now = now_ns.saturating_add(SECOND);
    let full = now - (token * per_second).min(SECOND);
    let take = |used: u64| {
        let used = used.max(full).saturating_add(token);
        (used <= now).then_some(used)
    };
    used_up_to.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn taken(bucket: &AtomicU64, now_ns: u64, per_second: u32) -> u64 {
        std::iter::from_fn(|| take(bucket, now_ns, per_second).then_some(())).count() as u64
    }

    #[test]
    fn a_burst_and_then_the_rate() {
        let bucket = AtomicU64::new(0);
        assert_eq!(taken(&bucket, 0, 100), 100);
        assert_eq!(taken(&bucket, SECOND / 100 - 1, 100), 0);
        assert_eq!(taken(&bucket, SECOND / 100, 100), 1);
        assert_eq!(taken(&bucket, SECOND / 2, 100), 49);
        assert_eq!(taken(&bucket, 3_600 * SECOND, 100), 100);
        // Another rate counts from the next event on.
        assert_eq!(taken(&bucket, 3_600 * SECOND, 1), 0);
        assert_eq!(taken(&bucket, 3_601 * SECOND, 1), 1);
        assert_eq!(taken(&bucket, 3_601 * SECOND, 0), 0);
    }

    #[test]
    fn containers_and_kinds_do_not_share() {
        let budgets = Budgets::default();
        for port in [2, 3, 4095] {
            for enforced in [EventKind::EgressDenied, EventKind::OverlayDenied] {
                assert!(budgets.take(PortId(port), enforced, 0, 1));
                assert!(!budgets.take(PortId(port), enforced, 0, 1));
            }
        }
        assert!(budgets.take(PortId(u16::MAX), EventKind::OverlayAllowed, 0, 1));
    }

    proptest! {
        #[test]
        fn no_second_has_more_than_twice_the_rate_and_no_time_overflows(
            per_second in prop_oneof![0..2_000_u32, any::<u32>()],
            start in prop_oneof![0..10 * SECOND, any::<u64>()],
            gaps in proptest::collection::vec(0..SECOND / 4, 1..200),
        ) {
            let bucket = AtomicU64::new(0);
            let (mut now, mut count) = (start, 0);
            for gap in gaps {
                now = now.saturating_add(gap);
                count += u64::from(take(&bucket, now, per_second));
            }
            let seconds = u128::from(now - start) * u128::from(per_second) / u128::from(SECOND);
            prop_assert!(u128::from(count) <= seconds + u128::from(per_second) + 1);
        }
    }
}
