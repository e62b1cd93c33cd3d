//! From the policy server to the dataplane, through the whole agent.

use std::fs;

use nix::sys::signal::Signal;
use sarcenet_agent_api::{Metadata, Terms};
use sarcenet_dataplane_api::EgressRule;
use sarcenet_server::policy::SecurityGroup;
use serde_json::Value;

use crate::fake::Fake;
use crate::policy_server::world::Ours;
use crate::world::{Namespace, World, ask, ask_with, eventually, in_cell, metric};

const CONTROL: &str = "\
database: sqlite:/srv/control.db
external: {listen: '127.0.0.1:4002', tls: true}
internal: {listen: '127.0.0.1:4003'}
leases: {listen: '127.0.0.1:4103', overlay: 10.255.0.0/16, block_prefix: 24}
status: {listen: '127.0.0.1:19683'}
auth: {tokens_file: /etc/sarcenet/tokens.yaml}
";

/// All servers, for the cell of a test.
pub(crate) fn all_servers(world: &World) {
    fs::write(world.root.control_file(), CONTROL).unwrap();
    fs::write(world.servers.path("token"), "bearer secret-of-ada\n").unwrap();
}

/// `sarcenet policy` at the policy server, or why not.
fn policy(world: &World, words: &[&str]) -> Result<String, String> {
    let (token, ca) =
        (world.servers.path("token"), world.servers.path("etc/sarcenet/certs/ca.crt"));
    let mut command = world.command(&["policy"]);
    command.args(words).args(["--server", "https://127.0.0.1:4002"]);
    let done = command.arg("--token-file").arg(token).arg("--ca").arg(ca).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    if done.status.success() { Ok(text(done.stdout)) } else { Err(text(done.stderr)) }
}

pub(crate) fn change(world: &World, word: &str, from: &str, to: &str, port: &str) {
    let words = [word, "--from", from, "--to", to, "--protocol", "tcp", "--ports", port];
    policy(world, &words).unwrap();
}

/// Tag and port of each rule, in order.
pub(crate) fn rules(fake: &Fake) -> Vec<(u16, u16)> {
    fake.told.lock().rules.keys().map(|key| (key.source, key.ports.first)).collect()
}

pub(crate) fn on_disk(world: &World, what: &str) -> bool {
    fs::read_to_string(world.root.followed_file()).is_ok_and(|text| text.contains(what))
}

#[test]
fn a_policy_is_enforced_and_outlives_servers_and_agent() {
    in_cell(|world| {
        all_servers(world);
        let servers = world.servers.start();
        let fake = world.dataplane();
        let agent = world.agent();
        let b = Namespace::new("b");
        world.add_of(&b, "app-b", Terms::default());
        change(world, "allow", "app-a", "app-b", "8080");
        eventually("in the dataplane", || rules(&fake) == [(1, 8080)]);
        let tag = fake.told.lock().containers.values().next().unwrap().0.tag;
        assert_eq!(tag, 2, "what the container sends carries the tag of its app");

        // Without servers, and with a new agent that never hears of them.
        eventually("on the disk", || on_disk(world, "8080"));
        assert_eq!(servers.end(Signal::SIGKILL), None);
        assert_eq!(agent.end(Signal::SIGKILL), None);
        let agent = world.agent();
        eventually("told again", || fake.told.lock().snapshots == 2);
        assert_eq!(rules(&fake), [(1, 8080)]);
        eventually("told to people", || {
            let problems = world.client().status().unwrap().problems;
            problems.iter().any(|problem| problem.starts_with("policies stay as they were: "))
        });

        // The app moves to another container; one of another app has no policies.
        let (again, other) = (Namespace::new("b-again"), Namespace::new("c"));
        let address = world.add_of(&again, "app-b", Terms::default()).address;
        world.add_of(&other, "app-c", Terms::default());
        world.client().del(b.id()).unwrap();
        let keys: Vec<_> = fake.told.lock().rules.keys().map(|key| key.destination).collect();
        assert_eq!(keys, [address]);

        // The servers come back, and so does what changes there.
        let _servers = world.servers.start();
        change(world, "revoke", "app-a", "app-b", "8080");
        change(world, "allow", "app-a", "app-c", "9090");
        eventually("followed again", || rules(&fake) == [(1, 9090)]);
        eventually("all is well", || world.client().status().unwrap().problems.is_empty());
        eventually("counted", || metric("sarcenet_agent_policies") == 1);
        // How long it took is counted of changes that the agent waited for.
        change(world, "allow", "app-a", "app-c", "9091");
        eventually("timed", || metric("sarcenet_agent_policies_delay_seconds_count") >= 1);
        eventually("in the dataplane at last", || rules(&fake).contains(&(1, 9091)));
        assert_eq!(agent.end(Signal::SIGTERM), Some(0));
        assert!(on_disk(world, "9091"), "what was heard last is on the disk at the end");
    });
}

