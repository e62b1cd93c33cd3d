//! Servers that are killed, and what is left then.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use sarcenet_test_postgres::SHARED;
use serde_json::{Value, json};

use crate::world::{EVERYTHING, World};

/// Two policies of one request, which are there both or neither.
fn pair(writer: u32, request: u32) -> String {
    let policy = |port: u32| {
        json!({
            "source": {"id": format!("writer-{writer}")},
            "destination": {"id": "app", "protocol": "tcp", "ports": {"start": port, "end": port}},
        })
    };
    json!({"policies": [policy(request * 2 + 1), policy(request * 2 + 2)]}).to_string()
}

/// Kills the servers while eight clients write, and looks at what the next ones have.
async fn a_kill_loses_nothing_that_was_accepted(database: &str) {
    const WRITERS: u32 = 8;
    const PATH: &str = "/networking/v1/external/policies";
    let world = World::new(&(EVERYTHING.to_owned() + database));
    let control = Arc::new(world.start());
    let accepted: Arc<Vec<AtomicU32>> = Arc::new((0..WRITERS).map(|_| AtomicU32::new(0)).collect());
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let (control, accepted) = (Arc::clone(&control), Arc::clone(&accepted));
        writers.spawn(async move {
            for request in 0.. {
                let body = pair(writer, request);
                match control.try_ask("external", "POST", PATH, &body).await {
                    Ok((200, _)) => accepted[writer as usize].store(request + 1, Ordering::SeqCst),
                    Ok(answer) => panic!("{answer:?}"),
                    Err(_) => return,
                }
            }
        });
    }
    while accepted.iter().any(|requests| requests.load(Ordering::SeqCst) < 5) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    control.signal(Signal::SIGKILL);
    while let Some(ended) = writers.join_next().await {
        ended.unwrap();
    }
    drop(control);

    let control = world.start();
    let (status, body) = control.ask("external", "GET", PATH, "").await;
    assert_eq!(status, 200, "{body}");
    let listed: Value = serde_json::from_str(&body).unwrap();
    let listed = listed["policies"].as_array().unwrap();
    let mut requests = vec![Vec::new(); WRITERS as usize];
    for policy in listed {
        let writer = policy["source"]["id"].as_str().unwrap().strip_prefix("writer-").unwrap();
        let port = policy["destination"]["ports"]["start"].as_u64().unwrap();
        requests[writer.parse::<usize>().unwrap()].push((port - 1) / 2);
    }
    for (writer, requests) in requests.iter_mut().enumerate() {
        requests.sort_unstable();
        let (first, second): (Vec<_>, Vec<_>) =
            requests.chunks(2).map(|pair| (pair[0], pair.get(1).copied())).unzip();
        assert!(first.iter().zip(&second).all(|(a, b)| Some(*a) == *b), "a half: {requests:?}");
        // The last request may have been done although nobody was told.
        let accepted = u64::from(accepted[writer].load(Ordering::SeqCst));
        let stored = first.len() as u64;
        assert!(stored == accepted || stored == accepted + 1, "{stored} of {accepted}");
        assert_eq!(first, (0..stored).collect::<Vec<_>>());
    }
    // Tags are those of before, and new ones are not those of others.
    let (_, tags) = control.ask("external", "GET", "/networking/v1/external/tags", "").await;
    let tags: Value = serde_json::from_str(&tags).unwrap();
    assert_eq!(tags["tags"].as_array().unwrap().len(), WRITERS as usize + 1);
    assert_eq!(control.end(Signal::SIGTERM), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_in_mid_write_on_sqlite() {
    a_kill_loses_nothing_that_was_accepted("").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_in_mid_write_on_postgresql() {
    let database = format!("database: '{}'\n", SHARED.database());
    a_kill_loses_nothing_that_was_accepted(&database).await;
}

/// The other replica goes on alone, for cells and for users.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_killed_is_not_missed() {
    const INTERNAL: &str = "/networking/v1/internal/policies";
    const PATH: &str = "/networking/v1/external/policies";
    let world = World::new(&format!("{EVERYTHING}database: '{}'\n", SHARED.database()));
    let (one, other) = (world.start(), world.start());
    let created = one.ask("external", "POST", PATH, &pair(1, 0)).await;
    assert_eq!(created, (200, "{}".to_owned()));
    let (_, before) = other.ask("internal", "GET", INTERNAL, "").await;
    let (_, updated) =
        other.ask("internal", "GET", "/networking/v1/internal/policies_last_updated", "").await;
    assert_eq!(one.end(Signal::SIGKILL), None);
    let watch = format!("{INTERNAL}?watch={updated}&timeout=300");
    let body = pair(1, 1);
    let (told, created) = tokio::join!(
        other.ask("internal", "GET", &watch, ""),
        other.ask("external", "POST", PATH, &body)
    );
    assert_eq!(created, (200, "{}".to_owned()));
    let told: Value = serde_json::from_str(&told.1).unwrap();
    assert_eq!(told["added"].as_array().unwrap().len(), 2);
    let before: Value = serde_json::from_str(&before).unwrap();
    assert_eq!(told["added"][0]["source"], before["policies"][0]["source"], "the same tag");
}
