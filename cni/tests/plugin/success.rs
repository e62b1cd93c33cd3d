//! Calls that succeed.

use std::net::Ipv4Addr;

use sarcenet_agent_api::{
    AddressRange, AttachKind, Bandwidth, ErrorCode, Expected, IcmpControl, Metadata, NetOutRule,
    PortMapping, PortRange, Protocol, Rate, Reply, Request, Terms,
};
use serde_json::{Value, json};

use crate::agent::{Agent, nobody, obliging, wish_of};
use crate::{Call, c1};

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
        "dns": {"nameservers": ["169.254.0.2"]},
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
        "dns": {"nameservers": ["169.254.0.2"]},
    });
    assert_eq!(result("1.0.0"), expected);
    expected["cniVersion"] = json!("1.1.0");
    expected["interfaces"][0]["mtu"] = json!(1450);
    expected["interfaces"][1]["mtu"] = json!(1450);
    assert_eq!(result("1.1.0"), expected);
    let veth = |(request, _): &(Request, usize)| matches!(request, Request::Add(wish) if wish.kind == AttachKind::Veth);
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
        (json!({"metadata": {"policy_group_id": "guid"}}), Some("guid")),
        (json!({"runtimeConfig": {"metadata": {"policy_group_id": "guid"}}}), Some("guid")),
        (json!({"metadata": {"policy_group_id": ""}}), None),
        (labels_list, Some("from-list")),
        (labels_map, Some("from-map")),
        (both, Some("guid")),
    ];
    for (patch, app) in table {
        let wish = wish_of(|call| call.netconf(&patch));
        assert_eq!((&wish.id, wish.kind), (&c1(), AttachKind::Tun));
        assert_eq!(wish.network, "sarcenet");
        assert_eq!(wish.netns_path, "/proc/self/ns/net");
        assert_eq!(wish.app.as_deref(), app, "{patch}");
    }
}

/// The terms that the agent hears of with these keys in the network configuration.
fn terms_of(patch: &Value) -> Terms {
    wish_of(|call| call.netconf(patch)).terms
}

#[test]
fn add_passes_mapped_ports_in_both_spellings() {
    let mapping =
        |protocol, host_port, container_port| PortMapping { protocol, host_port, container_port };
    let terms = terms_of(&json!({"runtimeConfig": {"portMappings": [
        {"host_port": 61012, "container_port": 8080},
        {"hostPort": 61013, "containerPort": 2222, "protocol": "tcp", "hostIP": ""},
        {"hostPort": 53, "containerPort": 5353, "protocol": "udp"},
        {"HostPort": 80, "ContainerPort": 8080, "Protocol": "TCP", "HostIP": "0.0.0.0"},
    ]}}));
    assert_eq!(
        terms.mappings,
        [
            mapping(Protocol::Tcp, 61_012, 8080),
            mapping(Protocol::Tcp, 61_013, 2222),
            mapping(Protocol::Udp, 53, 5353),
            mapping(Protocol::Tcp, 80, 8080),
        ]
    );
    assert_eq!(terms_of(&json!({"runtimeConfig": {"portMappings": null}})), Terms::default());
}

#[test]
fn add_passes_gardens_rules() {
    let terms = terms_of(&json!({"runtimeConfig": {"netOutRules": [
        {"networks": [{"start": "10.0.0.1", "end": "10.0.0.9"}], "log": true},
        {"protocol": 1, "networks": [{"start": "10.0.0.1"}, {"end": "10.0.0.2"}],
         "ports": [{"start": 80, "end": 90}, {"start": 443}]},
        {"protocol": 3, "networks": null, "icmps": {"type": 8, "code": 0}},
    ]}}));
    let range = |first: u8, last: u8| AddressRange {
        first: Ipv4Addr::new(10, 0, 0, first),
        last: Ipv4Addr::new(10, 0, 0, last),
    };
    let expected = [
        NetOutRule { networks: vec![range(1, 9)], log: true, ..NetOutRule::default() },
        NetOutRule {
            protocol: 1,
            networks: vec![range(1, 1), range(2, 2)],
            ports: vec![PortRange { first: 80, last: 90 }, PortRange { first: 443, last: 443 }],
            ..NetOutRule::default()
        },
        NetOutRule {
            protocol: 3,
            icmp: Some(IcmpControl { kind: 8, code: Some(0) }),
            ..NetOutRule::default()
        },
    ];
    assert_eq!(terms.net_out, expected);
}

