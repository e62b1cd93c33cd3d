//! Tokens: UAA well and not, how long its answers hold, and a file in its place.

use std::sync::Arc;
use std::time::Duration;

use sarcenet_server::access::{Authority, TokensFile};
use sarcenet_server::http::stop;
use sarcenet_server::policies::{ExternalSettings, external_router};
use serde_json::json;

use crate::platform::Mood;
use crate::world::{Backend, Options, World, seconds_from_now, serve, v1};

const WHOAMI: &str = "/networking/v1/external/whoami";
const POLICIES: &str = "/networking/v1/external/policies";

#[tokio::test]
async fn nobody_is_let_in_while_uaa_is_not_well() {
    let options = Options { patience: Duration::from_millis(300), ..Options::default() };
    let world = World::with(Backend::Sqlite, options).await;
    for mood in [Mood::Failing, Mood::Garbage, Mood::Silent] {
        world.platform.known.lock().uaa = mood;
        let answer = world.ask("GET", WHOAMI, Some("Bearer admin"), "").await;
        let body = r#"{"error": "failed to verify token with uaa"}"#;
        assert_eq!((answer.status, answer.body.as_str()), (401, body), "{mood:?}");
        assert_eq!(world.ask("GET", "/health", None, "").await.status, 200);
    }
    world.platform.known.lock().uaa = Mood::Well;
    assert_eq!(world.ask("GET", WHOAMI, Some("Bearer admin"), "").await.status, 200);
}

#[tokio::test]
async fn tokens_cannot_smuggle_parameters() {
    let world = World::new(Backend::Sqlite).await;
    for token in ["Bearer x&token=admin", "Bearer admin&", "Bearer admin%00", "Bearer %61dmin"] {
        let answer = world.ask("GET", WHOAMI, Some(token), "").await;
        assert_eq!(answer.status, 401, "{token}");
    }
}

#[tokio::test]
async fn an_answer_holds_for_a_moment_but_never_longer_than_the_token() {
    let options = Options { remember: Duration::from_hours(1), ..Options::default() };
    let world = World::with(Backend::Sqlite, options).await;
    let token = |exp: u64| json!({"scope": ["network.admin"], "sub": "x", "exp": exp});
    {
        let mut known = world.platform.known.lock();
        known.tokens.insert("over".into(), token(seconds_from_now(-1)));
        known.tokens.insert("ending".into(), token(seconds_from_now(1)));
        known.tokens.insert("lasting".into(), token(seconds_from_now(3600)));
        known.tokens.insert("endless".into(), json!({"scope": ["network.admin"], "sub": "x"}));
    }
    let ask = async |token: &str| {
        world.ask("GET", WHOAMI, Some(&format!("Bearer {token}")), "").await.status
    };
    assert_eq!(ask("over").await, 401, "whatever UAA says");
    for token in ["lasting", "endless"] {
        assert_eq!((ask(token).await, ask(token).await), (200, 200));
    }
    assert_eq!(world.platform.asked("POST /check_token"), 1 + 1 + 2, "endless is asked every time");
    // The token ends, whenever that is noticed, while what was remembered would hold for an hour.
    while ask("ending").await == 200 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn without_remembering_each_request_is_asked() {
    let world = World::new(Backend::Sqlite).await;
    for _ in 0..3 {
        assert_eq!(world.ask("GET", WHOAMI, Some("Bearer admin"), "").await.status, 200);
    }
    assert_eq!(world.platform.asked("POST /check_token"), 3);
}

#[tokio::test]
async fn the_servers_own_token_is_kept_and_replaced_when_it_is_refused() {
    let world = World::new(Backend::Sqlite).await;
    let create = async || {
        world.ask("POST", POLICIES, Some("Bearer dev"), v1(&[("a", "b", 1, 1)])).await.status
    };
    assert_eq!((create().await, create().await), (200, 200));
    assert_eq!(world.platform.asked("POST /oauth/token"), 1);
    world.platform.known.lock().revoked = 1;
    assert_eq!(create().await, 200);
    assert_eq!(world.platform.asked("POST /oauth/token"), 2);
}

#[tokio::test]
async fn spaces_of_apps_are_remembered_only_with_a_token_that_ends() {
    let options = Options { remember: Duration::from_hours(1), ..Options::default() };
    let world = World::with(Backend::Sqlite, options).await;
    let endless = json!({"scope": ["network.write"], "sub": "dev"});
    world.platform.known.lock().tokens.insert("endless".into(), endless);
    let create = async |token: &str| {
        let token = format!("Bearer {token}");
        let body = v1(&[("a", "b", 1, 1)]);
        assert_eq!(world.ask("POST", POLICIES, Some(&token), body).await.status, 200);
        world.platform.asked("GET /v3/apps")
    };
    assert_eq!((create("endless").await, create("endless").await), (1, 2));
    assert_eq!((create("dev").await, create("dev").await), (3, 3));
    assert_eq!(create("endless").await, 3, "it is there now");
    let asked = world.platform.asked("GET /v2/spaces?");
    create("dev").await;
    assert_eq!(world.platform.asked("GET /v2/spaces?"), asked + 1, "who may is asked every time");
}

#[tokio::test]
async fn a_file_of_tokens_stands_in_for_the_platform() {
    let world = World::new(Backend::Sqlite).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tokens.yml");
    let text = "tokens:\n- {token: s3cret, subject: ada, scopes: [network.admin]}\n\
        - {token: w, subject: bob, scopes: [network.write]}\n- {token: n, subject: eve}\n";
    std::fs::write(&file, text).unwrap();
    let authority = Arc::new(Authority::TokensFile(TokensFile::open(&file).unwrap()));
    // Spaces are not known, so nobody serves himself.
    let settings = ExternalSettings {
        space_developer_self_service: true,
        max_policies_per_app_source: 1,
        ..ExternalSettings::default()
    };
    let (_stopper, stop) = stop();
    let router = external_router(&settings, &world.database, authority, None, &world.metrics);
    let server = serve(router, stop).await;
    let forbidden = r#"{"error": "provided scopes [] do not include allowed scopes [network.admin network.write]"}"#;
    let any = v1(&[("any", "app", 1, 1)]);
    let cleanup = "/networking/v1/external/policies/cleanup";
    for (method, path, token, body, status, expected) in [
        ("GET", WHOAMI, "Bearer s3cret", "", 200, r#"{"subject":"ada"}"#),
        ("GET", WHOAMI, "Bearer S3cret", "", 401, r#"{"error": "unknown token"}"#),
        ("POST", POLICIES, "bearer n", &any, 403, forbidden),
        ("POST", POLICIES, "bearer w", &any, 200, "{}"),
        ("POST", POLICIES, "bearer w", &any, 403, r#"{"error": "policy quota exceeded"}"#),
        ("POST", POLICIES, "bearer s3cret", &any, 200, "{}"),
        ("POST", cleanup, "bearer s3cret", "", 200, r#"{"total_policies":0,"policies":[]}"#),
    ] {
        let headers = [("authorization", token)];
        let to = server.address();
        let answer = world.request(to, method, path, &headers, body.to_owned()).await;
        assert_eq!((answer.status, answer.body.as_str()), (status, expected), "{path} {token}");
    }
    let headers = [("authorization", "bearer w")];
    let listed = world.request(server.address(), "GET", POLICIES, &headers, "").await;
    assert_eq!(listed.json()["total_policies"], 1, "all are seen, also after the cleanup");
    assert_eq!(world.platform.known.lock().asked.len(), 0);
}