#[test]
fn the_users_token_comes_by_flag_file_or_environment() {
    in_cell(|world| {
        all_servers(world);
        let _servers = world.servers.start();
        let (good, file) = ("secret-of-ada", world.servers.path("token"));
        let file = file.to_str().unwrap();
        for (words, environment, listed) in [
            (&["--token", good][..], None, true),
            (&["--token", good], Some("of-nobody"), true),
            (&["--token-file", file], Some("of-nobody"), true),
            (&[], Some(good), true),
            (&["--token", "of-nobody"], Some(good), false),
            (&["--token", good, "--token-file", file], None, false),
            (&[], None, false),
        ] {
            let mut command = world.command(&["policy", "list"]);
            command.args(["--server", "https://127.0.0.1:4002", "--ca"]);
            command.arg(world.servers.path("etc/sarcenet/certs/ca.crt")).args(words);
            // Where nobody has left a token.
            command.env_remove("SARCENET_TOKEN").env("XDG_CONFIG_HOME", "/nonexistent");
            command.envs(environment.map(|token| ("SARCENET_TOKEN", token)));
            let done = command.output().unwrap();
            assert_eq!(done.status.success(), listed, "{words:?} {environment:?}: {done:?}");
        }
    });
}

#[test]
fn a_damaged_file_opens_nothing() {
    in_cell(|world| {
        all_servers(world);
        let servers = world.servers.start();
        change(world, "allow", "app-a", "app-b", "8080");
        let fake = world.dataplane();
        let agent = world.agent();
        let b = Namespace::new("b");
        world.add_of(&b, "app-b", Terms::default());
        eventually("in the dataplane", || rules(&fake) == [(1, 8080)]);
        eventually("on the disk", || on_disk(world, "8080"));
        assert_eq!(servers.end(Signal::SIGKILL), None);
        assert_eq!(agent.end(Signal::SIGKILL), None);
        let file = world.root.followed_file();
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text.replace("8080", "8081")).unwrap();
        let mut agent = world.spawn();
        let told = agent.logged(&format!("{} was damaged", file.display()));
        let told = told["message"].as_str().unwrap();
        assert!(
            told.ends_with("nothing is allowed until the policy server has been heard"),
            "{told}"
        );
        eventually("told again", || fake.told.lock().snapshots == 2);
        assert_eq!(rules(&fake), []);
        let _servers = world.servers.start();
        eventually("heard", || rules(&fake) == [(1, 8080)]);
    });
}

