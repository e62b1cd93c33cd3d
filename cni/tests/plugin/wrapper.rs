//! The plugin under the name `cni-wrapper-plugin` (contract section 7).

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::thread::JoinHandle;

use sarcenet_agent_api::{AttachKind, HostService, Protocol, Request};
use serde_json::{Value, json};

use crate::agent::{Agent, nobody, obliging, wish_of};
use crate::{Call, c1};

/// The wrapper's keys as a job renders them (contract section 7.1), without a policy agent.
fn keys() -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "cni-wrapper",
        "type": "cni-wrapper-plugin",
        "datastore": "/var/vcap/data/container-metadata/store.json",
        "datastore_file_owner": "root",
        "datastore_file_group": "root",
        "iptables_lock_file": "/var/vcap/data/garden-cni/iptables.lock",
        "instance_address": "10.77.0.11",
        "no_masquerade_cidr_range": "10.255.0.0/16",
        "temporary_underlay_interface_names": [],
        "underlay_ips": ["10.77.0.11"],
        "iptables_asg_logging": false,
        "iptables_c2c_logging": false,
        "iptables_denied_logs_per_sec": 1,
        "iptables_accepted_udp_logs_per_sec": 100,
        "ingress_tag": "ffff0000",
        "vtep_name": "silk-vtep",
        "dns_servers": ["169.254.0.2", "10.1.1.1"],
        "host_tcp_services": ["169.254.0.3:9090"],
        "host_udp_services": [],
        "deny_networks": {"always": [], "running": [], "staging": []},
        "outbound_connections": {"limit": false, "logging": false, "burst": 1000,
            "rate_per_sec": 100, "dry_run": false},
        "delegate": {"cniVersion": "1.0.0", "name": "silk", "type": "silk-cni",
            "daemonPort": 23954, "dataDir": "/var/vcap/data/host-local",
            "datastore": "/var/vcap/data/silk/store.json", "mtu": 1400},
        "metadata": {"app_id": "A", "policy_group_id": "A", "space_id": "S", "org_id": "O",
            "ports": "8080", "container_workload": "app", "log_config": "{}", "more": "m"},
    })
}

/// A call below a root of its own.
fn call(command: &str, socket: &Path, root: &Path) -> Call {
    Call::new(command, socket)
        .named("cni-wrapper-plugin")
        .netconf(&keys())
        .set("SARCENET_ROOT", root.to_str().unwrap())
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn the_agent_hears_what_the_configuration_says() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path().to_str().unwrap();
    let wish = wish_of(|call| {
        call.named("cni-wrapper-plugin").netconf(&keys()).set("SARCENET_ROOT", root)
    });
    assert_eq!((wish.kind, wish.network.as_str()), (AttachKind::Veth, "cni-wrapper"));
    assert_eq!((wish.app.as_deref(), wish.wishes.mtu), (Some("A"), Some(1400)));
    assert_eq!(wish.terms.metadata.space_id.as_deref(), Some("S"));
    let service =
        |last, protocol, port| HostService { address: [169, 254, 0, last].into(), protocol, port };
    // Of name servers only those on link-local addresses are the cell's.
    let services = [
        service(3, Protocol::Tcp, 9090),
        service(2, Protocol::Tcp, 53),
        service(2, Protocol::Udp, 53),
    ];
    assert_eq!(wish.terms.cell.services, services);
    assert_eq!(wish.terms.cell.not_masqueraded, ["10.255.0.0/16".parse().unwrap()]);
}

