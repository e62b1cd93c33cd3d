//! A cell that runs Cloud Foundry's programs: silk-daemon, vxlan-policy-agent and silk-teardown, with
//! the files that its jobs write.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::Signal;
use sarcenet_agent_api::{
    AddressRange, AgentClient, ErrorCode, FollowProblems, MAX_PART, NetOutRule, Request, Terms,
};
use sarcenet_control::netlink::Netlink;
use serde_json::{Map, Value, json};

use crate::fake::Fake;
use crate::policies::{all_servers, change, on_disk, rules};
use crate::policy_server::world::{Say, Scripted};
use crate::process::Process;
use crate::world::{INFO, Namespace, World, ask, ask_with, eventually, in_cell};

const DAEMON: &str = include_str!("upstream/silk-daemon.json");
const POLICY_AGENT: &str = include_str!("upstream/vxlan-policy-agent.json");

/// The debug ports of both, and where the policy server can be asked at once.
const DAEMON_DEBUG: u16 = 22233;
const DEBUG: u16 = 8721;
const FORCE: u16 = 8722;

/// The file of a program, with these keys changed.
fn file(world: &World, program: &str, text: &str, keys: &Value) -> PathBuf {
    let mut object: Map<String, Value> = serde_json::from_str(text).unwrap();
    object.extend(keys.as_object().unwrap().clone());
    let path = world.servers.path(&format!("{program}.json"));
    fs::write(&path, Value::Object(object).to_string()).unwrap();
    path
}

/// A program by its own name, as an exchanged binary is started.
fn program(world: &World, program: &str, flag: &str, text: &str, keys: &Value) -> Command {
    let path = world.servers.path(program);
    if !path.exists() {
        symlink(env!("CARGO_BIN_EXE_sarcenet"), &path).unwrap();
    }
    let mut command = Command::new(path);
    command.env_remove("SARCENET_LOG").env("SARCENET_ROOT", world.root.directory());
    command.arg(format!("-{flag}={}", file(world, program, text, keys).display()));
    command
}

fn daemon(world: &World) -> Process {
    let keys = json!({"poll_interval": 1, "client_timeout_seconds": 1});
    Process::spawn(program(world, "silk-daemon", "config", DAEMON, &keys))
}

fn policy_agent_with(world: &World, keys: &Value) -> Process {
    Process::spawn(program(world, "vxlan-policy-agent", "config-file", POLICY_AGENT, keys))
}

fn policy_agent(world: &World) -> Process {
    policy_agent_with(world, &json!({}))
}

fn serves(world: &World) -> bool {
    AgentClient::connect(&world.root.agent_socket()).is_ok()
}

fn problem(world: &World, begin: &str) -> bool {
    let status = world.client().status().unwrap();
    status.problems.iter().any(|problem| problem.starts_with(begin))
}

fn unused(process: &mut Process) -> Vec<String> {
    let logged = process.logged("these keys of the file have no use here");
    logged["keys"].as_str().unwrap().split(", ").map(str::to_owned).collect()
}

/// What a program says that finds no agent.
const ALONE: &str = "what the policy server says is not put in force: the agent cannot be told: ";

const NOBODY: &str = "nobody tells the agent what the policy server says";