#[test]
fn security_groups_are_those_of_the_container() {
    in_cell(|world| {
        let _leases = world.servers.start();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.unwrap();
        let server = runtime.block_on(Ours::start_at(4003));
        let group = SecurityGroup {
            row: 0,
            guid: "g".into(),
            name: "of-s".into(),
            rules: r#"[{"protocol":"tcp","destination":"10.1.0.0/16","ports":"443"},
                {"protocol":"gre","destination":"0.0.0.0/0"}]"#
                .into(),
            staging_default: false,
            running_default: false,
            staging_spaces: Vec::new(),
            running_spaces: vec!["s".into()],
        };
        let put = |groups: &[SecurityGroup]| {
            assert!(runtime.block_on(server.database.replace_security_groups(groups)).unwrap());
        };
        put(std::slice::from_ref(&group));
        // Nobody would ask by himself for as long as the test takes.
        world.edit("control:\n", "outside: {}\ncontrol:\n  security_groups: {interval: 3600}\n");
        let fake = world.dataplane();
        let _agent = world.agent();
        let metadata = Metadata { space_id: Some("s".into()), ..Metadata::default() };
        let s = Namespace::new("s");
        world.add_of(&s, "app-s", Terms { metadata, ..Terms::default() });
        eventually("its group is in the dataplane", || {
            let told = fake.told.lock();
            told.sets.values().any(|rules| rules[0].first.to_string() == "10.1.0.0")
        });
        let sets = fake.told.lock().sets.clone();
        let allowed = fake.told.lock().settings.values().find_map(|settings| settings.allowed);
        assert_eq!(sets[&allowed.unwrap()].len(), 1, "a rule that cannot be read opens nothing");
        eventually("counted", || metric("sarcenet_agent_security_group_rules_left_out") == 1);
        assert_eq!(metric("sarcenet_agent_security_groups_watched"), 1);

        // What changes is in force soon.
        let rules = group.rules.replace("10.1.0.0/16", "10.2.0.0/16");
        put(&[SecurityGroup { rules, ..group }]);
        eventually("its other rules are in the dataplane", || {
            let told = fake.told.lock();
            let is_there = |rule: &EgressRule| rule.first.to_string() == "10.2.0.0";
            told.sets.values().flatten().any(is_there)
        });
    });
}

