//! Following policies: of a server of ours, and of one of Cloud Foundry's, which does not watch.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use sarcenet_control::follow::policies::{PolicySettings, PolicyState};
use serde_json::{Value, json};

use super::world::{Ours, Say, Scripted, policies, policies_every, policies_with, words};

#[tokio::test]
async fn changes_of_a_server_of_ours_arrive_by_themselves() {
    let mut server = Ours::start().await;
    server.allow(&[("a", "b", 80)]).await;
    // A server that ends says that nothing has changed: it is asked again after the interval.
    let second = Duration::from_secs(1);
    let mut following = policies_every(second, server.address, PolicyState::default());
    following.until(|state| words(state) == ["a to b tcp 80"]).await;
    server.allow(&[("a", "c", 81), ("c", "a", 82)]).await;
    following.until(|state| words(state).len() == 3).await;
    server.revoke(&[("a", "b", 80), ("a", "c", 81)]).await;
    following.until(|state| words(state) == ["c to a tcp 82"]).await;
    let generation = server.database.last_updated().await.unwrap();
    following.until(|state| state.generation == generation).await;
    assert_eq!(following.metric("sarcenet_agent_policies_watched"), 1);

    // It goes, its policies change, and it comes again where it was.
    server.go().await;
    server.allow(&[("b", "c", 83)]).await;
    server.come().await;
    following.until(|state| words(state) == ["b to c tcp 83", "c to a tcp 82"]).await;

    // Who begins with what was known hears of the difference only, and of everything all the same
    // when that is from before the server's memory.
    let known = following.state.borrow().clone();
    server.revoke(&[("c", "a", 82)]).await;
    for generation in [known.generation, 1] {
        let mut again = policies(server.address, PolicyState { generation, ..known.clone() });
        again.until(|state| words(state) == ["b to c tcp 83"]).await;
    }
}

fn entry(from: &str, to: &str, port: u32) -> Value {
    let tag = |app: &str| format!("{:04X}", app.as_bytes()[0]);
    json!({
        "source": {"id": from, "tag": tag(from)},
        "destination": {"id": to, "tag": tag(to), "protocol": "tcp",
            "ports": {"start": port, "end": port}},
    })
}

fn shipped(policies: &[Value]) -> Say {
    Say::ok(json!({"total_policies": policies.len(), "policies": policies}).to_string())
}

/// What a server of Cloud Foundry's knows.
#[derive(Clone, Default)]
struct Shipped {
    updated: Arc<AtomicI64>,
    policies: Arc<Mutex<Vec<Value>>>,
}

impl Shipped {
    fn change(&self, moment: i64, policies: Vec<Value>) {
        *self.policies.lock() = policies;
        self.updated.store(moment, Ordering::SeqCst);
    }

    fn says(&self, question: &str) -> Say {
        if question == "policies_last_updated" {
            return Say::ok(self.updated.load(Ordering::SeqCst).to_string());
        }
        shipped(&self.policies.lock())
    }
}

fn often(server: &Scripted) -> PolicySettings {
    PolicySettings {
        url: format!("https://{}", server.address).parse().unwrap(),
        interval: Duration::from_millis(2),
        timeout: Duration::from_secs(2),
        watch: true,
    }
}

