//! Debian's containerd, driven by `ctr run --cni`.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use sarcenet_netns_tests::PATIENCE;
use sarcenet_rig::{SarcenetCell, eventually};
use serde_json::{Value, json};

use crate::image::{self, PORT};
use crate::runtime::{Runtime, Wanted};
use crate::{left, network, reboot};

/// `ctr` knows one directory of networks; each of its calls has another one there.
const MOUNTED: &str = "mount --bind \"$1\" /etc/cni/net.d; shift; exec ctr \"$@\"";

/// A cell's containerd.
#[derive(Debug)]
pub(crate) struct Containerd<'a> {
    cell: &'a SarcenetCell,
    directory: PathBuf,
    /// The file system of all containers.
    tree: PathBuf,
    daemon: Child,
}

impl<'a> Containerd<'a> {
    /// Starts it with directories of its own.
    pub(crate) fn new(cell: &'a SarcenetCell, tree: &Path) -> Result<Self> {
        network::install(cell)?;
        let directory = cell.root().join("containerd");
        fs::create_dir_all(directory.join("net.d")).context("make containerd's directories")?;
        let here = directory.display();
        // The plugin beside it wants a directory of the machine, and CRI its plugins.
        let configuration = format!(
            "version = 2\nroot = \"{here}/root\"\nstate = \"{here}/state\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\"]\n\
             [grpc]\naddress = \"{here}/socket\"\n"
        );
        fs::write(directory.join("config.toml"), configuration)
            .context("write containerd's configuration")?;
        // Cgroups are none of ours.
        let crun = directory.join("crun");
        fs::write(&crun, "#!/bin/sh\nexec crun --cgroup-manager=disabled \"$@\"\n")
            .and_then(|()| fs::set_permissions(&crun, fs::Permissions::from_mode(0o755)))
            .context("write the call of crun")?;
        // Nobody else gives a container of `ctr` the name servers of CNI's result.
        let resolv = format!("nameserver {}\n", sarcenet_rig::outside::DNS_SERVER);
        fs::write(directory.join("resolv.conf"), resolv).context("write resolv.conf")?;
        let daemon = serve(cell, &directory)?;
        Ok(Self { cell, directory, tree: tree.to_path_buf(), daemon })
    }

    /// The network of a container: ports and app are said there, because `ctr` says nothing.
    fn network(&self, wanted: Wanted<'_>) -> Value {
        let mut interface = json!({
            "attach": "tun",
            "args": {"cni": {"labels": [{"key": "app", "value": wanted.name}]}},
        });
        if let Some(port) = wanted.host_port {
            interface["runtimeConfig"] =
                json!({"portMappings": [{"hostPort": port, "containerPort": PORT}]});
        }
        network::configuration(self.cell, "sarcenet", interface, wanted.limited)
    }

    /// `ctr` in the cell, with the networks of this container alone.
    fn command(&self, name: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-ec", MOUNTED, "ctr"])
            .arg(self.networks(name))
            .arg("--address")
            .arg(self.directory.join("socket"))
            .args(["--namespace", &self.cell.plan().name])
            .args(arguments);
        command
    }

    fn networks(&self, name: &str) -> PathBuf {
        self.directory.join("net.d").join(name)
    }

    fn checked(&self, name: &str, arguments: &[&str]) -> Result<String> {
        self.cell.namespace().checked(&mut self.command(name, arguments))
    }

    /// `ctr run` for a container.
    fn run(&self, wanted: Wanted<'_>, option: &str) -> Result<Command> {
        let networks = self.networks(wanted.name);
        fs::create_dir_all(&networks)
            .and_then(|()| {
                let network = self.network(wanted).to_string();
                fs::write(networks.join("10-sarcenet.conflist"), network)
            })
            .context("write the container's network")?;
        let crun = self.directory.join("crun");
        let resolv = self.directory.join("resolv.conf");
        let mount =
            format!("type=bind,src={},dst=/etc/resolv.conf,options=rbind:ro", resolv.display());
        let (crun, tree) = (crun.to_string_lossy(), self.tree.to_string_lossy());
        let mut arguments = vec!["run", option, "--cni", "--null-io", "--cgroup", ""];
        arguments.extend(["--runc-binary", &crun, "--mount", &mount]);
        arguments.extend(["--rootfs", &tree, wanted.name]);
        let command = image::command(wanted.name);
        arguments.extend(command.iter().map(String::as_str));
        Ok(self.command(wanted.name, &arguments))
    }

