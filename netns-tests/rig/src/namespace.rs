//! Network namespaces by name, as `ip netns` keeps them.

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context as _, Result, bail};
use nix::sched::{CloneFlags, setns};

/// A network namespace that the world made. Removed by the world's reaper, not on drop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes it, with the loopback device up.
    pub(crate) fn create(name: String) -> Result<Self> {
        checked(Command::new("ip").args(["netns", "add", &name]))?;
        let namespace = Self { name };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// Its name, as `ip netns list` shows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for it.
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// Runs `f` inside the namespace and returns what it returned.
    ///
    /// `f` runs on a thread of its own that ends with it: no panic and no error can leave the
    /// calling thread in the wrong namespace. Sockets made by `f` stay in the namespace wherever
    /// they are used afterwards.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        let path = self.path();
        let file = File::open(&path)
            .with_context(|| format!("open the network namespace {}", path.display()))?;
        let ran = std::thread::scope(|scope| {
            scope
                .spawn(move || {
                    setns(&file, CloneFlags::CLONE_NEWNET)?;
                    Ok(f())
                })
                .join()
        });
        match ran {
            Ok(result) => result.map_err(|errno: nix::Error| {
                anyhow::anyhow!("enter the network namespace {}: {errno} (root only)", self.name)
            }),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Starts a program inside the namespace.
    pub fn spawn(&self, command: &mut Command) -> Result<Child> {
        let program = command.get_program().to_string_lossy().into_owned();
        self.run(|| command.spawn())?.with_context(|| format!("start {program} in {}", self.name))
    }

    /// Runs a program inside the namespace to its end.
    pub fn output(&self, command: &mut Command) -> Result<Output> {
        let program = command.get_program().to_string_lossy().into_owned();
        self.run(|| command.output())?.with_context(|| format!("run {program} in {}", self.name))
    }

    /// Runs a program inside the namespace that must succeed; returns its standard output.
    pub fn checked(&self, command: &mut Command) -> Result<String> {
        self.run(|| checked(command))?
    }

    /// Runs lines of the `ip` command in the namespace, all of which must succeed.
    pub fn ip(&self, lines: &str) -> Result<()> {
        let mut command = Command::new("ip");
        command.args(["-n", &self.name, "-batch", "-"]);
        fed(&mut command, lines).map(drop)
    }

    /// Sets a `net.*` sysctl of the namespace; the name is the path below `/proc/sys/net`.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/net/{name}");
        self.run(|| std::fs::write(&path, value))?
            .with_context(|| format!("write {value} to {path} in {}", self.name))
    }
}

/// Runs a command that must succeed; returns its standard output.
pub fn checked(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("run {command:?} (is it installed?)"))?;
    judged(command, &output)
}

/// Runs a command that must succeed with `input` on its standard input.
pub(crate) fn fed(command: &mut Command, input: &str) -> Result<String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("run {command:?} (is it installed?)"))?;
    let mut stdin = child.stdin.take().context("a piped child has a standard input")?;
    let written = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().with_context(|| format!("wait for {command:?}"))?;
    judged(command, &output).with_context(|| format!("its input was:\n{input}"))?;
    // A command that succeeded without reading everything has closed the pipe early.
    written.with_context(|| format!("write to {command:?}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn judged(command: &Command, output: &Output) -> Result<String> {
    if !output.status.success() {
        bail!(
            "{command:?} failed with {}: {}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim(),
            String::from_utf8_lossy(&output.stdout).trim(),
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
