//! Calls that fail, by code of the specification.

use sarcenet_agent_api::{ErrorCode, Reply, Request};
use serde_json::{Value, json};

use crate::Call;
use crate::agent::{Agent, nobody, obliging};

#[test]
fn versions_that_are_not_spoken() {
    for version in ["0.2.0", "0.3.0", "1.0.1", "1.2.0", "2.0.0", "x", ""].map(Value::from) {
        for command in ["ADD", "DEL", "CHECK", "STATUS", "GC"] {
            Call::new(command, nobody())
                .netconf(&json!({"cniVersion": version}))
                .fails(1, "0.3.1, 0.4.0, 1.0.0, 1.1.0");
        }
    }
    Call::new("ADD", nobody()).netconf(&json!({"cniVersion": null})).fails(1, "cniVersion is ``");
    // What a version does not have yet.
    for (command, version, first) in [
        ("CHECK", "0.3.1", "0.4.0"),
        ("STATUS", "0.3.1", "1.1.0"),
        ("STATUS", "1.0.0", "1.1.0"),
        ("GC", "0.4.0", "1.1.0"),
        ("GC", "1.0.0", "1.1.0"),
    ] {
        let error = Call::new(command, nobody())
            .netconf(&json!({"cniVersion": version}))
            .fails(1, &format!("{command} came with {first}"));
        assert_eq!(error["cniVersion"], version);
    }
}

#[test]
fn fields_that_are_not_supported() {
    Call::new("ADD", nobody())
        .netconf(&json!({"ipam": {"type": "host-local"}}))
        .fails(2, "host-local");
}

#[test]
fn variables() {
    let long = "a".repeat(129);
    let table = [
        ("CNI_COMMAND", "", "not set"),
        ("CNI_COMMAND", "add", "`add`"),
        ("CNI_CONTAINERID", "", "not set"),
        ("CNI_CONTAINERID", "../c1", "../c1"),
        ("CNI_CONTAINERID", "-c1", "-c1"),
        ("CNI_CONTAINERID", "c 1", "c 1"),
        ("CNI_CONTAINERID", &long, "longer than 128"),
        ("CNI_IFNAME", "", "not set"),
        ("CNI_IFNAME", "..", "`..`"),
        ("CNI_IFNAME", "eth/0", "eth/0"),
        ("CNI_IFNAME", "sixteen-letters-", "sixteen-letters-"),
        ("CNI_NETNS", "", "not set"),
        ("CNI_NETNS", "run/netns/c1", "not an absolute path"),
        ("CNI_NETNS", "/nonexistent", "/nonexistent"),
        ("CNI_ARGS", "IgnoreUnknown", "IgnoreUnknown"),
        ("CNI_ARGS", "A=1;=2", "=2"),
    ];
    for (name, value, text) in table {
        let error = Call::new("ADD", nobody()).set(name, value).fails(4, text);
        assert!(error["msg"].as_str().unwrap().contains(name), "{error}");
    }
}

#[test]
fn configurations_that_are_no_configuration() {
    let table = [
        "",
        "{",
        "[]",
        "null",
        r#"{"cniVersion": 1}"#,
        r#"{"cniVersion": "1.0.0", "name": ["x"]}"#,
        r#"{"cniVersion": "1.0.0", "name": "x", "metadata": {"policy_group_id": 7}}"#,
        r#"{"cniVersion": "1.0.0", "name": "x", "args": {"cni": {"labels": "app"}}}"#,
    ];
    for input in table {
        Call::new("ADD", nobody()).input(input).fails(6, "decode the network configuration");
    }
    // One byte more than is read; the plugin has then taken all of it from the pipe.
    let mut endless = r#"{"cniVersion": "1.0.0""#.to_owned();
    endless.extend(std::iter::repeat_n(' ', (1 << 20) + 1 - endless.len()));
    Call::new("ADD", nobody()).input(&endless).fails(6, "longer than");
}

