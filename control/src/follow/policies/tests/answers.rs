//! What answers say.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{changes, everything, list, plain, policy};
use crate::follow::policies::answer::{Answer, AnswerError, List, read};
use crate::follow::policies::course::Reply;
use crate::follow::policies::set::Policies;

fn entry(change: impl FnOnce(&mut Value)) -> Value {
    let mut entry = json!({
        "source": {"id": "app-1", "tag": "0001"},
        "destination":
            {"id": "app-2", "tag": "0002", "protocol": "tcp", "ports": {"start": 80, "end": 80}},
    });
    change(&mut entry);
    entry
}

fn answer(value: &Value) -> Result<Answer, AnswerError> {
    read(value.to_string().as_bytes())
}

#[test]
fn servers_are_told_apart_by_what_they_answer() {
    let one = || entry(|_| {});
    let table = [
        (json!({"total_policies": 1, "policies": [one()]}), plain(&[(1, 2, 80)])),
        (json!({"Policies": [one()], "TOTAL_POLICIES": 1}), plain(&[(1, 2, 80)])),
        (json!({"total_policies": 0, "policies": []}), plain(&[])),
        (json!({"total_policies": 0, "policies": null}), plain(&[])),
        (json!({"policies": [one()]}), plain(&[(1, 2, 80)])),
        (json!({"generation": 7, "policies": [one()]}), everything(7, &[(1, 2, 80)])),
        (json!({"generation": 7, "policies": []}), everything(7, &[])),
        (
            json!({"generation": 9, "since": 7, "added": [one()], "removed": []}),
            changes(7, 9, &[(1, 2, 80)], &[]),
        ),
    ];
    for (value, expected) in table {
        let Reply::Policies(expected) = expected else { unreachable!() };
        assert_eq!(answer(&value), Ok(expected), "{value}");
    }
}

#[test]
fn half_answers_and_garbage_are_none() {
    let whole = json!({"total_policies": 1, "policies": [entry(|_| {})]}).to_string();
    for end in 0..whole.len() {
        assert!(read(&whole.as_bytes()[..end]).is_err(), "{}", &whole[..end]);
    }
    for value in [
        json!({}),
        json!([]),
        json!(7),
        json!(null),
        json!({"error": "database read failed"}),
        json!({"total_policies": 2, "policies": [entry(|_| {})]}),
        json!({"total_policies": 1, "policies": null}),
        json!({"policies": {}}),
        json!({"policies": [7]}),
        json!({"generation": 9, "since": 7, "added": []}),
        json!({"generation": 9, "since": 7, "removed": []}),
        json!({"generation": "9", "policies": []}),
    ] {
        assert!(answer(&value).is_err(), "{value}");
    }
}

#[test]
fn policies_that_cannot_be_enforced_are_left_out() {
    type Change = fn(&mut Value);
    let table: [(Change, &str); 13] = [
        (|p| p["source"]["tag"] = json!(""), "no tag"),
        (|p| p["source"]["tag"] = json!("0000"), "the tag of nobody"),
        (|p| p["source"]["tag"] = json!("10000"), "a tag of more than 16 bits"),
        (|p| p["destination"]["tag"] = json!("xyz"), "a tag that is no number"),
        (|p| p["source"]["id"] = json!(""), "no source"),
        (|p| p["destination"]["id"] = json!(null), "no destination"),
        (|p| p["destination"]["protocol"] = json!("icmp"), "another protocol"),
        (|p| p["destination"]["protocol"] = json!("TCP"), "a protocol in capitals"),
        (|p| p["destination"]["ports"] = json!({"start": 0, "end": 80}), "port 0"),
        (|p| p["destination"]["ports"] = json!({"start": 80, "end": 65_536}), "port 65536"),
        (|p| p["destination"]["ports"] = json!({"start": 81, "end": 80}), "no range"),
        (|p| p["destination"]["ports"] = json!({"start": -1, "end": 80}), "a port below 0"),
        (|p| *p = json!(null), "nothing"),
    ];
    for (change, what) in table {
        let value = json!({"total_policies": 2, "policies": [entry(change), entry(|_| {})]});
        let expected = List { policies: vec![policy(1, 2, 80)], left_out: 1 };
        assert_eq!(answer(&value), Ok(Answer::Plain(expected)), "{what}");
    }
    let left_out = |left_out| List { policies: Vec::new(), left_out };
    let policies = Policies::new(left_out(3)).unwrap();
    assert_eq!(policies.changed(left_out(1), &left_out(2)).unwrap().left_out(), 2);
}

fn any_list() -> impl Strategy<Value = BTreeSet<(u32, u32, u32)>> {
    prop::collection::btree_set((1..8_u32, 1..8_u32, 1..4_u32), 0..20)
}

proptest! {
    #[test]
    fn differences_lead_from_one_set_to_the_other(before in any_list(), after in any_list()) {
        let of = |set: &BTreeSet<_>| list(&set.iter().copied().collect::<Vec<_>>());
        let between = |a: &BTreeSet<_>, b: &BTreeSet<_>| of(&a.difference(b).copied().collect());
        let (first, last) =
            (Policies::new(of(&before)).unwrap(), Policies::new(of(&after)).unwrap());
        let (added, removed) = (between(&after, &before), between(&before, &after));
        prop_assert_eq!(first.changed(added, &removed), Ok(last.clone()));
        prop_assert_eq!(last.rules().len(), after.len());
        for (app, tag) in last.apps().iter() {
            prop_assert_eq!(app, format!("app-{tag}"));
        }
    }

    #[test]
    fn no_bytes_do_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(read(&bytes).is_err());
    }
}
