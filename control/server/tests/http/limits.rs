//! What clients may not use up.

use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use axum::routing::{get, put};
use sarcenet_server::http::reply::{self, ApiError};
use sarcenet_server::http::{Limits, body};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::world::{OURS, Running, ask, request};

/// Says how long what came is.
async fn measure(request: Request) -> Result<Response, ApiError> {
    let query = request.uri().query().unwrap_or_default().len();
    let body = body::read(request).await;
    let body = body.map_err(|e| ApiError::bad_request(format!("read-body: {e}")))?;
    Ok(reply::text(format!("{query} {}", body.len())))
}

fn router() -> Router {
    let router = Router::new().route("/", get(measure)).route("/", put(measure));
    reply::with_fallbacks(router)
}

#[tokio::test]
async fn bodies() {
    let mut chunked = b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..=10 {
        chunked.extend_from_slice(b"100000\r\n");
        chunked.resize(chunked.len() + (1 << 20), b'x');
        chunked.extend_from_slice(b"\r\n");
    }
    let too_long = r#"{"error": "read-body: the body is longer than 10485760 bytes"}"#;
    let table = [
        ("the longest", request("PUT", "/", &"x".repeat(10 << 20)), 200, "0 10485760"),
        ("longer by one", request("PUT", "/", &"x".repeat((10 << 20) + 1)), 400, too_long),
        ("much longer", request("PUT", "/", &"x".repeat(15 << 20)), 400, too_long),
        ("in chunks", chunked, 400, too_long),
        (
            "a wrong chunk",
            b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n\r\n".to_vec(),
            400,
            "{\"error\": \"read-body: ",
        ),
    ];
    let plain = Running::plain(router(), Limits::default()).await;
    let mutual = Running::mutual(router(), Limits::default()).await;
    for (what, request, status, body) in table {
        let tls = mutual.tls(OURS.client().settings().unwrap()).await.unwrap();
        for answer in [ask(plain.tcp().await, &request).await, ask(tls, &request).await] {
            let answer = answer.unwrap();
            assert_eq!(answer.status, status, "{what}: {answer:?}");
            assert!(answer.body.starts_with(body), "{what}: {answer:?}");
        }
    }
}

/// A client that hears nothing until it has said all is not cut off in the middle: a reset could
/// overtake the answer.
#[tokio::test]
async fn a_refused_body_is_heard_out() {
    let server = Running::plain(router(), Limits::default()).await;
    let mut stream = server.tcp().await;
    stream.write_all(&request("PUT", "/", &"x".repeat(15 << 20))).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

#[tokio::test]
async fn heads() {
    let server = Running::plain(router(), Limits::default()).await;
    let url = |length: usize| request("GET", &format!("/?{}", "x".repeat(length)), "");
    let headers = |total: usize| {
        let mut text = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n".to_vec();
        for number in 0..20 {
            text.extend_from_slice(format!("X-{number}: ").as_bytes());
            text.resize(text.len() + total / 20, b'x');
            text.extend_from_slice(b"\r\n");
        }
        text.extend_from_slice(b"\r\n");
        text
    };
    let table = [
        // A cell with 850 containers asks for the policies of as many apps and spaces.
        ("a long URL", url(850 * 2 * 37), 200, "62900 0"),
        ("a URL that is too long", url(70_000), 414, ""),
        ("long headers", headers(1_000_000), 200, "0 0"),
        ("headers that are too long", headers(1_100_000), 431, ""),
        ("no HTTP", b"\x16\x03\x01\r\n\r\n".to_vec(), 400, ""),
        (
            "two lengths",
            b"PUT / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n".to_vec(),
            400,
            "",
        ),
    ];
    for (what, request, status, body) in table {
        let answer = ask(server.tcp().await, &request).await.unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (status, body), "{what}");
    }
    server
        .count(r#"sarcenet_http_failed_connections_total{server="test",reason="malformed"} 4"#)
        .await;
}

/// Waits until the server has closed this connection, whatever it said before.
async fn closed(mut stream: TcpStream) -> Vec<u8> {
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said).await;
    said
}

#[tokio::test]
async fn clients_that_are_too_slow() {
    // Long enough for those who are not too slow on a busy machine.
    let moment = Duration::from_secs(1);
    let limits = Limits { handshake: moment, silence: moment, ..Limits::default() };
    let plain = Running::plain(router(), limits).await;
    let mutual =
        Running::mutual(router(), Limits { silence: Duration::from_mins(1), ..limits }).await;

    let silent = plain.tcp().await;
    let mut half = plain.tcp().await;
    half.write_all(b"GET / HTTP/1.1\r\nHost:").await.unwrap();
    let mut idle = plain.tcp().await;
    idle.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let unshaken = mutual.tcp().await;
    let mut begun = mutual.tcp().await;
    begun.write_all(&[22, 3, 1]).await.unwrap();
    // Others are answered meanwhile.
    assert_eq!(ask(plain.tcp().await, &request("GET", "/", "")).await.unwrap().body, "0 0");

    assert_eq!(closed(silent).await, b"");
    assert_eq!(closed(half).await, b"");
    assert!(closed(idle).await.ends_with(b"0 0"));
    assert_eq!(closed(unshaken).await, b"");
    assert_eq!(closed(begun).await, b"");
    for server in [&plain, &mutual] {
        server.count(r#"sarcenet_http_connections{server="test"} 0"#).await;
    }
}

#[tokio::test]
async fn more_connections_than_there_are_seats_wait() {
    let limits = Limits { connections: 2, ..Limits::default() };
    let server = Running::plain(router(), limits).await;
    let first = server.tcp().await;
    let second = server.tcp().await;
    server.count(r#"sarcenet_http_connections{server="test"} 2"#).await;
    let mut third = server.tcp().await;
    third.write_all(&request("GET", "/", "")).await.unwrap();
    let served =
        r#"sarcenet_http_requests_total{server="test",route="/",method="GET",status="200"} 1"#;
    assert!(!server.metrics.text().unwrap().contains(served));
    drop(first);
    assert!(closed(third).await.ends_with(b"0 0"));
    assert!(server.metrics.text().unwrap().contains(served));
    drop(second);
}

#[tokio::test]
async fn answers_that_nobody_reads() {
    let long = Router::new().route("/", get(|| async { "x".repeat(64 << 20) }));
    let silence = Duration::from_millis(200);
    let server = Running::plain(long, Limits { silence, ..Limits::default() }).await;
    let mut stream = server.tcp().await;
    stream.write_all(&request("GET", "/", "")).await.unwrap();
    stream.readable().await.unwrap();
    server.count(r#"sarcenet_http_connections{server="test"} 0"#).await;
    assert!(closed(stream).await.len() < 64 << 20);
}
