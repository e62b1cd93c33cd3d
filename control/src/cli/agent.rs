use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal};
use tracing::info;

use super::log::{self, LogFormat};
use super::output;
use crate::address_watch::AddressWatch;
use crate::agent::{Agent, Options};
use crate::config::Network;
use crate::host;
use crate::paths::Root;
use crate::server::Server;
use crate::watch::Watch;

/// Run this cell's control process
///
/// Reads the network file, which may be the same on every cell, and keeps the dataplane up to
/// date with it; serves the CNI plugin and the other commands. A change of the file is in force
/// a few milliseconds later; a file with mistakes changes nothing, and `sarcenet status` shows
/// them. Containers survive a restart of the agent, and of the dataplane.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sarcenet agent --cell cell1
  sarcenet agent --cell cell1 --check
  sarcenet agent --teardown")]
pub(super) struct Arguments {
    /// Which cell of the network file this is
    #[arg(long, value_name = "NAME", required_unless_present = "teardown", env = "SARCENET_CELL")]
    cell: Option<String>,

    /// The network file [default: /etc/sarcenet/network.yaml]
    #[arg(long, value_name = "FILE")]
    network: Option<PathBuf>,

    /// Only look for mistakes in the network file; all of them are printed
    #[arg(long, conflicts_with = "teardown")]
    check: bool,

    /// Remove the cell's own device, which stays when the agent ends
    #[arg(long)]
    teardown: bool,

    /// How log lines look
    #[arg(long, value_enum, default_value = "human", value_name = "FORMAT")]
    log: LogFormat,
}

pub(super) fn run(root: Root, arguments: &Arguments) -> Result<ExitCode> {
    if arguments.teardown {
        host::remove()?;
        return Ok(ExitCode::SUCCESS);
    }
    let network = arguments.network.clone().unwrap_or_else(|| root.network_file());
    let cell = arguments.cell.clone().unwrap_or_default();
    if arguments.check {
        let checked = Network::load(&network)?;
        checked.cell_of(&network, &cell)?;
        let (apps, policies) = (checked.apps.len() as u64, checked.policies.len() as u64);
        let groups = checked.security_groups.as_ref().map_or(0, |groups| groups.len()) as u64;
        output::text(&format!(
            "{}: no mistakes; {}, {}, {}, {}",
            network.display(),
            output::count(checked.cells.len() as u64, "cell"),
            output::count(apps, "app"),
            output::count(policies, "policy"),
            output::count(groups, "security group"),
        ))?;
        return Ok(ExitCode::SUCCESS);
    }
    log::start(arguments.log);
    // Before any thread starts, so that all of them leave these signals to this one.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.thread_block().context("cannot block signals")?;

    let socket = root.agent_socket();
    let agent = Agent::new(Options { root, cell, network })?;
    // The socket first: it is what tells two agents of one cell apart.
    let server = Server::start(Arc::clone(&agent), &socket)?;
    let keeper = agent.start().context("cannot start")?;
    let watch = Watch::start(Arc::clone(&agent)).context("cannot start")?;
    let addresses = AddressWatch::start(Arc::clone(&agent)).context("cannot start")?;
    let signal = signals.wait().context("cannot wait for signals")?;
    info!("{signal}: ending; the dataplane and all containers stay as they are");
    drop(addresses);
    drop(watch);
    drop(server);
    agent.stop();
    let _ = keeper.join();
    Ok(ExitCode::SUCCESS)
}
