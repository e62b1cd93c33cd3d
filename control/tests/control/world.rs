//! A directory with certificates, tokens and a control file, and servers that run from it.

use std::fs;
use std::io::{BufRead, BufReader, Lines};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sarcenet_server::client::ClientFiles;
use sarcenet_server::http::tls::IdentityFiles;
use serde_json::Value;
use tempfile::TempDir;

/// All servers, on any ports.
pub(crate) const EVERYTHING: &str = "\
external: {listen: '127.0.0.1:0', tls: true}
internal: {listen: '127.0.0.1:0'}
leases: {listen: '127.0.0.1:0', overlay: 10.255.0.0/16, block_prefix: 24}
status: {listen: '127.0.0.1:0'}
auth: {tokens_file: /etc/sarcenet/tokens.yaml}
";

/// Certificates that are made once, as a user makes them.
static CERTS: LazyLock<TempDir> = LazyLock::new(|| {
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

    /// The servers, before anything is known of them.
    pub(crate) fn spawn(&self) -> Control {
        self.spawn_command(self.command(&["control", "--log", "json"]))
    }

    /// Servers of another command line.
    pub(crate) fn spawn_command(&self, mut command: Command) -> Control {
        let mut process = command.stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let files = |name: &str| self.path("etc/sarcenet/certs").join(name);
        let client = ClientFiles {
            server_ca: files("ca.crt"),
            identity: IdentityFiles { certificate: files("client.crt"), key: files("client.key") },
        };
        let client = client.client(Duration::from_mins(1)).unwrap();
        Control { process, lines, client, ready: Value::Null }
    }

    /// The servers when they are ready.
    pub(crate) fn start(&self) -> Control {
        self.spawn().ready()
    }
}

/// Servers that run; killed when dropped.
pub(crate) struct Control {
    process: Child,
    lines: Lines<BufReader<ChildStderr>>,
    client: reqwest::Client,
    ready: Value,
}

impl Control {
    /// Waits until it is ready.
    pub(crate) fn ready(mut self) -> Self {
        self.ready = self.logged("ready");
        self
    }

    /// Waits for a line of the log that begins with this, and gives its fields.
    pub(crate) fn logged(&mut self, begin: &str) -> Value {
        let mut all = Vec::new();
        for line in self.lines.by_ref() {
            let line = line.unwrap();
            if let Ok(mut event) = serde_json::from_str::<Value>(&line)
                && event["fields"]["message"].as_str().is_some_and(|text| text.starts_with(begin))
            {
                return event["fields"].take();
            }
            all.push(line);
        }
        panic!("`{begin}` was not logged, but:\n{}", all.join("\n"));
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.id() as i32), signal).unwrap();
    }

    /// The exit status after this signal; none when the signal itself was the end.
    pub(crate) fn end(mut self, signal: Signal) -> Option<i32> {
        self.signal(signal);
        self.process.wait().unwrap().code()
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

impl Drop for Control {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
