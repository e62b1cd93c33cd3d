//! Differences lead from any generation that is remembered to the newest one.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::generations::Generations;
use super::*;
use crate::policy::{Policy, Protocol, TagNumber};

fn policy(number: u32, tag: u32) -> TaggedPolicy {
    let (source, destination) = (format!("s{number}"), format!("d{number}"));
    let policy =
        Policy { source, destination, protocol: Protocol::Udp, first_port: 1, last_port: 2 };
    TaggedPolicy { policy, source_tag: TagNumber(tag), destination_tag: TagNumber(tag) }
}

#[test]
fn nothing_is_known_of_other_generations() {
    let none = Generations::default();
    assert!(none.since(0).is_none());
    let first = none.followed_by(10, vec![policy(1, 1)]);
    assert!(first.since(0).is_none(), "a cell that knows nothing gets everything");
    assert!(first.since(9).is_none());
    assert!(first.since(11).is_none(), "newer than the database: it was put back");
    assert!(!first.since(10).unwrap().concerns(|_| true));
    let back = first.followed_by(5, vec![]);
    assert_eq!(back.generation(), 5);
    assert!(back.since(10).is_none());
    let again = back.followed_by(12, vec![policy(2, 2)]);
    assert!(again.since(10).is_none(), "of the past that was undone");
    assert_eq!(again.since(5).unwrap().added().count(), 1);
}

#[test]
fn a_policy_with_other_tags_is_another_one() {
    let first = Generations::default().followed_by(1, vec![policy(1, 1)]);
    let second = first.followed_by(2, vec![policy(1, 7)]);
    let difference = second.since(1).unwrap();
    assert_eq!(difference.removed().collect::<Vec<_>>(), [&policy(1, 1)]);
    assert_eq!(difference.added().collect::<Vec<_>>(), [&policy(1, 7)]);
}

#[test]
fn memory_is_bounded() {
    let mut generations = Generations::default().followed_by(1, vec![]);
    for generation in 2..1000 {
        let many = if generation % 2 == 0 { 0 } else { 200 };
        let policies = (0..many).map(|number| policy(number, 1)).collect();
        generations = generations.followed_by(generation, policies);
    }
    assert!(generations.since(999 - 90).is_some());
    assert!(generations.since(999 - 110).is_none(), "200 policies in each of 100 steps");
    let huge = (0..30_000).map(|number| policy(number, 1)).collect();
    generations = generations.followed_by(1000, huge);
    assert!(generations.since(999).is_none());
    assert_eq!(generations.policies().count(), 30_000);
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
        let mut generations = Generations::default();
        for (set, generation) in sets.iter().zip(1..) {
            generations = generations.followed_by(generation, policies(set).into_iter().collect());
        }
        let newest = policies(&sets[sets.len() - 1]);
        for (set, generation) in sets.iter().zip(1..) {
            let difference = generations.since(generation).unwrap();
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
