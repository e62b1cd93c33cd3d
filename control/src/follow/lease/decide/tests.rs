use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const WEEK: Duration = Duration::from_hours(168);

fn rules() -> Rules {
    Rules {
        underlay: [10, 77, 0, 11].into(),
        overlay: "10.255.0.0/16".parse().unwrap(),
        block_prefix: 24,
        single: false,
        tolerance: WEEK,
    }
}

fn lease(underlay: [u8; 4], subnet: &str) -> Lease {
    let subnet: Ipv4Net = subnet.parse().unwrap();
    Lease { underlay: underlay.into(), subnet, mac: hardware_address(subnet) }
}

fn own() -> Lease {
    lease([10, 77, 0, 11], "10.255.55.0/24")
}

fn failed() -> Renewal {
    Renewal::Failed("no answer".into())
}

fn refused() -> Renewal {
    Renewal::Refused("lease mismatch".into())
}

#[test]
fn what_is_done_first() {
    let single = Rules { single: true, ..rules() };
    let mismatch = |containers, subnet: &str| {
        let overlay = "10.255.0.0/16".parse().unwrap();
        Err(Fatal::Mismatch { containers, subnet: subnet.parse().unwrap(), overlay })
    };
    let renew = |subnet: &str| Ok(First::Renew(lease([10, 77, 0, 11], subnet)));
    // Rules, the lease from before, containers, and what is done.
    let table = [
        (rules(), None, 0, Ok(First::Acquire)),
        (rules(), None, 3, Ok(First::Acquire)),
        (rules(), Some("10.255.55.0/24"), 0, renew("10.255.55.0/24")),
        (rules(), Some("10.255.55.0/24"), 9, renew("10.255.55.0/24")),
        // Another size of block than now: the subnet controller knows whether it still is good.
        (rules(), Some("10.255.56.0/23"), 0, renew("10.255.56.0/23")),
        (rules(), Some("10.254.55.0/24"), 0, Ok(First::Acquire)),
        (rules(), Some("10.254.55.0/24"), 2, mismatch(2, "10.254.55.0/24")),
        (rules(), Some("10.255.0.0/16"), 1, mismatch(1, "10.255.0.0/16")),
        (rules(), Some("10.255.0.0/24"), 1, mismatch(1, "10.255.0.0/24")),
        (rules(), Some("10.255.0.7/32"), 0, Ok(First::Acquire)),
        (single, Some("10.255.0.7/32"), 0, renew("10.255.0.7/32")),
        (single, Some("10.255.55.0/24"), 0, Ok(First::Acquire)),
        (single, Some("10.255.55.0/24"), 1, mismatch(1, "10.255.55.0/24")),
    ];
    for (rules, known, containers, expected) in table {
        // Under an address that the cell had before.
        let before = known.map(|subnet| lease([10, 77, 0, 99], subnet));
        assert_eq!(rules.first(before, containers), expected, "{known:?}, {containers}");
    }
}

#[test]
fn what_is_done_when_the_first_renewal_has_ended() {
    let unconfirmed = || Ok(Second::StartUnconfirmed("no answer".into()));
    let again = || Ok(Second::Again("no answer".into()));
    let lost = || Ok(Second::Acquire("lease mismatch".into()));
    // How it ended, containers, the age of the lease, and what is done.
    let table = [
        (Renewal::Renewed, 0, None, Ok(Second::Start)),
        (Renewal::Renewed, 5, Some(WEEK * 2), Ok(Second::Start)),
        (refused(), 0, Some(SECOND), lost()),
        (refused(), 0, None, lost()),
        (
            refused(),
            4,
            Some(SECOND),
            Err(Fatal::Lost { containers: 4, reason: "lease mismatch".into() }),
        ),
        (failed(), 0, Some(SECOND), unconfirmed()),
        (failed(), 0, Some(Duration::from_hours(167)), unconfirmed()),
        (failed(), 0, Some(WEEK), again()),
        (failed(), 0, None, again()),
        (failed(), 1, Some(WEEK * 2), unconfirmed()),
        (failed(), 1, None, unconfirmed()),
    ];
    for (renewal, containers, age, expected) in table {
        let what = format!("{renewal:?}, {containers}, {age:?}");
        assert_eq!(rules().second(renewal, containers, age), expected, "{what}");
    }
}

#[test]
fn leases_of_no_use_are_not_accepted() {
    let single = Rules { single: true, ..rules() };
    let own_address = [10, 77, 0, 11];
    let table = [
        (rules(), lease(own_address, "10.255.55.0/24"), ""),
        (single, lease(own_address, "10.255.0.255/32"), ""),
        (rules(), lease([10, 77, 0, 12], "10.255.55.0/24"), "10.77.0.12 what 10.77.0.11 asked"),
        (rules(), lease(own_address, "10.255.0.9/32"), "which is not a block of the overlay"),
        (rules(), lease(own_address, "10.255.0.0/24"), "which is not a block"),
        (rules(), lease(own_address, "10.255.55.1/24"), "which is not a block"),
        (rules(), lease(own_address, "10.254.55.0/24"), "have both the same overlay?"),
        (rules(), lease(own_address, "0.0.0.0/0"), "which is not a block"),
        (rules(), lease(own_address, "10.255.55.0/31"), "which is not a block"),
        (single, lease(own_address, "10.255.55.0/24"), "which is not an address"),
        (single, lease(own_address, "10.255.0.0/32"), "which is not an address"),
        (rules(), lease(own_address, "10.255.0.9/32"), "16; give that back with `sarcenet agent"),
        (single, lease(own_address, "10.255.55.0/24"), "16; give that back with `sarcenet agent"),
    ];
    for (rules, given, expected) in table {
        match rules.accept(given.clone()) {
            Ok(accepted) => assert!(accepted == given && expected.is_empty(), "{given:?}"),
            Err(said) => assert!(!expected.is_empty() && said.contains(expected), "{said}"),
        }
    }
}

