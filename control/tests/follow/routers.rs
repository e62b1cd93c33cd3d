//! Routers that reach apps by the overlay, their cells, and an overlay that is open.

use std::fs;

use nix::sys::signal::Signal;
use sarcenet_agent_api::{AgentError, ErrorCode, Metadata, Terms};
use serde_json::{Value, json};

use crate::drop_in::{DAEMON, policy_agent_with, problem, program, serves};
use crate::fake::Fake;
use crate::policies::{all_servers, change, on_disk, rules};
use crate::process::Process;
use crate::world::{Namespace, STATUS, World, ask, eventually, in_cell};

const BOOTSTRAP: &str = r#"{"policy_server_url":"https://127.0.0.1:4003",
    "policy_server_ca_cert_file":"/etc/sarcenet/certs/ca.crt",
    "policy_client_cert_file":"/etc/sarcenet/certs/client.crt",
    "policy_client_key_file":"/etc/sarcenet/certs/client.key",
    "iptables_lock_file":"/var/vcap/data/garden-cni/iptables.lock","single_ip_only":true}"#;

const UNKNOWN: &str = "the tag of routers is not known, so that nothing is open to them";
const OPEN: &str = "everybody in the overlay may talk to this cell's containers";

/// A container of app-b that listens on these ports.
fn listening(world: &World, ports: &str) -> Namespace {
    let b = Namespace::new("b");
    let metadata = Metadata { ports: Some(ports.into()), ..Metadata::default() };
    world.add_of(&b, "app-b", Terms { metadata, ..Terms::default() });
    b
}

/// The tag of what the cell itself sends.
fn own_tag(fake: &Fake) -> Option<u16> {
    Some(fake.told.lock().cell.as_ref()?.tag)
}

fn is_open(fake: &Fake) -> bool {
    fake.told.lock().cell.as_ref().is_some_and(|cell| cell.open)
}

#[test]
fn ports_that_apps_name_are_open_to_routers_also_without_servers() {
    in_cell(|world| {
        all_servers(world);
        let servers = world.servers.start();
        change(world, "allow", "app-a", "app-b", "8080");
        let fake = world.dataplane();
        world.edit(":4003'}", ":4003', overlay_ingress: true}");
        let agent = world.agent();
        let _b = listening(world, "8080, 9090");
        let all = [(1, 8080), (3, 8080), (3, 9090)];
        eventually("in the dataplane", || rules(&fake) == all);
        let names: Vec<_> = fake.told.lock().rules.values().copied().collect();
        let said = world.client().rules(&names).unwrap();
        let said: Vec<_> = names.iter().map(|name| said[name].to_string()).collect();
        assert_eq!(said, ["app-a to app-b tcp 8080", "routers to tcp 8080", "routers to tcp 9090"]);
        assert_eq!(own_tag(&fake), Some(0), "the cell itself is none of a router");
        let (_, metrics) = ask(STATUS, "GET /metrics");
        let answered = "sarcenet_agent_followed_timestamp_seconds{what=\"routers\"}";
        assert!(metrics.contains(answered), "{metrics}");
        // Each is written when it comes.
        eventually("on the disk", || {
            on_disk(world, "\"router_tag\":3") && on_disk(world, "\"start\":8080")
        });
        assert_eq!(servers.end(Signal::SIGKILL), None);
        assert_eq!(agent.end(Signal::SIGKILL), None);

        let mut agent = world.agent();
        eventually("told again", || fake.told.lock().snapshots == 2);
        assert_eq!(rules(&fake), all);
        agent.logged("tags of routers stay as they were: ");
        eventually("told to people", || problem(world, "tags of routers stay as they were: "));
        let _servers = world.servers.start();
        agent.logged("tags of routers are followed again");
        eventually("all is well", || world.client().status().unwrap().problems.is_empty());
        assert_eq!(agent.end(Signal::SIGTERM), Some(0));

        world.edit("overlay_ingress: true", "overlay_ingress: false");
        let _agent = world.agent();
        eventually("told once more", || fake.told.lock().snapshots == 3);
        assert_eq!(rules(&fake), [(1, 8080)]);
    });
}

#[test]
fn what_a_router_sends_carries_the_tag_of_routers() {
    in_cell(|world| {
        world.edit("timeout: 1}", "timeout: 1, single_ip: true}");
        let servers = world.servers.start();
        let fake = world.dataplane();
        let agent = world.agent();
        eventually("the dataplane knows it", || fake.told.lock().snapshots > 0);
        assert_eq!(own_tag(&fake), Some(0));
        eventually("told to people", || problem(world, UNKNOWN));
        let container = Namespace::new("one");
        let refused = world.try_add(&container, "app-a", Terms::default()).unwrap_err();
        let AgentError::Refused { code, message } = refused else { panic!("{refused}") };
        assert_eq!(code, ErrorCode::NoAddress);
        assert!(message.contains("a cell with a single address runs none"), "{message}");

        // The policy server comes later.
        assert_eq!(servers.end(Signal::SIGTERM), Some(0));
        all_servers(world);
        let servers = world.servers.start();
        eventually("it has a tag", || own_tag(&fake) == Some(1));
        eventually("all is well", || world.client().status().unwrap().problems.is_empty());
        eventually("on the disk", || on_disk(world, "\"router_tag\":1"));
        assert_eq!(servers.end(Signal::SIGKILL), None);
        assert_eq!(agent.end(Signal::SIGKILL), None);
        let _agent = world.agent();
        eventually("told again", || fake.told.lock().snapshots == 2);
        assert_eq!(own_tag(&fake), Some(1));
    });
}