#[test]
fn others_can_have_the_servers_asked_at_once() {
    const FORCE: u16 = 8722;
    const LOGGING: u16 = 8721;
    in_cell(|world| {
        all_servers(world);
        let servers = world.servers.start();
        world.edit("control:\n", "control:\n  security_groups: {}\n  logging: 127.0.0.1:8721\n");
        let _fake = world.dataplane();
        let _agent = world.agent();
        let answer = |status: u16, text: &str| (status, text.to_owned());
        let asgs = "/force-asgs-for-container";
        let orphans = "/force-orphaned-asgs-cleanup";
        for (request, expected) in [
            ("GET /force-policy-poll-cycle".to_owned(), answer(200, "")),
            ("POST /force-policy-poll-cycle".to_owned(), answer(200, "")),
            (format!("GET {asgs}"), answer(400, "no container specified")),
            (format!("GET {asgs}?container=h"), answer(200, "updated container h")),
            (format!("GET {orphans}"), answer(400, "no container specified")),
            (format!("PUT {orphans}?container=h"), answer(200, "cleaned up ASGs for container h")),
            ("GET /other".to_owned(), answer(404, "404 page not found\n")),
        ] {
            assert_eq!(ask(FORCE, &request), expected, "{request}");
        }
        let switch = "/iptables-c2c-logging";
        let bad = r#"{ "error": "decoding request body as json" }"#;
        let missing = r#"{ "error": "missing required key 'enabled'" }"#;
        for (method, body, expected) in [
            ("GET", "", answer(200, "{\"enabled\":false}\n")),
            ("PUT", r#"{"enabled":true}"#, answer(200, "{\"enabled\":true}\n")),
            ("GET", "", answer(200, "{\"enabled\":true}\n")),
            ("PUT", "no", answer(400, bad)),
            ("PUT", "{}", answer(400, missing)),
            ("GET", "", answer(200, "{\"enabled\":true}\n")),
        ] {
            let told = ask_with(LOGGING, &format!("{method} {switch}"), body);
            assert_eq!(told, expected, "{method} {body}");
        }

        assert_eq!(servers.end(Signal::SIGKILL), None);
        let (status, text) = ask(FORCE, "GET /force-policy-poll-cycle");
        assert_eq!(status, 500);
        assert!(text.starts_with("failed to force policy poll cycle: "), "{text}");
        let (status, text) = ask(FORCE, &format!("GET {asgs}?container=h"));
        assert_eq!(status, 500);
        assert!(text.starts_with("failed to update asgs for container h: "), "{text}");
    });
}

#[test]
fn without_security_groups_nobody_asks_for_them() {
    in_cell(|world| {
        all_servers(world);
        let (_servers, _fake) = (world.servers.start(), world.dataplane());
        let _agent = world.agent();
        let disabled = (405, "ASG syncing has been disabled administratively".to_owned());
        assert_eq!(ask(8722, "GET /force-asgs-for-container?container=h"), disabled);
        assert_eq!(ask(8722, "GET /force-orphaned-asgs-cleanup?container=h"), disabled);
    });
}

#[test]
fn policies_are_changed_and_listed_at_the_server() {
    in_cell(|world| {
        all_servers(world);
        let (servers, _fake) = (world.servers.start(), world.dataplane());
        let _agent = world.agent();
        let one = ["--from", "a", "--to", "b", "--protocol", "udp", "--ports", "53"];
        let with = |word: &'static str| [&[word], &one[..]].concat();
        let told = |text: &str| Ok(format!("{text}\n"));
        let at = "by 127.0.0.1:4002";
        assert_eq!(policy(world, &with("allow")), told(&format!("a to b udp 53: allowed {at}")));
        assert_eq!(policy(world, &with("allow")), told(&format!("a to b udp 53: allowed {at}")));
        let listed = policy(world, &["list"]).unwrap();
        assert_eq!(listed, "FROM  TO  PROTOCOL  PORTS\na     b   udp       53\n");
        let listed: Value =
            serde_json::from_str(&policy(world, &["list", "--json"]).unwrap()).unwrap();
        let ports = serde_json::json!({"first": 53, "last": 53});
        let expected =
            serde_json::json!([{"from": "a", "to": "b", "protocol": "udp", "ports": ports}]);
        assert_eq!(listed, expected);
        let gone = format!("a to b udp 53: not allowed any more {at}");
        assert_eq!(policy(world, &with("revoke")), told(&gone));
        let none = "no policies: every conversation between apps is refused";
        assert_eq!(policy(world, &["list"]), told(none));

        // What is wrong is told in the server's words, with what to do.
        let no_name = ["allow", "--from", "", "--to", "b", "--protocol", "udp", "--ports", "53"];
        let error = policy(world, &no_name).unwrap_err();
        assert!(
            error
                .contains("does not take the policy: mapper: validate policies: missing source id"),
            "{error}"
        );
        fs::write(world.servers.path("token"), "of-nobody").unwrap();
        let error = policy(world, &["list"]).unwrap_err();
        assert!(error.contains("127.0.0.1:4002 does not know the token: "), "{error}");
        let tokens = "tokens: [{token: of-nobody, subject: eve, scopes: [openid]}]";
        fs::write(world.servers.path("etc/sarcenet/tokens.yaml"), tokens).unwrap();
        let error = policy(world, &["list"]).unwrap_err();
        assert!(error.contains("forbids it: provided scopes [openid] do not include"), "{error}");
        assert_eq!(servers.end(Signal::SIGKILL), None);
        let error = policy(world, &["list"]).unwrap_err();
        assert!(error.contains("127.0.0.1:4002 cannot be reached"), "{error}");

        // The agent has none to change.
        let mut command = world.command(&["policy"]);
        let refused = command.args(with("allow")).output().unwrap();
        let error = String::from_utf8(refused.stderr).unwrap();
        assert!(error.contains("`sarcenet policy allow --server` with the address"), "{error}");
    });
}
