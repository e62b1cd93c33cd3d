//! From the policy server to the dataplane, through the whole agent.

use std::sync::Arc;

use sarcenet_agent_api::{
    AgentError, ErrorCode, Metadata, Policy, Terms, parse_ports, parse_protocol,
};
use sarcenet_control::agent::Found;
use sarcenet_control::follow::policy_server::PolicyServerFollowing;
use sarcenet_control::follow::saved::{Saved, SavedFile};
use sarcenet_control::followed::Followed;
use sarcenet_server::http::metrics::Metrics;
use sarcenet_server::http::{Stopper, stop};
use sarcenet_server::lease::Lease;
use sarcenet_server::policy::SecurityGroup;
use tokio::runtime::Runtime;

use super::world::{Ours, certs_directory};
use crate::fake::Fake;
use crate::world::{Namespace, RunningAgent, World, eventually, in_cell};

/// An agent that follows a policy server.
struct Following {
    running: RunningAgent,
    runtime: Option<Runtime>,
    following: Option<PolicyServerFollowing>,
    metrics: Metrics,
    _stopper: Stopper,
}

impl Drop for Following {
    /// As if it were killed: nothing is awaited.
    fn drop(&mut self) {
        self.following.take();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// A network file that names a server, with the certificates that it needs.
fn prepare(world: &World, server: &Ours) {
    let certs = world.root.certs_directory();
    std::fs::create_dir_all(&certs).unwrap();
    for entry in std::fs::read_dir(certs_directory()).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), certs.join(entry.file_name())).unwrap();
    }
    let network = format!(
        "\
overlay: 10.255.0.0/16
mtu: 1450
outside: {{}}
control:
  underlay: 10.77.0.11
  policies: {{url: 'https://{}'}}
  security_groups: {{}}
  force: 127.0.0.1:0
  logging: 127.0.0.1:0
",
        server.address
    );
    std::fs::write(world.network(), network).unwrap();
}

fn follow(world: &World) -> Following {
    let runtime = runtime();
    let (saved, problem) = SavedFile::new(&world.root).load().unwrap();
    assert_eq!(problem, None);
    let lease = Lease {
        underlay: [10, 77, 0, 11].into(),
        subnet: "10.255.55.0/24".parse().unwrap(),
        mac: [0xee, 0xee, 10, 255, 55, 0],
    };
    let followed = Followed {
        lease: Some(lease),
        policies: saved.policies.clone(),
        groups: saved.groups.as_ref().map(|groups| Arc::clone(&groups.groups)),
        ..Followed::default()
    };
    let running = world.agent_with(followed);
    let (metrics, (stopper, stop)) = (Metrics::default(), stop());
    let spec = Found::read(world.options()).unwrap().base().control.clone().unwrap();
    let following = runtime.block_on(PolicyServerFollowing::start(
        &running.agent,
        &spec,
        saved,
        &metrics,
        &stop,
    ));
    let following = Some(following.unwrap());
    Following { running, runtime: Some(runtime), following, metrics, _stopper: stopper }
}

fn of_space(space: &str) -> Terms {
    let metadata = Metadata { space_id: Some(space.into()), ..Metadata::default() };
    Terms { metadata, ..Terms::default() }
}

/// Tag and port of each rule, in order.
fn rules(fake: &Fake) -> Vec<(u16, u16)> {
    fake.told.lock().rules.keys().map(|key| (key.source, key.ports.first)).collect()
}

#[test]
fn a_policy_is_enforced_and_outlives_everything() {
    in_cell(|world| {
        let servers = runtime();
        let mut server = servers.block_on(Ours::start());
        prepare(world, &server);
        let fake = world.dataplane();
        let agent = follow(world);
        let b = Namespace::new("b");
        world.add(&b, "app-b");
        servers.block_on(server.allow(&[("app-a", "app-b", 8080)]));
        eventually("in the dataplane", || rules(&fake) == [(1, 8080)]);
        let tag = fake.told.lock().containers.values().next().unwrap().0.tag;
        assert_eq!(tag, 2, "the container's own packets carry its app's tag");

        // Without the server, and with a new agent that never hears of it.
        servers.block_on(server.go());
        let file = SavedFile::new(&world.root);
        eventually("on the disk", || {
            file.load().unwrap().0.policies.is_some_and(|policies| policies.len() == 1)
        });
        drop(agent);
        let agent = follow(world);
        eventually("told again", || fake.told.lock().snapshots == 2);
        assert_eq!(rules(&fake), [(1, 8080)]);

        // The app moves to another container; one of another app has no policies.
        let (again, other) = (Namespace::new("b-again"), Namespace::new("c"));
        let address = world.add(&again, "app-b").address;
        world.add(&other, "app-c");
        world.client().del(b.id()).unwrap();
        let keys: Vec<_> = fake.told.lock().rules.keys().map(|key| key.destination).collect();
        assert_eq!(keys, [address]);

        // What happened meanwhile arrives when the server is back.
        servers.block_on(server.revoke(&[("app-a", "app-b", 8080)]));
        servers.block_on(server.allow(&[("app-a", "app-c", 9090)]));
        servers.block_on(server.come());
        eventually("followed again", || rules(&fake) == [(1, 9090)]);
        let text = agent.metrics.text().unwrap();
        assert!(text.contains("sarcenet_agent_policies 1\n"), "{text}");
    });
}

