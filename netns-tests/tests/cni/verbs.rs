//! Every command in every version, with interfaces of either kind.

use anyhow::{Context as _, Result, bail, ensure};
use sarcenet_cni_chain::{Chain, ChainError, Extra};
use sarcenet_netns_tests::PATIENCE;
use sarcenet_rig::{AttachKind, CellKind, OutsidePlan, Plan, eventually};
use serde_json::{Map, Value, json};

use crate::{KINDS, Sandbox, Setting, address, answer, list, on_cell, socket};

/// What a version has: CHECK, STATUS and GC, families of addresses, MTUs of interfaces.
struct Version {
    name: &'static str,
    check: bool,
    status_and_gc: bool,
    family: bool,
    mtu: bool,
}

const fn version(name: &'static str, [check, status_and_gc, family, mtu]: [bool; 4]) -> Version {
    Version { name, check, status_and_gc, family, mtu }
}

const VERSIONS: [Version; 4] = [
    version("0.3.1", [false, false, true, false]),
    version("0.4.0", [true, false, true, false]),
    version("1.0.0", [true, false, false, false]),
    version("1.1.0", [true, true, false, true]),
];

/// What a runtime says of a container, of which a plugin hears what it can do.
fn extra(host_port: u16) -> Extra {
    let runtime_config = Map::from_iter([
        ("portMappings".to_owned(), json!([{"hostPort": host_port, "containerPort": 80}])),
        ("bandwidth".to_owned(), json!({"ingressRate": 1_000_000, "ingressBurst": 4_000_000})),
        ("dns".to_owned(), json!({"servers": ["192.0.2.53"]})),
        ("notOurs".to_owned(), json!({"a": 1})),
    ]);
    Extra { metadata: Map::new(), runtime_config, by_capability: true }
}

fn expected(
    version: &Version,
    kind: AttachKind,
    container: &Sandbox,
    mtu: u16,
    address: &str,
) -> Value {
    let bytes: Vec<u8> = address.split('.').filter_map(|part| part.parse().ok()).collect();
    let mac = |first: &str| {
        let rest: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{first}:{first}:{}", rest.join(":"))
    };
    let mut interfaces = vec![json!({"name": "eth0", "sandbox": container.path})];
    let mut ip = json!({"address": format!("{address}/32"), "interface": 0});
    let mut route = json!({"dst": "0.0.0.0/0"});
    if kind == AttachKind::Veth {
        let name: Vec<_> = bytes.iter().map(|byte| format!("{byte:03}")).collect();
        interfaces[0]["mac"] = json!(mac("ee"));
        interfaces.insert(0, json!({"name": format!("s-{}", name.concat()), "mac": mac("aa")}));
        ip["interface"] = json!(1);
        ip["gateway"] = json!("169.254.0.1");
        route["gw"] = json!("169.254.0.1");
    }
    if version.mtu {
        for interface in &mut interfaces {
            interface["mtu"] = json!(mtu);
        }
    }
    if version.family {
        ip["version"] = json!("4");
    }
    json!({
        "cniVersion": version.name,
        "interfaces": interfaces,
        "ips": [ip],
        "routes": [route],
        "dns": {"nameservers": ["192.0.2.53"]},
    })
}

/// Whether the runner itself refuses what the version does not have.
fn refused(done: Result<(), ChainError>) -> Result<()> {
    match done {
        Err(ChainError::Version { .. }) => Ok(()),
        other => bail!("{other:?}"),
    }
}

/// What is done to the interface, and what CHECK says of it.
const DAMAGES: [(&str, &str); 4] = [
    ("link set eth0 down", "eth0 is down"),
    ("link set eth0 mtu 1000", "eth0 has MTU 1000 instead of"),
    ("address add 192.0.2.1/32 dev eth0", "eth0 has the addresses"),
    ("route del default", "the default route does not lead through eth0"),
];