#[test]
fn an_address_shows_the_lease() {
    for last in [0, 7, 255] {
        assert_eq!(rules().of_address([10, 255, 55, last].into()), Some(own()));
    }
    let single = Rules { single: true, ..rules() };
    let one = lease([10, 77, 0, 11], "10.255.0.9/32");
    assert_eq!(single.of_address([10, 255, 0, 9].into()), Some(one));
}

/// Renewals every 30 seconds, which fail from `from` to `to` seconds after the start. How many
/// seconds after the start that was fatal, if it was.
fn partition(tolerance: Duration, from: u64, to: u64) -> Option<u64> {
    let start = Instant::now();
    let mut watchdog = Watchdog::new(tolerance, start);
    (0..=10 * WEEK.as_secs()).step_by(30).take_while(|second| *second < to + 100).find(|second| {
        let cut = (from..to).contains(second);
        let renewal = if cut { failed() } else { Renewal::Renewed };
        watchdog.renewal(&renewal, start + Duration::from_secs(*second)).is_err()
    })
}

#[test]
fn partitions_are_lived_through_up_to_the_tolerance() {
    let (hour, week) = (3600, WEEK.as_secs());
    // Tolerance in seconds, when the partition begins and ends, and when that was fatal.
    let table = [
        (week, hour, hour + 600, None),
        (week, hour, hour + week - 30, None),
        (week, hour, hour + week + 60, Some(hour + week - 30)),
        (600, hour, hour + 540, None),
        (600, hour, hour + 630, Some(hour + 570)),
        // From the start on: the start counts as a success.
        (week, 0, 600, None),
        (week, 0, week, None),
        (week, 0, week + 30, Some(week)),
        (60, 0, 90, Some(60)),
    ];
    for (tolerance, from, to, expected) in table {
        let fatal = partition(Duration::from_secs(tolerance), from, to);
        assert_eq!(fatal, expected, "tolerance {tolerance}, cut from {from} to {to}");
    }
}

#[test]
fn a_refused_renewal_is_fatal_at_once() {
    let now = Instant::now();
    let mut watchdog = Watchdog::new(WEEK, now);
    assert_eq!(watchdog.renewal(&Renewal::Renewed, now), Ok(()));
    let fatal = watchdog.renewal(&refused(), now).unwrap_err();
    assert_eq!(
        fatal.to_string(),
        "This cell must be restarted (run \"bosh restart <job>\"): fatal: renew lease: lease mismatch"
    );
}

#[test]
fn messages_begin_as_those_of_cloud_foundry() {
    let overlay = "10.255.0.0/16".parse().unwrap();
    let subnet = "10.1.2.0/24".parse().unwrap();
    let mismatch = Fatal::Mismatch { containers: 2, subnet, overlay }.to_string();
    let begin = "discovered lease is not in overlay network and has containers: 2";
    assert!(mismatch.starts_with(begin), "{mismatch}");
    let lost = Fatal::Lost { containers: 3, reason: "lease mismatch".into() }.to_string();
    assert!(lost.starts_with("renew subnet lease with containers: 3"), "{lost}");
}

proptest! {
    /// Another lease would be another subnet than that of the containers.
    #[test]
    fn with_containers_a_lease_is_never_given_up(
        address: u32,
        prefix in 0_u8..=32,
        single: bool,
        containers in 1_usize..300,
        renewal in prop_oneof![Just(Renewal::Renewed), Just(refused()), Just(failed())],
        age in proptest::option::of(0_u64..=u64::from(u32::MAX)),
    ) {
        let rules = Rules { single, ..rules() };
        let subnet = Ipv4Net::new(address.into(), prefix).unwrap();
        let lease = Lease { underlay: rules.underlay, subnet, mac: hardware_address(subnet) };
        prop_assert_ne!(rules.first(Some(lease), containers), Ok(First::Acquire));
        let second = rules.second(renewal, containers, age.map(Duration::from_secs));
        let goes_on = matches!(
            second,
            Ok(Second::Start | Second::StartUnconfirmed(_)) | Err(Fatal::Lost { .. })
        );
        prop_assert!(goes_on, "{second:?}");
    }

    #[test]
    fn what_is_accepted_is_renewed_at_the_next_start(
        address in 0x0afe_0000_u32..0x0b00_0000, prefix in 12_u8..=32, single: bool,
    ) {
        let rules = Rules { single, ..rules() };
        let subnet = Ipv4Net::new(address.into(), prefix).unwrap().trunc();
        let lease = Lease { underlay: rules.underlay, subnet, mac: hardware_address(subnet) };
        let again = rules.first(Some(lease.clone()), 1);
        if let Ok(accepted) = rules.accept(lease) {
            prop_assert_eq!(again, Ok(First::Renew(accepted)));
        } else {
            let mismatch = matches!(again, Err(Fatal::Mismatch { .. }));
            prop_assert!(mismatch, "{again:?}");
        }
    }
}
