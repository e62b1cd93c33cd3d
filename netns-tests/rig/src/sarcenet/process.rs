//! A long-running program of a cell.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::namespace::Namespace;

/// How long a program may take to end when asked.
const END_PATIENCE: Duration = Duration::from_secs(20);
/// Last bytes of a log that are shown.
const TAIL: usize = 6000;

/// A program that runs in a namespace and writes to a log file.
#[derive(Debug)]
pub(crate) struct Process {
    namespace: Namespace,
    program: PathBuf,
    arguments: Vec<OsString>,
    log: PathBuf,
    child: Child,
}

impl Process {
    pub(crate) fn start(
        namespace: &Namespace,
        program: &Path,
        arguments: Vec<OsString>,
        log: PathBuf,
    ) -> Result<Self> {
        let child = spawn(namespace, program, &arguments, &log)?;
        let (namespace, program) = (namespace.clone(), program.to_path_buf());
        Ok(Self { namespace, program, arguments, log, child })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it with a signal and waits for it.
    pub(crate) fn end(&mut self, signal: Signal) -> Result<ExitStatus> {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal)
            .with_context(|| format!("send {signal} to {}", self.program.display()))?;
        let deadline = Instant::now() + END_PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("{} does not end on {signal}\n{}", self.program.display(), self.log_tail());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Starts it again with the same arguments, after [`Process::end`].
    pub(crate) fn restart(&mut self) -> Result<()> {
        self.child = spawn(&self.namespace, &self.program, &self.arguments, &self.log)?;
        Ok(())
    }

    /// Fails if it has ended by itself.
    pub(crate) fn check_alive(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} ended with {status}\n{}", self.program.display(), self.log_tail());
        }
        Ok(())
    }

    /// The end of its log, for people.
    pub(crate) fn log_tail(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let tail = &text[text.len().saturating_sub(TAIL)..];
        format!("--- {}\n{}", self.log.display(), String::from_utf8_lossy(tail))
    }
}

fn spawn(
    namespace: &Namespace,
    program: &Path,
    arguments: &[OsString],
    log: &Path,
) -> Result<Child> {
    let output: File = OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("open the log {}", log.display()))?;
    let error = output.try_clone().context("duplicate a log's descriptor")?;
    // In a process group of its own: a terminal's Ctrl-C goes to the world's owner, and the reaper
    // does the rest.
    let mut command = Command::new(program);
    command.args(arguments).process_group(0);
    namespace.spawn(command.stdin(Stdio::null()).stdout(output).stderr(error))
}