fn one(setting: &Setting<'_>, version: &Version, kind: AttachKind, number: usize) -> Result<()> {
    let mtu = setting.cell.agent()?.status()?.mtu;
    let container = Sandbox::new(&format!("c{number}"))?;
    let bandwidth = json!({"type": "bandwidth", "capabilities": {"bandwidth": true}});
    let network = |name: &str| {
        list(&json!({
            "cniVersion": version.name,
            "name": name,
            "plugins": [
                {
                    "type": "sarcenet-cni",
                    "agentSocket": socket(setting.cell),
                    "attach": kind,
                    "capabilities": {"portMappings": true, "dns": true},
                },
                with_socket(setting, &bandwidth),
            ],
        }))
    };
    let network = network(&format!("net-{number}"))?;
    let chain = setting.chain(&network, &container, &[]);
    let extra = extra(61_000 + number as u16);

    let made = chain.add(&extra)?;
    let given = address(&made)?;
    ensure!(
        Value::Object(made.clone()) == expected(version, kind, &container, mtu, &given),
        "{made:?}"
    );
    ensure!(container.ip("-4 address show eth0")?.contains(&format!("inet {given}")), "{given}");
    ensure!(chain.add(&extra)? == made, "another result than the first time");
    let info = setting.cell.agent()?.containers()?;
    let info = info.iter().find(|info| info.attachment.id.container == container.name);
    let info = info.context("the agent has it")?;
    ensure!(info.connected && info.mappings.len() == 1, "{info:?}");

    if version.check {
        chain.check()?;
        for (damage, said) in DAMAGES {
            container.ip(damage)?;
            let told = answer(chain.check())?;
            ensure!(told.code == 101 && told.details.contains(said), "{damage}: {told:?}");
            chain.add(&extra)?;
            chain.check().with_context(|| format!("repaired after {damage}"))?;
        }
    } else {
        refused(chain.check())?;
    }
    if version.status_and_gc {
        chain.status()?;
        chain.gc(&[(&container.name, "eth0")])?;
        chain.check()?;
        chain.gc(&[(&container.name, "eth1"), ("other", "eth0")])?;
        let told = answer(chain.check())?;
        ensure!(told.code == 3 && told.details.contains("is not attached"), "{told:?}");
    } else {
        refused(chain.status())?;
        refused(chain.gc(&[]))?;
    }
    chain.del()?;
    chain.del()?;
    setting.is_clean(&[container])
}

fn with_socket(setting: &Setting<'_>, plugin: &Value) -> Value {
    let mut plugin = plugin.clone();
    plugin["agentSocket"] = json!(socket(setting.cell));
    plugin
}

#[test]
fn every_command_in_every_version() {
    let plan = Plan::new("cv", &[CellKind::Sarcenet]).outside(OutsidePlan::default());
    on_cell(plan, |setting| {
        let cases = VERSIONS.iter().flat_map(|version| KINDS.map(|kind| (version, kind)));
        for (number, (version, kind)) in cases.enumerate() {
            one(setting, version, kind, number)
                .with_context(|| format!("version {} {kind}", version.name))?;
        }
        Ok(())
    });
}

/// What a runtime is told when something is away, and that it may simply try again.
#[test]
fn who_is_away_is_said_and_may_come_back() {
    on_cell(Plan::new("ca", &[CellKind::Sarcenet]), |setting| {
        let cell = setting.cell;
        let network = list(&json!({
            "cniVersion": "1.1.0",
            "name": "net",
            "plugins": [{"type": "sarcenet-cni", "agentSocket": socket(cell)}],
        }))?;
        let (one, two) = (Sandbox::new("c1")?, Sandbox::new("c2")?);
        let chain = setting.chain(&network, &one, &[]);
        let other = setting.chain(&network, &two, &[]);
        let codes = |chain: &Chain<'_>| -> Result<[u64; 2]> {
            Ok([answer(chain.status())?.code, answer(chain.add(&Extra::default()))?.code])
        };
        let made = chain.add(&Extra::default())?;

        cell.kill_dataplane()?;
        eventually(PATIENCE, || {
            ensure!(answer(chain.status())?.code == 51);
            Ok(())
        })?;
        ensure!(codes(&other)? == [51, 11]);
        let told = answer(chain.check())?;
        ensure!(told.code == 11, "{told:?}");
        cell.restart_dataplane()?;
        cell.wait_ready()?;
        chain.status()?;
        chain.check()?;

        cell.kill_agent()?;
        ensure!(codes(&other)? == [50, 11]);
        let told = answer(chain.del())?;
        ensure!(told.code == 11 && told.details.contains("`sarcenet agent`"), "{told:?}");
        cell.restart_agent()?;
        cell.wait_ready()?;
        chain.check()?;
        ensure!(chain.add(&Extra::default())? == made);
        other.add(&Extra::default())?;
        chain.del()?;
        other.del()?;
        setting.is_clean(&[one, two])
    });
}
