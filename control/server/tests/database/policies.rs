//! Policies: contract sections 1.4 to 1.6 and 3.

use std::collections::HashMap;

use sarcenet_server::database::DatabaseError;
use sarcenet_server::policy::{Policy, PolicyFilter, Protocol};

use crate::world::{World, listed, policy, tags, with_both};

with_both!(
    creating_and_deleting_are_idempotent_and_exact,
    a_request_is_done_whole_or_not_at_all,
    filters_choose_by_source_and_destination,
    policies_are_counted_by_source,
    texts_that_cannot_be_stored_are_refused_and_match_nothing,
    ten_thousand_policies_in_one_request,
);

async fn creating_and_deleting_are_idempotent_and_exact(world: World) {
    let database = world.open().await;
    let range = Policy { last_port: 8085, ..policy("a", "b", 8080) };
    let udp = Policy { protocol: Protocol::Udp, ..policy("a", "b", 8080) };
    // Version 0 of the API knows no greatest port (contract section 1.4).
    let high = policy("a", "a", 4_000_000_000);
    let all = [range.clone(), policy("a", "b", 8080), udp, high.clone(), range.clone()];
    let expected = [
        "a(1) a(1) tcp 4000000000-4000000000",
        "a(1) b(2) tcp 8080-8080",
        "a(1) b(2) tcp 8080-8085",
        "a(1) b(2) udp 8080-8080",
    ];
    for _ in 0..2 {
        database.create_policies(&all).await.unwrap();
        assert_eq!(listed(&database).await, expected);
        assert_eq!(database.policy_count().await.unwrap(), 4);
    }
    let unknown = [policy("a", "b", 1), policy("b", "a", 8080), policy("x", "y", 1)];
    for _ in 0..2 {
        database.delete_policies(&[range.clone(), high.clone()]).await.unwrap();
        database.delete_policies(&unknown).await.unwrap();
        assert_eq!(listed(&database).await, [expected[1], expected[3]]);
    }
    database.create_policies(&[]).await.unwrap();
    database.delete_policies(&[]).await.unwrap();
    assert_eq!(tags(&database).await, ["1 a app", "2 b app"]);
}

async fn a_request_is_done_whole_or_not_at_all(world: World) {
    let database = world.open_with(|settings| settings.tag_bits = 2).await;
    database.create_policies(&[policy("a", "b", 1)]).await.unwrap();
    let before = (listed(&database).await, database.last_updated().await.unwrap());
    let too_many = [policy("a", "c", 1), policy("d", "a", 1), policy("a", "b", 2)];
    let refused = database.create_policies(&too_many).await;
    let error = refused.unwrap_err();
    assert!(matches!(&error, DatabaseError::NoFreeTag { id, tags: 3 } if id == "d"), "{error}");
    assert!(!error.is_temporary());
    assert_eq!((listed(&database).await, database.last_updated().await.unwrap()), before);
    assert_eq!(tags(&database).await, ["1 a app", "2 b app"]);
}

async fn filters_choose_by_source_and_destination(world: World) {
    let database = world.open().await;
    let all = [policy("a", "b", 1), policy("b", "c", 2), policy("c", "a", 3), policy("a", "a", 4)];
    database.create_policies(&all).await.unwrap();
    let ids = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
    for (filter, ports) in [
        (PolicyFilter::All, vec![1, 2, 3, 4]),
        (PolicyFilter::Either(ids(&["a"])), vec![1, 3, 4]),
        (PolicyFilter::Either(ids(&["b", "nobody", "b"])), vec![1, 2]),
        (PolicyFilter::Source(ids(&["a", "b"])), vec![1, 2, 4]),
        (PolicyFilter::Destination(ids(&["a"])), vec![3, 4]),
        (PolicyFilter::Both(ids(&["a", "c"]), ids(&["a"])), vec![3, 4]),
        (PolicyFilter::Both(ids(&["a"]), vec![]), vec![]),
        (PolicyFilter::Either(ids(&[""])), vec![]),
        (PolicyFilter::Source(vec![]), vec![]),
        (
            PolicyFilter::Either((0..40_000).map(|n| n.to_string()).chain(ids(&["b"])).collect()),
            vec![1, 2],
        ),
    ] {
        let policies = database.policies(&filter).await.unwrap();
        let mut found: Vec<_> = policies.iter().map(|tagged| tagged.policy.first_port).collect();
        found.sort_unstable();
        assert_eq!(found, ports, "{:.80}", format!("{filter:?}"));
    }
}

