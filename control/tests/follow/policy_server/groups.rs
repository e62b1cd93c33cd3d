//! Following security groups.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sarcenet_control::follow::groups::GroupState;
use sarcenet_server::policy::SecurityGroup;
use serde_json::json;

use super::world::{Ours, Say, Scripted, groups, groups_every};

fn group(name: &str, spaces: &[&str]) -> SecurityGroup {
    SecurityGroup {
        row: 0,
        guid: format!("guid-of-{name}"),
        name: name.into(),
        rules: r#"[{"protocol":"tcp","destination":"10.0.0.0/8","ports":"443"}]"#.into(),
        staging_default: false,
        running_default: spaces.is_empty(),
        staging_spaces: Vec::new(),
        running_spaces: spaces.iter().map(ToString::to_string).collect(),
    }
}

fn names(state: &GroupState) -> Vec<String> {
    let groups = state.groups.as_ref();
    groups.map_or_else(Vec::new, |groups| {
        groups.groups.iter().map(|group| group.name.clone()).collect()
    })
}

#[tokio::test]
async fn groups_are_those_of_the_spaces_here() {
    let server = Ours::start().await;
    let all = [group("public", &[]), group("of-s", &["s"]), group("of-t", &["t", "u"])];
    server.database.replace_security_groups(&all).await.unwrap();
    let mut following = groups(server.address);
    following.until(|state| names(state) == ["public"]).await;
    // A container of another space has them asked for at once.
    following.here(&[], &["t"]);
    following.until(|state| names(state) == ["public", "of-t"]).await;
    following.here(&[], &["s", "t"]);
    following.until(|state| names(state) == ["public", "of-s", "of-t"]).await;
    let rules: Vec<_> = following
        .state
        .borrow()
        .groups
        .as_ref()
        .unwrap()
        .groups
        .iter()
        .map(|group| group.rules.len())
        .collect();
    assert_eq!(rules, [1, 1, 1]);
    // What changes is there when it is asked for, too.
    server.database.replace_security_groups(&all[..2]).await.unwrap();
    following.force().await.unwrap();
    assert_eq!(names(&following.state.borrow()), ["public", "of-s"]);
}

#[tokio::test]
async fn groups_come_page_by_page_and_only_when_they_have_changed() {
    let page = |next: i64, name: &str| {
        let group = json!({"guid": name, "name": name, "rules": "[]"});
        Say::ok(json!({"next": next, "security_groups": [group]}).to_string())
    };
    let server = Scripted::start(move |question| {
        if question.starts_with("security_groups_last_updated") {
            Say::ok("5")
        } else if question.contains("from=0") {
            page(7, "one")
        } else if question.contains("from=7") {
            page(9, "two")
        } else {
            page(0, "three")
        }
    })
    .await;
    let mut following = groups(server.address);
    following.until(|state| names(state) == ["one", "two", "three"]).await;
    let page =
        |from: u32| format!("security_groups?per_page=5000&limit=5000&from={from}&space_guids=");
    let watch =
        |since: u32| format!("security_groups_last_updated?watch={since}&timeout=0&space_guids=");
    let asked = [watch(0), page(0), page(7), page(9)];
    assert_eq!(server.asked(), asked);
    // Containers of no other space: nothing to ask. Of another one: all of it again.
    following.here(&["app"], &[]);
    following.here(&["app"], &["s"]);
    let with_space = |from| format!("{}s", page(from));
    while server.asked().len() < 7 {
        tokio::task::yield_now().await;
    }
    assert_eq!(server.asked()[4..], [with_space(0), with_space(7), with_space(9)]);
}

#[tokio::test]
async fn a_change_is_here_without_being_asked_for() {
    let mut server = Ours::start().await;
    let all = [group("public", &[]), group("of-s", &["s"]), group("of-t", &["t"])];
    server.database.replace_security_groups(&all).await.unwrap();
    let mut following = groups(server.address);
    following.here(&[], &["s"]);
    following.until(|state| names(state) == ["public", "of-s"]).await;
    server.database.replace_security_groups(&all[..1]).await.unwrap();
    following.until(|state| names(state) == ["public"]).await;
    assert_eq!(following.metric("sarcenet_agent_security_groups_watched"), 1);
    // A container of another space comes while changes are waited for.
    server.database.replace_security_groups(&all).await.unwrap();
    following.until(|state| names(state) == ["public", "of-s"]).await;
    following.here(&[], &["t"]);
    following.until(|state| names(state) == ["public", "of-t"]).await;

    // While the server is away all stays, and what changed meanwhile is here when it is back.
    server.go().await;
    following.until(|state| state.problem.is_some()).await;
    assert_eq!(names(&following.state.borrow()), ["public", "of-t"]);
    server.database.replace_security_groups(&all[1..]).await.unwrap();
    server.come().await;
    following.until(|state| names(state) == ["of-t"]).await;
    following.until(|state| state.problem.is_none()).await;
}

#[tokio::test]
async fn a_server_that_is_back_with_the_same_groups_is_not_read_again() {
    let mut first = true;
    let server = Scripted::start(move |question| {
        if question.starts_with("security_groups?") {
            Say::ok(r#"{"next":0,"security_groups":[]}"#)
        } else if question.contains("watch=0&") {
            Say::ok(r#"{"generation":7,"changed":true}"#)
        } else if question.contains("timeout=0") {
            Say::ok(r#"{"generation":7,"changed":false}"#)
        } else if std::mem::take(&mut first) {
            Say::Text(500, r#"{"error": "database read failed"}"#.into())
        } else {
            Say::Nothing
        }
    })
    .await;
    let _following = groups(server.address);
    while server.asked().len() < 5 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let watch = |since: u32, wait: u32| {
        format!("security_groups_last_updated?watch={since}&timeout={wait}&space_guids=")
    };
    let read = "security_groups?per_page=5000&limit=5000&from=0&space_guids=".to_owned();
    assert_eq!(server.asked(), [watch(0, 0), read, watch(7, 30), watch(7, 0), watch(7, 30)]);
}

#[tokio::test]
async fn a_server_of_cloud_foundrys_is_polled() {
    let groups_now = Arc::new(Mutex::new((5, "one")));
    let says = Arc::clone(&groups_now);
    let server = Scripted::start(move |question| {
        let (moment, name) = *says.lock();
        if question.starts_with("security_groups_last_updated") {
            return Say::ok(moment.to_string());
        }
        let group = json!({"guid": name, "name": name, "rules": "[]"});
        Say::ok(json!({"next": 0, "security_groups": [group]}).to_string())
    })
    .await;
    let mut following = groups_every(Duration::from_millis(2), server.address);
    following.until(|state| names(state) == ["one"]).await;
    *groups_now.lock() = (6, "two");
    following.until(|state| names(state) == ["two"]).await;
    assert_eq!(following.metric("sarcenet_agent_security_groups_watched"), 0);
    let read = server.asked().iter().filter(|asked| asked.starts_with("security_groups?")).count();
    assert_eq!(read, 2);
}
