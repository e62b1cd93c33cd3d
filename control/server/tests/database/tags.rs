//! Tags: contract sections 1.7, 2.3 and 3.2.

use std::time::Duration;

use sarcenet_server::database::{Database, DatabaseError};

use crate::world::{QUARANTINE, World, listed, nearly, policy, tags, with_both};

with_both!(
    the_lowest_number_is_given_first_and_a_released_one_after_its_quarantine,
    the_same_app_gets_its_tag_back_at_any_time,
    when_only_quarantined_tags_are_left_the_longest_released_is_taken,
    a_tag_of_another_type_is_a_conflict_and_stays_when_policies_go,
    a_tag_that_another_policy_needs_is_not_released,
    fewer_bits_than_the_tags_in_use_need_are_refused,
);

async fn create(database: &Database, source: &str, destination: &str) {
    database.create_policies(&[policy(source, destination, 1)]).await.unwrap();
}

async fn delete(database: &Database, source: &str, destination: &str) {
    database.delete_policies(&[policy(source, destination, 1)]).await.unwrap();
}

async fn the_lowest_number_is_given_first_and_a_released_one_after_its_quarantine(world: World) {
    let database = world.open().await;
    create(&database, "a", "b").await;
    create(&database, "c", "d").await;
    delete(&database, "a", "b").await;
    assert_eq!(tags(&database).await, ["3 c app", "4 d app"]);

    world.pass(nearly(QUARANTINE));
    create(&database, "c", "e").await;
    assert_eq!(tags(&database).await, ["3 c app", "4 d app", "5 e app"]);
    world.pass(Duration::from_nanos(1));
    create(&database, "c", "f").await;
    create(&database, "g", "h").await;
    let expected = ["1 f app", "2 g app", "3 c app", "4 d app", "5 e app", "6 h app"];
    assert_eq!(tags(&database).await, expected);
}

async fn the_same_app_gets_its_tag_back_at_any_time(world: World) {
    let database = world.open().await;
    create(&database, "a", "b").await;
    for pause in [Duration::ZERO, QUARANTINE / 2, QUARANTINE * 5] {
        delete(&database, "a", "b").await;
        assert_eq!(tags(&database).await, [""; 0]);
        world.pass(pause);
        // A newcomer in the same request does not take it.
        let both = [policy("new", "b", 1), policy("b", "a", 1)];
        database.create_policies(&both).await.unwrap();
        let own = tags(&database).await;
        assert_eq!(own[..2], ["1 a app", "2 b app"], "after {pause:?}");
        database.delete_policies(&both).await.unwrap();
        create(&database, "a", "b").await;
    }
}

async fn when_only_quarantined_tags_are_left_the_longest_released_is_taken(world: World) {
    let database = world.open_with(|settings| settings.tag_bits = 2).await;
    create(&database, "a", "b").await;
    create(&database, "c", "c").await;
    delete(&database, "c", "c").await;
    world.pass(Duration::from_secs(1));
    delete(&database, "a", "b").await;
    create(&database, "d", "d").await;
    assert_eq!(tags(&database).await, ["3 d app"]);
    create(&database, "e", "f").await;
    assert_eq!(tags(&database).await, ["1 e app", "2 f app", "3 d app"]);
    let refused = database.create_policies(&[policy("g", "e", 1)]).await.unwrap_err();
    assert!(matches!(refused, DatabaseError::NoFreeTag { .. }), "{refused}");
    let refused = database.create_tag("router", "router").await.unwrap_err();
    assert!(matches!(refused, DatabaseError::NoFreeTag { .. }), "{refused}");
    delete(&database, "d", "d").await;
    create(&database, "g", "e").await;
    assert_eq!(listed(&database).await, ["e(1) f(2) tcp 1-1", "g(3) e(1) tcp 1-1"]);
}

async fn a_tag_of_another_type_is_a_conflict_and_stays_when_policies_go(world: World) {
    let database = world.open().await;
    create(&database, "a", "b").await;
    for _ in 0..2 {
        let tag = database.create_tag("INGRESS_ROUTER", "router").await.unwrap();
        assert_eq!((tag.number.text(2).as_str(), tag.kind.as_str()), ("0003", "router"));
        let tag = database.create_tag("a", "app").await.unwrap();
        assert_eq!(tag.number.0, 1);
        let tag = database.create_tag("", "").await.unwrap();
        assert_eq!((tag.number.0, tag.id.as_str()), (4, ""));
    }
    let conflict = database.create_tag("a", "router").await.unwrap_err();
    assert_eq!(
        conflict.to_string(),
        r#""a" has a tag of type "app" already and cannot have one of type "router""#
    );
    let conflict = database.create_policies(&[policy("a", "INGRESS_ROUTER", 1)]).await;
    assert!(matches!(conflict, Err(DatabaseError::TagType { .. })), "{conflict:?}");
    delete(&database, "a", "b").await;
    assert_eq!(tags(&database).await, ["3 INGRESS_ROUTER router", "4  "]);
    // What is released has no type.
    assert_eq!(database.create_tag("b", "router").await.unwrap().number.0, 2);
}

async fn a_tag_that_another_policy_needs_is_not_released(world: World) {
    let database = world.open().await;
    let all = [policy("a", "b", 1), policy("b", "c", 1), policy("a", "a", 1), policy("a", "b", 2)];
    database.create_policies(&all).await.unwrap();
    for (gone, left) in [
        (&all[0], &["1 a app", "2 b app", "3 c app"][..]),
        (&all[3], &["1 a app", "2 b app", "3 c app"]),
        (&all[1], &["1 a app"]),
        (&all[2], &[]),
    ] {
        database.delete_policies(std::slice::from_ref(gone)).await.unwrap();
        assert_eq!(tags(&database).await, left, "{gone:?}");
    }
}

async fn fewer_bits_than_the_tags_in_use_need_are_refused(world: World) {
    let database = world.open().await;
    create(&database, "a", "b").await;
    create(&database, "c", "d").await;
    let mut fewer = world.settings();
    fewer.tag_bits = 2;
    let refused = Database::open(&fewer).await.unwrap_err();
    assert!(refused.to_string().ends_with("tag 4 is in use and does not fit into 2 bits"));
    delete(&database, "c", "d").await;
    let database = Database::open(&fewer).await.unwrap();
    create(&database, "c", "a").await;
    assert_eq!(tags(&database).await, ["1 a app", "2 b app", "3 c app"]);
}
