//! A cell as Sarcenet makes it: the real programs, in a namespace, under a directory of their own.

mod binaries;
pub(crate) mod process;

use std::ffi::OsString;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;
use sarcenet_agent_api::{AgentClient, AttachKind, Policy};
use sarcenet_dataplane_api::Role;
use sarcenet_dataplane_api::client::Client;

use crate::container::Attachment;
use crate::namespace::Namespace;
use crate::outside::{Bandwidth, ContainerSpec, PortMapping};
use crate::plan::CellPlan;
pub use binaries::Binaries;
use process::Process;

/// How long the programs may take until they serve.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// How often the rig looks whether they do.
const TICK: Duration = Duration::from_millis(5);

/// A running Sarcenet cell.
#[derive(Debug)]
pub struct SarcenetCell {
    plan: CellPlan,
    namespace: Namespace,
    root: PathBuf,
    binaries: Binaries,
    processes: Mutex<Processes>,
}

#[derive(Debug)]
struct Processes {
    dataplane: Process,
    agent: Process,
}

impl SarcenetCell {
    /// Starts the programs; [`SarcenetCell::wait_ready`] waits until they serve.
    pub(crate) fn start(
        plan: &CellPlan,
        namespace: Namespace,
        root: PathBuf,
        network: &Path,
        dataplane_arguments: &[String],
    ) -> Result<Self> {
        let binaries = Binaries::find()?;
        for directory in ["etc/sarcenet", "run/sarcenet", "var/lib/sarcenet", "log"] {
            let path = root.join(directory);
            std::fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        }
        let rooted = |rest: &[&str]| -> Vec<OsString> {
            let mut arguments = vec!["--root".into(), root.clone().into_os_string()];
            arguments.extend(rest.iter().map(OsString::from));
            arguments
        };
        let extra: Vec<&str> = dataplane_arguments.iter().map(String::as_str).collect();
        let dataplane = Process::start(
            &namespace,
            &binaries.dataplane,
            rooted(&extra),
            root.join("log/dataplane.log"),
        )?;
        let mut arguments: Vec<OsString> = vec!["agent".into()];
        arguments.extend(rooted(&["--cell", &plan.name, "--network"]));
        arguments.push(network.into());
        let agent =
            Process::start(&namespace, &binaries.sarcenet, arguments, root.join("log/agent.log"))?;
        let processes = Mutex::new(Processes { dataplane, agent });
        Ok(Self { plan: plan.clone(), namespace, root, binaries, processes })
    }

    /// Its name and addresses.
    pub fn plan(&self) -> &CellPlan {
        &self.plan
    }

    /// Its network namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The directory that stands for `/` in its paths.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Its programs.
    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    fn processes(&self) -> MutexGuard<'_, Processes> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new connection to its agent.
    pub fn agent(&self) -> Result<AgentClient> {
        let path = sarcenet_agent_api::socket_path(&self.root);
        AgentClient::connect(&path).with_context(|| format!("connect to {}", path.display()))
    }

    /// A new connection to its dataplane that only looks.
    pub fn dataplane(&self) -> Result<Client> {
        let path = self.root.join("run/sarcenet/dataplane.sock");
        Client::connect(&path, Role::Observer)
            .with_context(|| format!("connect to {}", path.display()))
    }

    /// Packets that its dataplane has dropped for a reason, by the reason's token.
    pub fn drops(&self, token: &str) -> Result<u64> {
        let status = self.dataplane()?.status()?;
        Ok(status.drops.iter().filter(|d| d.reason.token() == token).map(|d| d.packets).sum())
    }

