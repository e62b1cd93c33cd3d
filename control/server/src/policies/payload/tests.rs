//! What bodies mean: the table of contract section 1.4.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::policy::{Policy, Protocol};

fn policy(first_port: u32, last_port: u32) -> Policy {
    let (source, destination) = ("A".into(), "B".into());
    Policy { source, destination, protocol: Protocol::Tcp, first_port, last_port }
}

fn refusal(version: Version, body: &str) -> String {
    read(version, body.as_bytes()).unwrap_err().to_string()
}

/// A body of one policy, of which `change` replaces parts.
fn changed(version: Version, change: impl FnOnce(&mut Value)) -> String {
    let mut policy = match version {
        Version::V0 => {
            json!({"source": {"id": "A"}, "destination": {"id": "B", "protocol": "tcp", "port": 8080}})
        }
        Version::V1 => json!({
            "source": {"id": "A"},
            "destination": {"id": "B", "protocol": "tcp", "ports": {"start": 8080, "end": 8090}},
        }),
    };
    change(&mut policy);
    json!({ "policies": [policy] }).to_string()
}

#[test]
fn good_bodies_are_policies() {
    let v0 = changed(Version::V0, |_| {});
    assert_eq!(read(Version::V0, v0.as_bytes()), Ok(vec![policy(8080, 8080)]));
    let v1 = changed(Version::V1, |_| {});
    assert_eq!(read(Version::V1, v1.as_bytes()), Ok(vec![policy(8080, 8090)]));
    let high = changed(Version::V0, |p| p["destination"]["port"] = json!(70_000));
    assert_eq!(read(Version::V0, high.as_bytes()), Ok(vec![policy(70_000, 70_000)]));
    let odd = r#"{"x": [[{}]], "POLICIES": [{"Source": {"ID": "A", "tag": null, "q": 1},
        "destination": {"id": "B", "Protocol": "tcp", "ports": {"START": 1, "end": 65535}}}]}"#;
    assert_eq!(read(Version::V1, odd.as_bytes()), Ok(vec![policy(1, 65535)]));
}

#[test]
fn the_first_reason_is_told() {
    type Change = fn(&mut Value);
    let both: [(Change, &str); 8] = [
        (|p| p["source"]["id"] = json!(""), "missing source id"),
        (|p| p["source"] = json!(null), "missing source id"),
        (|p| *p = json!(null), "missing source id"),
        (|p| p["destination"]["id"] = json!(""), "missing destination id"),
        (
            |p| p["destination"]["protocol"] = json!("TCP"),
            "invalid destination protocol, specify either udp or tcp",
        ),
        (
            |p| p["destination"]["protocol"] = json!(null),
            "invalid destination protocol, specify either udp or tcp",
        ),
        (|p| p["source"]["tag"] = json!("0001"), "tags may not be specified"),
        (|p| p["destination"]["tag"] = json!("0001"), "tags may not be specified"),
    ];
    for (change, reason) in both {
        for version in [Version::V0, Version::V1] {
            let told = refusal(version, &changed(version, change));
            assert_eq!(told, format!("mapper: validate policies: {reason}"), "{version:?}");
        }
    }
    let ranges = [
        (9, 8, "invalid port range 9-8, start must be less than or equal to end"),
        (-2, -3, "invalid port range -2--3, start must be less than or equal to end"),
        (-1, 8, "invalid start port -1, must be in range 1-65535"),
        (0, 8, "missing start port"),
        (0, 0, "missing start port"),
        (0, 65536, "missing start port"),
        (1, 65536, "invalid end port 65536, must be in range 1-65535"),
        (i64::MIN, i64::MAX, "invalid start port -9223372036854775808, must be in range 1-65535"),
    ];
    for (start, end, reason) in ranges {
        let ports = json!({"start": start, "end": end});
        let told =
            refusal(Version::V1, &changed(Version::V1, |p| p["destination"]["ports"] = ports));
        assert_eq!(told, format!("mapper: validate policies: {reason}"));
    }
    for (port, reason) in [
        (-1, "invalid port -1, must be in range 1-65535"),
        (0, "missing port"),
        (1_i64 << 31, "invalid port 2147483648, must be in range 1-65535"),
    ] {
        let body = changed(Version::V0, |p| p["destination"]["port"] = json!(port));
        assert_eq!(refusal(Version::V0, &body), format!("mapper: validate policies: {reason}"));
    }
    // A body of version 0 where version 1 is expected.
    let told = refusal(Version::V1, &changed(Version::V0, |_| {}));
    assert_eq!(told, "mapper: validate policies: missing start port");
}

#[test]
fn of_several_bad_policies_the_first_is_told_and_none_is_left_out() {
    let policy = |id: &str, port: i64| json!({"source": {"id": id}, "destination": {"id": "B", "protocol": "tcp", "port": port}});
    let body = json!({"policies": [policy("A", 1), policy("A", 0), policy("", 1)]}).to_string();
    assert_eq!(refusal(Version::V0, &body), "mapper: validate policies: missing port");
    let body = json!({"policies": [policy("", 1), {"source": 7}]}).to_string();
    assert!(refusal(Version::V0, &body).starts_with("mapper: unmarshal json: "));
}