#[test]
fn add_passes_metadata_and_limits() {
    let terms = terms_of(&json!({
        "metadata": {"app_id": "a", "space_id": "s", "container_workload": "task", "extra": "x"},
        "runtimeConfig": {
            "metadata": {"space_id": "other", "org_id": "o", "log_config": "{}", "ports": "8080"},
            "bandwidth": {"ingressRate": 1000, "ingressBurst": 2000},
        },
    }));
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(
        terms.metadata,
        Metadata {
            app_id: text("a"),
            policy_group_id: None,
            space_id: text("s"),
            org_id: text("o"),
            ports: text("8080"),
            container_workload: text("task"),
            log_config: text("{}"),
        }
    );
    let receive = Some(Rate { bits_per_second: 1000, burst_bits: 2000 });
    assert_eq!(terms.bandwidth, Bandwidth { send: None, receive });
    // As containerd spells it.
    let limits = json!({"IngressRate": 1000, "IngressBurst": 2000, "EgressRate": 0});
    let terms = terms_of(&json!({"runtimeConfig": {"bandwidth": limits}}));
    assert_eq!(terms.bandwidth, Bandwidth { send: None, receive });
}

#[test]
fn the_runtimes_name_servers_count_before_the_agents() {
    let agent = Agent::start(obliging);
    let dns = |dns: Value| -> Value {
        let patch = json!({"runtimeConfig": {"dns": dns}});
        let output = Call::new("ADD", &agent.socket()).netconf(&patch).succeeds();
        serde_json::from_str::<Value>(&output).unwrap()["dns"].clone()
    };
    assert_eq!(
        dns(json!({"servers": ["10.1.1.1"], "searches": ["apps.internal"]})),
        json!({"nameservers": ["10.1.1.1"], "search": ["apps.internal"]})
    );
    assert_eq!(
        dns(json!({"Servers": ["10.1.1.1"], "Searches": ["s"], "Options": ["ndots:1"]})),
        json!({"nameservers": ["10.1.1.1"], "search": ["s"], "options": ["ndots:1"]})
    );
    assert_eq!(
        dns(json!({"options": ["ndots:1"]})),
        json!({"nameservers": ["169.254.0.2"], "options": ["ndots:1"]})
    );
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
    let expected = Expected { address, default_route: false, bandwidth: None };
    assert_eq!(agent.asked(), [(Request::Check { id: c1(), expected }, 1)]);
}

#[test]
fn version_needs_no_agent() {
    for (version, answered) in
        [("0.3.1", "0.3.1"), ("0.4.0", "0.4.0"), ("1.0.0", "1.0.0"), ("1.2.0", "1.1.0")]
    {
        let call = Call::new("VERSION", nobody()).netconf(&json!({"cniVersion": version}));
        let answer: Value = serde_json::from_str(&call.succeeds()).unwrap();
        assert_eq!(
            answer,
            json!({
                "cniVersion": answered,
                "supportedVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"],
            })
        );
    }
    Call::new("VERSION", nobody()).input("").set("CNI_CONTAINERID", "").succeeds();
}

#[test]
fn gc_passes_the_list() {
    let agent = Agent::start(obliging);
    for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
        let valid = json!({key: [{"containerID": "c1", "ifname": "eth0"}]});
        Call::new("GC", &agent.socket()).netconf(&valid).succeeds();
    }
    let asked = (Request::Gc { network: "sarcenet".to_owned(), valid: vec![c1()] }, 0);
    assert_eq!(agent.asked(), [asked.clone(), asked]);
}
