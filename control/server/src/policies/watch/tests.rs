//! Differences lead from any generation that is remembered to the newest one.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::seats::jitter;
use super::*;
use crate::database::{PolicyChange, PolicyChanges};
use crate::policy::{Policy, Protocol, TagNumber};

fn policy(number: u32, tag: u32) -> TaggedPolicy {
    let (source, destination) = (format!("s{number}"), format!("d{number}"));
    let policy =
        Policy { source, destination, protocol: Protocol::Udp, first_port: 1, last_port: 2 };
    TaggedPolicy { policy, source_tag: TagNumber(tag), destination_tag: TagNumber(tag) }
}

fn changes(generation: i64, of: &[(bool, TaggedPolicy)]) -> PolicyChanges {
    let change = |(added, policy): &(bool, TaggedPolicy)| PolicyChange {
        generation,
        added: *added,
        policy: policy.clone(),
    };
    PolicyChanges { generation, changes: of.iter().map(change).collect() }
}

#[test]
fn nothing_is_known_of_other_generations() {
    let mut log = Log::at(10);
    assert!(log.difference(9).is_none());
    assert!(log.difference(11).is_none(), "newer than the database: it was put back");
    assert!(!log.difference(10).unwrap().concerns(|_| true));
    log.extend(changes(20, &[(true, policy(1, 1))]));
    assert_eq!(log.generation(), 20);
    assert!(log.difference(9).is_none());
    assert_eq!(log.difference(10).unwrap().added().collect::<Vec<_>>(), [&policy(1, 1)]);
    assert!(!log.difference(20).unwrap().concerns(|_| true));
}

#[test]
fn a_policy_with_other_tags_is_another_one() {
    let log = Log::since(1, changes(2, &[(false, policy(1, 1)), (true, policy(1, 7))]));
    let difference = log.difference(1).unwrap();
    assert_eq!(difference.removed().collect::<Vec<_>>(), [&policy(1, 1)]);
    assert_eq!(difference.added().collect::<Vec<_>>(), [&policy(1, 7)]);
}

#[test]
fn memory_is_bounded_and_generations_are_kept_whole() {
    let mut log = Log::at(1);
    for generation in 2..=201 {
        let of: Vec<_> = (0..100).map(|number| (true, policy(number, generation))).collect();
        log.extend(changes(i64::from(generation), &of));
    }
    assert_eq!(log.difference(101).unwrap().added().count(), 10_000);
    assert!(log.difference(100).is_none());
    let huge: Vec<_> = (0..20_000).map(|number| (true, policy(number, 1))).collect();
    log.extend(changes(202, &huge));
    assert!(log.difference(201).is_none(), "half of it is not remembered");
    assert!(log.difference(202).is_some());
}

#[test]
fn the_server_takes_off_at_most_a_quarter_of_the_time() {
    let whole = Duration::from_secs(100);
    let spans: BTreeSet<Duration> = (0..64).map(|_| jitter(whole)).collect();
    assert!(spans.iter().all(|span| *span >= whole.mul_f64(0.7499) && *span <= whole));
    assert!(spans.len() > 1);
    assert_eq!(jitter(Duration::ZERO), Duration::ZERO);
}

proptest! {
    #[test]
    fn differences_lead_to_the_newest_generation(
        sets in proptest::collection::vec(
            proptest::collection::btree_set((0..6u32, 0..2u32), 0..8),
            2..8,
        ),
    ) {
        let policies = |set: &BTreeSet<(u32, u32)>| -> BTreeSet<TaggedPolicy> {
            set.iter().map(|(number, tag)| policy(*number, *tag)).collect()
        };
        let mut log = Log::at(1);
        for (pair, generation) in sets.windows(2).zip(2..) {
            let (before, after) = (policies(&pair[0]), policies(&pair[1]));
            let gone = before.difference(&after).map(|policy| (false, policy.clone()));
            let new = after.difference(&before).map(|policy| (true, policy.clone()));
            log.extend(changes(generation, &gone.chain(new).collect::<Vec<_>>()));
        }
        let newest = policies(&sets[sets.len() - 1]);
        for (set, generation) in sets.iter().zip(1..) {
            let difference = log.difference(generation).unwrap();
            let mut followed = policies(set);
            for gone in difference.removed() {
                prop_assert!(followed.remove(gone), "only what is there is removed");
            }
            for new in difference.added() {
                prop_assert!(followed.insert(new.clone()), "only what is not there is added");
            }
            prop_assert_eq!(&followed, &newest);
        }
    }
}
