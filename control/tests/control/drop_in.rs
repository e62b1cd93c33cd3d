//! Cloud Foundry's programs under their own names, with the files that its jobs write.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Output};

use nix::sys::signal::Signal;
use sarcenet_test_postgres::SHARED;
use serde_json::{Map, Value, json};

use crate::platform;
use crate::world::{Control, World};

const POLICY_SERVER: &str = include_str!("upstream/policy-server.json");
const INTERNAL: &str = include_str!("upstream/policy-server-internal.json");
const SILK_CONTROLLER: &str = include_str!("upstream/silk-controller.json");
const SYNCER: &str = include_str!("upstream/policy-server-asg-syncer.json");

const POLICY: &str = r#"{"policies":[{"source":{"id":"app-a"},"destination":{"id":"app-b",
    "protocol":"tcp","ports":{"start":8080,"end":8090}}}]}"#;

/// A deployment's files.
struct Deployment {
    world: World,
    database: Value,
}

impl Deployment {
    fn new(database: Value) -> Self {
        Self { world: World::new(""), database }
    }

    /// One on PostgreSQL.
    fn postgres() -> Self {
        Self::new(json!({
            "type": "postgres", "user": "postgres", "password": "x", "host": SHARED.directory(),
            "port": 5432, "timeout": 120, "database_name": SHARED.database_name(),
            "require_ssl": false, "ca_cert": "", "skip_hostname_validation": false,
        }))
    }

    /// One on a file of SQLite.
    fn sqlite() -> Self {
        let mut this = Self::new(Value::Null);
        let file = this.world.path("network_policy.db");
        this.database = json!({"type": "sqlite3", "database_name": file});
        this
    }

    /// The file of a program, with what this deployment has and these keys.
    fn file(&self, program: &str, text: &str, keys: &Value) -> PathBuf {
        let mut object: Map<String, Value> = serde_json::from_str(text).unwrap();
        let certs = |name: &str| json!(self.world.path("etc/sarcenet/certs").join(name));
        object.insert("database".into(), self.database.clone());
        if text != SYNCER {
            object.insert("ca_cert_file".into(), certs("ca.crt"));
            object.insert("server_cert_file".into(), certs("server.crt"));
            object.insert("server_key_file".into(), certs("server.key"));
        }
        object.extend(keys.as_object().unwrap().clone());
        object.retain(|_, value| !value.is_null());
        let path = self.world.path(&format!("{program}.json"));
        fs::write(&path, Value::Object(object).to_string()).unwrap();
        path
    }

    /// A program by its own name, as an exchanged binary is started.
    fn program(&self, program: &str) -> Command {
        let path = self.world.path(program);
        if !path.exists() {
            symlink(env!("CARGO_BIN_EXE_sarcenet"), &path).unwrap();
        }
        let mut command = Command::new(path);
        command.env_remove("SARCENET_LOG");
        command
    }

    fn start(&self, program: &str, flag: &str, text: &str, keys: &Value) -> Control {
        let file = self.file(program, text, keys);
        let mut command = self.program(program);
        command.arg(format!("-{flag}={}", file.display()));
        self.world.spawn_command(command)
    }

    fn run(&self, program: &str, flags: &[&str]) -> Output {
        self.program(program).args(flags).output().unwrap()
    }
}

/// Where the platform is, for the programs that ask it.
async fn asking(more: &[(&str, Value)]) -> Value {
    let platform = platform::start().await;
    let url = format!("http://{platform}");
    let mut keys = json!({"uaa_port": platform.port(), "cc_url": url});
    for (key, value) in more {
        keys[*key] = value.clone();
    }
    keys
}

async fn healthy(control: &Control, server: &str) {
    assert_eq!(control.plain(server, "GET", "/health", "").await, (200, String::new()));
}

async fn policies_go_from_one_program_to_the_other(deployment: Deployment) {
    let keys = asking(&[]).await;
    let mut external = deployment.start("policy-server", "config-file", POLICY_SERVER, &keys);
    let unused = external.logged("these keys of the file have no use here");
    let mut unused: Vec<_> = unused["keys"].as_str().unwrap().split(", ").collect();
    // Without TLS its files have no use either, and are named by chance here.
    unused.retain(|key| !key.ends_with("_file"));
    assert_eq!(
        unused,
        [
            "cc_app_request_chunk_size",
            "connections_max_lifetime_seconds",
            "database_migration_timeout",
            "log_prefix",
            "max_idle_connections",
            "metron_address",
            "request_timeout",
            "uuid",
        ]
    );
    let external = external.ready();
    healthy(&external, "external").await;
    healthy(&external, "debug").await;
    let path = "/networking/v1/external/policies";
    let created = external.plain("external", "POST", path, POLICY).await;
    assert_eq!(created, (200, "{}".to_owned()));
    let (status, metrics) = external.plain("debug", "GET", "/metrics", "").await;
    assert_eq!(status, 200);
    assert!(metrics.contains("sarcenet_http_requests_total{server=\"external\""), "{metrics}");

    let internal = deployment.start("policy-server-internal", "config-file", INTERNAL, &json!({}));
    let internal = internal.ready();
    healthy(&internal, "status").await;
    healthy(&internal, "debug").await;
    let (_, uptime) = internal.plain("status", "GET", "/", "").await;
    assert!(uptime.starts_with("Network policy server, up for "), "{uptime}");
    let path = "/networking/v1/internal/policies?id=app-a";
    let (status, body) = internal.ask("internal", "GET", path, "").await;
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &body["policies"][0]["source"]["tag"]), (200, &json!("0001")));
    for program in [external, internal] {
        assert_eq!(program.end(Signal::SIGTERM), Some(0));
    }
}

