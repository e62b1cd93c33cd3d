use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;

use super::log::{self, LogFormat};
use super::output;
use crate::agent::{Found, Options};
use crate::config::{ConfigError, Network};
use crate::follow::leave;
use crate::paths::Root;
use crate::process;

/// Run this cell's control process
///
/// Reads the network file, which may be the same on every cell, and keeps the dataplane up to
/// date with it; serves the CNI plugin and the other commands. A change of the file is in force
/// a few milliseconds later; a file with mistakes changes nothing, and `sarcenet status` shows
/// them. A file with `control:` names servers that say the rest: the cell's subnet, the other
/// cells, and policies. Containers survive a restart of the agent, and of the dataplane.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sarcenet agent --cell cell1
  sarcenet agent --cell cell1 --check
  sarcenet agent --drain --teardown")]
pub(super) struct Arguments {
    /// Which cell of the network file this is
    #[arg(long, value_name = "NAME", required_unless_present_any = ["drain", "teardown"], env = "SARCENET_CELL")]
    cell: Option<String>,

    /// The network file [default: /etc/sarcenet/network.yaml]
    #[arg(long, value_name = "FILE")]
    network: Option<PathBuf>,

    /// Only look for mistakes in the network file; all of them are printed
    #[arg(long, conflicts_with = "teardown")]
    check: bool,

    /// Wait until the cell has no containers, then end the agent that runs
    #[arg(long, conflicts_with = "check")]
    drain: bool,

    /// Seconds after which --drain does not wait any longer
    #[arg(long, value_name = "SECONDS", default_value_t = 600, requires = "drain")]
    drain_limit: u64,

    /// Give the cell's lease back, and remove what stays when agent and dataplane have ended: the
    /// cell's own device and the dataplane's filters. With --drain, afterwards
    #[arg(long)]
    teardown: bool,

    /// How log lines look
    #[arg(long, value_enum, default_value = "human", value_name = "FORMAT")]
    log: LogFormat,
}

pub(super) fn run(root: Root, arguments: &Arguments) -> Result<ExitCode> {
    let network = arguments.network.clone().unwrap_or_else(|| root.network_file());
    if arguments.drain || arguments.teardown {
        log::start(arguments.log);
        return leave(&root, &network, arguments);
    }
    let cell = arguments.cell.clone().unwrap_or_default();
    if arguments.check {
        return check(&network, &cell);
    }
    log::start(arguments.log);
    let signals = process::signals()?;
    process::run(Found::read(Options { root, cell, network })?, signals)
}

fn check(network: &Path, cell: &str) -> Result<ExitCode> {
    let checked = Network::load(network)?;
    let groups = checked.security_groups.as_ref().map_or(0, |groups| groups.len()) as u64;
    let server = checked.control.as_ref().and_then(|control| control.policy_server.as_ref());
    let groups = match server {
        Some(server) if server.security_groups.is_some() => "security groups from there".to_owned(),
        _ => output::count(groups, "security group"),
    };
    let counted = if let Some(control) = &checked.control {
        // A network file with `control:` names both.
        let policies = server.map_or("", |server| &server.url);
        format!("leases from {}, policies from {policies}, {groups}", control.leases.url)
    } else {
        checked.cell_of(network, cell)?;
        let (apps, policies) = (checked.apps.len() as u64, checked.policies.len() as u64);
        format!(
            "{}, {}, {}, {groups}",
            output::count(checked.cells.len() as u64, "cell"),
            output::count(apps, "app"),
            output::count(policies, "policy"),
        )
    };
    output::text(&format!("{}: no mistakes; {counted}", network.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// `--drain` and `--teardown`.
fn leave(root: &Root, network: &Path, arguments: &Arguments) -> Result<ExitCode> {
    if arguments.drain {
        leave::drain(root, Duration::from_secs(arguments.drain_limit))?;
    }
    if !arguments.teardown {
        return Ok(ExitCode::SUCCESS);
    }
    // Without a network file there is no server that could know the cell.
    let spec = match Network::load(network) {
        Ok(network) => Ok(network.control),
        Err(ConfigError::Read { .. }) => Ok(None),
        Err(mistakes) => Err(anyhow::Error::from(mistakes)),
    };
    process::tear_down(spec, root)
}