#[test]
fn others_find_containers_in_the_store() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let store = root.join("var/vcap/data/container-metadata/store.json");
    let beside = |end: &str| store.with_file_name(format!("store.json{end}"));
    let agent = Agent::start(obliging);
    let socket = agent.socket();
    let entries = || -> Value { serde_json::from_str(&read(&store)).unwrap() };

    // Nothing to take out, and nothing is made for that.
    call("DEL", &socket, root).succeeds();
    assert!(!store.exists());

    let result: Value = serde_json::from_str(&call("ADD", &socket, root).succeeds()).unwrap();
    assert_eq!(result["dns"], json!({"nameservers": ["169.254.0.2", "10.1.1.1"]}));
    let entry = json!({"handle": "c1", "ip": "10.255.55.2", "metadata": keys()["metadata"]});
    assert_eq!(entries(), json!({"c1": entry}));
    assert!(read(&store).ends_with("}\n"));
    assert_eq!(read(&beside("_version")), "1");
    for file in [store.clone(), beside("_lock"), beside("_version")] {
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    // The same again changes nothing, another container does.
    call("ADD", &socket, root).succeeds();
    assert_eq!(read(&beside("_version")), "1");
    for other in ["c2", "c3"] {
        call("ADD", &socket, root)
            .set("CNI_CONTAINERID", other)
            .netconf(&json!({"metadata": null}))
            .succeeds();
    }
    let bare = |name: &str| json!({"handle": name, "ip": "10.255.55.2", "metadata": null});
    assert_eq!(entries(), json!({"c1": entry, "c2": bare("c2"), "c3": bare("c3")}));
    assert_eq!(read(&beside("_version")), "3");

    call("DEL", &socket, root).succeeds();
    call("DEL", &socket, root).succeeds();
    assert_eq!(entries(), json!({"c2": bare("c2"), "c3": bare("c3")}));
    assert_eq!(read(&beside("_version")), "4");
    let valid = json!({
        "cniVersion": "1.1.0",
        "cni.dev/valid-attachments": [{"containerID": "c3", "ifname": "eth0"}],
    });
    call("GC", &socket, root).netconf(&valid).succeeds();
    assert_eq!(entries(), json!({"c3": bare("c3")}));
    let asked = agent.asked();
    let gc = Request::Gc {
        network: "cni-wrapper".to_owned(),
        valid: vec![sarcenet_agent_api::AttachmentId { container: "c3".to_owned(), ..c1() }],
    };
    assert_eq!(asked.last(), Some(&(gc, 0)));

    // A store that nobody can read fails an ADD, whose container is then taken down all the same.
    std::fs::write(&store, "{").unwrap();
    call("ADD", &socket, root).fails(999, "store add");
    let done = call("DEL", &socket, root).run();
    assert!(done.success && done.notes.contains("store delete: decoding file"), "{done:?}");
    let unknown = json!({"datastore_file_owner": "nobody-of-this-name"});
    call("ADD", &socket, root).netconf(&unknown).fails(999, "unknown user nobody-of-this-name");
}

#[test]
fn fifty_containers_at_once_are_all_in_the_store() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let store = root.join("var/vcap/data/container-metadata/store.json");
    let agent = Agent::start(obliging);
    let socket = agent.socket();
    let at_once = |command: &'static str| {
        std::thread::scope(|scope| {
            for number in 0..50 {
                let (socket, name) = (&socket, format!("c{number}"));
                scope.spawn(move || {
                    call(command, socket, root).set("CNI_CONTAINERID", &name).succeeds()
                });
            }
        });
        serde_json::from_str::<Value>(&read(&store)).unwrap().as_object().unwrap().len()
    };
    assert_eq!(at_once("ADD"), 50);
    assert_eq!(at_once("DEL"), 0);
    assert_eq!(read(&store.with_file_name("store.json_version")), "100");
}

