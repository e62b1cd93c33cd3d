//! A directory with certificates, tokens and a control file, and servers that run from it.

use std::fs;
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::LazyLock;
use std::time::Duration;

use nix::sys::signal::Signal;
use sarcenet_server::client::ClientFiles;
use sarcenet_server::http::tls::IdentityFiles;
use serde_json::Value;
use tempfile::TempDir;

use crate::process::Process;

/// All servers, on any ports.
pub(crate) const EVERYTHING: &str = "\
external: {listen: '127.0.0.1:0', tls: true}
internal: {listen: '127.0.0.1:0'}
leases: {listen: '127.0.0.1:0', overlay: 10.255.0.0/16, block_prefix: 24}
status: {listen: '127.0.0.1:0'}
auth: {tokens_file: /etc/sarcenet/tokens.yaml}
";

/// Certificates that are made once, as a user makes them.
pub(crate) static CERTS: LazyLock<TempDir> = LazyLock::new(|| {
    let directory = tempfile::tempdir().unwrap();
    let made = sarcenet().args(["certs", "init", "--dir"]).arg(directory.path()).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    directory
});

pub(crate) fn sarcenet() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sarcenet"));
    command.env_remove("SARCENET_LOG").env_remove("SARCENET_ROOT");
    command
}

/// The root of all paths.
pub(crate) struct World {
    directory: TempDir,
}

impl World {
    /// With this control file.
    pub(crate) fn new(control: &str) -> Self {
        let world = Self { directory: tempfile::tempdir().unwrap() };
        fs::create_dir_all(world.path("etc/sarcenet/certs")).unwrap();
        for entry in fs::read_dir(CERTS.path()).unwrap() {
            let entry = entry.unwrap();
            let copy = world.path("etc/sarcenet/certs").join(entry.file_name());
            fs::copy(entry.path(), copy).unwrap();
        }
        let tokens = "tokens: [{token: secret-of-ada, subject: ada, scopes: [network.admin]}]";
        fs::write(world.path("etc/sarcenet/tokens.yaml"), tokens).unwrap();
        fs::write(world.path("etc/sarcenet/control.yaml"), control).unwrap();
        world
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.directory.path().join(below)
    }

    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = sarcenet();
        command.arg("--root").arg(self.directory.path()).args(words);
        command
    }

    /// A command that ends by itself.
    pub(crate) fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    /// What asks the servers, with a client certificate.
    pub(crate) fn client(&self) -> reqwest::Client {
        let files = |name: &str| self.path("etc/sarcenet/certs").join(name);
        let client = ClientFiles {
            server_ca: files("ca.crt"),
            identity: IdentityFiles { certificate: files("client.crt"), key: files("client.key") },
        };
        client.client(Duration::from_mins(1)).unwrap()
    }

    /// The servers, before anything is known of them.
    pub(crate) fn spawn(&self) -> Control {
        self.spawn_command(self.command(&["control", "--log", "json"]))
    }

    /// Servers of another command line.
    pub(crate) fn spawn_command(&self, command: Command) -> Control {
        let process = Process::spawn(command);
        Control { process, client: self.client(), ready: Value::Null }
    }

    /// The servers when they are ready.
    pub(crate) fn start(&self) -> Control {
        self.spawn().ready()
    }
}

/// Servers that run; killed when dropped.
pub(crate) struct Control {
    process: Process,
    client: reqwest::Client,
    ready: Value,
}

impl Deref for Control {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for Control {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

impl Control {
    /// Waits until it is ready.
    pub(crate) fn ready(mut self) -> Self {
        self.ready = self.logged("ready");
        self
    }

    /// The exit status after this signal; none when the signal itself was the end.
    pub(crate) fn end(self, signal: Signal) -> Option<i32> {
        self.process.end(signal)
    }

    pub(crate) fn has(&self, server: &str) -> bool {
        self.ready[server].is_string()
    }

    /// What a server answers without TLS to a token.
    pub(crate) async fn plain(
        &self,
        server: &str,
        method: &str,
        path: &str,
        body: &str,
    ) -> (u16, String) {
        let url = format!("http://{}{path}", self.ready[server].as_str().unwrap());
        let request = reqwest::Client::new().request(method.parse().unwrap(), url);
        let request = request.header("authorization", "bearer secret-of-ada");
        let response = request.body(body.to_owned()).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    /// The answer of a server, with a client certificate and, on the external API, a token.
    pub(crate) async fn ask(
        &self,
        server: &str,
        method: &str,
        path: &str,
        body: &str,
    ) -> (u16, String) {
        self.try_ask(server, method, path, body).await.unwrap()
    }

    /// The same, from a server that may be gone.
    pub(crate) async fn try_ask(
        &self,
        server: &str,
        method: &str,
        path: &str,
        body: &str,
    ) -> reqwest::Result<(u16, String)> {
        let address = self.ready[server].as_str().unwrap();
        let url = format!("https://{address}{path}");
        let request = self.client.request(method.parse().unwrap(), url);
        let request = request.header("authorization", "Bearer secret-of-ada");
        let response = request.body(body.to_owned()).send().await?;
        Ok((response.status().as_u16(), response.text().await?))
    }
}