    /// How many events have been recorded with a prefix beginning like this.
    pub fn logged(&self, prefix: &str) -> Result<u64> {
        let path = self.root.join("var/log/sarcenet/events.jsonl");
        let lines = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            read => read.with_context(|| format!("read {}", path.display()))?,
        };
        let is_one = |line: &&str| {
            serde_json::from_str::<serde_json::Value>(line).is_ok_and(|record| {
                record["prefix"].as_str().is_some_and(|text| text.starts_with(prefix))
            })
        };
        Ok(lines.lines().filter(is_one).count() as u64)
    }

    /// Process identifiers of the dataplane and the agent.
    pub fn pids(&self) -> (u32, u32) {
        let processes = self.processes();
        (processes.dataplane.pid(), processes.agent.pid())
    }

    /// Waits until its dataplane has in force whatever its agent wants.
    pub fn wait_ready(&self) -> Result<()> {
        let deadline = Instant::now() + START_PATIENCE;
        loop {
            {
                let mut processes = self.processes();
                processes.dataplane.check_alive()?;
                processes.agent.check_alive()?;
            }
            let Err(error) = self.is_ready() else { return Ok(()) };
            if Instant::now() > deadline {
                bail!("{} is not ready: {error:#}\n{}", self.plan.name, self.logs());
            }
            std::thread::sleep(TICK);
        }
    }

    /// An error if its dataplane does not have in force yet what its agent wants.
    fn is_ready(&self) -> Result<()> {
        let dataplane = self.agent()?.status()?.dataplane;
        let reason = || dataplane.error.unwrap_or_else(|| "a change is on its way".to_owned());
        ensure!(dataplane.ready, "{}", reason());
        Ok(())
    }

    /// Kills the dataplane at once.
    pub fn kill_dataplane(&self) -> Result<()> {
        self.processes().dataplane.end(Signal::SIGKILL).map(drop)
    }

    /// Starts the dataplane again.
    pub fn restart_dataplane(&self) -> Result<()> {
        self.processes().dataplane.restart()
    }

    /// Kills the agent at once.
    pub fn kill_agent(&self) -> Result<()> {
        self.processes().agent.end(Signal::SIGKILL).map(drop)
    }

    /// Starts the agent again.
    pub fn restart_agent(&self) -> Result<()> {
        self.processes().agent.restart()
    }

    /// Attaches a namespace as a container, as a container runtime does.
    pub(crate) fn attach(
        &self,
        container: &Namespace,
        handle: &str,
        spec: &ContainerSpec,
        kind: AttachKind,
    ) -> Result<Attachment> {
        let config = network_configuration(spec, kind);
        let result = self.cni("ADD", container, handle, config)?;
        let result: serde_json::Value = serde_json::from_str(&result)
            .with_context(|| format!("read the CNI result {result:?}"))?;
        let address = result
            .pointer("/ips/0/address")
            .and_then(serde_json::Value::as_str)
            .and_then(|text| text.strip_suffix("/32"))
            .and_then(|text| text.parse::<Ipv4Addr>().ok())
            .with_context(|| format!("no address with prefix length 32 in {result}"))?;
        // What the interface has, not what the plugin says that it has.
        let mtu = crate::namespace::checked(Command::new("ip").args([
            "-netns",
            container.name(),
            "-json",
            "link",
            "show",
            "eth0",
        ]))?;
        let mtu: serde_json::Value = serde_json::from_str(&mtu).context("read ip's answer")?;
        let mtu = mtu
            .pointer("/0/mtu")
            .and_then(serde_json::Value::as_u64)
            .and_then(|mtu| u16::try_from(mtu).ok())
            .context("eth0 has no MTU")?;
        let nameservers = result.pointer("/dns/nameservers").cloned().unwrap_or_default();
        let nameservers: Option<Vec<Ipv4Addr>> =
            serde_json::from_value(nameservers).context("read the CNI result's DNS servers")?;
        Ok(Attachment { address, mtu, nameservers: nameservers.unwrap_or_default() })
    }

    /// Detaches a container.
    pub(crate) fn detach(&self, container: &Namespace, handle: &str) -> Result<()> {
        self.cni("DEL", container, handle, serde_json::json!({})).map(drop)
    }

    fn cni(
        &self,
        command: &str,
        container: &Namespace,
        handle: &str,
        mut config: serde_json::Value,
    ) -> Result<String> {
        config["cniVersion"] = "1.0.0".into();
        config["name"] = "sarcenet".into();
        config["type"] = "sarcenet-cni".into();
        config["agentSocket"] = serde_json::json!(sarcenet_agent_api::socket_path(&self.root));
        let mut child = self.namespace.spawn(
            Command::new(&self.binaries.cni)
                .env("CNI_COMMAND", command)
                .env("CNI_CONTAINERID", handle)
                .env("CNI_NETNS", container.path())
                .env("CNI_IFNAME", "eth0")
                .env("CNI_PATH", self.binaries.cni.parent().unwrap_or(Path::new("/")))
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped()),
        )?;
        let mut stdin = child.stdin.take().context("a piped child has a standard input")?;
        stdin.write_all(config.to_string().as_bytes()).context("write to sarcenet-cni")?;
        drop(stdin);
        let output = child.wait_with_output().context("wait for sarcenet-cni")?;
        let (stdout, stderr) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(
            output.status.success(),
            "sarcenet-cni {command} failed: {stdout}{stderr}\n{}",
            self.logs()
        );
        Ok(stdout.into_owned())
    }

    /// Writes a policy into the network file through the agent; the other cells watch that file.
    pub(crate) fn change_policy(&self, policy: &Policy, allow: bool) -> Result<()> {
        let mut agent = self.agent()?;
        let changed =
            if allow { agent.allow(policy.clone()) } else { agent.revoke(policy.clone()) };
        changed.map(drop).with_context(|| format!("allow={allow} {policy}"))
    }

    /// Policies that the agent knows.
    pub(crate) fn policies(&self) -> Result<Vec<Policy>> {
        self.agent()?.policies().context("read the policies in force")
    }

    /// The ends of both logs, for people.
    pub fn logs(&self) -> String {
        let processes = self.processes();
        format!("{}\n{}", processes.dataplane.log_tail(), processes.agent.log_tail())
    }
}

/// What a container runtime tells of a container (contract section 7.1), but the keys that are the
/// same for all.
fn network_configuration(spec: &ContainerSpec, kind: AttachKind) -> serde_json::Value {
    let ContainerSpec { app, space, workload, ports, mappings, bandwidth } = spec;
    let mut metadata = serde_json::json!({"container_workload": workload.name()});
    if let Some(app) = app {
        metadata["app_id"] = app.as_str().into();
        metadata["policy_group_id"] = app.as_str().into();
    }
    if let Some(space) = space {
        metadata["space_id"] = space.as_str().into();
        metadata["org_id"] = "organisation".into();
    }
    if let Some(ports) = ports {
        metadata["ports"] = ports.as_str().into();
    }
    let mut config = serde_json::json!({"attach": kind, "metadata": metadata});
    let mut runtime = serde_json::Map::new();
    if !mappings.is_empty() {
        let ports: Vec<_> = mappings
            .iter()
            .map(|PortMapping { host, container }| {
                serde_json::json!({"host_port": host, "container_port": container})
            })
            .collect();
        runtime.insert("portMappings".to_owned(), ports.into());
    }
    if let Some(Bandwidth { bits_per_second: rate, burst_bits: burst }) = bandwidth {
        runtime.insert(
            "bandwidth".to_owned(),
            serde_json::json!({
                "ingressRate": rate, "ingressBurst": burst,
                "egressRate": rate, "egressBurst": burst,
            }),
        );
    }
    if !runtime.is_empty() {
        config["runtimeConfig"] = runtime.into();
    }
    config
}