#[test]
fn a_cell_of_two_programs() {
    in_cell(|world| {
        all_servers(world);
        let servers = world.servers.start();
        change(world, "allow", "app-a", "app-b", "8080");
        let fake = world.dataplane();
        let mut agent = daemon(world);
        let names = ["datastore", "log_prefix", "metron_port", "vtep_name", "vxlan_interface_name"];
        assert_eq!(unused(&mut agent), names);
        eventually("the agent serves", || serves(world));
        eventually("well", || ask(DAEMON_DEBUG, "GET /health").0 == 200);
        let info = format!(r#"{{"overlay_subnet":"{}","mtu":1450}}"#, world.subnet());
        assert_eq!(ask(INFO, "GET /ping"), (200, info));
        assert_eq!(ask_with(DAEMON_DEBUG, "POST /log-level", "debug").0, 200);
        let b = Namespace::new("b");
        world.add_of(&b, "app-b", Terms::default());
        assert_eq!(rules(&fake), [], "nobody has said that anything is allowed");
        assert!(problem(world, NOBODY));

        let mut policies = policy_agent(world);
        let names = [
            "cni_datastore_path",
            "iptables_lock_file",
            "log_prefix",
            "loggregator",
            "metron_address",
            "overlay_network",
            "underlay_ips",
            "vni",
        ];
        assert_eq!(unused(&mut policies), names);
        eventually("in the dataplane", || rules(&fake) == [(1, 8080)]);
        eventually("all is well", || world.client().status().unwrap().problems.is_empty());
        assert_eq!(ask(DEBUG, "GET /health").0, 200);
        assert_eq!(ask(FORCE, "POST /force-policy-poll-cycle"), (200, String::new()));
        let updated = (200, "updated container b".to_owned());
        assert_eq!(ask(FORCE, "GET /force-asgs-for-container?container=b"), updated);
        let enabled = (200, "{\"enabled\":true}\n".to_owned());
        let switch = "/iptables-c2c-logging";
        let switched = ask_with(DEBUG, &format!("PUT {switch}"), r#"{"enabled":true}"#);
        assert_eq!(switched, enabled);
        assert!(fake.told.lock().cell.as_ref().unwrap().logging.overlay);
        assert_eq!(ask(DEBUG, &format!("GET {switch}")), enabled);
        let (_, metrics) = ask(DEBUG, "GET /metrics");
        assert!(metrics.contains("\nsarcenet_agent_policies_watched 1\n"), "{metrics}");
        change(world, "allow", "app-a", "app-b", "9090");
        eventually("followed", || rules(&fake) == [(1, 8080), (1, 9090)]);

        // The program dies; its agent goes on, also a new one without any server.
        assert_eq!(policies.end(Signal::SIGKILL), None);
        eventually("told to people", || problem(world, NOBODY));
        eventually("on the disk", || on_disk(world, "9090"));
        assert_eq!(servers.end(Signal::SIGKILL), None);
        assert_eq!(agent.end(Signal::SIGKILL), None);
        let agent = daemon(world);
        eventually("told again", || fake.told.lock().snapshots == 2);
        assert_eq!(rules(&fake), [(1, 8080), (1, 9090)]);

        // A new program that has heard of nothing takes nothing away.
        let policies = policy_agent(world);
        eventually("told to people", || problem(world, "policies stay as they were: "));
        assert_eq!(rules(&fake), [(1, 8080), (1, 9090)]);
        let _servers = world.servers.start();
        change(world, "revoke", "app-a", "app-b", "8080");
        eventually("followed again", || rules(&fake) == [(1, 9090)]);
        eventually("all is well", || world.client().status().unwrap().problems.is_empty());
        assert_eq!(policies.end(Signal::SIGTERM), Some(0));
        assert_eq!(agent.end(Signal::SIGTERM), Some(0));
        assert!(on_disk(world, "9090") && !on_disk(world, "8080"));
    });
}

#[test]
fn the_order_of_start_does_not_matter() {
    in_cell(|world| {
        all_servers(world);
        let _servers = world.servers.start();
        change(world, "allow", "app-a", "app-b", "8080");
        let mut policies = policy_agent(world);
        policies.logged(ALONE);
        let (status, health) = ask(DEBUG, "GET /health");
        assert_eq!(status, 503, "{health}");
        let (status, _) = ask(DEBUG, "GET /iptables-c2c-logging");
        assert_eq!(status, 500);
        let fake = world.dataplane();
        let agent = daemon(world);
        eventually("the agent serves", || serves(world));
        let b = Namespace::new("b");
        world.add_of(&b, "app-b", Terms::default());
        eventually("in the dataplane", || rules(&fake) == [(1, 8080)]);

        // Its agent dies, and what changes meanwhile is said to the next one.
        assert_eq!(agent.end(Signal::SIGKILL), None);
        change(world, "revoke", "app-a", "app-b", "8080");
        change(world, "allow", "app-a", "app-b", "9090");
        let _agent = daemon(world);
        eventually("followed again", || rules(&fake) == [(1, 9090)]);
        eventually("well again", || ask(DEBUG, "GET /health").0 == 200);
        assert_eq!(policies.end(Signal::SIGTERM), Some(0));
    });
}

#[test]
fn a_server_of_cloud_foundrys_is_asked_for_the_apps_here() {
    in_cell(|world| {
        let _leases = world.servers.start();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.unwrap();
        let server = runtime.block_on(Scripted::start(|question| match question {
            "policies_last_updated" => Say::ok("5"),
            question if question.starts_with("security_groups_last_updated") => {
                Say::Text(404, "404 page not found\n".into())
            }
            question if question.starts_with("security_groups?") => {
                Say::ok(r#"{"next":0,"security_groups":[]}"#)
            }
            _ => Say::ok(
                r#"{"total_policies":1,"policies":[{"source":{"id":"app-a","tag":"0001"},
                    "destination":{"id":"app-b","tag":"0002","protocol":"tcp",
                    "ports":{"start":8080,"end":8080}}}]}"#,
            ),
        }));
        let keys = json!({"policy_server_url": format!("https://{}", server.address)});
        let mut policies = policy_agent_with(world, &keys);
        policies.logged(ALONE);
        assert_eq!(server.asked(), [""; 0], "it is not known for whom");
        let (fake, _agent) = (world.dataplane(), daemon(world));
        eventually("the agent serves", || serves(world));
        let b = Namespace::new("b");
        world.add_of(&b, "app-b", Terms::default());
        eventually("in the dataplane", || rules(&fake) == [(1, 8080)]);
        eventually("asked for the app", || {
            server.asked().contains(&"policies?watch=0&timeout=0&id=app-b".to_owned())
        });
    });
}

