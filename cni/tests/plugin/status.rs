//! STATUS: what the agent says of itself, and what the runtime is told.

use sarcenet_agent_api::{AgentStatus, ConfigStatus, DataplaneState, Reply, Request};

use crate::Call;
use crate::agent::{Agent, Script};

fn status(ready: bool, error: Option<&str>, addresses_free: u32) -> Reply {
    let network = "10.255.55.0/24".parse().unwrap();
    Reply::Status(Box::new(AgentStatus {
        program: "1".to_owned(),
        uptime_s: 1,
        cell: "cell1".to_owned(),
        underlay: [10, 77, 0, 11].into(),
        subnet: network,
        overlay: network,
        mtu: 1450,
        containers: 0,
        collected: 0,
        addresses_free,
        cells: 1,
        apps: 0,
        policies: 0,
        rules: 0,
        config: ConfigStatus {
            path: "/f".to_owned(),
            age_s: 1,
            digest: String::new(),
            mistakes: Vec::new(),
        },
        dataplane: DataplaneState { ready, generation: 1, error: error.map(ToOwned::to_owned) },
        problems: Vec::new(),
    }))
}

#[test]
fn an_agent_that_can_attach_is_ready() {
    let agent = Agent::start(|_| status(true, None, 1));
    assert_eq!(Call::new("STATUS", &agent.socket()).succeeds(), "");
    assert_eq!(agent.asked(), [(Request::Status, 0)]);
}

#[test]
fn what_an_add_cannot_do_without_is_said() {
    let table: [(Script, u64, &str); 3] = [
        (|_| status(false, Some("is sarcenet-dataplane running?"), 9), 51, "dataplane running?"),
        (|_| status(false, None, 9), 51, "the agent waits for it"),
        (|_| status(true, None, 0), 50, "all addresses of 10.255.55.0/24 are taken"),
    ];
    for (script, code, text) in table {
        let agent = Agent::start(script);
        for program in ["sarcenet-cni", "silk-cni", "cni-wrapper-plugin", "bandwidth"] {
            Call::new("STATUS", &agent.socket()).named(program).fails(code, text);
        }
    }
}