    /// The name under which the plugin knows a container.
    fn id(&self, name: &str) -> String {
        format!("{}-{name}", self.cell.plan().name)
    }

    /// Process identifier and state of a container's task.
    fn task(&self, name: &str) -> Result<[String; 2]> {
        let list = self.checked(name, &["task", "ls"])?;
        let rows = list.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let row = rows.into_iter().find(|row| row.first() == Some(&name));
        let Some([_, pid, state]) = row.as_deref() else { bail!("{name} is not in {list}") };
        Ok([pid, state].map(|word| (*word).to_owned()))
    }

    /// A container that `ctr` waits for is detached by it when it ends.
    pub(crate) fn ends_with_its_command(&self) -> Result<()> {
        let name = "app-9";
        let mut run = self.run(Wanted::app(name), "--rm")?;
        run.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut waiting = self.cell.namespace().spawn(&mut run)?;
        // Before that `ctr` has something to do with it itself.
        eventually(PATIENCE, || {
            let [_, state] = self.task(name)?;
            ensure!(state == "RUNNING", "{name} is {state}");
            Ok(())
        })?;
        left::ended(self, name, || {
            self.checked(name, &["task", "kill", "--signal", "SIGKILL", name])?;
            eventually(PATIENCE, || waiting.try_wait()?.context("ctr waits for ever")).map(drop)
        })?;
        left::nothing(self)
    }
}

/// Starts the daemon, and waits until it serves.
fn serve(cell: &SarcenetCell, directory: &Path) -> Result<Child> {
    let log = File::options().create(true).append(true).open(directory.join("log"));
    let log = log.context("open containerd's log")?;
    let mut command = Command::new("containerd");
    command.arg("--config").arg(directory.join("config.toml"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let daemon = cell.namespace().spawn(&mut command)?;
    eventually(PATIENCE, || {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(directory.join("socket")).arg("version");
        cell.namespace().checked(&mut command)
    })?;
    Ok(daemon)
}

impl Runtime for Containerd<'_> {
    fn cell(&self) -> &SarcenetCell {
        self.cell
    }

    fn start(&self, wanted: Wanted<'_>) -> Result<()> {
        self.cell.namespace().checked(&mut self.run(wanted, "--detach")?).map(drop)
    }

    fn start_again(&self, wanted: Wanted<'_>) -> Result<()> {
        self.checked(wanted.name, &["container", "rm", wanted.name])?;
        self.start(wanted)
    }

    fn exec(&self, name: &str, command: &[&str]) -> Result<Output> {
        let arguments = [&["task", "exec", "--exec-id", "one", name], command].concat();
        self.cell.namespace().output(&mut self.command(name, &arguments))
    }

    fn init(&self, name: &str) -> Result<i32> {
        let [pid, _] = self.task(name)?;
        pid.parse().with_context(|| format!("a process identifier: {pid:?}"))
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.checked(name, &["task", "kill", "--signal", "SIGKILL", name])?;
        eventually(PATIENCE, || {
            let [_, state] = self.task(name)?;
            ensure!(state == "STOPPED", "{name} is {state}");
            Ok(())
        })?;
        self.checked(name, &["task", "rm", name])?;
        self.checked(name, &["container", "rm", name])?;
        let network = fs::read(self.networks(name).join("10-sarcenet.conflist"))?;
        network::delete(self.cell, &serde_json::from_slice(&network)?, &self.id(name))
    }

    fn reboot(&mut self, running: &[&str]) -> Result<()> {
        let pids = running.iter().map(|name| self.init(name)).collect::<Result<Vec<_>>>()?;
        self.daemon.kill().context("kill containerd")?;
        self.daemon.wait().context("wait for containerd")?;
        pids.into_iter().try_for_each(reboot::end)?;
        let tasks = Path::new("/run/containerd/runc").join(&self.cell.plan().name);
        reboot::lose(&[self.directory.join("state"), tasks], &self.directory)?;
        reboot::restart(self.cell)?;
        self.daemon = serve(self.cell, &self.directory)?;
        Ok(())
    }

    fn collect(&self) -> Result<()> {
        network::collect(self.cell, &self.network(Wanted::app("none")))
    }

    fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Drop for Containerd<'_> {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}
