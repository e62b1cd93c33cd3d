//! The agent as a process: from its start to the signal that ends it, or the loss of its lease.

use std::process::ExitCode;
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use sarcenet_server::http::metrics::Metrics;
use sarcenet_server::http::{ServeError, stop};
use tokio::runtime::{Builder, Runtime};
use tracing::{error, info, warn};

use crate::address_watch::AddressWatch;
use crate::agent::{Agent, Found};
use crate::cli::output;
use crate::collector::Collector;
use crate::config::FollowSpec;
use crate::follow::handover::Inbox;
use crate::follow::tell::{self, Started};
use crate::follow::{Prepared, leave};
use crate::followed::Followed;
use crate::paths::Root;
use crate::server::Server;
use crate::signals::Signals;
use crate::watch::Watch;

/// Threads for what is asked of servers, and told: it waits most of the time.
const THREADS: usize = 2;

/// The signals that end it. Called before the process has other threads.
pub(crate) fn signals() -> Result<Signals> {
    Signals::take(&[Signal::SIGINT, Signal::SIGTERM]).context("cannot wait for signals")
}

/// What is asked and told goes on there.
pub(crate) fn runtime() -> Result<Runtime> {
    let runtime = Builder::new_multi_thread().worker_threads(THREADS).enable_all().build();
    runtime.context("cannot start threads")
}

/// Runs the agent that comes of what was `found`.
pub(crate) fn run(found: Found, signals: Signals) -> Result<ExitCode> {
    raise_descriptor_limit();
    let runtime = runtime()?;
    match found.base().control.clone() {
        None => alone(found, signals, &runtime),
        Some(spec) => following(found, spec, signals, &runtime),
    }
}

/// As many open files as the system lets it have: each container takes one, each client two.
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(e) = raised {
        warn!("cannot raise the limit of open files (RLIMIT_NOFILE): {e}");
    }
}

/// An agent to which the network file says everything.
fn alone(found: Found, mut signals: Signals, runtime: &Runtime) -> Result<ExitCode> {
    let (address, root) = (found.base().status, found.options().root.clone());
    let agent = found.agent(Followed::default())?;
    let running = Running::start(Arc::clone(&agent), None, true)?;
    let (stopper, stop) = stop();
    let started = Started::new(Some(agent).into());
    let told = runtime.block_on(async {
        let status = tell::status(address, &root, &started, &Metrics::default(), &stop).await?;
        let signal = signals.end().await;
        info!("{signal}: ending; the dataplane and all containers stay as they are");
        stopper.stop();
        if let Some(status) = status {
            status.finished().await;
        }
        Ok::<_, ServeError>(())
    });
    running.end();
    told?;
    Ok(ExitCode::SUCCESS)
}

/// An agent that follows servers.
fn following(
    found: Found,
    spec: FollowSpec,
    mut signals: Signals,
    runtime: &Runtime,
) -> Result<ExitCode> {
    let watched = found.is_watched();
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
    let running = Running::start(Arc::clone(following.agent()), following.inbox(), watched)?;
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
    collector: Collector,
    addresses: AddressWatch,
    watch: Option<Watch>,
    server: Server,
    keeper: JoinHandle<()>,
}

impl Running {
    fn start(agent: Arc<Agent>, inbox: Option<Arc<Inbox>>, watched: bool) -> Result<Self> {
        // The socket first: it is what tells two agents of one cell apart.
        let socket = agent.options().root.agent_socket();
        let server = Server::start(Arc::clone(&agent), inbox, &socket)?;
        let keeper = agent.start().context("cannot start")?;
        let (network, read) = (agent.options().network.clone(), Arc::clone(&agent));
        let watch = watched.then(|| Watch::start(network, move || read.reload())).transpose();
        let watch = watch.context("cannot start")?;
        let addresses = AddressWatch::start(Arc::clone(&agent)).context("cannot start")?;
        let collector = Collector::start(Arc::clone(&agent)).context("cannot start")?;
        Ok(Self { agent, collector, addresses, watch, server, keeper })
    }

    fn end(self) {
        let Self { agent, collector, addresses, watch, server, keeper } = self;
        drop(collector);
        drop(addresses);
        drop(watch);
        drop(server);
        agent.stop();
        let _ = keeper.join();
    }
}

/// Gives the lease back that `spec` tells of, if there is any, and removes the cell's devices. All of
/// it is tried, and all errors are told.
pub(crate) fn tear_down(spec: Result<Option<FollowSpec>>, root: &Root) -> Result<ExitCode> {
    let released = match spec {
        Ok(Some(spec)) => leave::release(&spec, root).map_err(Into::into),
        Ok(None) => Ok(()),
        Err(error) => Err(error),
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
