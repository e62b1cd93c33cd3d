//! The network configuration that a job of Cloud Foundry's renders, unchanged (contract section 7.1).

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use anyhow::{Context as _, Result, ensure};
use sarcenet_cni_chain::Extra;
use sarcenet_netns_tests::PATIENCE;
use sarcenet_rig::{CellKind, OutsidePlan, Plan, SarcenetCell, eventually};
use serde_json::{Value, json};

use crate::{Sandbox, address, answer, contract, list, on_cell};

/// A policy agent that does whatever it is asked, as often as it is asked until the cell is gone.
fn obliging_policy_agent(cell: &SarcenetCell) -> Result<()> {
    let listener = cell.namespace().run(|| TcpListener::bind("127.0.0.1:8722"))??;
    let answer = |mut stream: TcpStream| -> std::io::Result<()> {
        let (mut question, mut byte) = (Vec::new(), [0]);
        while !question.ends_with(b"\r\n\r\n") && stream.read(&mut byte)? == 1 {
            question.extend(byte);
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    };
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Who hangs up has failed, and says so.
            let _ = answer(stream);
        }
    });
    Ok(())
}

/// As Garden does: every plugin is told everything.
fn extra() -> Extra {
    let metadata = json!({"app_id": "app-1", "policy_group_id": "app-1", "space_id": "S",
        "org_id": "O", "ports": "8080", "container_workload": "app"});
    let runtime = json!({
        "portMappings": [{"host_port": 61_000, "container_port": 8080}],
        "netOutRules": [{"networks": [{"start": "8.8.8.8", "end": "9.9.9.9"}]}],
    });
    let object = |value: Value| value.as_object().cloned().unwrap_or_default();
    Extra { metadata: object(metadata), runtime_config: object(runtime), by_capability: false }
}

/// A cell whose agent asks no servers: it would have the policy agent's port.
fn plan(label: &str) -> Plan {
    Plan::new(label, &[CellKind::Sarcenet]).outside(OutsidePlan::default()).from_files()
}

#[test]
fn the_contracts_configuration_works_as_it_is() {
    on_cell(plan("cs"), |setting| {
        let cell = setting.cell;
        obliging_policy_agent(cell)?;
        let text = std::fs::read(contract("cni-wrapper-plugin.conflist"))?;
        let network = sarcenet_cni_chain::read(&text)?;
        let container = Sandbox::new("c1")?;
        let variables = [("SARCENET_ROOT", cell.root().as_os_str())];
        let chain = setting.chain(&network, &container, &variables);
        let inside = cell.namespace();

        let made = inside.run(|| chain.add(&extra()))??;
        let given = address(&made)?;
        ensure!(made.get("dns") == Some(&json!({"nameservers": ["169.254.0.2"]})), "{made:?}");
        let info = cell.agent()?.containers()?.pop().context("a container")?;
        ensure!(info.attachment.address.to_string() == given && info.connected, "{info:?}");
        ensure!((info.app.as_deref(), info.tag) == (Some("app-1"), 1), "{info:?}");
        ensure!(info.attachment.host.is_some() && info.mappings.len() == 1, "{info:?}");
        let store = cell.root().join("var/vcap/data/container-metadata/store.json");
        let entries = || -> Result<Value> { Ok(serde_json::from_slice(&std::fs::read(&store)?)?) };
        let entry = json!({"handle": "c1", "ip": given, "metadata": extra().metadata});
        ensure!(entries()? == json!({"c1": entry}), "{}", entries()?);

        // With limits, as an operator sets `rate` and `burst`, and with CHECK.
        let mut limited: Value = serde_json::from_slice(&text)?;
        limited["disableCheck"] = json!(false);
        for key in ["ingressRate", "ingressBurst", "egressRate", "egressBurst"] {
            limited["plugins"][1][key] = json!(1_024_000);
        }
        let network = list(&limited)?;
        let chain = setting.chain(&network, &container, &variables);
        let told = answer(inside.run(|| chain.check())?)?;
        ensure!(told.code == 101 && told.details.contains("other limits"), "{told:?}");
        ensure!(inside.run(|| chain.add(&extra()))?? == made);
        inside.run(|| chain.check())??;

        inside.run(|| chain.del())??;
        inside.run(|| chain.del())??;
        ensure!(entries()? == json!({}), "{}", entries()?);
        setting.is_clean(&[container])
    });
}

/// What the policy agent cannot do is not hidden, and the container can be taken down or tried again.
#[test]
fn without_a_policy_agent_a_container_does_not_start() {
    on_cell(plan("cp"), |setting| {
        let cell = setting.cell;
        let network =
            sarcenet_cni_chain::read(&std::fs::read(contract("cni-wrapper-plugin.conflist"))?)?;
        let container = Sandbox::new("c1")?;
        let variables = [("SARCENET_ROOT", cell.root().as_os_str())];
        let chain = setting.chain(&network, &container, &variables);
        let inside = cell.namespace();
        let told = answer(inside.run(|| chain.add(&extra()))?)?;
        ensure!(told.code == 11 && told.details.contains("vxlan-policy-agent"), "{told:?}");
        inside.run(|| chain.del())??;
        setting.is_clean(std::slice::from_ref(&container))?;
        obliging_policy_agent(cell)?;
        eventually(PATIENCE, || Ok(inside.run(|| chain.add(&extra()))??))?;
        inside.run(|| chain.del())??;
        setting.is_clean(&[container])
    });
}
