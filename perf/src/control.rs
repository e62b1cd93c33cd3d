//! `sarcenet control` as a process, and what it takes.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use sarcenet_rig::Binaries;
use sarcenet_server::certs;
use sarcenet_server::client::ClientFiles;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cpu::ProcessTime;
use crate::scenario::resident_bytes;

/// The token of whoever may do everything.
pub(crate) const TOKEN: &str = "sarcenet-perf";

/// Running servers; killed when dropped.
pub(crate) struct Control {
    process: Child,
    ready: Value,
    files: ClientFiles,
    _root: TempDir,
}

/// What the process has taken so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    pub(crate) processor: Duration,
    /// Bytes of memory.
    pub(crate) resident: u64,
}

impl Control {
    /// Starts the servers of a control file over a database, or over a file of their own. The file
    /// may name the tokens file `/etc/sarcenet/tokens.yaml`, in which there is [`TOKEN`].
    pub(crate) fn start(settings: &str, database: Option<&str>) -> Result<Self> {
        let root = tempfile::tempdir().context("make a directory")?;
        let directory = root.path().join("etc/sarcenet");
        let certs = certs::init(&directory.join("certs"), &certs::Options::default())
            .context("make certificates")?;
        let tokens =
            format!("tokens: [{{token: {TOKEN}, subject: perf, scopes: [network.admin]}}]\n");
        fs::write(directory.join("tokens.yaml"), tokens).context("write the tokens file")?;
        let database = database.map(|url| format!("database: {}\n", json!(url)));
        let settings = settings.to_owned() + &database.unwrap_or_default();
        fs::write(directory.join("control.yaml"), settings).context("write the control file")?;
        let process = Command::new(Binaries::program("sarcenet")?)
            .arg("--root")
            .arg(root.path())
            .args(["control", "--log", "json"])
            .env_remove("SARCENET_LOG")
            .stderr(Stdio::piped())
            .spawn()
            .context("start sarcenet control")?;
        let files = ClientFiles { server_ca: certs.ca.certificate, identity: certs.client };
        let mut control = Self { process, ready: Value::Null, files, _root: root };
        let log = control.process.stderr.take().context("the log of sarcenet control")?;
        control.ready = ready(log)?;
        Ok(control)
    }

    /// Where a listener is, by its name in the control file.
    pub(crate) fn address(&self, listener: &str) -> Result<&str> {
        self.ready[listener].as_str().with_context(|| format!("there is no listener {listener}"))
    }

    /// Somebody who asks over mTLS, with connections of their own.
    pub(crate) fn client(&self, patience: Duration) -> Result<reqwest::Client> {
        Ok(self.files.client(patience)?)
    }

    /// What it has taken.
    pub(crate) fn usage(&self) -> Result<Usage> {
        let pid = self.process.id();
        Ok(Usage { processor: ProcessTime::of(pid)?, resident: resident_bytes(pid)? })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
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