#[test]
fn configurations_that_make_no_sense() {
    let table = [
        ("ADD", json!({"name": null}), "no name"),
        ("ADD", json!({"name": "a b"}), "a b"),
        ("ADD", json!({"agentSocket": "agent.sock"}), "not an absolute path"),
        ("CHECK", json!({}), "CHECK needs a prevResult"),
        ("ADD", json!({"mtu": -1}), "invalid config: MTU: less than min"),
    ];
    for (command, patch, text) in table {
        Call::new(command, nobody()).netconf(&patch).fails(7, text);
    }
    let runtime = |config| json!({"runtimeConfig": config});
    let table = [
        (
            json!({"portMappings": [{"host_port": 0, "container_port": 1}]}),
            "cannot allocate port 0",
        ),
        (json!({"portMappings": [{"hostPort": 1, "containerPort": 0}]}), "port is 0"),
        (
            json!({"portMappings": [
                {"hostPort": 1, "containerPort": 1},
                {"hostPort": 1, "containerPort": 1, "protocol": "sctp"},
            ]}),
            "portMappings[1]: protocol `sctp`",
        ),
        (
            json!({"portMappings": [{"hostPort": 1, "containerPort": 1, "hostIP": "10.0.0.1"}]}),
            "leave hostIP out",
        ),
        (json!({"netOutRules": [{"networks": [{"start": "asdf"}]}]}), "invalid ip: asdf"),
        (json!({"netOutRules": [{"networks": [{"start": "::1"}]}]}), "rule 1 of"),
        (json!({"bandwidth": {"egressRate": 1}}), "egress: if rate is set, burst must also be set"),
        (json!({"bandwidth": {"ingressBurst": 1}}), "ingress: if burst is set, rate must"),
        (json!({"ips": ["fd00::5/64"]}), "`fd00::5/64`, is not an IPv4 address"),
        (json!({"ips": ["10.255.55.300"]}), "is not an IPv4 address"),
        (json!({"ips": ["10.255.55.3", "10.255.55.4"]}), "one address, not 10.255.55.3, 10.255"),
        (json!({"mac": "0e:00:00:00:00"}), "`0e:00:00:00:00`, is none"),
        (json!({"mac": "0e:00:00:00:00:00:00"}), "is none"),
        (json!({"mac": "0e:00:00:00:00:0g"}), "is none"),
    ];
    for (config, text) in table {
        Call::new("ADD", nobody()).netconf(&runtime(config)).fails(7, text);
    }
    for config in [json!({"portMappings": [{"host_port": 70000, "container_port": 1}]}), json!("x")]
    {
        Call::new("ADD", nobody()).netconf(&runtime(config)).fails(6, "decode");
    }
    for previous in [json!([]), json!({"ips": {}}), json!({"interfaces": "eth0"})] {
        Call::new("ADD", nobody()).netconf(&json!({"prevResult": previous})).fails(6, "decode");
    }
    for previous in [json!({"ips": [{"address": "x"}]}), json!({"routes": [{"gw": "10.0.0.1"}]})] {
        Call::new("CHECK", nobody()).netconf(&json!({"prevResult": previous})).fails(6, "decode");
    }
    // A list that was forgotten must not remove every container.
    let agent = Agent::start(obliging);
    Call::new("GC", &agent.socket()).fails(7, "cni.dev/valid-attachments");
    assert_eq!(agent.asked(), []);
}

#[test]
fn an_agent_that_is_not_there() {
    for command in ["ADD", "DEL"] {
        Call::new(command, nobody()).fails(11, "is `sarcenet agent` running, and are you root?");
    }
    Call::new("STATUS", nobody()).fails(50, "is `sarcenet agent` running, and are you root?");
}

#[test]
fn an_agent_that_goes_away() {
    let agent = Agent::start(|_| panic!("this agent dies of every question"));
    Call::new("ADD", &agent.socket()).fails(11, "closed the connection");
}

#[test]
fn an_agent_that_refuses() {
    fn refusal(code: ErrorCode) -> Reply {
        Reply::Error { code, message: "because".to_owned() }
    }
    type Case = (fn(&Request) -> Reply, u64);
    let table: [Case; 6] = [
        (|_| refusal(ErrorCode::Invalid), 7),
        (|_| refusal(ErrorCode::Storage), 5),
        (|_| refusal(ErrorCode::Dataplane), 11),
        (|_| refusal(ErrorCode::Busy), 11),
        (|_| refusal(ErrorCode::Namespace), 101),
        (|_| refusal(ErrorCode::NoAddress), 102),
    ];
    for (script, code) in table {
        let agent = Agent::start(script);
        Call::new("ADD", &agent.socket()).fails(code, "because");
    }
    let agent = Agent::start(|_| refusal(ErrorCode::Unknown));
    Call::new("CHECK", &agent.socket())
        .netconf(&json!({"prevResult": {"ips": []}}))
        .fails(3, "because");
    let agent = Agent::start(|_| Reply::Done);
    Call::new("ADD", &agent.socket()).fails(100, "something else");
}
