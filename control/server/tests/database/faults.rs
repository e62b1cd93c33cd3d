//! The database goes away, or has no room left.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sarcenet_server::database::{Database, DatabaseError};
use sarcenet_server::policy::{Policy, PolicyFilter};
use sarcenet_test_postgres::Postgres;
use tokio::task::JoinSet;

use crate::world::{World, policy};

/// Policies of one request, which are there all or none.
fn pair(name: &str, request: u32) -> [Policy; 2] {
    [policy(name, "b", request * 2 + 1), policy(name, "b", request * 2 + 2)]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_accepted_survives_a_crash_of_the_server_and_nothing_is_half_done() {
    let server = tokio::task::spawn_blocking(Postgres::start).await.unwrap();
    let world = World::at(server.database());
    let replicas = [world.open().await, world.open().await];
    let stop = Arc::new(AtomicBool::new(false));
    let (accepted, mut progress) = tokio::sync::mpsc::unbounded_channel();
    let mut writers = JoinSet::new();
    for writer in 0..8 {
        let (database, stop) = (replicas[writer % 2].clone(), Arc::clone(&stop));
        let accepted = accepted.clone();
        writers.spawn(async move {
            let name = format!("a{writer}");
            let mut refused = 0;
            for request in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                match database.create_policies(&pair(&name, request)).await {
                    Ok(()) => accepted.send((name.clone(), request)).unwrap(),
                    Err(error) => {
                        assert!(error.is_temporary(), "{error}");
                        refused += 1;
                    }
                }
            }
            refused
        });
    }
    let mut known = Vec::new();
    for _ in 0..100 {
        known.push(progress.recv().await.unwrap());
    }
    // It is killed while they write, and comes back while they try.
    let _server = tokio::task::spawn_blocking(move || {
        server.kill();
        server.restart();
        server
    })
    .await
    .unwrap();
    while progress.try_recv().map(|accepted| known.push(accepted)).is_ok() {}
    for _ in 0..100 {
        known.push(progress.recv().await.unwrap());
    }
    stop.store(true, Ordering::Relaxed);
    let refused: u32 = writers.join_all().await.into_iter().sum();
    assert!(refused > 0, "nobody noticed the crash");
    while let Ok(accepted) = progress.try_recv() {
        known.push(accepted);
    }

    let stored = replicas[0].policies(&PolicyFilter::All).await.unwrap();
    let stored: std::collections::HashSet<_> =
        stored.into_iter().map(|tagged| tagged.policy).collect();
    for (name, request) in &known {
        for policy in pair(name, *request) {
            assert!(stored.contains(&policy), "lost: {policy:?}");
        }
    }
    for policy in &stored {
        let request = (policy.first_port - 1) / 2;
        for other in pair(&policy.source, request) {
            assert!(stored.contains(&other), "half done: {policy:?}");
        }
    }
    // Replicas are told again.
    let mut told = replicas[0].changes();
    told.borrow_and_update();
    replicas[1].create_policies(&pair("after", 0)).await.unwrap();
    let generation = replicas[1].last_updated().await.unwrap();
    told.wait_for(|latest| *latest >= generation).await.unwrap();
}

/// Set in the process that may not write much; names the database.
const CONFINED: &str = "SARCENET_TEST_CONFINED_DATABASE";

/// Runs again in a process of its own, which may not make files longer than 256 KiB: to SQLite
/// the disk is full, and other tests have room.
#[test]
fn a_full_disk_gives_errors_and_no_damage() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", directory.path().join("full.db").display());
    let test = "faults::fill_the_disk_in_a_process_of_its_own";
    let confined = Command::new("sh")
        .args(["-c", r#"trap '' XFSZ; ulimit -f 512; exec "$0" --exact "$1" --nocapture"#])
        .arg(std::env::current_exe().unwrap())
        .arg(test)
        .env(CONFINED, &url)
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&confined.stdout);
    assert!(confined.status.success() && output.contains("1 passed"), "{output}");
    let accepted = output.lines().find_map(|line| line.strip_prefix("accepted: "));
    let accepted: u32 = accepted.expect("it tells").parse().unwrap();

    // With room again, all that was accepted is there, and it goes on.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let database = World::at(url).open().await;
        let policies = database.policies(&PolicyFilter::All).await.unwrap();
        assert_eq!(policies.len() as u32, accepted * 2);
        database.create_policies(&pair("a", accepted)).await.unwrap();
    });
}

#[tokio::test]
async fn fill_the_disk_in_a_process_of_its_own() {
    let Ok(url) = std::env::var(CONFINED) else { return };
    let database = World::at(url).open().await;
    let mut accepted = 0;
    let error = loop {
        match database.create_policies(&pair("a", accepted)).await {
            Ok(()) => accepted += 1,
            Err(error) => break error,
        }
    };
    println!("\naccepted: {accepted}");
    assert!(matches!(error, DatabaseError::Unavailable { .. }), "{error:?}");
    // Reading goes on.
    let policies = database.policies(&PolicyFilter::All).await.unwrap();
    assert_eq!(policies.len() as u32, accepted * 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_is_never_let_go_ends_in_an_error() {
    use sqlx::Connection;
    for world in [World::sqlite(), World::postgres()] {
        let timeout = std::time::Duration::from_millis(300);
        let database = world.open_with(|settings| settings.operation_timeout = timeout).await;
        let sqlite = world.url.starts_with("sqlite");
        let url = world.url.replace("a b?.db", "a%20b%3F.db").replace("sqlite:", "sqlite://");
        let mut other = sqlx::AnyConnection::connect(&url).await.unwrap();
        let lock = if sqlite {
            "BEGIN IMMEDIATE"
        } else {
            "BEGIN; UPDATE sarcenet.policies_info SET last_updated = last_updated"
        };
        sqlx::raw_sql(lock).execute(&mut other).await.unwrap();
        for _ in 0..10 {
            let error = database.create_policies(&pair("a", 0)).await.unwrap_err();
            assert!(error.is_temporary(), "{error}");
        }
        // Readers do not mind, and the connections that waited are not lost.
        assert_eq!(database.policy_count().await.unwrap(), 0);
        sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
        retried(&database).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_that_another_process_was_in_the_way_of_is_done_again() {
    use sqlx::Connection;
    let world = World::sqlite();
    let database = world
        .open_with(|settings| settings.operation_timeout = std::time::Duration::from_secs(4))
        .await;
    let url = world.url.replace("a b?.db", "a%20b%3F.db").replace("sqlite:", "sqlite://");
    let mut other = sqlx::AnyConnection::connect(&url).await.unwrap();
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let creating = {
        let database = database.clone();
        tokio::spawn(async move { database.create_policies(&pair("a", 0)).await })
    };
    while database.statistics().queries_failed == 0 {
        tokio::task::yield_now().await;
    }
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    creating.await.unwrap().unwrap();
    assert_eq!(database.policy_count().await.unwrap(), 2);
}

/// The first moments after a lock is gone may still belong to those who gave up.
async fn retried(database: &Database) {
    for _ in 0..100 {
        match database.create_policies(&pair("a", 0)).await {
            Ok(()) => return,
            Err(error) => assert!(error.is_temporary(), "{error}"),
        }
    }
    panic!("the database does not recover");
}