#[test]
fn what_is_no_list_of_policies_is_refused() {
    for body in ["{}", "null", r#"{"policies":[]}"#, r#"{"policies":null}"#, r#"{"other":1}"#] {
        let told = refusal(Version::V1, body);
        assert_eq!(told, "mapper: validate policies: missing policies", "{body}");
    }
    let deep = "[".repeat(100_000);
    let nested = format!(r#"{{"policies":{}"#, r#"[{"source":"#.repeat(10_000));
    for body in [
        "",
        "{",
        "[]",
        "7",
        r#""policies""#,
        "{} {}",
        r#"{"policies":{}}"#,
        r#"{"policies":"a"}"#,
        r#"{"policies":[7]}"#,
        r#"{"policies":[{"source":"A"}]}"#,
        r#"{"policies":[{"source":{"id":7}}]}"#,
        r#"{"policies":[{"destination":{"ports":{"start":"8080"}}}]}"#,
        r#"{"policies":[{"destination":{"ports":{"start":8080.5}}}]}"#,
        r#"{"policies":[{"destination":{"ports":{"start":1e99}}}]}"#,
        r#"{"policies":[{"destination":{"ports":[1,2]}}]}"#,
        &deep,
        &nested,
    ] {
        let told = refusal(Version::V1, body);
        let start: String = body.chars().take(60).collect();
        assert!(told.starts_with("mapper: unmarshal json: "), "{start}: {told}");
    }
}

#[test]
fn lists_are_written_as_shipped() {
    let policies = [policy(8080, 8080), policy(1, 9)];
    let text = |version| String::from_utf8(external(version, &policies).unwrap()).unwrap();
    assert_eq!(
        text(Version::V0),
        concat!(
            r#"{"total_policies":1,"policies":[{"source":{"id":"A"},"#,
            r#""destination":{"id":"B","protocol":"tcp","port":8080}}]}"#
        )
    );
    assert_eq!(
        text(Version::V1),
        concat!(
            r#"{"total_policies":2,"policies":[{"source":{"id":"A"},"#,
            r#""destination":{"id":"B","protocol":"tcp","ports":{"start":8080,"end":8080}}},"#,
            r#"{"source":{"id":"A"},"#,
            r#""destination":{"id":"B","protocol":"tcp","ports":{"start":1,"end":9}}}]}"#
        )
    );
}

fn any_policy() -> impl Strategy<Value = Policy> {
    ("\\PC{1,12}", "\\PC{1,12}", any::<bool>(), 1..=65535u32, 1..=65535u32).prop_map(
        |(source, destination, tcp, a, b)| {
            let protocol = if tcp { Protocol::Tcp } else { Protocol::Udp };
            Policy { source, destination, protocol, first_port: a.min(b), last_port: a.max(b) }
        },
    )
}

/// JSON that is nearly what is wanted.
fn any_json() -> impl Strategy<Value = Value> {
    let key = prop_oneof![
        Just("policies"),
        Just("source"),
        Just("destination"),
        Just("id"),
        Just("TAG"),
        Just("protocol"),
        Just("ports"),
        Just("port"),
        Just("start"),
        Just("end"),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "tcp|udp|[a-z]{0,3}".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 6, move |inner| {
        let object =
            proptest::collection::vec((key.clone(), inner.clone()), 0..6).prop_map(|fields| {
                fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect::<Value>()
            });
        prop_oneof![proptest::collection::vec(inner, 0..4).prop_map(Value::from), object]
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read(policies in proptest::collection::vec(any_policy(), 1..20)) {
        let body = external(Version::V1, &policies).unwrap();
        prop_assert_eq!(read(Version::V1, &body), Ok(policies.clone()));
        let single: Vec<Policy> =
            policies.iter().map(|p| Policy { last_port: p.first_port, ..p.clone() }).collect();
        let body = external(Version::V0, &single).unwrap();
        prop_assert_eq!(read(Version::V0, &body), Ok(single));
    }

    #[test]
    fn no_json_does_harm(value in any_json()) {
        for version in [Version::V0, Version::V1] {
            for body in [value.clone(), json!({ "policies": value })] {
                if let Ok(policies) = read(version, body.to_string().as_bytes()) {
                    prop_assert!(!policies.is_empty());
                    for policy in policies {
                        prop_assert!(0 < policy.first_port && policy.first_port <= policy.last_port);
                        prop_assert!(!policy.source.is_empty() && !policy.destination.is_empty());
                    }
                }
            }
        }
    }

    #[test]
    fn no_bytes_do_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        for version in [Version::V0, Version::V1] {
            prop_assert!(read(version, &bytes).is_err());
        }
    }
}
