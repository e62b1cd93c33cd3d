//! Load generators as processes: this program again, inside a container.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddrV4;
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, anyhow};
use sarcenet_rig::Namespace;
use serde::de::DeserializeOwned;

use crate::load::READY;
use crate::side::Side;

/// A listening generator and the one that speaks to it.
pub(crate) type Pair = (Generator, Generator);

/// What both of a pair saw.
pub(crate) trait Both {
    /// Waits for both: what the sender saw, and what the receiver did.
    fn both<S: DeserializeOwned, R: DeserializeOwned>(self, side: &Side) -> Result<(S, R)>;
}

impl Both for Pair {
    fn both<S: DeserializeOwned, R: DeserializeOwned>(self, side: &Side) -> Result<(S, R)> {
        let (receiver, sender) = self;
        Ok((sender.seen(side)?, receiver.seen(side)?))
    }
}

/// A running load generator. It ends when this is dropped.
pub(crate) struct Generator {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Generator {
    /// Starts it in a container, or outside.
    pub(crate) fn start(
        namespace: &Namespace,
        arguments: &str,
        address: Option<SocketAddrV4>,
    ) -> Result<Self> {
        let mut command = command(arguments, address)?;
        Self::of(namespace.spawn(&mut command)?)
    }

    /// Starts it in the machine's own namespace: it does not touch the network.
    pub(crate) fn outside(arguments: &str) -> Result<Self> {
        Self::of(command(arguments, None)?.spawn().context("start a load generator")?)
    }

    fn of(mut child: Child) -> Result<Self> {
        let output = child.stdout.take().context("a piped child has a standard output")?;
        Ok(Self { child, output: BufReader::new(output) })
    }

    /// Waits until it listens.
    pub(crate) fn wait_ready(&mut self) -> Result<()> {
        let mut line = String::new();
        self.output.read_line(&mut line).context("wait for a generator")?;
        if line.trim_end() == READY {
            return Ok(());
        }
        Err(self.complaint()).context("it does not listen")
    }

    /// What it says is wrong.
    fn complaint(&mut self) -> anyhow::Error {
        drop(self.child.kill());
        let mut text = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            drop(stderr.read_to_string(&mut text));
        }
        anyhow!("a load generator failed: {}", text.trim_end())
    }

    /// Waits for its end and reads what it saw.
    pub(crate) fn seen<T: DeserializeOwned>(mut self, side: &Side) -> Result<T> {
        let mut text = String::new();
        self.output.read_to_string(&mut text).context("read what a generator saw")?;
        let status = self.child.wait().context("wait for a generator")?;
        if !status.success() {
            return Err(self.complaint()).with_context(|| side.world().logs());
        }
        serde_json::from_str(&text).with_context(|| format!("understand what it saw: {text:?}"))
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        // It may have ended by itself, then there is nothing to kill.
        drop(self.child.kill());
        if let Err(e) = self.child.wait() {
            eprintln!("a load generator was lost: {e}");
        }
    }
}

fn command(arguments: &str, address: Option<SocketAddrV4>) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("load").args(arguments.split_whitespace());
    command.args(address.map(|address| address.to_string()));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Ok(command)
}
