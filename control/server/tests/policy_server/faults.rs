//! What clients get to know when something behind the server is not well, and who changed what.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use parking_lot::Mutex;
use tracing_subscriber::fmt::MakeWriter;

use crate::platform::Mood;
use crate::world::{Backend, Options, World, v1, with_both};

with_both!(
    the_database_is_not_well,
    what_cannot_be_stored_is_told_and_harms_nobody,
    one_policy_is_created_and_deleted_by_many_at_once,
);

const ADMIN: Option<&str> = Some("Bearer admin");
const DEV: Option<&str> = Some("Bearer dev");
const POLICIES: &str = "/networking/v1/external/policies";
const DELETE: &str = "/networking/v1/external/policies/delete";
const CLEANUP: &str = "/networking/v1/external/policies/cleanup";

#[tokio::test]
async fn cloud_controller_is_not_well() {
    let options = Options { patience: Duration::from_millis(300), ..Options::default() };
    let world = World::with(Backend::Sqlite, options).await;
    world.create(&[("a", "b", 1, 1)]).await;
    for mood in [Mood::Failing, Mood::Garbage, Mood::Silent] {
        world.platform.known.lock().cloud_controller = mood;
        for (method, path, token, told) in [
            ("POST", POLICIES, DEV, "check access failed"),
            ("POST", DELETE, DEV, "check access failed"),
            ("GET", POLICIES, DEV, "filter policies failed"),
            ("POST", CLEANUP, ADMIN, "policies cleanup failed"),
        ] {
            let answer = world.ask(method, path, token, v1(&[("a", "b", 1, 1)])).await;
            let expected = format!(r#"{{"error": "{told}"}}"#);
            assert_eq!((answer.status, answer.body), (500, expected), "{mood:?} {path}");
        }
    }
    assert_eq!(world.listed().await, ["a b 1-1"], "admins are not concerned");
}

async fn the_database_is_not_well(on: Backend) {
    let world = World::new(on).await;
    world.create(&[("a", "b", 1, 1)]).await;
    world.break_database().await;
    let body = v1(&[("a", "b", 1, 1)]);
    for (method, path, token, told) in [
        ("POST", POLICIES, ADMIN, "database create failed"),
        ("POST", POLICIES, DEV, "check quota failed"),
        ("POST", DELETE, ADMIN, "database delete failed"),
        ("GET", POLICIES, ADMIN, "database read failed"),
        ("POST", CLEANUP, ADMIN, "policies cleanup failed"),
        ("GET", "/networking/v1/external/tags", ADMIN, "database read failed"),
    ] {
        let answer = world.ask(method, path, token, body.clone()).await;
        let expected = format!(r#"{{"error": "{told}"}}"#);
        assert_eq!((answer.status, answer.body), (500, expected), "{method} {path}");
    }
    let internal = |path: &str| format!("/networking/v1/internal/{path}");
    for (method, path, told) in [
        ("GET", "policies", "database read failed"),
        ("GET", "policies?watch=0", "database read failed"),
        ("GET", "policies?watch=7&timeout=0", "database read failed"),
        ("GET", "policies_last_updated", "database read failed"),
        ("GET", "security_groups", "database read failed"),
        ("GET", "security_groups_last_updated", "database read failed"),
        ("PUT", "tags", "database create failed"),
    ] {
        let answer = world.cell(method, &internal(path), r#"{"id":"i","type":"t"}"#).await;
        let expected = format!(r#"{{"error": "{told}"}}"#);
        assert_eq!((answer.status, answer.body), (500, expected), "{method} {path}");
    }
}

async fn what_cannot_be_stored_is_told_and_harms_nobody(on: Backend) {
    let world = World::new(on).await;
    let answer = world.ask("POST", POLICIES, ADMIN, v1(&[("a\0", "b", 1, 1)])).await;
    let expected = r#"{"error": "database create failed"}"#;
    assert_eq!((answer.status, answer.body.as_str()), (500, expected));
    assert_eq!(world.ask("POST", DELETE, ADMIN, v1(&[("a\0", "b", 1, 1)])).await.status, 200);
    world.create(&[("'; DROP TABLE policies; --", "ünï ☂ \"quoted\\\"", 1, 1)]).await;
    assert_eq!(world.listed().await.len(), 1);
}

async fn one_policy_is_created_and_deleted_by_many_at_once(on: Backend) {
    let world = World::new(on).await;
    let (one, other) = ([("a", "b", 1, 1)], [("a", "x", 2, 2)]);
    world.create(&other).await;
    let changes = (0..40).map(|number| {
        let path = if number % 2 == 0 { POLICIES } else { DELETE };
        world.ask("POST", path, ADMIN, v1(&one))
    });
    for answer in join_all(changes).await {
        assert_eq!((answer.status, answer.body.as_str()), (200, "{}"));
    }
    let listed = world.listed().await;
    assert!(listed == ["a x 2-2"] || listed == ["a b 1-1", "a x 2-2"], "{listed:?}");
    world.create(&one).await;
    assert_eq!(world.listed().await, ["a b 1-1", "a x 2-2"]);
    world.delete(&one).await;
    assert_eq!(world.listed().await, ["a x 2-2"]);
}

/// Lines of the log, for all tests of the program.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn changes_are_written_down_with_their_author() {
    let lines = Lines::default();
    // Beside other tests: a place in the code that is first come by on a thread without a
    // subscriber would count as of no interest to anybody, if this one were the only one.
    let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry());
    let subscriber = tracing_subscriber::fmt().json().with_writer(lines.clone()).finish();
    // All of a test is on one thread, the servers too.
    let _guard = tracing::subscriber::set_default(subscriber);
    let world = World::new(Backend::Sqlite).await;
    let headers = [("authorization", "Bearer dev"), ("x-forwarded-for", "192.0.2.7")];
    let body = v1(&[("a", "b", 8080, 8090)]);
    for path in [POLICIES, DELETE] {
        let answer = world.request(world.external, "POST", path, &headers, body.clone()).await;
        assert_eq!(answer.status, 200);
    }
    let refused = v1(&[("a", "x", 1, 1)]);
    world.request(world.external, "POST", POLICIES, &headers, refused).await;
    world.create(&[("gone\"", "a", 1, 1)]).await;
    world.ask("POST", CLEANUP, ADMIN, "").await;

    let text = String::from_utf8(lines.0.lock().clone()).unwrap();
    let audit: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|event: &serde_json::Value| event["target"] == "audit")
        .map(|mut event| event["fields"].take())
        .collect();
    let seen: Vec<[&str; 5]> = audit
        .iter()
        .map(|event| {
            ["event", "user_name", "subject", "forwarded_for", "policies"]
                .map(|field| event[field].as_str().unwrap())
        })
        .collect();
    assert_eq!(
        seen,
        [
            [
                "created-policies",
                "dev@example.org",
                "dev",
                "192.0.2.7",
                r#""a" to "b" tcp 8080-8090"#
            ],
            [
                "deleted-policies",
                "dev@example.org",
                "dev",
                "192.0.2.7",
                r#""a" to "b" tcp 8080-8090"#
            ],
            ["created-policies", "admin@example.org", "admin", "", r#""gone\"" to "a" tcp 1-1"#],
            ["deleted-policies", "admin@example.org", "admin", "", r#""gone\"" to "a" tcp 1-1"#],
        ]
    );
    for event in &audit {
        assert!(event["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{event}");
        assert!(event["request"].as_str().unwrap().len() >= 36, "{event}");
        assert_eq!(event["total"], 1);
    }
    assert!(!text.contains("Bearer") && !text.contains("own-1"), "no token is in the log");
}
