//! The servers that cells get everything from: `sarcenet control` in a namespace of its own on the
//! underlay, with certificates that `sarcenet certs init` made.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;
use reqwest::{Client, RequestBuilder};
use sarcenet_agent_api::Policy;
use sarcenet_server::client::ClientFiles;
use sarcenet_server::http::tls::IdentityFiles;
use serde_json::{Value, json};

use crate::namespace::{Namespace, checked};
use crate::outside::SecurityGroup;
use crate::plan::{AppTag, CellPlan};
use crate::sarcenet::Binaries;
use crate::sarcenet::process::Process;
use crate::world::eventually;

/// The servers' address on the underlay.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
/// The operator's token.
const TOKEN: &str = "token-of-the-operator";
/// How long they may take until they serve, and to answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Their settings, below a root.
const SETTINGS: &str = "etc/sarcenet";
/// The certificates of those who ask, below a root.
const CERTS: &str = "etc/sarcenet/certs";
/// The file of security groups, beside their settings.
const GROUPS: &str = "security-groups.yaml";
/// Certificates of a cell.
const CLIENT_FILES: [&str; 3] = ["ca.crt", "client.crt", "client.key"];
/// Those of the servers beside them.
const SERVER_FILES: [&str; 2] = ["server.crt", "server.key"];

/// Running servers.
#[derive(Debug)]
pub struct Servers {
    namespace: Namespace,
    root: PathBuf,
    process: Mutex<Process>,
}

impl Servers {
    /// Joins the namespace to the bridge of the cells, and starts the servers there.
    pub(crate) fn start(
        namespace: Namespace,
        hub: &Namespace,
        root: PathBuf,
        mtu: u16,
    ) -> Result<Self> {
        hub.ip(&format!(
            "link add control mtu {mtu} type veth peer name eth0 mtu {mtu} netns {}\n\
             link set control master bridge0 up\n",
            namespace.name()
        ))?;
        namespace.ip(&format!("addr add {ADDRESS}/24 dev eth0\nlink set eth0 up\n"))?;
        let binaries = Binaries::find()?;
        for directory in [SETTINGS, "var/lib/sarcenet", "log"] {
            let path = root.join(directory);
            std::fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        }
        write_certs(&binaries.sarcenet, &root)?;
        let write = |name: &str, content: &str| {
            let path = root.join(SETTINGS).join(name);
            std::fs::write(&path, content).with_context(|| format!("write {}", path.display()))
        };
        write("token", TOKEN)?;
        write(
            "tokens.yaml",
            &format!("tokens: [{{token: {TOKEN}, subject: operator, scopes: [network.admin]}}]\n"),
        )?;
        write(
            "control.yaml",
            &format!(
                "auth: {{tokens_file: /{SETTINGS}/tokens.yaml}}\n\
                 external: {{tls: true}}\n\
                 security_groups: {{file: /{SETTINGS}/{GROUPS}}}\n"
            ),
        )?;
        write(GROUPS, &SecurityGroup::file(&[]))?;
        let arguments: Vec<OsString> = vec!["--root".into(), root.clone().into(), "control".into()];
        let log = root.join("log/control.log");
        let process = Process::start(&namespace, &binaries.sarcenet, arguments, log)?;
        let servers = Self { namespace, root, process: Mutex::new(process) };
        servers.wait_ready()?;
        Ok(servers)
    }

    fn process(&self) -> MutexGuard<'_, Process> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until they serve.
    pub fn wait_ready(&self) -> Result<()> {
        eventually(PATIENCE, || {
            // What has ended will never be ready; the error says so when the time is over.
            self.process().check_alive()?;
            let leases = Self::url(4103, "/leases");
            self.ask(|client| async move { sent(client.get(leases)).await })
        })
        .map(drop)
        .with_context(|| format!("the servers are not ready\n{}", self.log()))
    }

    /// Their network namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Kills them at once.
    pub fn kill(&self) -> Result<()> {
        self.process().end(Signal::SIGKILL).map(drop)
    }

    /// Starts them again, after [`Servers::kill`].
    pub fn restart(&self) -> Result<()> {
        self.process().restart()
    }

    /// What `sarcenet policy` needs to speak to them, from their own namespace.
    pub fn operator(&self) -> Vec<OsString> {
        vec![
            "--server".into(),
            Self::url(4002, "").into(),
            "--ca".into(),
            self.root.join(CERTS).join("ca.crt").into(),
            "--token-file".into(),
            self.root.join(SETTINGS).join("token").into(),
        ]
    }

    /// Gives cells what they need to ask them: the files that [`Servers::network_file`] means, in
    /// the directory of each below `roots`, and the subnets of the plan.
    pub(crate) fn admit(&self, cells: &[CellPlan], roots: &Path) -> Result<()> {
        for cell in cells {
            let to = roots.join(&cell.name).join(CERTS);
            std::fs::create_dir_all(&to).with_context(|| format!("make {}", to.display()))?;
            for name in CLIENT_FILES {
                std::fs::copy(self.root.join(CERTS).join(name), to.join(name))
                    .with_context(|| format!("copy {name} to {}", to.display()))?;
            }
        }
        let url = Self::url(4103, "/leases/renew");
        self.ask(|client| async move {
            for cell in cells {
                let CellPlan { name, underlay, subnet, .. } = cell;
                // A lease that is presented is taken: so the cell gets the subnet of the plan.
                let lease = json!({
                    "underlay_ip": underlay,
                    "overlay_subnet": subnet,
                    "overlay_hardware_addr": cell.vtep_mac(),
                });
                sent(client.put(&url).body(lease.to_string()))
                    .await
                    .with_context(|| format!("lease {subnet} to {name}"))?;
            }
            Ok(())
        })
    }