/// The first addresses of what a container may not reach, and of what it may.
fn egress(fake: &Fake) -> Option<(Vec<String>, Vec<String>)> {
    let told = fake.told.lock();
    let settings = told.settings.values().next()?;
    let firsts = |set| -> Option<Vec<String>> {
        let Some(set) = set else { return Some(Vec::new()) };
        Some(told.sets.get(&set)?.iter().map(|rule| rule.first.to_string()).collect())
    };
    Some((firsts(settings.denied)?, firsts(settings.allowed)?))
}

#[test]
fn what_the_file_says_of_the_outside_holds_and_is_kept() {
    in_cell(|world| {
        all_servers(world);
        let _servers = world.servers.start();
        let (fake, agent) = (world.dataplane(), daemon(world));
        eventually("the agent serves", || serves(world));
        let anywhere = AddressRange { first: [1, 0, 0, 0].into(), last: [1, 255, 0, 0].into() };
        let rule = NetOutRule { networks: vec![anywhere], ..NetOutRule::default() };
        let terms = Terms { net_out: vec![rule], ..Terms::default() };
        let b = Namespace::new("b");
        world.add_of(&b, "app-b", terms);
        let only = |denied: &[&str], allowed: &[&str]| {
            let texts = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
            let expected = (texts(denied), texts(allowed));
            eventually("in the dataplane", || {
                let now = egress(&fake).unwrap_or_default();
                now == expected
            });
        };
        only(&[], &[]);
        let keys = json!({
            "enable_asg_syncing": false,
            "deny_networks": {"always": ["10.1.0.0/16"]},
            "outbound_connections": {"limit": true, "burst": 5, "rate_per_sec": 2},
            "iptables_asg_logging": true,
        });
        let policies = policy_agent_with(world, &keys);
        only(&["10.1.0.0"], &["1.0.0.0"]);
        let limits = || {
            let told = fake.told.lock();
            let limit = told.settings.values().next().unwrap().connections.unwrap();
            (limit.burst, limit.per_second, told.cell.as_ref().unwrap().logging.egress)
        };
        assert_eq!(limits(), (5, 2, true));
        let disabled = (405, "ASG syncing has been disabled administratively".to_owned());
        assert_eq!(ask(FORCE, "GET /force-asgs-for-container?container=b"), disabled);

        assert_eq!(policies.end(Signal::SIGTERM), Some(0));
        eventually("on the disk", || on_disk(world, "10.1.0.0/16"));
        assert_eq!(agent.end(Signal::SIGKILL), None);
        let _agent = daemon(world);
        eventually("told again", || fake.told.lock().snapshots == 2);
        only(&["10.1.0.0"], &["1.0.0.0"]);
        assert_eq!(limits(), (5, 2, true));
        // With other words in the file, what they say holds instead.
        let _policies = policy_agent(world);
        only(&[], &[]);
    });
}

