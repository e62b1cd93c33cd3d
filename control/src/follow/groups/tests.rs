//! What servers say of security groups.

use sarcenet_agent_api::AddressRange;
use sarcenet_dataplane_api::{MAX_EGRESS_RULES, Traffic};
use serde_json::{Value, json};

use super::*;

fn text(name: &str, rules: &Value) -> GroupText {
    GroupText {
        guid: format!("guid-of-{name}"),
        name: name.into(),
        rules: rules.to_string(),
        ..GroupText::default()
    }
}

fn rule(change: impl FnOnce(&mut Value)) -> Value {
    let mut rule = json!({"protocol": "tcp", "destination": "10.0.0.0-10.0.0.9", "ports": "443",
        "type": 0, "code": 0, "description": "", "log": false});
    change(&mut rule);
    rule
}

#[test]
fn groups_are_read_as_shipped() {
    let body = concat!(
        r#"{"next":0,"security_groups":[{"guid":"G","name":"public_networks","#,
        r#""rules":"[{\"protocol\":\"all\",\"destination\":\"0.0.0.0-9.255.255.255\","#,
        r#"\"ports\":\"\",\"type\":0,\"code\":0,\"description\":\"\",\"log\":false}]","#,
        r#""staging_default":true,"running_default":true,"staging_space_guids":[],"#,
        r#""running_space_guids":["SPACE"]}]}"#
    );
    let Page { next: 0, security_groups: Some(GroupList(texts)) } =
        answer::read(body.as_bytes()).unwrap()
    else {
        panic!("{body}");
    };
    let Converted { groups, left_out, first } = convert(&texts);
    assert_eq!((left_out, first), (0, None));
    let group = &groups[0];
    assert_eq!(group.name, "public_networks");
    assert!(group.running_default && group.staging_default);
    assert!(group.spaces.contains("SPACE") && group.staging_spaces.is_empty());
    assert_eq!(group.rules[0].traffic, [Traffic::All]);
    let last = [9, 255, 255, 255].into();
    let everywhere = AddressRange { first: [0, 0, 0, 0].into(), last };
    assert_eq!(group.rules[0].destinations, [everywhere]);
}

#[test]
fn a_rule_that_makes_no_sense_opens_nothing_and_leaves_the_others_alone() {
    type Change = fn(&mut Value);
    let table: [(Change, &str); 9] = [
        (|r| r["protocol"] = json!("gre"), "protocol `gre` is not known"),
        (|r| r["protocol"] = json!(6), "invalid type"),
        (|r| r["destination"] = json!("everywhere"), "destination `everywhere` is not"),
        (|r| r["destination"] = json!("::/0"), "is one of IPv6"),
        (|r| r["destination"] = json!(null), "it has no destination"),
        (|r| r["ports"] = json!(""), "a rule for tcp needs ports"),
        (|r| r["ports"] = json!(443), "invalid type"),
        (|r| r["type"] = json!(8), "cannot have an ICMP type"),
        (|r| *r = json!("allow all"), "invalid type"),
    ];
    for (change, reason) in table {
        let group = text("g", &json!([rule(change), rule(|_| {})]));
        let Converted { groups, left_out, first } = convert(&[group]);
        assert_eq!(left_out, 1, "{reason}");
        let first = first.unwrap();
        assert!(first.starts_with("security group g, rule 1: "), "{first}");
        assert!(first.contains(reason), "{first}");
        // The second rule is still number 2.
        let [bad, good] = &*groups[0].rules else { panic!("{groups:?}") };
        assert!(bad.destinations.is_empty() && bad.traffic.is_empty());
        assert_eq!((good.destinations.len(), good.traffic.len()), (1, 1));
    }
}

#[test]
fn rules_that_are_no_list_open_nothing() {
    for rules in ["{", "{}", "7", "[", "[{}", "\"x\""] {
        let group = GroupText { rules: rules.into(), ..text("g", &Value::Null) };
        let converted = convert(&[group, text("h", &json!([rule(|_| {})]))]);
        assert_eq!(converted.left_out, 1, "{rules}");
        assert!(converted.first.unwrap().starts_with("security group g, its rules: "), "{rules}");
        assert!(converted.groups[0].rules.is_empty(), "{rules}");
        assert_eq!(converted.groups[1].rules.len(), 1, "{rules}");
    }
    for none in ["", " ", "null", "[]"] {
        let group = GroupText { rules: none.into(), ..text("g", &Value::Null) };
        assert_eq!((convert(&[group]).left_out), 0, "{none:?}");
    }
}

#[test]
fn no_more_rules_than_the_dataplane_takes() {
    let many = vec!["10.0.0.1"; MAX_EGRESS_RULES - 1].join(",");
    let big = text("big", &json!([rule(|r| r["destination"] = json!(many))]));
    let two = text("two", &json!([rule(|r| r["ports"] = json!("1,2")), rule(|_| {})]));
    let Converted { groups, left_out, first } = convert(&[big, two]);
    assert_eq!(left_out, 1);
    assert!(first.unwrap().contains("security group two, rule 1: it is beyond the"));
    let sizes: Vec<_> = groups
        .iter()
        .flat_map(|group| &group.rules)
        .map(|rule| rule.destinations.len() * rule.traffic.len())
        .collect();
    assert_eq!(sizes, [MAX_EGRESS_RULES - 1, 0, 1]);
}

#[test]
fn answers_without_groups_are_none() {
    for body in [
        "",
        "[]",
        "{",
        r#"{"security_groups":{}}"#,
        r#"{"security_groups":[{}]}"#,
        r#"{"security_groups":[{"name":"no guid"}]}"#,
        r#"{"security_groups":[null]}"#,
        r#"{"next":"x","security_groups":[]}"#,
    ] {
        assert!(answer::read(body.as_bytes()).is_err(), "{body}");
    }
    assert_eq!(answer::read(b"{}").unwrap().security_groups, None);
}

#[test]
fn lists_of_spaces_fit_a_url() {
    assert_eq!(lists(&BTreeSet::new()), [""]);
    let spaces: BTreeSet<String> = ["b", "a"].map(str::to_owned).into();
    assert_eq!(lists(&spaces), ["a,b"]);
    let spaces: BTreeSet<String> = (0..2000).map(|n| format!("{n:036}")).collect();
    let lists = lists(&spaces);
    assert_eq!(lists.len(), 4);
    let server = "https://policy-server.service.cf.internal:4003".parse().unwrap();
    for list in &lists {
        let query = [("per_page", PAGE), ("limit", PAGE), ("space_guids", list)];
        let url = resource(&server, &["networking", "v1", "internal", "security_groups"], &query);
        assert!(url.as_str().len() < 65_534, "{}", url.as_str().len());
    }
    let all: BTreeSet<_> =
        lists.iter().flat_map(|list| list.split(',')).map(str::to_owned).collect();
    assert_eq!(all, spaces);
}