async fn policies_are_counted_by_source(world: World) {
    let database = world.open().await;
    let all = [policy("a", "b", 1), policy("a", "b", 2), policy("b", "a", 3), policy("c", "a", 1)];
    database.create_policies(&all).await.unwrap();
    let asked = ["a", "b", "nobody", "a"].map(String::from);
    let counts = database.policy_count_by_source(&asked).await.unwrap();
    assert_eq!(counts, HashMap::from([("a".into(), 2), ("b".into(), 1)]));
}

async fn texts_that_cannot_be_stored_are_refused_and_match_nothing(world: World) {
    let database = world.open().await;
    let long = "x".repeat(1025);
    for id in ["a\0b", &long] {
        let refused = database.create_policies(&[policy("a", id, 1)]).await;
        assert!(matches!(refused, Err(DatabaseError::Text { .. })), "{refused:?}");
        let refused = database.create_tag(id, "router").await;
        assert!(matches!(refused, Err(DatabaseError::Text { .. })), "{refused:?}");
        let filter = PolicyFilter::Either(vec![id.to_owned()]);
        assert_eq!(database.policies(&filter).await.unwrap(), []);
        database.delete_policies(&[policy(id, "a", 1)]).await.unwrap();
    }
    // What is odd and can be stored comes back as it was.
    let odd =
        ["x".repeat(1024), r#"'"; DROP TABLE tags; -- \u0000 $1 %"#.into(), "é😀\u{1}".into()];
    for id in &odd {
        database.create_policies(&[policy(id, "a", 1)]).await.unwrap();
        let filter = PolicyFilter::Source(vec![id.clone()]);
        let found = database.policies(&filter).await.unwrap();
        assert_eq!(found[0].policy.source, *id);
        database.delete_policies(&[policy(id, "a", 1)]).await.unwrap();
    }
    assert_eq!(listed(&database).await, [""; 0]);
}

async fn ten_thousand_policies_in_one_request(world: World) {
    let database = world.open().await;
    let many: Vec<_> =
        (0..10_000).map(|n| policy(&format!("s{n}"), &format!("d{}", n % 100), n + 1)).collect();
    database.create_policies(&many).await.unwrap();
    let policies = database.policies(&PolicyFilter::All).await.unwrap();
    assert_eq!(policies.len(), many.len());
    let mut numbers: HashMap<u32, &str> = HashMap::new();
    for tagged in &policies {
        let ends = [
            (tagged.source_tag, &tagged.policy.source),
            (tagged.destination_tag, &tagged.policy.destination),
        ];
        for (tag, id) in ends {
            assert_eq!(*numbers.entry(tag.0).or_insert(id), id, "{tag:?}");
            assert!((1..=10_100).contains(&tag.0), "{tag:?} is not the lowest");
        }
    }
    let sources: Vec<_> = many.iter().map(|policy| policy.source.clone()).collect();
    let destinations: Vec<_> = many.iter().map(|policy| policy.destination.clone()).collect();
    for filter in [
        PolicyFilter::Source(sources.clone()),
        PolicyFilter::Destination(destinations.clone()),
        PolicyFilter::Either(sources.clone()),
        PolicyFilter::Both(sources.clone(), destinations),
    ] {
        assert_eq!(database.policies(&filter).await.unwrap().len(), many.len());
    }
    assert_eq!(database.policy_count_by_source(&sources).await.unwrap().len(), many.len());
    // The same again changes nothing.
    database.create_policies(&many).await.unwrap();
    assert_eq!(database.policy_count().await.unwrap(), many.len() as u64);
    database.delete_policies(&many).await.unwrap();
    assert_eq!(database.policy_count().await.unwrap(), 0);
    assert_eq!(tags(&database).await, [""; 0]);
}
