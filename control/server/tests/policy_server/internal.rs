//! Contract section 2, row by row.

use sarcenet_server::policy::SecurityGroup;
use serde_json::json;

use crate::world::{Backend, World, short, with_both};

with_both!(
    policies_have_tags,
    policies_are_found_by_either_end_however_many_ids_there_are,
    every_change_has_a_later_moment,
    tags_are_given_once,
    security_groups_come_in_pages,
);

const POLICIES: &str = "/networking/v1/internal/policies";
const GROUPS: &str = "/networking/v1/internal/security_groups";
const TAGS: &str = "/networking/v1/internal/tags";

async fn policies_have_tags(on: Backend) {
    let world = World::new(on).await;
    let answer = world.cell("GET", POLICIES, "").await;
    assert_eq!(answer.body, r#"{"total_policies":0,"policies":[]}"#);
    world.create(&[("A", "B", 8080, 8080)]).await;
    for version in ["v1", "v0", "v7", "anything"] {
        let answer =
            world.cell("GET", &format!("/networking/{version}/internal/policies"), "").await;
        assert_eq!(answer.status, 200);
        assert_eq!(
            answer.body,
            concat!(
                r#"{"total_policies":1,"policies":[{"source":{"id":"A","tag":"0001"},"#,
                r#""destination":{"id":"B","tag":"0002","protocol":"tcp","#,
                r#""ports":{"start":8080,"end":8080}}}]}"#
            )
        );
        assert_eq!(answer.header("strict-transport-security"), Some("max-age=31536000"));
        assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
        assert_eq!(answer.header("x-vcap-request-id").map(str::len), Some(36));
    }
}

async fn policies_are_found_by_either_end_however_many_ids_there_are(on: Backend) {
    let world = World::new(on).await;
    world.create(&[("a", "b", 1, 1), ("b", "c", 2, 2), ("c", "d", 3, 3)]).await;
    let many: Vec<String> = (0..1500).map(|n| format!("{n:036}")).collect();
    let long = format!("?id={},b,{}", many[..750].join(","), many[750..].join(","));
    assert!(long.len() > 55_000);
    for (query, expected) in [
        ("?id=a", vec!["a b 1-1"]),
        ("?id=b", vec!["a b 1-1", "b c 2-2"]),
        ("?id=d,a", vec!["a b 1-1", "c d 3-3"]),
        ("?id=", vec![]),
        ("?source_id=a", vec!["a b 1-1", "b c 2-2", "c d 3-3"]),
        (&*long, vec!["a b 1-1", "b c 2-2"]),
    ] {
        let answer = world.cell("GET", &format!("{POLICIES}{query}"), "").await.json();
        let mut found: Vec<String> =
            answer["policies"].as_array().unwrap().iter().map(short).collect();
        found.sort();
        assert_eq!(found, expected, "{query:.40}");
        assert_eq!(answer["total_policies"], expected.len());
    }
}

async fn every_change_has_a_later_moment(on: Backend) {
    let world = World::new(on).await;
    let moment = async || -> i64 {
        let answer = world.cell("GET", &format!("{POLICIES}_last_updated"), "").await;
        assert_eq!(answer.status, 200);
        answer.body.parse().unwrap()
    };
    let mut last = moment().await;
    assert!(last > 1_700_000_000_000_000_000, "{last} nanoseconds since the epoch");
    assert_eq!(moment().await, last);
    world.create(&[("a", "b", 1, 1)]).await;
    for delete in [false, true, true, false] {
        // The second of each changes nothing.
        let before = last;
        if delete {
            world.delete(&[("a", "b", 1, 1)]).await;
        } else {
            world.create(&[("a", "b", 1, 1)]).await;
        }
        last = moment().await;
        assert!(last > before);
    }
}

async fn tags_are_given_once(on: Backend) {
    let world = World::new(on).await;
    let router = r#"{"id":"INGRESS_ROUTER","tag":"0001","type":"router"}"#;
    let failed = r#"{"error": "database create failed"}"#;
    let malformed = r#"{"error": "failed parsing request body"}"#;
    for (body, status, expected) in [
        (r#"{"id":"INGRESS_ROUTER","type":"router"}"#, 200, router),
        (r#"{"ID":"INGRESS_ROUTER","Type":"router"}"#, 200, router),
        (r#"{"id":"INGRESS_ROUTER","type":"other"}"#, 500, failed),
        (
            r#"{"id":"second","type":"router"}"#,
            200,
            r#"{"id":"second","tag":"0002","type":"router"}"#,
        ),
        ("{}", 200, r#"{"id":"","tag":"0003","type":""}"#),
        ("", 400, malformed),
        ("[", 400, malformed),
        (r#"{"id":7}"#, 400, malformed),
        (r#"[{"id":"a"}]"#, 400, malformed),
    ] {
        let answer = world.cell("PUT", TAGS, body).await;
        assert_eq!((answer.status, answer.body.as_str()), (status, expected), "{body}");
    }
    let long = "x".repeat((10 << 20) + 1);
    let answer = world.cell("PUT", TAGS, &long).await;
    let unread = r#"{"error": "failed reading request body"}"#;
    assert_eq!((answer.status, answer.body.as_str()), (400, unread));
    assert_eq!(world.cell("PUT", "/networking/v0/internal/tags", "{}").await.status, 404);
    assert_eq!(world.cell("POST", TAGS, "{}").await.status, 405);
    assert_eq!(world.cell("GET", "/networking/v1/internal/healthcheck", "").await.status, 404);
}

fn group(guid: &str, running_default: bool, running: &[&str], staging: &[&str]) -> SecurityGroup {
    let list = |spaces: &[&str]| spaces.iter().map(ToString::to_string).collect();
    SecurityGroup {
        row: 0,
        guid: guid.into(),
        name: format!("name of {guid}"),
        rules: r#"[{"protocol":"all","destination":"0.0.0.0/0","description":"ä/☂𝄞"}]"#.into(),
        staging_default: false,
        running_default,
        staging_spaces: list(staging),
        running_spaces: list(running),
    }
}

async fn security_groups_come_in_pages(on: Backend) {
    let world = World::new(on).await;
    let moment = async || -> i64 {
        world.cell("GET", &format!("{GROUPS}_last_updated"), "").await.body.parse().unwrap()
    };
    assert_eq!(world.cell("GET", GROUPS, "").await.body, r#"{"next":0,"security_groups":[]}"#);
    let before = moment().await;
    let groups = [
        group("everywhere", true, &[], &[]),
        group("one", false, &["S1"], &["S2"]),
        group("two", false, &["S3"], &[]),
        group("nowhere", false, &[], &[]),
    ];
    world.database.replace_security_groups(&groups).await.unwrap();
    assert!(moment().await > before);
    let answer = world.cell("GET", GROUPS, "").await;
    assert_eq!(
        answer.body,
        concat!(
            r#"{"next":0,"security_groups":[{"guid":"everywhere","name":"name of everywhere","#,
            r#""rules":"[{\"protocol\":\"all\",\"destination\":\"0.0.0.0/0\","#,
            r#"\"description\":\"ä/☂𝄞\"}]","staging_default":false,"running_default":true,"#,
            r#""staging_space_guids":[],"running_space_guids":[]}]}"#
        ),
        "without the escapes that shipped clients cannot read"
    );
    for (query, expected) in [
        ("?space_guids=S1", "everywhere one"),
        ("?space_guids=S2", "everywhere one"),
        ("?space_guids=S1,S3", "everywhere one two"),
        ("?space_guids=S1,S3&per_page=1", "everywhere one two"),
        ("?space_guids=S1,S3&limit=0", "everywhere one two"),
        ("?space_guids=S1,S3&limit=3", "everywhere one two"),
        ("?space_guids=", "everywhere"),
        ("?space_guids=S1&from=9999", ""),
    ] {
        let answer = world.cell("GET", &format!("{GROUPS}{query}"), "").await.json();
        let guids: Vec<&str> = answer["security_groups"]
            .as_array()
            .unwrap()
            .iter()
            .map(|group| group["guid"].as_str().unwrap())
            .collect();
        assert_eq!((guids.join(" ").as_str(), &answer["next"]), (expected, &json!(0)), "{query}");
    }
    // From page to page.
    let (mut from, mut guids) = (0, Vec::new());
    loop {
        let path = format!("{GROUPS}?space_guids=S1,S3&limit=1&from={from}");
        let answer = world.cell("GET", &path, "").await.json();
        guids.push(answer["security_groups"][0]["guid"].as_str().unwrap().to_owned());
        from = answer["next"].as_i64().unwrap();
        if from == 0 {
            break;
        }
    }
    assert_eq!(guids, ["everywhere", "one", "two"]);
    for (query, name) in
        [("?from=x", "from"), ("?limit=1.5", "limit"), ("?from=1&limit=z", "limit")]
    {
        let answer = world.cell("GET", &format!("{GROUPS}{query}"), "").await;
        let told = format!(r#"{{"error": "invalid value for '{name}' parameter"}}"#);
        assert_eq!((answer.status, answer.body), (500, told), "{query}");
    }
}
