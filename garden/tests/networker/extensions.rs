//! `net-in`, `net-out` and `bulk-net-out`: what the agent is asked, and what Garden is told.

use sarcenet_agent_api::{
    AddressRange, AttachmentId, ErrorCode, Extension, NetOutRule, PortMapping, PortRange, Protocol,
    Reply, Request,
};
use serde_json::{Value, json};

use crate::agent::Agent;
use crate::world::{
    CONFLIST, HANDLE, acquired, action, conflist, fails, on_cell, patched, succeeds, write,
};

/// Puts our plugin into the contract's network, with an agent's socket.
fn with_socket(socket: &str) {
    let plugins = json!([{"type": "sarcenet-cni", "agentSocket": socket}]);
    write(CONFLIST, &patched(conflist(), &json!({"plugins": plugins})).to_string());
}

/// An agent on a socket of its own: a program that another test starts may hold the lock of the one
/// before for a moment.
fn agent(number: usize, reply: Reply) -> Agent {
    let socket = format!("/var/agent-{number}.sock");
    with_socket(&socket);
    Agent::start(&socket, reply)
}

fn extension(mappings: Vec<PortMapping>, net_out: Vec<NetOutRule>) -> Request {
    let id = AttachmentId { container: HANDLE.to_owned(), ifname: "eth0".to_owned() };
    Request::Extend { id, more: Extension { mappings, net_out, bandwidth: None } }
}

/// What Garden says, the mapping that the agent is asked for, and the ports that are given.
#[test]
fn a_port_more_leads_to_a_container() {
    on_cell(|| {
        for (number, (ports, (host_port, container_port), given)) in [
            (
                json!({"HostPort": 0, "ContainerPort": 8080}),
                (61_000, 8080),
                json!({HANDLE: [61000]}),
            ),
            (
                json!({"HostPort": 0, "ContainerPort": 0}),
                (61_001, 61_001),
                json!({HANDLE: [61000, 61001]}),
            ),
            (
                json!({"HostPort": 7000, "ContainerPort": 0}),
                (7000, 7000),
                json!({HANDLE: [61000, 61001]}),
            ),
            (
                json!({"HostPort": 7001, "ContainerPort": 80}),
                (7001, 80),
                json!({HANDLE: [61000, 61001]}),
            ),
        ]
        .into_iter()
        .enumerate()
        {
            let agent = agent(number, Reply::Done);
            let addresses = json!({"HostIP": "10.77.0.11", "ContainerIP": "10.255.73.3"});
            let input = patched(addresses, &ports).to_string();
            let answer = succeeds(&mut action("net-in", HANDLE), &input);
            let expected =
                format!("{{\"host_port\":{host_port},\"container_port\":{container_port}}}\n");
            assert_eq!(answer, expected);
            let mapping = PortMapping { protocol: Protocol::Tcp, host_port, container_port };
            assert_eq!(agent.asked(), [extension(vec![mapping], vec![])]);
            assert_eq!(acquired(), given);
        }
    });
}

#[test]
fn rules_more_are_those_of_garden() {
    let json_rule = |start: &str, port: u16| {
        json!({
            "protocol": 1,
            "networks": [{"start": start}],
            "ports": [{"start": port, "end": 90}],
            "log": true,
        })
    };
    let rule = |last: u8, port: u16| {
        let address = [10, 0, 0, last].into();
        NetOutRule {
            protocol: 1,
            networks: vec![AddressRange { first: address, last: address }],
            ports: vec![PortRange { first: port, last: 90 }],
            log: true,
            ..NetOutRule::default()
        }
    };
    let (one, two) = (json_rule("10.0.0.1", 80), json_rule("10.0.0.2", 81));
    on_cell(|| {
        for (number, (what, input, expected)) in [
            (
                "net-out",
                json!({"container_ip": "10.255.73.3", "netout_rule": one}),
                vec![rule(1, 80)],
            ),
            (
                "bulk-net-out",
                json!({"container_ip": "10.255.73.3", "netout_rules": [one, two]}),
                vec![rule(1, 80), rule(2, 81)],
            ),
            ("bulk-net-out", json!({"container_ip": "10.255.73.3", "netout_rules": []}), vec![]),
            ("bulk-net-out", Value::Null, vec![]),
        ]
        .into_iter()
        .enumerate()
        {
            let agent = agent(number, Reply::Done);
            assert_eq!(succeeds(&mut action(what, HANDLE), &input.to_string()), "");
            assert_eq!(agent.asked(), [extension(vec![], expected)]);
        }
    });
}

/// What the agent answers, and whether the port that was given for it is free again.
#[test]
fn a_refusal_is_told_and_its_port_is_free_again() {
    on_cell(|| {
        for (number, (code, free)) in [
            (ErrorCode::Unknown, true),
            (ErrorCode::Invalid, true),
            (ErrorCode::Config, true),
            // It may be in force later.
            (ErrorCode::Dataplane, false),
        ]
        .into_iter()
        .enumerate()
        {
            let message = "in its words".to_owned();
            let agent = agent(number, Reply::Error { code, message });
            let input = json!({"HostPort": 0, "ContainerPort": 80}).to_string();
            fails(&mut action("net-in", HANDLE), &input, "prefix: net-in: in its words");
            assert_eq!(agent.asked().len(), 1);
            let expected = if free { json!({}) } else { json!({HANDLE: [61000]}) };
            assert_eq!(acquired(), expected, "{code}");
        }
    });
}

#[test]
fn without_an_agent_nothing_is_taken() {
    on_cell(|| {
        with_socket("/var/agent.sock");
        let input = json!({"HostPort": 0, "ContainerPort": 80}).to_string();
        for what in ["net-in", "net-out", "bulk-net-out"] {
            let done = crate::world::run(&mut action(what, HANDLE), &input);
            assert_eq!(done.status, Some(1));
            assert!(done.errors.starts_with(&format!("prefix: {what}: ")), "{}", done.errors);
            assert!(done.errors.contains("/var/agent.sock"), "{}", done.errors);
            assert!(done.errors.contains("is `sarcenet agent` running"), "{}", done.errors);
        }
        assert_eq!(acquired(), json!({}));
    });
}