#[tokio::test]
async fn a_server_of_cloud_foundrys_is_polled() {
    let shipped = Shipped::default();
    shipped.change(1, vec![entry("a", "b", 80)]);
    let says = shipped.clone();
    let server = Scripted::start(move |question| says.says(question)).await;
    let mut following = policies_with(often(&server), PolicyState::default());
    following.until(|state| words(state) == ["a to b tcp 80"]).await;
    assert_eq!(server.asked()[0], "policies?watch=0&timeout=0");
    shipped.change(2, vec![entry("a", "c", 81)]);
    following.until(|state| words(state) == ["a to c tcp 81"]).await;
    assert_eq!(following.state.borrow().generation, 0);
    assert_eq!(following.metric("sarcenet_agent_policies_watched"), 0);

    // As long as nothing moves the policies are not asked for.
    following.force().await.unwrap();
    let before = server.asked().len();
    while server.asked().len() < before + 5 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let asked = server.asked();
    let polled = asked[before..].iter().filter(|question| *question == "policies_last_updated");
    assert!(polled.count() >= 4, "{asked:?}");

    // Policies are those of the apps here; another app has them asked for at once.
    following.here(&["x", "y"], &["space"]);
    following.force().await.unwrap();
    assert!(server.asked().contains(&"policies?watch=0&timeout=0&id=x%2Cy".to_owned()));
}

#[tokio::test]
async fn policies_that_did_not_come_are_asked_for_again() {
    let shipped = Shipped::default();
    shipped.change(1, vec![entry("a", "b", 80)]);
    let says = shipped.clone();
    let server = Scripted::start(move |question| says.says(question)).await;
    let mut following = policies_with(often(&server), PolicyState::default());
    following.until(|state| words(state) == ["a to b tcp 80"]).await;
    following.force().await.unwrap();
    // The change is told of, and the policies fail once.
    let (says, failed) = (shipped.clone(), AtomicI64::new(0));
    server.says(move |question| {
        if question != "policies_last_updated" && failed.fetch_add(1, Ordering::SeqCst) == 0 {
            return Say::Text(500, r#"{"error": "database read failed"}"#.into());
        }
        says.says(question)
    });
    shipped.change(2, vec![entry("a", "c", 81)]);
    following.until(|state| words(state) == ["a to c tcp 81"]).await;
    let failures = r#"sarcenet_agent_follow_failures_total{what="policies",kind="status"}"#;
    assert_eq!(following.metric(failures), 1);
}

#[tokio::test]
async fn a_list_of_apps_that_is_too_long_for_a_url_is_not_sent() {
    let shipped = Shipped::default();
    let says = shipped.clone();
    let server = Scripted::start(move |question| says.says(question)).await;
    let mut following = policies_with(often(&server), PolicyState::default());
    following.until(|state| state.policies.is_some()).await;
    for (apps, listed) in [(1500, true), (2000, false)] {
        let names: Vec<String> = (0..apps).map(|n| format!("{n:036}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        following.here(&names, &[]);
        following.force().await.unwrap();
        let asked = server.asked();
        let last = asked.iter().rfind(|question| question.starts_with("policies?")).unwrap();
        assert_eq!(last.contains("&id="), listed, "{apps} apps");
        assert_eq!(last.matches("%2C").count(), if listed { apps - 1 } else { 0 });
    }
}

#[tokio::test]
async fn a_server_of_ours_in_the_place_of_another_is_watched() {
    let server = Scripted::start(|question| match question {
        "policies_last_updated" => Say::ok("5"),
        _ => shipped(&[entry("a", "b", 80)]),
    })
    .await;
    let mut following = policies_with(often(&server), PolicyState::default());
    following.here(&["a"], &[]);
    following.until(|state| words(state) == ["a to b tcp 80"]).await;
    server.says(|question| match question {
        "policies_last_updated" => Say::ok("6"),
        // What concerns app a, then everything.
        question if question.contains("id=a") => {
            Say::ok(json!({"generation": 7, "policies": [entry("a", "b", 80)]}).to_string())
        }
        question if question.contains("watch=0") => {
            let all = [entry("a", "b", 80), entry("c", "d", 81)];
            Say::ok(json!({"generation": 7, "policies": all}).to_string())
        }
        _ => Say::Nothing,
    });
    following.until(|state| state.generation == 7).await;
    assert_eq!(words(&following.state.borrow()), ["a to b tcp 80", "c to d tcp 81"]);
    assert_eq!(following.metric("sarcenet_agent_policies_watched"), 1);
}
