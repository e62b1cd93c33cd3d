//! What servers keep, and how they end.

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::world::{Control, EVERYTHING, World};

const POLICY: &str = r#"{"policies":[{"source":{"id":"app-a"},"destination":{"id":"app-b",
    "protocol":"tcp","ports":{"start":8080,"end":8090}}}]}"#;

async fn json_of(control: &Control, server: &str, path: &str) -> Value {
    let (status, body) = control.ask(server, "GET", path, "").await;
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

async fn renew(control: &Control, lease: &str) {
    let (status, body) = control.ask("leases", "PUT", "/leases/renew", lease).await;
    assert_eq!((status, body.as_str()), (200, "{}"));
}

#[tokio::test]
async fn what_was_answered_outlives_a_kill() {
    const POLICIES: &str = "/networking/v1/internal/policies";
    const UPDATED: &str = "/networking/v1/internal/policies_last_updated";
    let world = World::new(EVERYTHING);
    let control = world.start();
    let path = "/networking/v1/external/policies";
    let created = control.ask("external", "POST", path, POLICY).await;
    assert_eq!(created, (200, "{}".to_owned()));
    let policies = json_of(&control, "internal", POLICIES).await;
    let wanted = json!({
        "source": {"id": "app-a", "tag": "0001"},
        "destination":
            {"id": "app-b", "tag": "0002", "protocol": "tcp", "ports": {"start": 8080, "end": 8090}},
    });
    assert_eq!(policies["policies"], json!([wanted]));
    let updated = json_of(&control, "internal", UPDATED).await;
    let request = r#"{"underlay_ip":"10.0.16.15","single_overlay_ip":false}"#;
    let (status, lease) = control.ask("leases", "PUT", "/leases/acquire", request).await;
    assert_eq!(status, 200, "{lease}");
    renew(&control, &lease).await;
    assert_eq!(control.end(Signal::SIGKILL), None);

    let control = world.start();
    assert_eq!(json_of(&control, "internal", POLICIES).await, policies);
    assert_eq!(json_of(&control, "internal", UPDATED).await, updated);
    let leases = json_of(&control, "leases", "/leases").await;
    let lease_was: Value = serde_json::from_str(&lease).unwrap();
    assert_eq!(leases, json!({"leases": [lease_was]}));
    renew(&control, &lease).await;
    assert_eq!(control.end(Signal::SIGTERM), Some(0));
}

#[tokio::test]
async fn changed_certificates_are_put_in_force() {
    let world = World::new(EVERYTHING);
    let mut control = world.start();
    let renewed = world.run(&["certs", "init", "--renew"]);
    assert!(renewed.status.success(), "{renewed:?}");
    control.signal(Signal::SIGHUP);
    control.logged("SIGHUP: looking at the certificates");
    for _ in ["external", "internal", "leases"] {
        control.logged("changed TLS files are in force");
    }
    assert_eq!(json_of(&control, "leases", "/leases").await, json!({"leases": []}));
    assert_eq!(control.end(Signal::SIGINT), Some(0));
}

#[tokio::test]
async fn a_role_runs_alone() {
    let alone = "roles: [subnet-controller]\nleases: {listen: '127.0.0.1:0'}\n\
                 status: {listen: '127.0.0.1:0'}\n";
    let world = World::new(alone);
    let control = world.start();
    assert_eq!(json_of(&control, "leases", "/leases").await, json!({"leases": []}));
    assert!(!control.has("internal") && !control.has("external"));

    let alone = EVERYTHING.to_owned() + "roles: [policy-server]\n";
    let world = World::new(&alone);
    let control = world.start();
    assert_eq!(
        json_of(&control, "external", "/networking/v1/external/tags").await["tags"],
        json!([])
    );
    assert!(!control.has("leases"));
}
