//! Servers that are wrong: what was in force stays, and each shows in the metrics.

use sarcenet_control::follow::policies::PolicyState;
use serde_json::json;

use super::world::{Ours, Say, Scripted, groups, policies, words};

/// What a policy server can do wrong, and what that is counted as.
fn wrongs() -> Vec<(Say, &'static str)> {
    let entry = |tag: &str| {
        json!({"source": {"id": "a", "tag": "0001"}, "destination":
            {"id": "b", "tag": tag, "protocol": "tcp", "ports": {"start": 80, "end": 80}}})
    };
    let contradiction = json!({"generation": 9, "policies": [entry("0002"), entry("0001")]});
    let misfit = json!({"generation": 9, "since": 7, "added": [], "removed": [entry("0002")]});
    vec![
        (Say::ok("<html>it works</html>"), "garbage"),
        (Say::ok("{}"), "garbage"),
        (Say::ok(r#"{"total_policies":2,"policies":[]}"#), "garbage"),
        (Say::ok(contradiction.to_string()), "garbage"),
        (Say::ok(misfit.to_string()), "misfit"),
        (Say::Text(500, r#"{"error": "database read failed"}"#.into()), "status"),
        (Say::Text(302, "elsewhere".into()), "status"),
        (Say::Busy(3600), "busy"),
        (Say::Half(r#"{"generation":9,"policies":["#), "unreachable"),
        (Say::Nothing, "slow"),
        (Say::Endless, "too_large"),
    ]
}

#[tokio::test]
async fn whatever_a_server_does_the_policies_stay() {
    let ours = Ours::start().await;
    ours.allow(&[("x", "y", 443)]).await;
    let mut following = policies(ours.address, PolicyState::default());
    following.until(|state| words(state) == ["x to y tcp 443"]).await;
    let known = following.state.borrow().clone();
    drop(following);
    for (say, kind) in wrongs() {
        let bad = say.clone();
        let server = Scripted::start(move |_| bad.clone()).await;
        let following = policies(server.address, known.clone());
        let error = following.force().await.unwrap_err();
        assert!(!error.is_empty());
        let failures =
            format!("sarcenet_agent_follow_failures_total{{what=\"policies\",kind=\"{kind}\"}}");
        assert!(following.metric(&failures) >= 1, "{kind}: {error}");
        assert_eq!(words(&following.state.borrow()), ["x to y tcp 443"], "{kind}");

        // It comes to its senses.
        let good = json!({"generation": 9, "policies": []}).to_string();
        server.says(move |_| Say::ok(good.clone()));
        following.force().await.unwrap();
        assert!(words(&following.state.borrow()).is_empty(), "{kind}");
    }
}

#[tokio::test]
async fn nobody_there_and_a_foreign_one_are_told_apart_from_good_ones() {
    let mut ours = Ours::start().await;
    ours.go().await;
    let following = policies(ours.address, PolicyState::default());
    let error = following.force().await.unwrap_err();
    assert!(error.contains("cannot be reached; is it up"), "{error}");
    ours.come().await;
    following.force().await.unwrap();
}

#[tokio::test]
async fn whatever_a_server_does_the_groups_stay() {
    let group = |guid: &str| json!({"guid": guid, "name": guid, "rules": "[]"});
    let good = |guid: &str| json!({"next": 0, "security_groups": [group(guid)]}).to_string();
    let endless_pages = json!({"next": 1, "security_groups": [group("x")]}).to_string();
    let more = [
        (Say::ok(r#"{"next":0}"#), "garbage"),
        (Say::ok(r#"{"next":-1,"security_groups":[]}"#), "garbage"),
        (Say::ok(endless_pages), "garbage"),
    ];
    let of_policies = |say: &Say| matches!(say, Say::Text(200, text) if text.contains("polic") || text.contains("since"));
    for (say, kind) in wrongs().into_iter().filter(|(say, _)| !of_policies(say)).chain(more) {
        let first = good("first");
        let server = Scripted::start(move |question| match question {
            question if question.starts_with("security_groups_last_updated") => {
                Say::Text(404, "404 page not found".into())
            }
            _ => Say::ok(first.clone()),
        })
        .await;
        let mut following = groups(server.address);
        following.until(|state| state.groups.is_some()).await;
        let (first, bad) = (following.state.borrow().groups.clone(), say.clone());
        server.says(move |question| match question {
            question if question.starts_with("security_groups_last_updated") => {
                Say::Text(404, "404 page not found".into())
            }
            _ => bad.clone(),
        });
        let error = following.force().await.unwrap_err();
        let failures = format!(
            "sarcenet_agent_follow_failures_total{{what=\"security_groups\",kind=\"{kind}\"}}"
        );
        assert!(following.metric(&failures) >= 1, "{kind}: {error}");
        assert_eq!(following.state.borrow().groups, first, "{kind}");
        let second = good("second");
        server.says(move |question| match question {
            question if question.starts_with("security_groups_last_updated") => {
                Say::Text(404, "404 page not found".into())
            }
            _ => Say::ok(second.clone()),
        });
        following.force().await.unwrap();
        let names: Vec<_> = following
            .state
            .borrow()
            .groups
            .as_ref()
            .unwrap()
            .groups
            .iter()
            .map(|group| group.name.clone())
            .collect();
        assert_eq!(names, ["second"], "{kind}");
    }
}

/// What is no answer to whether groups have changed.
#[tokio::test]
async fn whatever_a_server_says_of_changes_the_groups_stay() {
    let group = json!({"guid": "first", "name": "first", "rules": "[]"});
    let page = json!({"next": 0, "security_groups": [group]}).to_string();
    for (say, kind) in [
        (Say::ok("soon"), "garbage"),
        (Say::ok(""), "garbage"),
        (Say::ok("1.5"), "garbage"),
        (Say::ok(r#"{"generation":7}"#), "garbage"),
        (Say::ok(r#"{"generation":"7","changed":true}"#), "garbage"),
        (Say::ok(r#"{"next":0,"security_groups":[]}"#), "garbage"),
        (Say::Text(500, r#"{"error": "database read failed"}"#.into()), "status"),
        (Say::Busy(3600), "busy"),
        (Say::Nothing, "slow"),
    ] {
        let page = page.clone();
        let good = move |question: &str| {
            if question.starts_with("security_groups_last_updated?watch=0&") {
                Say::ok(r#"{"generation":7,"changed":true}"#)
            } else if question.starts_with("security_groups_last_updated") {
                Say::Nothing
            } else {
                Say::ok(page.clone())
            }
        };
        let server = Scripted::start(good.clone()).await;
        let mut following = groups(server.address);
        following.until(|state| state.groups.is_some()).await;
        let before = following.state.borrow().groups.clone();
        let bad = say.clone();
        server.says(move |_| bad.clone());
        let error = following.force().await.unwrap_err();
        let failures = format!(
            "sarcenet_agent_follow_failures_total{{what=\"security_groups\",kind=\"{kind}\"}}"
        );
        assert!(following.metric(&failures) >= 1, "{say:?}: {error}");
        assert_eq!(following.state.borrow().groups, before, "{say:?}");
        assert!(following.state.borrow().problem.is_some(), "{say:?}");
        server.says(good);
        following.force().await.unwrap();
        assert_eq!(following.state.borrow().problem, None, "{say:?}");
    }
}
