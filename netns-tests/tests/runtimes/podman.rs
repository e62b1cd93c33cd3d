//! Debian's podman with its CNI backend.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context as _, Result};
use sarcenet_rig::SarcenetCell;
use serde_json::{Value, json};

use crate::image::{self, PORT};
use crate::runtime::{Runtime, Wanted};
use crate::{network, reboot};

/// The image's name.
const IMAGE: &str = "busybox";
/// The network of most containers, and that of limited ones.
const NETWORKS: [&str; 2] = ["sarcenet", "sarcenet-limited"];

/// A cell's podman.
#[derive(Debug)]
pub(crate) struct Podman<'a> {
    cell: &'a SarcenetCell,
    directory: PathBuf,
}

impl<'a> Podman<'a> {
    /// Gives it directories, networks and the image.
    pub(crate) fn new(cell: &'a SarcenetCell, archive: &Path) -> Result<Self> {
        network::install(cell)?;
        let directory = cell.root().join("podman");
        let networks = directory.join("net.d");
        fs::create_dir_all(&networks).context("make podman's directories")?;
        let here = directory.display();
        // Its locks are otherwise the machine's, and cgroups are none of ours. Copies of the image
        // are small, and work on every file system.
        let engine = format!(
            "[containers]\ncgroups = \"disabled\"\nlog_driver = \"k8s-file\"\n\
             [engine]\nruntime = \"crun\"\ncgroup_manager = \"cgroupfs\"\nlock_type = \"file\"\n\
             events_logger = \"file\"\n\
             [network]\nnetwork_backend = \"cni\"\nnetwork_config_dir = \"{}\"\n\
             cni_plugin_dirs = [\"{}\"]\n",
            networks.display(),
            network::PLUGINS
        );
        let storage = format!(
            "[storage]\ndriver = \"vfs\"\ngraphroot = \"{here}/storage\"\n\
             runroot = \"{here}/run\"\n"
        );
        let podman = Self { cell, directory: directory.clone() };
        let mut files = vec![
            (directory.join("engine.conf"), engine),
            (directory.join("storage.conf"), storage),
        ];
        for name in NETWORKS {
            let network = podman.network(name).to_string();
            files.push((networks.join(name).with_extension("conflist"), network));
        }
        for (path, text) in files {
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        }
        podman.checked(&["import", &archive.to_string_lossy(), IMAGE])?;
        Ok(podman)
    }

    fn network(&self, name: &str) -> Value {
        let interface = json!({
            "attach": "veth",
            "identity": {"app": "K8S_POD_NAME"},
            "capabilities": {"portMappings": true},
        });
        network::configuration(self.cell, name, interface, name != NETWORKS[0])
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("podman");
        command
            .env("CONTAINERS_CONF", self.directory.join("engine.conf"))
            .env("CONTAINERS_STORAGE_CONF", self.directory.join("storage.conf"))
            .arg("--tmpdir")
            .arg(self.directory.join("tmp"))
            .args(arguments);
        command
    }

    /// Runs a command of podman that must succeed.
    pub(crate) fn checked(&self, arguments: &[&str]) -> Result<String> {
        self.cell.namespace().checked(&mut self.command(arguments))
    }

    fn inspect(&self, name: &str, what: &str) -> Result<String> {
        let said = self.checked(&["inspect", "--format", &format!("{{{{{what}}}}}"), name])?;
        Ok(said.trim().to_owned())
    }
}

impl Runtime for Podman<'_> {
    fn cell(&self) -> &SarcenetCell {
        self.cell
    }

    fn start(&self, Wanted { name, host_port, limited }: Wanted<'_>) -> Result<()> {
        let network = NETWORKS[usize::from(limited)];
        let port = host_port.map(|port| format!("{port}:{PORT}"));
        let mut arguments = vec!["run", "--detach", "--name", name, "--network", network];
        arguments.extend(port.iter().flat_map(|port| ["--publish", port]));
        arguments.push(IMAGE);
        let command = image::command(name);
        arguments.extend(command.iter().map(String::as_str));
        self.checked(&arguments).map(drop)
    }

    fn start_again(&self, wanted: Wanted<'_>) -> Result<()> {
        self.checked(&["start", wanted.name]).map(drop)
    }

    fn exec(&self, name: &str, command: &[&str]) -> Result<Output> {
        let arguments = [&["exec", name], command].concat();
        self.cell.namespace().output(&mut self.command(&arguments))
    }

    fn init(&self, name: &str) -> Result<i32> {
        let pid = self.inspect(name, ".State.Pid")?;
        pid.parse().with_context(|| format!("a process identifier: {pid:?}"))
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.checked(&["rm", "--force", "--time", "0", name]).map(drop)
    }

    fn reboot(&mut self, running: &[&str]) -> Result<()> {
        let mut lost = vec![self.directory.join("run"), self.directory.join("tmp")];
        for name in running {
            reboot::end(self.init(name)?)?;
            lost.push(Path::new("/run/crun").join(self.inspect(name, ".Id")?));
            lost.push(self.inspect(name, ".NetworkSettings.SandboxKey")?.into());
        }
        reboot::lose(&lost, &self.directory)?;
        reboot::restart(self.cell)
    }

    fn collect(&self) -> Result<()> {
        NETWORKS.iter().try_for_each(|name| network::collect(self.cell, &self.network(name)))
    }

    fn directory(&self) -> &Path {
        &self.directory
    }
}
