//! Calls that succeed.

use std::net::Ipv4Addr;

use sarcenet_agent_api::{Attach, AttachKind, AttachmentId, ErrorCode, Reply, Request};
use serde_json::{Value, json};

use crate::Call;
use crate::agent::{Agent, nobody, obliging};

fn c1() -> AttachmentId {
    AttachmentId { container: "c1".to_owned(), ifname: "eth0".to_owned() }
}

#[test]
fn add_prints_what_the_agent_made() {
    let agent = Agent::start(obliging);
    let result = |version: &str| -> Value {
        let call = Call::new("ADD", &agent.socket()).netconf(&json!({"cniVersion": version}));
        serde_json::from_str(&call.succeeds()).unwrap()
    };
    let mut expected = json!({
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "eth0", "mtu": 1450, "sandbox": "/proc/self/ns/net"}],
        "ips": [{"address": "10.255.55.2/32", "interface": 0}],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dns": {},
    });
    assert_eq!(result("1.1.0"), expected);
    // Interfaces have an MTU since 1.1.0.
    expected["cniVersion"] = json!("1.0.0");
    expected["interfaces"] = json!([{"name": "eth0", "sandbox": "/proc/self/ns/net"}]);
    assert_eq!(result("1.0.0"), expected);
}

#[test]
fn a_veth_is_asked_for_and_printed_with_both_ends() {
    let agent = Agent::start(obliging);
    let result = |version: &str| -> Value {
        let patch = json!({"cniVersion": version, "attach": "veth"});
        let call = Call::new("ADD", &agent.socket()).netconf(&patch);
        serde_json::from_str(&call.succeeds()).unwrap()
    };
    let container = "/proc/self/ns/net";
    let mut expected = json!({
        "cniVersion": "1.0.0",
        "interfaces": [
            {"name": "s-010255055002", "mac": "aa:aa:0a:ff:37:02"},
            {"name": "eth0", "mac": "ee:ee:0a:ff:37:02", "sandbox": container},
        ],
        "ips": [{"address": "10.255.55.2/32", "gateway": "169.254.0.1", "interface": 1}],
        "routes": [{"dst": "0.0.0.0/0", "gw": "169.254.0.1"}],
        "dns": {},
    });
    assert_eq!(result("1.0.0"), expected);
    expected["cniVersion"] = json!("1.1.0");
    expected["interfaces"][0]["mtu"] = json!(1450);
    expected["interfaces"][1]["mtu"] = json!(1450);
    assert_eq!(result("1.1.0"), expected);
    let veth = |(request, _): &(Request, usize)| {
        matches!(request, Request::Add(Attach { kind: AttachKind::Veth, .. }))
    };
    assert!(agent.asked().iter().all(veth));
    Call::new("ADD", &agent.socket()).netconf(&json!({"attach": "bridge"})).fails(6, "bridge");
}

#[test]
fn add_tells_the_agent_container_namespace_and_app() {
    let labels_list = json!({"args": {"cni": {"labels": [
        {"key": "org", "value": "o"},
        {"key": "app", "value": "from-list"},
    ]}}});
    let labels_map = json!({"args": {"cni": {"labels": {"app": "from-map"}}}});
    let both = json!({"metadata": {"policy_group_id": "guid"}, "args": labels_map["args"]});
    let table = [
        (json!({}), None),
        (json!({"metadata": {"policy_group_id": "guid", "space_id": "s"}}), Some("guid")),
        (json!({"metadata": {"policy_group_id": ""}}), None),
        (labels_list, Some("from-list")),
        (labels_map, Some("from-map")),
        (both, Some("guid")),
    ];
    for (patch, app) in table {
        let agent = Agent::start(obliging);
        Call::new("ADD", &agent.socket()).netconf(&patch).succeeds();
        let wish = Attach {
            id: c1(),
            netns_path: "/proc/self/ns/net".to_owned(),
            app: app.map(str::to_owned),
            kind: AttachKind::Tun,
        };
        assert_eq!(agent.asked(), [(Request::Add(wish), 1)], "{patch}");
    }
}

#[test]
fn del_asks_the_agent_and_prints_nothing() {
    for netns in ["/proc/self/ns/net", "/nonexistent", ""] {
        let agent = Agent::start(obliging);
        let output = Call::new("DEL", &agent.socket()).set("CNI_NETNS", netns).succeeds();
        assert_eq!(output, "");
        assert_eq!(agent.asked(), [(Request::Del { id: c1() }, 0)]);
    }
}

#[test]
fn del_of_something_unknown_succeeds() {
    let agent = Agent::start(|_| Reply::Error {
        code: ErrorCode::Unknown,
        message: "no container c1".to_owned(),
    });
    Call::new("DEL", &agent.socket()).succeeds();
}

#[test]
fn check_passes_the_address_of_the_previous_result() {
    let agent = Agent::start(obliging);
    let previous = json!({"prevResult": {"ips": [{"address": "10.255.55.2/32"}]}});
    let output = Call::new("CHECK", &agent.socket()).netconf(&previous).succeeds();
    assert_eq!(output, "");
    let address = Some(Ipv4Addr::new(10, 255, 55, 2));
    assert_eq!(agent.asked(), [(Request::Check { id: c1(), address }, 1)]);
}

#[test]
fn version_needs_no_agent() {
    for (version, answered) in [("1.0.0", "1.0.0"), ("1.1.0", "1.1.0"), ("0.4.0", "1.1.0")] {
        let call = Call::new("VERSION", nobody()).netconf(&json!({"cniVersion": version}));
        let answer: Value = serde_json::from_str(&call.succeeds()).unwrap();
        assert_eq!(
            answer,
            json!({"cniVersion": answered, "supportedVersions": ["1.0.0", "1.1.0"]})
        );
    }
    Call::new("VERSION", nobody()).input("").set("CNI_CONTAINERID", "").succeeds();
}

#[test]
fn gc_passes_the_list() {
    let agent = Agent::start(obliging);
    let valid = json!({"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}]});
    Call::new("GC", &agent.socket()).netconf(&valid).succeeds();
    assert_eq!(agent.asked(), [(Request::Gc { valid: vec![c1()] }, 0)]);
}