#[test]
fn a_damaged_file_opens_nothing() {
    in_cell(|world| {
        let servers = runtime();
        let mut server = servers.block_on(Ours::start());
        prepare(world, &server);
        servers.block_on(server.allow(&[("app-a", "app-b", 8080)]));
        let file = SavedFile::new(&world.root);
        let fake = world.dataplane();
        let agent = follow(world);
        let b = Namespace::new("b");
        world.add(&b, "app-b");
        eventually("in the dataplane", || rules(&fake) == [(1, 8080)]);
        eventually("on the disk", || file.load().unwrap().0 != Saved::default());
        servers.block_on(server.go());
        drop(agent);
        let text = std::fs::read_to_string(file.path()).unwrap();
        std::fs::write(file.path(), text.replace("8080", "8081")).unwrap();
        let (saved, problem) = file.load().unwrap();
        assert_eq!(saved, Saved::default());
        assert!(
            problem.unwrap().contains("nothing is allowed until the policy server has been heard")
        );
        let _agent = follow(world);
        eventually("told again", || fake.told.lock().snapshots == 2);
        assert_eq!(rules(&fake), []);
        servers.block_on(server.come());
        eventually("heard", || rules(&fake) == [(1, 8080)]);
    });
}

#[test]
fn security_groups_are_those_of_the_container() {
    in_cell(|world| {
        let servers = runtime();
        let server = servers.block_on(Ours::start());
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
        servers.block_on(server.database.replace_security_groups(&[group])).unwrap();
        prepare(world, &server);
        let fake = world.dataplane();
        let agent = follow(world);
        let s = Namespace::new("s");
        let wish = sarcenet_agent_api::Attach { terms: of_space("s"), ..s.wish("app-s") };
        world.client().add(wish, std::os::fd::AsFd::as_fd(&s.netns)).unwrap();
        eventually("its group is in the dataplane", || fake.told.lock().sets.len() == 1);
        let sets: Vec<_> = fake.told.lock().sets.values().cloned().collect();
        assert_eq!(sets[0].len(), 1, "a rule that cannot be read opens nothing");
        assert_eq!(sets[0][0].first.to_string(), "10.1.0.0");
        eventually("counted", || {
            let text = agent.metrics.text().unwrap();
            text.contains("sarcenet_agent_security_group_rules_left_out 1\n")
        });
    });
}

#[test]
fn others_can_have_the_servers_asked_at_once() {
    in_cell(|world| {
        let servers = runtime();
        let mut server = servers.block_on(Ours::start());
        prepare(world, &server);
        let _fake = world.dataplane();
        let agent = follow(world);
        let following = agent.following.as_ref().unwrap();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let ask = |address: std::net::SocketAddr, method: &str, path: &str, body: &'static str| {
            let request =
                client.request(method.parse().unwrap(), format!("http://{address}{path}"));
            servers.block_on(async {
                let response = request.body(body).send().await.unwrap();
                (response.status().as_u16(), response.text().await.unwrap())
            })
        };
        let answer = |status: u16, text: &str| (status, text.to_owned());
        let force = following.force_address();
        let asgs = "/force-asgs-for-container";
        for (method, path, expected) in [
            ("GET", "/force-policy-poll-cycle", answer(200, "")),
            ("POST", "/force-policy-poll-cycle", answer(200, "")),
            ("GET", asgs, answer(400, "no container specified")),
            ("GET", "/force-asgs-for-container?container=h", answer(200, "updated container h")),
            (
                "POST",
                "/force-orphaned-asgs-cleanup?container=h",
                answer(200, "cleaned up ASGs for container h"),
            ),
            ("GET", "/force-orphaned-asgs-cleanup", answer(400, "no container specified")),
            ("GET", "/other", answer(404, "404 page not found\n")),
        ] {
            assert_eq!(ask(force, method, path, ""), expected, "{method} {path}");
        }
        let logging = following.logging_address().unwrap();
        let path = "/iptables-c2c-logging";
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
            assert_eq!(ask(logging, method, path, body), expected, "{method} {body}");
        }
        assert!(agent.running.agent.logging().overlay);

        servers.block_on(server.go());
        let (status, text) = ask(force, "GET", "/force-policy-poll-cycle", "");
        assert_eq!(status, 500);
        assert!(text.starts_with("failed to force policy poll cycle: "), "{text}");
        let (status, text) = ask(force, "GET", "/force-asgs-for-container?container=h", "");
        assert_eq!(status, 500);
        assert!(text.starts_with("failed to update asgs for container h: "), "{text}");
    });
}

#[test]
fn policies_of_servers_are_changed_at_servers() {
    in_cell(|world| {
        let servers = runtime();
        let server = servers.block_on(Ours::start());
        prepare(world, &server);
        let _fake = world.dataplane();
        let _agent = follow(world);
        let wanted = Policy {
            from: "app-a".into(),
            to: "app-b".into(),
            protocol: parse_protocol("tcp").unwrap(),
            ports: parse_ports("80").unwrap(),
        };
        match world.client().allow(wanted) {
            Err(AgentError::Refused { code: ErrorCode::Config, message }) => {
                assert!(message.contains("sarcenet policy allow --server"), "{message}");
            }
            other => panic!("{other:?}"),
        }
    });
}
