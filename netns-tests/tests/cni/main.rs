//! The CNI plugin before a real agent and dataplane, driven as libcni drives it.
#![forbid(unsafe_code)]

mod many;
mod random;
mod silk;
mod verbs;

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sched::{CloneFlags, setns, unshare};
use sarcenet_agent_api::AttachKind;
use sarcenet_cni_chain::{Chain, ChainError, List, PluginAnswer, PluginError};
use sarcenet_netns_tests::{PATIENCE, devices, is_clean};
use sarcenet_rig::{Plan, SarcenetCell, World, eventually};
use serde_json::Value;

/// The interface's name in every container.
const IFNAME: &str = "eth0";

/// Runs a test on a cell; a failure comes with the cell's logs.
fn on_cell(plan: Plan, test: impl FnOnce(&Setting<'_>) -> Result<()>) {
    let world = World::new(plan).unwrap_or_else(|error| panic!("{error:#}"));
    let done = Setting::new(&world).and_then(|setting| test(&setting));
    done.unwrap_or_else(|error| panic!("{}\n{error:#}", world.logs()));
}

/// A cell with a directory of plugins.
struct Setting<'a> {
    cell: &'a SarcenetCell,
    plugins: PathBuf,
    results: PathBuf,
}

impl<'a> Setting<'a> {
    fn new(world: &'a World) -> Result<Self> {
        let cell = world.sarcenet_cells().next().context("a Sarcenet cell")?;
        let plugins = world.directory().join("plugins");
        std::fs::create_dir(&plugins)?;
        for name in ["sarcenet-cni", "silk-cni", "cni-wrapper-plugin", "bandwidth"] {
            symlink(&cell.binaries().cni, plugins.join(name))?;
        }
        Ok(Self { cell, plugins, results: world.directory().join("results") })
    }

    /// A network's plugins for a container.
    fn chain<'b>(
        &'b self,
        list: &'b List,
        container: &'b Sandbox,
        variables: &'b [(&'b str, &'b OsStr)],
    ) -> Chain<'b> {
        Chain {
            list,
            plugin_dir: &self.plugins,
            results: &self.results,
            container: &container.name,
            ifname: IFNAME,
            netns: &container.path,
            arguments: "",
            variables,
        }
    }

    /// Nothing of any container is left: neither address nor device.
    fn is_clean(&self, containers: &[Sandbox]) -> Result<()> {
        // This holds as soon as DEL has answered.
        let left = self.cell.agent()?.containers()?;
        ensure!(left.is_empty(), "{left:?}");
        for container in containers {
            let devices = container.run(devices)??;
            ensure!(devices == ["lo"], "{}: {devices:?}", container.name);
        }
        // What a dataplane lets go of, the kernel takes away in its own time.
        eventually(PATIENCE, || is_clean(self.cell))
    }
}

/// A container: a network namespace that ends with this.
struct Sandbox {
    name: String,
    netns: OwnedFd,
    /// By which it can be opened, as a bind mount can.
    path: PathBuf,
}

impl Sandbox {
    fn new(name: &str) -> Result<Self> {
        let make = || -> Result<OwnedFd> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            Ok(File::open("/proc/thread-self/ns/net")?.into())
        };
        let netns = std::thread::scope(|scope| joined(scope.spawn(make)))?;
        let path = format!("/proc/{}/fd/{}", std::process::id(), netns.as_raw_fd());
        Ok(Self { name: name.to_owned(), netns, path: path.into() })
    }

    /// Runs `work` inside.
    fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        std::thread::scope(|scope| {
            joined(scope.spawn(|| {
                setns(&self.netns, CloneFlags::CLONE_NEWNET)?;
                Ok(work())
            }))
        })
    }

    /// Runs the `ip` command inside, which must succeed.
    fn ip(&self, words: &str) -> Result<String> {
        let run = || Command::new("ip").args(words.split(' ')).output();
        let output = self.run(run)?.context("run ip")?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "ip {words}: {said}");
        Ok(String::from_utf8(output.stdout)?)
    }
}

fn joined<T>(thread: std::thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Reads a network's configuration.
fn list(configuration: &Value) -> Result<List> {
    Ok(sarcenet_cni_chain::read(configuration.to_string().as_bytes())?)
}

/// What the plugin said that failed.
fn answer<T: std::fmt::Debug>(done: Result<T, ChainError>) -> Result<PluginAnswer> {
    match done {
        Err(ChainError::Plugin { source: PluginError::Answered(answer), .. }) => Ok(answer),
        other => bail!("no plugin has failed: {other:?}"),
    }
}

/// The address in a result.
fn address(result: &serde_json::Map<String, Value>) -> Result<String> {
    let ip = result.get("ips").and_then(|ips| ips.pointer("/0/address")).and_then(Value::as_str);
    let ip = ip.and_then(|ip| ip.strip_suffix("/32"));
    ip.map(ToOwned::to_owned).with_context(|| format!("no address in {result:?}"))
}

fn socket(cell: &SarcenetCell) -> PathBuf {
    sarcenet_agent_api::socket_path(cell.root())
}

const KINDS: [AttachKind; 2] = [AttachKind::Tun, AttachKind::Veth];

fn contract(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../garden/tests/networker/contract").join(file)
}
