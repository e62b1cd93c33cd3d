//! The generation, the log of changes, and who is told.

use std::time::Duration;

use sarcenet_server::database::{Database, PolicyChanges};
use sarcenet_server::policy::PolicyFilter;

use crate::security_groups::group;
use crate::world::{BEGIN, World, policy, with_both};

with_both!(
    every_change_is_a_later_generation_whatever_the_clock_does,
    the_log_leads_from_any_generation_it_knows_to_the_latest,
    what_the_log_has_forgotten_needs_a_snapshot,
    other_replicas_are_told,
    other_replicas_are_told_of_security_groups,
    without_notifications_replicas_look_for_themselves,
    queries_and_operations_are_counted,
);

/// Changes as `+source destination port @steps`, steps being generations after the beginning.
fn texts(changes: &PolicyChanges) -> Vec<String> {
    let text = changes.changes.iter().map(|change| {
        let policy = &change.policy.policy;
        let sign = if change.added { '+' } else { '-' };
        let step = change.generation - BEGIN;
        let (from, to) = (change.policy.source_tag.0, change.policy.destination_tag.0);
        let port = policy.first_port;
        format!("{sign}{}({from}) {}({to}) {port} @{step}", policy.source, policy.destination)
    });
    text.collect()
}

async fn changes(database: &Database, since: i64) -> Vec<String> {
    let changes = database.changes_since(since).await.unwrap().expect("the log knows it");
    assert_eq!(changes.generation, database.last_updated().await.unwrap());
    texts(&changes)
}

async fn every_change_is_a_later_generation_whatever_the_clock_does(world: World) {
    let database = world.open().await;
    let told = database.changes();
    let ab = [policy("a", "b", 1)];
    assert_eq!(database.last_updated().await.unwrap(), BEGIN);
    for (clock, expected) in [
        (BEGIN, BEGIN + 1),
        (BEGIN, BEGIN + 2),
        (BEGIN + 1000, BEGIN + 1000),
        (BEGIN - 5000, BEGIN + 1001),
        (-1, BEGIN + 1002),
        (BEGIN + 2000, BEGIN + 2000),
    ] {
        world.set_clock(clock);
        database.create_policies(&ab).await.unwrap();
        assert_eq!(database.last_updated().await.unwrap(), expected);
        assert_eq!(*told.borrow(), expected);
    }
    for nothing in [&ab[..], &ab[..], &[]] {
        let before = database.last_updated().await.unwrap();
        database.delete_policies(nothing).await.unwrap();
        assert_eq!(database.last_updated().await.unwrap(), before + 1);
    }
}

async fn the_log_leads_from_any_generation_it_knows_to_the_latest(world: World) {
    let database = world.open().await;
    database.create_policies(&[policy("a", "c", 2), policy("a", "b", 1)]).await.unwrap();
    database.create_policies(&[policy("a", "b", 1)]).await.unwrap();
    database.delete_policies(&[policy("a", "b", 1), policy("x", "y", 1)]).await.unwrap();
    database.create_policies(&[policy("b", "a", 3)]).await.unwrap();
    let all = ["+a(1) b(3) 1 @1", "+a(1) c(2) 2 @1", "-a(1) b(3) 1 @3", "+b(3) a(1) 3 @4"];
    for (since, expected) in
        [(0, &all[..]), (1, &all[2..]), (2, &all[2..]), (3, &all[3..]), (4, &[])]
    {
        assert_eq!(changes(&database, BEGIN + since).await, expected, "since {since}");
    }
    // Of another database, or of the time before this one was wiped.
    for unknown in [BEGIN - 1, BEGIN + 5, 0, i64::MAX, i64::MIN] {
        assert_eq!(database.changes_since(unknown).await.unwrap(), None, "{unknown}");
    }
    let filter = PolicyFilter::Source(vec!["b".into()]);
    let snapshot = database.snapshot(&filter).await.unwrap();
    assert_eq!((snapshot.generation, snapshot.policies.len()), (BEGIN + 4, 1));
}

async fn what_the_log_has_forgotten_needs_a_snapshot(world: World) {
    let database = world.open_with(|settings| settings.change_log = 3).await;
    let ports = |ports: std::ops::Range<u32>| ports.map(|port| policy("a", "a", port));
    for port in 1..=4 {
        database.create_policies(&[policy("a", "a", port)]).await.unwrap();
    }
    assert_eq!(database.changes_since(BEGIN).await.unwrap(), None);
    assert_eq!(changes(&database, BEGIN + 1).await.len(), 3);
    // A generation that is half forgotten is forgotten.
    database.create_policies(&ports(10..12).collect::<Vec<_>>()).await.unwrap();
    database.delete_policies(&ports(10..12).collect::<Vec<_>>()).await.unwrap();
    assert_eq!(database.changes_since(BEGIN + 4).await.unwrap(), None);
    assert_eq!(changes(&database, BEGIN + 5).await, ["-a(1) a(1) 10 @6", "-a(1) a(1) 11 @6"]);
    // One that is longer than the log is not in it at all.
    database.create_policies(&ports(20..30).collect::<Vec<_>>()).await.unwrap();
    assert_eq!(database.changes_since(BEGIN + 6).await.unwrap(), None);
    assert_eq!(changes(&database, BEGIN + 7).await, [""; 0]);
    database.delete_policies(&ports(20..21).collect::<Vec<_>>()).await.unwrap();
    assert_eq!(changes(&database, BEGIN + 7).await, ["-a(1) a(1) 20 @8"]);
}

