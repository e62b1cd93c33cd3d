//! `sarcenet control` as a process, and what it takes.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use sarcenet_rig::Binaries;
use sarcenet_server::certs;
use sarcenet_server::client::ClientFiles;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cpu::ProcessTime;
use crate::scenario::resident_bytes;

/// Who changes policies.
const TOKEN: &str = "policy-latency";

/// Policies of one request.
const BATCH: u32 = 1000;

/// Apps that the policies are between.
const APPS: u32 = 5000;

/// How long a request may take.
const PATIENCE: Duration = Duration::from_mins(5);

const CONTROL: &str = "\
roles: [policy-server]
external: {listen: '127.0.0.1:0'}
internal: {listen: '127.0.0.1:0'}
status: {listen: '127.0.0.1:0'}
auth: {tokens_file: /etc/sarcenet/tokens.yaml}
";

/// A policy server; killed when dropped.
pub(super) struct Servers {
    process: Child,
    external: String,
    internal: String,
    files: ClientFiles,
    client: reqwest::Client,
    _root: TempDir,
}

/// What the process has taken so far.
#[derive(Debug, Clone, Copy)]
pub(super) struct Usage {
    pub(super) processor: Duration,
    /// Bytes of memory.
    pub(super) resident: u64,
}

impl Servers {
    /// Starts it over a database, or over a file of its own.
    pub(super) fn start(database: Option<&str>) -> Result<Self> {
        let root = tempfile::tempdir().context("make a directory")?;
        let settings = root.path().join("etc/sarcenet");
        let certs = certs::init(&settings.join("certs"), &certs::Options::default())
            .context("make certificates")?;
        let tokens =
            format!("tokens: [{{token: {TOKEN}, subject: perf, scopes: [network.admin]}}]\n");
        fs::write(settings.join("tokens.yaml"), tokens).context("write the tokens file")?;
        let database = database.map(|url| format!("database: {}\n", json!(url)));
        let control = CONTROL.to_owned() + &database.unwrap_or_default();
        fs::write(settings.join("control.yaml"), control).context("write the control file")?;
        let mut process = Command::new(Binaries::program("sarcenet")?)
            .arg("--root")
            .arg(root.path())
            .args(["control", "--log", "json"])
            .env_remove("SARCENET_LOG")
            .stderr(Stdio::piped())
            .spawn()
            .context("start sarcenet control")?;
        let log = process.stderr.take().context("the log of sarcenet control")?;
        let files = ClientFiles { server_ca: certs.ca.certificate, identity: certs.client };
        let mut servers = Self {
            process,
            external: String::new(),
            internal: String::new(),
            files,
            client: reqwest::Client::builder().no_proxy().timeout(PATIENCE).build()?,
            _root: root,
        };
        let ready = ready(log)?;
        let address = |name: &str| ready[name].as_str().unwrap_or_default();
        servers.external = format!("http://{}/networking/v1/external", address("external"));
        servers.internal = format!("https://{}/networking/v1/internal", address("internal"));
        Ok(servers)
    }

    /// Creates policies between apps that nobody changes later.
    pub(super) async fn fill(&self, policies: u32) -> Result<()> {
        let mut next = 0;
        while next < policies {
            let end = policies.min(next + BATCH);
            let batch = (next..end).map(|number| {
                let app = |of: u32| format!("00000000-0000-4000-8000-{:012}", of % APPS);
                policy(&app(number), &app(number + 1), 1024 + number / APPS)
            });
            self.change("policies", &json!({"policies": batch.collect::<Vec<_>>()})).await?;
            next = end;
        }
        Ok(())
    }

    /// Has the external API create (`policies`) or delete (`policies/delete`) policies.
    pub(super) async fn change(&self, what: &str, body: &Value) -> Result<()> {
        let request = self.client.post(format!("{}/{what}", self.external)).bearer_auth(TOKEN);
        let answer = request.body(body.to_string()).send().await.context("change policies")?;
        let (status, text) = (answer.status(), answer.text().await.context("change policies")?);
        ensure!(status.is_success(), "change policies: {status} {text}");
        Ok(())
    }

    /// Where agents watch.
    pub(super) fn watch(&self) -> String {
        format!("{}/policies", self.internal)
    }

    /// As whom agents come.
    pub(super) fn agent(&self) -> Result<reqwest::Client> {
        Ok(self.files.client(PATIENCE)?)
    }

    /// What it has taken.
    pub(super) fn usage(&self) -> Result<Usage> {
        let pid = self.process.id();
        Ok(Usage { processor: ProcessTime::of(pid)?, resident: resident_bytes(pid)? })
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// One policy as the external API has it.
pub(super) fn policy(source: &str, destination: &str, port: u32) -> Value {
    json!({
        "source": {"id": source},
        "destination":
            {"id": destination, "protocol": "tcp", "ports": {"start": port, "end": port}},
    })
}

/// Where the servers listen, as their log says when they are ready. The rest of it is read and
/// thrown away: nobody waits for a reader.
fn ready(log: impl std::io::Read + Send + 'static) -> Result<Value> {
    let mut lines = BufReader::new(log).lines();
    let mut said = Vec::new();
    for line in lines.by_ref() {
        let line = line.context("read the log of sarcenet control")?;
        let event: Value = serde_json::from_str(&line).unwrap_or_default();
        if event["fields"]["message"] == "ready" {
            std::thread::spawn(move || lines.for_each(drop));
            return Ok(event["fields"].clone());
        }
        said.push(line);
    }
    bail!("sarcenet control does not start:\n{}", said.join("\n"));
}
