//! Removal of everything a world made, however its process ends.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::{Context as _, Result};

/// A small shell process that waits for this one to end. One way of cleaning up serves the
/// ordinary end, a panic, Ctrl-C and SIGKILL alike: the pipe to the reaper closes.
#[derive(Debug)]
pub(crate) struct Reaper {
    child: Child,
    pipe: Option<ChildStdin>,
}

impl Reaper {
    /// Starts it in a process group of its own, where a terminal's Ctrl-C does not reach it.
    pub(crate) fn start() -> Result<Self> {
        let mut child = Command::new("sh")
            .args(["-c", include_str!("reaper.sh"), "sarcenet-reaper"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .context("start the shell that cleans up")?;
        let pipe = child.stdin.take();
        Ok(Self { child, pipe })
    }

    /// Tells it of a namespace, before that is made.
    pub(crate) fn namespace(&mut self, name: &str) -> Result<()> {
        self.say(&format!("namespace {name}\n"))
    }

    /// Tells it of a directory, before that is made.
    pub(crate) fn directory(&mut self, path: &Path) -> Result<()> {
        self.say(&format!("directory {}\n", path.display()))
    }

    /// Leaves everything as it is.
    pub(crate) fn keep(mut self) -> Result<()> {
        self.say("keep\n")
    }

    fn say(&mut self, line: &str) -> Result<()> {
        let pipe = self.pipe.as_mut().context("the reaper was dismissed")?;
        pipe.write_all(line.as_bytes()).context("write to the shell that cleans up")
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        drop(self.pipe.take());
        if let Err(error) = self.child.wait() {
            eprintln!("the shell that cleans up was lost: {error}");
        }
    }
}
