use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use tokio::runtime::{Builder, Runtime};
use tracing::{error, info};

use super::log::{self, LogFormat};
use super::output;
use crate::address_watch::AddressWatch;
use crate::agent::{Agent, Found, Options};
use crate::config::{ConfigError, FollowSpec, Network};
use crate::follow::{Prepared, leave};
use crate::followed::Followed;
use crate::paths::Root;
use crate::server::Server;
use crate::signals::Signals;
use crate::watch::Watch;

/// Threads for what is asked of servers, and told: it waits most of the time.
const THREADS: usize = 2;

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
    let signals = Signals::take(&[Signal::SIGINT, Signal::SIGTERM]);
    let signals = signals.context("cannot wait for signals")?;
    let found = Found::read(Options { root, cell, network })?;
    let runtime = Builder::new_multi_thread().worker_threads(THREADS).enable_all().build();
    let runtime = runtime.context("cannot start threads")?;
    match found.base().control.clone() {
        None => alone(found, signals, &runtime),
        Some(spec) => following(found, spec, signals, &runtime),
    }
}

fn check(network: &Path, cell: &str) -> Result<ExitCode> {
    let checked = Network::load(network)?;
    let groups = checked.security_groups.as_ref().map_or(0, |groups| groups.len()) as u64;
    let groups = output::count(groups, "security group");
    let counted = if let Some(control) = &checked.control {
        let (leases, policies) = (&control.leases.url, &control.policies.url);
        format!("leases from {leases}, policies from {policies}, {groups}")
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

/// An agent to which the network file says everything.
fn alone(found: Found, mut signals: Signals, runtime: &Runtime) -> Result<ExitCode> {
    let agent = found.agent(Followed::default())?;
    let running = Running::start(agent)?;
    let signal = runtime.block_on(signals.end());
    info!("{signal}: ending; the dataplane and all containers stay as they are");
    running.end();
    Ok(ExitCode::SUCCESS)
}

/// An agent that follows servers.
fn following(
    found: Found,
    spec: FollowSpec,
    mut signals: Signals,
    runtime: &Runtime,
) -> Result<ExitCode> {
    let mut prepared = Prepared::new(found, spec, runtime.handle())?;
    // The subnet controller may be waited for.
    let followed = runtime.block_on(async {
        tokio::select! {
            followed = prepared.lease() => followed.map(Some),
            signal = signals.end() => {
                info!("{signal}: ending before the cell has a lease");
                Ok(None)
            }
        }
    })?;
    let Some(followed) = followed else { return Ok(ExitCode::SUCCESS) };
    let following = prepared.agent(followed, runtime.handle())?;
    let running = Running::start(Arc::clone(following.agent()))?;
    let ended = runtime.block_on(async {
        let mut follower = following.follow().await?;
        let ended = tokio::select! {
            signal = signals.end() => {
                info!("{signal}: ending; the dataplane and all containers stay as they are");
                Ok(ExitCode::SUCCESS)
            }
            error = follower.failed() => {
                error!("{error}; the dataplane and all containers stay as they are");
                Err(error.into())
            }
        };
        follower.stop().await;
        ended
    });
    running.end();
    ended
}

/// The threads of an agent.
struct Running {
    agent: Arc<Agent>,
    // In the order in which they end.
    addresses: AddressWatch,
    watch: Watch,
    server: Server,
    keeper: JoinHandle<()>,
}

impl Running {
    fn start(agent: Arc<Agent>) -> Result<Self> {
        // The socket first: it is what tells two agents of one cell apart.
        let server = Server::start(Arc::clone(&agent), &agent.options().root.agent_socket())?;
        let keeper = agent.start().context("cannot start")?;
        let watch = Watch::start(Arc::clone(&agent)).context("cannot start")?;
        let addresses = AddressWatch::start(Arc::clone(&agent)).context("cannot start")?;
        Ok(Self { agent, addresses, watch, server, keeper })
    }

    fn end(self) {
        let Self { agent, addresses, watch, server, keeper } = self;
        drop(addresses);
        drop(watch);
        drop(server);
        agent.stop();
        let _ = keeper.join();
    }
}

/// `--drain` and `--teardown`. All of the latter is tried, and all errors are told.
fn leave(root: &Root, network: &Path, arguments: &Arguments) -> Result<ExitCode> {
    if arguments.drain {
        leave::drain(root, Duration::from_secs(arguments.drain_limit))?;
    }
    if !arguments.teardown {
        return Ok(ExitCode::SUCCESS);
    }
    // Without a network file there is no server that could know the cell.
    let released = match Network::load(network) {
        Ok(Network { control: Some(spec), .. }) => leave::release(&spec, root).map_err(Into::into),
        Ok(_) | Err(ConfigError::Read { .. }) => Ok(()),
        Err(mistakes) => Err(anyhow::Error::from(mistakes)),
    };
    let removed = leave::remove_devices(root).map_err(anyhow::Error::from);
    match (released, removed) {
        (Err(one), Err(other)) => {
            let (one, other) = (output::explain(&one), output::explain(&other));
            Err(anyhow::anyhow!("{one}; and {other}"))
        }
        (Err(error), Ok(())) | (Ok(()), Err(error)) => Err(error),
        (Ok(()), Ok(())) => Ok(ExitCode::SUCCESS),
    }
}