/// Waits until `told` has told `generation`.
async fn wait_for(told: &mut tokio::sync::watch::Receiver<i64>, generation: i64) {
    let waited = told.wait_for(|latest| *latest >= generation);
    let waited = tokio::time::timeout(Duration::from_mins(1), waited).await;
    assert_eq!(*waited.expect("nobody tells").unwrap(), generation);
}

async fn other_replicas_are_told(world: World) {
    // For PostgreSQL nobody looks within the test: notifications alone tell.
    let interval = if world.url.starts_with("sqlite") { 50 } else { 3_600_000 };
    let interval = Duration::from_millis(interval);
    let writer = world.open_with(|settings| settings.poll_interval = interval).await;
    let reader = world.open_with(|settings| settings.poll_interval = interval).await;
    let mut told = reader.changes();
    for generation in 1..=3 {
        writer.create_policies(&[policy("a", "b", 1)]).await.unwrap();
        wait_for(&mut told, BEGIN + generation).await;
    }
    drop((reader, writer));
    assert!(told.changed().await.is_err(), "the watcher outlives the database");
}

async fn other_replicas_are_told_of_security_groups(world: World) {
    let interval = if world.url.starts_with("sqlite") { 50 } else { 3_600_000 };
    let interval = Duration::from_millis(interval);
    let writer = world.open_with(|settings| settings.poll_interval = interval).await;
    let reader = world.open_with(|settings| settings.poll_interval = interval).await;
    let (mut told, policies) = (reader.security_group_changes(), reader.changes());
    assert_eq!((*told.borrow(), *policies.borrow()), (BEGIN, BEGIN));
    for generation in 1..=3 {
        let groups = vec![group(&format!("g{generation}"), &[], &[])];
        assert!(writer.replace_security_groups(&groups).await.unwrap());
        assert_eq!(*writer.security_group_changes().borrow(), BEGIN + generation);
        wait_for(&mut told, BEGIN + generation).await;
        // What stays the same is told to nobody.
        assert!(!writer.replace_security_groups(&groups).await.unwrap());
        let snapshot = reader.security_group_snapshot().await.unwrap();
        assert_eq!((snapshot.generation, snapshot.groups.len()), (BEGIN + generation, 1));
    }
    assert_eq!(*policies.borrow(), BEGIN);
}

async fn without_notifications_replicas_look_for_themselves(world: World) {
    let database = world.open().await;
    let (mut told, mut told_of_groups) = (database.changes(), database.security_group_changes());
    sqlx::any::install_default_drivers();
    // Somebody who tells nobody.
    let url = world.url.replace("a b?.db", "a%20b%3F.db").replace("sqlite:", "sqlite://");
    let mut connection = <sqlx::AnyConnection as sqlx::Connection>::connect(&url).await.unwrap();
    let schema = if url.starts_with("sqlite") { "" } else { "sarcenet." };
    for (table, moment) in [("policies_info", BEGIN + 77), ("security_groups_info", BEGIN + 78)] {
        let silent = format!("UPDATE {schema}{table} SET last_updated = {moment}");
        sqlx::query(sqlx::AssertSqlSafe(silent)).execute(&mut connection).await.unwrap();
    }
    wait_for(&mut told, BEGIN + 77).await;
    wait_for(&mut told_of_groups, BEGIN + 78).await;
}

async fn queries_and_operations_are_counted(world: World) {
    let database = world.open().await;
    let before = database.statistics();
    database.check().await.unwrap();
    database.check().await.unwrap();
    database.create_policies(&[policy("a", "a", 1)]).await.unwrap();
    database.create_tag("a", "other").await.unwrap_err();
    let after = database.statistics();
    assert!(after.queries > before.queries + 8, "{after:?}");
    assert_eq!((after.queries_failed, after.queries_in_flight), (0, 0));
    assert!((1..=8).contains(&after.connections), "{after:?}");
    assert!(after.slowest_query > Duration::ZERO);
    for (operation, succeeded, failed) in
        [("check database", 2, 0), ("create policies", 1, 0), ("create tag", 0, 1)]
    {
        let counted = after.operations[operation];
        assert_eq!((counted.succeeded, counted.failed), (succeeded, failed), "{operation}");
        assert!(counted.slowest <= counted.success_time + counted.failure_time);
    }
}