#[test]
fn what_makes_no_sense_is_not_taken() {
    in_cell(|world| {
        all_servers(world);
        let _servers = world.servers.start();
        let (_fake, _agent) = (world.dataplane(), daemon(world));
        eventually("the agent serves", || serves(world));
        let mut client = world.client();
        let head = r#"{"format":1,"checksum":0}"#;
        for document in ["x", "{}\n{}\n", head, &format!("{head}\n{{}}\n")] {
            let refused = client.followed(document.as_bytes(), FollowProblems::default());
            let error = refused.unwrap_err().to_string();
            assert!(error.starts_with("what the policy server says cannot be read: "), "{error}");
        }
        let part = Request::FollowedPart { bytes: vec![b' '; MAX_PART + 1] };
        let error = client.request(&part, None).unwrap_err();
        assert!(matches!(
            error,
            sarcenet_agent_api::AgentError::Refused { code: ErrorCode::Invalid, .. }
        ));
        let second = world.client().followed(b"", FollowProblems::default()).unwrap_err();
        assert_eq!(
            second.to_string(),
            "another program tells the agent what the policy server says"
        );
        client.followed(b"", FollowProblems::default()).unwrap();
        eventually("somebody tells", || !problem(world, NOBODY));
        drop(client);
        eventually("gone", || problem(world, NOBODY));
        let again = || world.client().followed(b"", FollowProblems::default());
        eventually("another may", || again().is_ok());
    });
}

#[test]
fn an_agent_that_asks_the_policy_server_itself_is_told_nothing() {
    in_cell(|world| {
        all_servers(world);
        let (_servers, _fake) = (world.servers.start(), world.dataplane());
        let _agent = world.agent();
        let refused = world.client().followed(b"", FollowProblems::default()).unwrap_err();
        assert!(refused.to_string().contains("its network file says where policies come from"));
    });
}

#[test]
fn a_cell_is_torn_down() {
    in_cell(|world| {
        let control = world.servers.start();
        let agent = daemon(world);
        eventually("the agent serves", || serves(world));
        assert_eq!(world.leases().len(), 1);
        assert_eq!(agent.end(Signal::SIGTERM), Some(0));
        let has_device = || Netlink::open().unwrap().link("sarcenet0").unwrap().is_some();
        let tear_down = || {
            let keys = json!({"client_timeout_seconds": 1});
            let mut command = program(world, "silk-teardown", "config", DAEMON, &keys);
            let ended = command.output().unwrap();
            let text = String::from_utf8(ended.stderr).unwrap();
            (ended.status.code(), text.lines().last().unwrap_or_default().to_owned())
        };
        assert!(has_device());
        assert_eq!(tear_down().0, Some(0));
        assert_eq!(world.leases(), []);
        assert!(!has_device() && !world.root.lease_file().exists());

        let agent = daemon(world);
        eventually("the agent serves", || serves(world));
        assert_eq!(agent.end(Signal::SIGTERM), Some(0));
        control.end(Signal::SIGTERM);
        let (status, last) = tear_down();
        assert_eq!(status, Some(1));
        let begin = "silk-teardown: cannot release the lease: no answer from";
        assert!(last.starts_with(begin), "{last}");
        assert!(!has_device() && !world.root.lease_file().exists());
    });
}

#[test]
fn what_is_wrong_is_named() {
    in_cell(|world| {
        let no_tls = json!({"policy_server_url": "http://a", "enable_overlay_ingress_rules": true});
        for (name, flag, text, keys, said) in [
            ("silk-daemon", "config", DAEMON, json!({"vni": null}), "vni is missing"),
            ("silk-teardown", "config", DAEMON, json!({"underlay_ip": ""}), "underlay_ip is miss"),
            ("vxlan-policy-agent", "config-file", POLICY_AGENT, no_tls, "enable_overlay_ingress_"),
        ] {
            let ended = program(world, name, flag, text, &keys).output().unwrap();
            assert_eq!(ended.status.code(), Some(1), "{name}");
            let error = String::from_utf8(ended.stderr).unwrap();
            assert!(error.starts_with(&format!("{name}: could not read config file: ")), "{error}");
            assert!(error.contains(said), "{error}");
        }
    });
}