/// Keys that the contract's plugin does not start without, in its words.
#[test]
fn mistakes_are_told_in_the_contracts_words() {
    for (patch, text) in [
        (json!({"datastore": ""}), "missing datastore path"),
        (json!({"iptables_lock_file": null}), "missing iptables lock file path"),
        (json!({"instance_address": null}), "missing instance address"),
        (json!({"underlay_ips": []}), "missing underlay ips"),
        (json!({"ingress_tag": null}), "missing ingress tag"),
        (json!({"vtep_name": null}), "missing vtep device name"),
        (json!({"iptables_denied_logs_per_sec": 0}), "invalid denied logs per sec"),
        (json!({"iptables_accepted_udp_logs_per_sec": -1}), "invalid accepted udp logs per sec"),
        (
            json!({"outbound_connections": {"limit": true, "burst": 0}}),
            "invalid outbound connection burst",
        ),
        (
            json!({"outbound_connections": {"limit": true, "rate_per_sec": 0}}),
            "invalid outbound connection rate",
        ),
        (json!({"delegate": {}}), "delegate config is missing type"),
        (json!({"delegate": null}), "delegate config is missing type"),
        (
            json!({"dns_servers": ["banana"]}),
            "invalid DNS server \"banana\", must be valid IP address",
        ),
        (json!({"host_udp_services": ["169.254.0.3"]}), "validator: host services"),
        (json!({"no_masquerade_cidr_range": "10.0.0.0"}), "validator: no_masquerade_cidr_range"),
    ] {
        for command in ["ADD", "DEL"] {
            let error =
                call(command, nobody(), Path::new("/nonexistent")).netconf(&patch).fails(999, "");
            assert_eq!(error["msg"], text, "{patch}");
        }
    }
    call("ADD", nobody(), Path::new("/nonexistent"))
        .netconf(&json!({"delegate": {"type": "flannel"}}))
        .fails(2, "flannel");
    let named = json!({"underlay_ips": [], "temporary_underlay_interface_names": ["eth0"]});
    call("ADD", nobody(), Path::new("/nonexistent")).netconf(&named).fails(11, "ask the agent");
}

/// Answers, or questions' first lines.
type Lines = &'static [&'static str];

/// A policy agent that gives these answers, one a question; told are the first lines.
fn policy_agent(answers: Lines) -> (String, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let answer = move || {
        let mut asked = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let (mut question, mut byte) = (Vec::new(), [0]);
            while !question.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
                question.extend(byte);
            }
            let question = String::from_utf8(question).unwrap();
            asked.push(question.lines().next().unwrap_or_default().to_owned());
            stream.write_all(answer.as_bytes()).unwrap();
        }
        asked
    };
    (address, std::thread::spawn(answer))
}

/// Answers of the policy agent, and what ADD says then; nothing when it succeeds.
#[test]
fn a_container_starts_with_its_policies_in_force() {
    const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    const OFF: &str = "HTTP/1.1 405 Method Not Allowed\r\ncontent-length: 3\r\n\r\noff";
    const BAD: &str = "HTTP/1.1 500 Internal Server Error\r\n\r\nmeow\n";
    const POLICIES: &str = "GET /force-policy-poll-cycle HTTP/1.1";
    const GROUPS: &str = "GET /force-asgs-for-container?container=c1 HTTP/1.1";
    let directory = tempfile::tempdir().unwrap();
    let agent = Agent::start(obliging);
    type Case = (Lines, Lines, Option<(u64, &'static str)>);
    let table: [Case; 6] = [
        (&[OK, OK], &[POLICIES, GROUPS], None),
        (&[OK, OFF], &[POLICIES, GROUPS], None),
        (&[BAD], &[POLICIES], Some((999, "vpa response code: 500 with message: meow"))),
        (&[OK, BAD], &[POLICIES, GROUPS], Some((999, "asg sync returned 500 with message: meow"))),
        (&[""], &[POLICIES], Some((11, "it does not answer in HTTP"))),
        (&[OK, "SSH-2.0\r\n"], &[POLICIES, GROUPS], Some((11, "it does not answer in HTTP"))),
    ];
    for (answers, questions, expected) in table {
        let (address, thread) = policy_agent(answers);
        let force = json!({"policy_agent_force_poll_address": address});
        let call = call("ADD", &agent.socket(), directory.path()).netconf(&force);
        match expected {
            None => drop(call.succeeds()),
            Some((code, text)) => drop(call.fails(code, text)),
        }
        assert_eq!(thread.join().unwrap(), questions);
    }
    // Nobody is there; no program of ours or of others listens on that port.
    for address in ["127.0.0.1:1", "nonsense"] {
        let force = json!({"policy_agent_force_poll_address": address});
        call("ADD", &agent.socket(), directory.path())
            .netconf(&force)
            .fails(11, "is vxlan-policy-agent running?");
        // Nor is it asked when a container goes.
        call("DEL", &agent.socket(), directory.path()).netconf(&force).succeeds();
    }
}