    /// The lines of a cell's network file that name them.
    pub(crate) fn network_file(cell: &CellPlan, asks_for_groups: bool) -> String {
        let underlay = cell.underlay;
        let groups = if asks_for_groups { "  security_groups: {interval: 60}\n" } else { "" };
        format!(
            "control:\n  underlay: {underlay}\n  \
             leases: {{url: 'https://{ADDRESS}:4103'}}\n  \
             policies: {{url: 'https://{ADDRESS}:4003'}}\n{groups}"
        )
    }

    /// Has the policy server tell cells these security groups, soon.
    pub(crate) fn set_groups(&self, groups: &[SecurityGroup]) -> Result<()> {
        let path = self.root.join(SETTINGS).join(GROUPS);
        // Whoever reads the file must never see half of it.
        let new = path.with_extension("yaml.new");
        std::fs::write(&new, SecurityGroup::file(groups))
            .and_then(|()| std::fs::rename(&new, &path))
            .with_context(|| format!("write {}", path.display()))
    }

    /// Gives apps their tags, which are the next ones, in this order.
    pub(crate) fn tag(&self, apps: &[AppTag]) -> Result<()> {
        let url = Self::url(4003, "/networking/v1/internal/tags");
        self.ask(|client| async move {
            for AppTag { id, tag } in apps {
                let body = json!({"id": id, "type": "app"}).to_string();
                let answer = sent(client.put(&url).body(body)).await?;
                let given = answer["tag"].as_str().unwrap_or_default();
                ensure!(
                    u16::from_str_radix(given, 16) == Ok(*tag),
                    "{id} has the tag {given}, not {tag}; servers give 1 and so on"
                );
            }
            Ok(())
        })
    }

    /// Creates policies, or deletes them; returns when the policy server has answered.
    pub fn change(&self, policies: &[Policy], allow: bool) -> Result<()> {
        let list = policies.iter().map(|Policy { from, to, protocol, ports }| {
            json!({
                "source": {"id": from},
                "destination": {
                    "id": to,
                    "protocol": protocol.to_string(),
                    "ports": {"start": ports.first, "end": ports.last},
                },
            })
        });
        let body = json!({"policies": list.collect::<Vec<_>>()}).to_string();
        let rest = if allow { "" } else { "/delete" };
        let url = Self::url(4002, &format!("/networking/v1/external/policies{rest}"));
        self.ask(|client| async move { sent(client.post(url).bearer_auth(TOKEN).body(body)).await })
            .map(drop)
            .with_context(|| format!("change policies, allow={allow}"))
    }

    /// The end of their log, for people.
    pub(crate) fn log(&self) -> String {
        self.process().log_tail()
    }

    fn url(port: u16, path: &str) -> String {
        format!("https://{ADDRESS}:{port}{path}")
    }

    /// Asks from their own namespace, with a cell's certificate.
    fn ask<T: Send, F: Future<Output = Result<T>>>(
        &self,
        work: impl FnOnce(Client) -> F + Send,
    ) -> Result<T> {
        let file = |name: &str| self.root.join(CERTS).join(name);
        let files = ClientFiles {
            server_ca: file("ca.crt"),
            identity: IdentityFiles { certificate: file("client.crt"), key: file("client.key") },
        };
        self.namespace.run(|| {
            let client = files.client(PATIENCE)?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(work(client))
        })?
    }
}

/// Puts certificates below a root, those that `sarcenet certs init` made for the first world of this
/// process: all servers have the same address, and making keys takes longer than all else here.
fn write_certs(sarcenet: &Path, root: &Path) -> Result<()> {
    static MADE: Mutex<Vec<(&str, Vec<u8>)>> = Mutex::new(Vec::new());
    let directory = root.join(CERTS);
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    if !made.is_empty() {
        std::fs::create_dir_all(&directory)
            .with_context(|| format!("make {}", directory.display()))?;
        return made.iter().try_for_each(|(name, content)| {
            let path = directory.join(name);
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
            file.and_then(|mut file| file.write_all(content))
                .with_context(|| format!("write {}", path.display()))
        });
    }
    let mut command = Command::new(sarcenet);
    command.arg("--root").arg(root).args(["certs", "init", "--name", &ADDRESS.to_string()]);
    checked(&mut command)?;
    let read = |name: &'static str| {
        let path = directory.join(name);
        let content = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        anyhow::Ok((name, content))
    };
    *made = CLIENT_FILES.into_iter().chain(SERVER_FILES).map(read).collect::<Result<_>>()?;
    Ok(())
}

/// Sends a request that must succeed; its answer as JSON.
async fn sent(request: RequestBuilder) -> Result<Value> {
    let response = request.send().await.context("ask the servers")?;
    let (status, text) = (response.status(), response.text().await?);
    if !status.is_success() {
        bail!("the servers answer {status}: {text}");
    }
    serde_json::from_str(&text).with_context(|| format!("read {text:?}"))
}
