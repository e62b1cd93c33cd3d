//! Headers of all answers, health, and what is counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::middleware::from_fn;
use axum::routing::get;
use axum::{Extension, Router};
use sarcenet_server::http::headers::{self, RequestId};
use sarcenet_server::http::metrics::Metrics;
use sarcenet_server::http::reply::{self, ApiError};
use sarcenet_server::http::{Limits, status};

use crate::world::{Answer, Running, ask, request};

fn router() -> Router {
    let router = Router::new()
        .route("/id", get(|Extension(RequestId(id)): Extension<RequestId>| async { id }))
        .route("/who", get(|| async { ApiError::unauthorized("missing authorization header") }));
    reply::with_fallbacks(router)
        .layer(from_fn(headers::request_id))
        .layer(from_fn(headers::security))
        .layer(from_fn(headers::transport_security))
}

async fn get_with(server: &Running, path: &str, header: &str) -> Answer {
    let text = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{header}\r\n");
    ask(server.tcp().await, text.as_bytes()).await.unwrap()
}

#[tokio::test]
async fn requests_have_names() {
    let server = Running::plain(router(), Limits::default()).await;
    let long = format!("X-Vcap-Request-Id: {}\r\n", "x".repeat(513));
    let table = [
        ("", ""),
        ("X-VCAP-Request-ID: abc\r\n", "abc::"),
        ("x-vcap-request-id: a::b\r\n", "a::b::"),
        ("X-Vcap-Request-Id:\r\n", ""),
        ("X-Vcap-Request-Id: \u{fc}\r\n", ""),
        (&long, ""),
    ];
    for (header, start) in table {
        let answer = get_with(&server, "/id", header).await;
        let id = answer.header("x-vcap-request-id").unwrap();
        let new = id.strip_prefix(start).unwrap();
        assert_eq!(new.len(), 36, "{id}");
        assert_eq!(new.as_bytes()[14], b'4', "a random UUID: {id}");
        assert_eq!(answer.body, id, "what handlers see");
    }
    for path in ["/id", "/who", "/none"] {
        let one = get_with(&server, path, "").await;
        let two = get_with(&server, path, "").await;
        let id = |answer: &Answer| answer.header("x-vcap-request-id").map(str::to_owned);
        assert!(id(&one).is_some());
        assert_ne!(id(&one), id(&two), "{path}");
    }
}

#[tokio::test]
async fn browsers_are_told_to_be_careful() {
    let server = Running::plain(router(), Limits::default()).await;
    for (path, status) in [("/id", 200), ("/who", 401), ("/none", 404)] {
        let answer = get_with(&server, path, "").await;
        assert_eq!(answer.status, status);
        for (name, value) in [
            ("x-frame-options", "deny"),
            ("content-security-policy", "frame-ancestors 'none'"),
            ("x-xss-protection", "1; mode=block"),
            ("x-content-type-options", "nosniff"),
            ("strict-transport-security", "max-age=31536000"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{path}");
        }
        let bearer = (status == 401).then_some("Bearer");
        assert_eq!(answer.header("www-authenticate"), bearer);
    }
}

#[tokio::test]
async fn health_follows_the_database() {
    let broken = Arc::new(AtomicBool::new(false));
    let database = Arc::clone(&broken);
    let check = move || {
        let broken = database.load(Ordering::Relaxed);
        async move { if broken { Err("gone") } else { Ok(()) } }
    };
    let server = Running::plain(status::routes(check, Metrics::default()), Limits::default()).await;
    for (state, status, body) in
        [(false, 200, ""), (true, 500, r#"{"error": "check database failed"}"#), (false, 200, "")]
    {
        broken.store(state, Ordering::Relaxed);
        let answer = get_with(&server, "/health", "").await;
        assert_eq!((answer.status, answer.body.as_str()), (status, body));
        assert_eq!(answer.header("content-type").is_some(), !body.is_empty());
    }
    let up = get_with(&server, "/", "").await.body;
    assert!(up.starts_with("Network policy server, up for "), "{up}");
    assert!(up.ends_with("s\n"), "{up}");
    assert_eq!(get_with(&server, "/none", "").await.body, "404 page not found\n");
}

#[tokio::test]
async fn requests_are_counted_by_their_route() {
    let server = Running::plain(router(), Limits::default()).await;
    for (method, path) in [
        ("GET", "/who"),
        ("HEAD", "/id"),
        ("GET", "/id?x=1"),
        ("GET", "/id?x=2"),
        ("POST", "/id"),
        ("BREW", "/who"),
        ("GET", "/elsewhere/1"),
        ("GET", "/elsewhere/2"),
    ] {
        ask(server.tcp().await, &request(method, path, "")).await.unwrap();
    }
    let shown = Running::plain(
        status::routes(|| async { Ok::<(), String>(()) }, server.metrics.clone()),
        Limits::default(),
    )
    .await;
    let answer = get_with(&shown, "/metrics", "").await;
    assert_eq!(
        answer.header("content-type"),
        Some("application/openmetrics-text; version=1.0.0; charset=utf-8")
    );
    let mut counted: Vec<&str> =
        answer.body.lines().filter(|line| line.contains("_total{")).collect();
    counted.sort_unstable();
    let request = "sarcenet_http_requests_total{server=\"test\",route=";
    let error = "sarcenet_http_errors_total{server=\"test\",status=";
    let wanted = [
        format!("{error}\"401\"}} 1"),
        format!("{error}\"404\"}} 2"),
        format!("{error}\"405\"}} 2"),
        format!("{request}\"/id\",method=\"GET\",status=\"200\"}} 2"),
        format!("{request}\"/id\",method=\"HEAD\",status=\"200\"}} 1"),
        format!("{request}\"/id\",method=\"POST\",status=\"405\"}} 1"),
        format!("{request}\"/who\",method=\"GET\",status=\"401\"}} 1"),
        format!("{request}\"/who\",method=\"other\",status=\"405\"}} 1"),
        format!("{request}\"none\",method=\"GET\",status=\"404\"}} 2"),
    ];
    assert_eq!(counted, wanted);
    let seconds = r#"sarcenet_http_request_seconds_count{server="test",route="/id"} 4"#;
    assert!(answer.body.lines().any(|line| line == seconds), "{}", answer.body);
}
