//! Following security groups.

use sarcenet_control::follow::groups::GroupState;
use sarcenet_server::policy::SecurityGroup;
use serde_json::json;

use super::world::{Ours, Say, Scripted, groups};

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
    // What changes is there when it is asked for.
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
        if question == "security_groups_last_updated" {
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
    let asked = ["security_groups_last_updated".to_owned(), page(0), page(7), page(9)];
    assert_eq!(server.asked(), asked);
    // Containers of no other space: nothing to ask. Of another one: all of it again.
    following.here(&["app"], &[]);
    following.here(&["app"], &["s"]);
    let with_space = |from| format!("{}s", page(from));
    let more =
        ["security_groups_last_updated".to_owned(), with_space(0), with_space(7), with_space(9)];
    while server.asked().len() < 8 {
        tokio::task::yield_now().await;
    }
    assert_eq!(server.asked()[4..], more);
}
