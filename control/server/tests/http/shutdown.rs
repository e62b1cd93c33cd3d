//! What becomes of requests when the server stops.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use sarcenet_server::http::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore};

use crate::world::{OURS, Running};

/// A request that lasts until it is let go.
struct Held {
    began: Notify,
    go: Semaphore,
}

fn held() -> (Arc<Held>, Router) {
    let held = Arc::new(Held { began: Notify::new(), go: Semaphore::new(0) });
    let shared = Arc::clone(&held);
    let wait = move || {
        let held = Arc::clone(&shared);
        async move {
            held.began.notify_one();
            held.go.acquire().await.unwrap().forget();
            "at last"
        }
    };
    (held, Router::new().route("/", get(wait)))
}

#[tokio::test]
async fn a_request_that_has_begun_is_answered() {
    let (held, router) = held();
    let limits = Limits { grace: Duration::from_mins(10), ..Limits::default() };
    let running = Running::mutual(router, limits).await;
    let settings = || OURS.client().settings().unwrap();
    let idle = running.tls(settings()).await.unwrap();
    let mut stream = running.tls(settings()).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    held.began.notified().await;

    let address = running.address();
    running.stopper.stop();
    // Nobody listens any more, and idle connections end.
    while TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    let mut nothing = Vec::new();
    let mut idle = idle;
    idle.read_to_end(&mut nothing).await.unwrap();
    assert_eq!(nothing, b"");

    held.go.add_permits(1);
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("at last"), "{answer}");
    drop((stream, idle));
    running.server.finished().await;
}

#[tokio::test]
async fn one_that_takes_too_long_is_cut_off() {
    let (held, router) = held();
    let limits = Limits { grace: Duration::from_millis(20), ..Limits::default() };
    let running = Running::plain(router, limits).await;
    let mut stream = running.tcp().await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    held.began.notified().await;
    // Forgetting the stopper stops too.
    drop(running.stopper);
    running.server.finished().await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert_eq!(answer, b"");
}

#[tokio::test]
async fn a_panic_ends_one_connection_and_nothing_else() {
    async fn bad() -> &'static str {
        panic!("for the test")
    }
    let router = Router::new().route("/", get(|| async { "fine" })).route("/bad", get(bad));
    let running = Running::plain(router, Limits::default()).await;
    for (path, wanted) in [("/", "fine"), ("/bad", ""), ("/", "fine")] {
        let mut stream = running.tcp().await;
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        assert!(answer.ends_with(wanted), "{answer}");
        assert_eq!(answer.is_empty(), wanted.is_empty());
    }
    running.count(r#"sarcenet_http_connections{server="test"} 0"#).await;
}