/// Runs silk-daemon-bootstrap; its exit status, and the last line of what it says.
fn bootstrap(world: &World, keys: &Value) -> (Option<i32>, String) {
    let mut command = program(world, "silk-daemon-bootstrap", "config", BOOTSTRAP, keys);
    let ended = command.output().unwrap();
    let text = String::from_utf8(ended.stderr).unwrap();
    (ended.status.code(), text.lines().last().unwrap_or_default().to_owned())
}

fn router_daemon(world: &World) -> Process {
    let keys = json!({"poll_interval": 1, "client_timeout_seconds": 1, "single_ip_only": true});
    Process::spawn(program(world, "silk-daemon", "config", DAEMON, &keys))
}

#[test]
fn a_router_of_cloud_foundrys() {
    in_cell(|world| {
        all_servers(world);
        let (status, said) = bootstrap(world, &json!({}));
        assert_eq!(status, Some(1), "{said}");
        let begin = "silk-daemon-bootstrap: cannot learn the tag of routers: ";
        assert!(said.starts_with(begin), "{said}");
        let none = json!({"single_ip_only": false});
        assert_eq!(bootstrap(world, &none).0, Some(0), "nobody is asked");
        assert!(!world.root.followed_file().exists());

        let _servers = world.servers.start();
        assert_eq!(bootstrap(world, &json!({})).0, Some(0));
        assert!(on_disk(world, "\"router_tag\":1"));
        let fake = world.dataplane();
        let agent = router_daemon(world);
        eventually("the agent serves", || serves(world));
        eventually("it has a tag", || own_tag(&fake) == Some(1));
        assert!(world.subnet().ends_with("/32"));
        eventually("all is well", || world.client().status().unwrap().problems.is_empty());
        assert_eq!(agent.end(Signal::SIGTERM), Some(0));

        // An agent that runs is told.
        fs::remove_file(world.root.followed_file()).unwrap();
        let _agent = router_daemon(world);
        eventually("the agent serves", || serves(world));
        eventually("told again", || fake.told.lock().snapshots == 2);
        assert_eq!(own_tag(&fake), Some(0));
        assert!(problem(world, &format!("{UNKNOWN}; has silk-daemon-bootstrap run?")));
        assert_eq!(bootstrap(world, &json!({})).0, Some(0));
        assert_eq!(own_tag(&fake), Some(1), "it is in force when the program ends");
        eventually("all is well", || world.client().status().unwrap().problems.is_empty());
    });
}

#[test]
fn what_the_file_of_the_policy_agent_says_of_the_overlay() {
    in_cell(|world| {
        all_servers(world);
        let _servers = world.servers.start();
        let fake = world.dataplane();
        let keys = json!({"poll_interval": 1, "client_timeout_seconds": 1});
        let mut agent = Process::spawn(program(world, "silk-daemon", "config", DAEMON, &keys));
        eventually("the agent serves", || serves(world));
        let _b = listening(world, "8080");
        let policies = policy_agent_with(world, &json!({"enable_overlay_ingress_rules": true}));
        eventually("in the dataplane", || rules(&fake) == [(1, 8080)]);
        eventually("on the disk", || on_disk(world, "\"router_tag\":1"));
        assert_eq!(policies.end(Signal::SIGTERM), Some(0));
        assert_eq!(rules(&fake), [(1, 8080)], "it stays so");

        let open = json!({"disable_container_network_policy": true});
        let policies = policy_agent_with(world, &open);
        eventually("open", || is_open(&fake));
        assert_eq!(rules(&fake), [], "and nothing is said of routers");
        assert!(problem(world, OPEN));
        agent.logged(OPEN);
        assert_eq!(policies.end(Signal::SIGTERM), Some(0));
        eventually("on the disk", || on_disk(world, "\"open\":true"));
        assert_eq!(agent.end(Signal::SIGKILL), None);
        let mut agent = Process::spawn(program(world, "silk-daemon", "config", DAEMON, &keys));
        agent.logged(OPEN);
        eventually("told again", || fake.told.lock().snapshots == 2);
        assert!(is_open(&fake), "as it was said last");

        let _policies = policy_agent_with(world, &json!({}));
        eventually("closed", || !is_open(&fake));
        eventually("all is well", || world.client().status().unwrap().problems.is_empty());
    });
}

#[test]
fn the_network_file_opens_the_overlay_and_closes_it() {
    in_cell(|world| {
        let (_servers, fake) = (world.servers.start(), world.dataplane());
        let mut agent = world.agent();
        eventually("the dataplane knows it", || fake.told.lock().snapshots > 0);
        assert!(!is_open(&fake));
        world.edit("overlay: 10", "open_overlay: true\noverlay: 10");
        eventually("open", || is_open(&fake));
        agent.logged(OPEN);
        assert!(problem(world, OPEN));
        world.edit("open_overlay: true", "open_overlay: false");
        eventually("closed", || !is_open(&fake));
        assert!(!problem(world, OPEN));
    });
}