#[tokio::test]
async fn the_policy_servers_on_sqlite() {
    policies_go_from_one_program_to_the_other(Deployment::sqlite()).await;
}

#[tokio::test]
async fn the_policy_servers_on_postgresql() {
    policies_go_from_one_program_to_the_other(Deployment::postgres()).await;
}

#[tokio::test]
async fn the_policy_server_over_tls_with_tags_of_one_byte() {
    let deployment = Deployment::sqlite();
    let keys = asking(&[("enable_tls", json!(true)), ("tag_length", json!(1))]).await;
    let external = deployment.start("policy-server", "config-file", POLICY_SERVER, &keys).ready();
    let created =
        external.ask("external", "POST", "/networking/v1/external/policies", POLICY).await;
    assert_eq!(created, (200, "{}".to_owned()));
    let (_, tags) = external.ask("external", "GET", "/networking/v1/external/tags", "").await;
    let tags: Value = serde_json::from_str(&tags).unwrap();
    assert_eq!(tags["tags"][1], json!({"id": "app-b", "tag": "02", "type": "app"}));

    // 255 apps have one, two of them already, and the next has none.
    let create = async |apps: std::ops::RangeInclusive<u32>| {
        let policies = apps.map(|app| {
            json!({"source": {"id": "app-a"}, "destination": {"id": format!("app-{app}"),
                "protocol": "tcp", "ports": {"start": 80, "end": 80}}})
        });
        let body = json!({"policies": policies.collect::<Vec<_>>()}).to_string();
        external.ask("external", "POST", "/networking/v1/external/policies", &body).await
    };
    assert_eq!(create(3..=255).await, (200, "{}".to_owned()));
    let no_more = (500, r#"{"error": "database create failed"}"#.to_owned());
    assert_eq!(create(256..=256).await, no_more);
    assert_eq!(create(255..=256).await, no_more);
    let (_, tags) = external.ask("external", "GET", "/networking/v1/external/tags", "").await;
    let tags: Value = serde_json::from_str(&tags).unwrap();
    let last = tags["tags"].as_array().unwrap().last().unwrap();
    assert_eq!(*last, json!({"id": "app-255", "tag": "FF", "type": "app"}));
}

#[tokio::test]
async fn the_level_of_the_log_can_be_changed() {
    let deployment = Deployment::sqlite();
    let internal = deployment.start("policy-server-internal", "config-file", INTERNAL, &json!({}));
    let mut internal = internal.ready();
    for (name, told) in [("0", "debug"), ("INFO", "info"), ("nonsense", ""), ("d", "debug")] {
        let answer = internal.plain("debug", "POST", "/log-level", name).await;
        assert_eq!(answer, (200, String::new()));
        if !told.is_empty() {
            assert_eq!(internal.logged("the level of the log was changed")["level"], told);
        }
    }
    let tags = "/networking/v1/internal/tags";
    assert_eq!(internal.ask("internal", "PUT", tags, "{").await.0, 400);
    internal.logged("cannot understand a request for a tag");
}

#[tokio::test]
async fn the_silk_controller() {
    let deployment = Deployment::postgres();
    let keys = json!({"network": "10.255.0.0/30", "subnet_prefix_length": 30});
    // The smallest network has no second block.
    let file = deployment.file("silk-controller", SILK_CONTROLLER, &keys);
    let refused = deployment.run("silk-controller", &["-config", file.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(1));
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(text.starts_with("silk-controller: could not read config file: "), "{text}");
    assert!(text.contains("subnet_prefix_length cannot be used"), "{text}");

    let keys = json!({"network": "10.255.0.0/29", "subnet_prefix_length": 30});
    let controller = deployment.start("silk-controller", "config", SILK_CONTROLLER, &keys).ready();
    healthy(&controller, "status").await;
    healthy(&controller, "debug").await;
    let request = r#"{"underlay_ip":"10.0.16.15","single_overlay_ip":false}"#;
    let (status, lease) = controller.ask("leases", "PUT", "/leases/acquire", request).await;
    let lease: Value = serde_json::from_str(&lease).unwrap();
    assert_eq!((status, &lease["overlay_subnet"]), (200, &json!("10.255.0.4/30")));
    assert_eq!(controller.end(Signal::SIGINT), Some(0));
}

// The platform answers while the test waits for a line of the log.
#[tokio::test(flavor = "multi_thread")]
async fn the_syncer() {
    let deployment = Deployment::sqlite();
    let mut keys = asking(&[]).await;
    keys["cc_internal_url"] = keys["cc_url"].clone();
    let mut syncer = deployment.start("policy-server-asg-syncer", "config-file", SYNCER, &keys);
    syncer.logged("security groups have changed");
    let internal = deployment.start("policy-server-internal", "config-file", INTERNAL, &json!({}));
    let internal = internal.ready();
    let path = "/networking/v1/internal/security_groups";
    let (_, body) = internal.ask("internal", "GET", path, "").await;
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["security_groups"][0]["guid"], "G1");
    assert_eq!(syncer.end(Signal::SIGTERM), Some(0));
}

#[test]
fn migrations() {
    for deployment in [Deployment::sqlite(), Deployment::postgres()] {
        let file = deployment.file("policy-server", POLICY_SERVER, &json!({}));
        for _ in 0..2 {
            let ended = deployment.run("migrate-db", &["--config-file", file.to_str().unwrap()]);
            assert_eq!(ended.status.code(), Some(0), "{ended:?}");
        }
    }
    let mut away = Deployment::postgres();
    away.database["host"] = json!("/nowhere");
    let keys = json!({"database_migration_timeout": 1});
    let file = away.file("policy-server", POLICY_SERVER, &keys);
    let ended = away.run("migrate-db", &["-config-file", file.to_str().unwrap()]);
    assert_eq!(ended.status.code(), Some(1));
    let text = String::from_utf8(ended.stderr).unwrap();
    let said = "migrate-db: migrations and groups table population timed out after 1 seconds: ";
    assert!(text.lines().any(|line| line.starts_with(said)), "{text}");
}

#[test]
fn what_is_wrong_is_named() {
    let deployment = Deployment::sqlite();
    let mysql = json!({"database": {"type": "mysql", "user": "u", "host": "h", "port": 3306}});
    // Program, file, what is in it instead, and what is said.
    let table = [
        ("policy-server", POLICY_SERVER, json!({"uaa_client": null}), "uaa_client is missing"),
        ("policy-server", POLICY_SERVER, json!({"uaa_url": "uaa"}), "uaa_url must be the address"),
        ("policy-server", POLICY_SERVER, json!({"listen_port": "4002"}), "listen_port must be a n"),
        ("policy-server", POLICY_SERVER, json!({"tag_length": 4}), "tag_length must be a number f"),
        (
            "policy-server",
            POLICY_SERVER,
            json!({"tag_length": 3}),
            "tag_length cannot be 3: the tu",
        ),
        ("policy-server", POLICY_SERVER, mysql.clone(), "database.type cannot be mysql: use postg"),
        ("migrate-db", POLICY_SERVER, mysql, "database.type cannot be mysql"),
        (
            "policy-server-internal",
            INTERNAL,
            json!({"ca_cert_file": null, "database": null}),
            "ca_cert_file is missing; database is missing",
        ),
        (
            "policy-server-asg-syncer",
            SYNCER,
            json!({"cc_internal_url": ""}),
            "cc_internal_url is missing",
        ),
        (
            "silk-controller",
            SILK_CONTROLLER,
            json!({"network": "11.0.0.0/8"}),
            "network cannot be used: overlay 11.0.0.0/8 is not private",
        ),
    ];
    for (program, text, keys, said) in table {
        let file = deployment.file("wrong", text, &keys);
        let flag = if program == "silk-controller" { "-config" } else { "-config-file" };
        let ended = deployment.run(program, &[flag, file.to_str().unwrap()]);
        assert_eq!(ended.status.code(), Some(1), "{program} {keys}");
        let text = String::from_utf8(ended.stderr).unwrap();
        assert!(text.starts_with(&format!("{program}: could not read config file: ")), "{text}");
        assert!(text.contains(said), "{text}");
    }
    let ended = deployment.run("policy-server", &["-config-file=/nowhere.json"]);
    assert_eq!(ended.status.code(), Some(1));
    let ended = deployment.run("policy-server", &["-config=/nowhere.json"]);
    assert_eq!(ended.status.code(), Some(2));
    let text = String::from_utf8(ended.stderr).unwrap();
    assert!(text.starts_with("flag provided but not defined: -config\nUsage of policy-server:"));
}

#[test]
fn programs_have_their_flags_below_as_too() {
    let world = World::new("");
    let ended = world.run(&["as", "silk-controller", "-config", "/nowhere.json"]);
    assert_eq!(ended.status.code(), Some(1));
    let text = String::from_utf8(ended.stderr).unwrap();
    assert!(text.starts_with("sarcenet: could not read config file: /nowhere.json: "), "{text}");
    assert_eq!(world.run(&["as", "gorouter", "-c=x"]).status.code(), Some(2));
}
