//! Leaving: waiting until the cell has no containers, and giving back what it had (contract section
//! 5.6).

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sarcenet_agent_api::{AgentClient, AgentError};
use sarcenet_dataplane_api::Role;
use sarcenet_dataplane_api::client::Client;
use sarcenet_server::outbound::OutboundError;
use tracing::{info, warn};

use super::asker::Asker;
use super::lease::client::{LeaseClient, LeaseError};
use super::lease::store::{LeaseStore, LeaseStoreError};
use crate::config::FollowSpec;
use crate::host;
use crate::netlink::{Netlink, NetlinkError};
use crate::paths::Root;

/// How often the agent is asked for its containers.
const LOOK: Duration = Duration::from_secs(1);
/// How often, and how many times, it is looked whether the agent has ended.
const END: (Duration, u32) = (Duration::from_millis(200), 50);

/// Why a cell could not be drained.
#[derive(Debug, thiserror::Error)]
pub enum DrainError {
    /// The agent cannot be asked.
    #[error("cannot drain the cell: {0}")]
    Agent(#[from] AgentError),
    /// It cannot be told to end.
    #[error("cannot tell the agent (process {pid}) to end: {source}")]
    Signal {
        /// The agent.
        pid: i32,
        /// Why not.
        source: nix::Error,
    },
    /// Its process cannot be seen from here.
    #[error("the agent runs in another PID namespace; end it from there")]
    Unseen,
    /// It was told to end, and has not.
    #[error("the agent (process {0}) was told to end and is still there")]
    Stays(i32),
}

/// Waits until the cell has no containers, but not longer than `limit`; then the agent is told to
/// end, and waited for. Success when there is no agent.
pub fn drain(root: &Root, limit: Duration) -> Result<(), DrainError> {
    let socket = root.agent_socket();
    let deadline = Instant::now() + limit;
    let mut client = match AgentClient::connect(&socket) {
        Ok(client) => client,
        Err(AgentError::Connect(e)) => {
            info!("there is no agent to drain: {e}");
            return Ok(());
        }
        Err(e) => return Err(e.into()),
    };
    loop {
        let containers = match client.containers() {
            Ok(containers) => containers.len(),
            Err(_) if AgentClient::connect(&socket).is_err() => {
                info!("the agent has ended by itself");
                return Ok(());
            }
            Err(e) => return Err(e.into()),
        };
        if containers == 0 {
            break;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            warn!("{containers} containers are still there after {} seconds", limit.as_secs());
            break;
        }
        info!("waiting for {containers} containers to end");
        std::thread::sleep(left.min(LOOK));
    }
    let pid = client.agent_pid()?;
    // 0 would be this process and all that were started with it.
    if pid <= 0 {
        return Err(DrainError::Unseen);
    }
    kill(Pid::from_raw(pid), Signal::SIGTERM)
        .map_err(|source| DrainError::Signal { pid, source })?;
    let (pause, times) = END;
    for _ in 0..times {
        if AgentClient::connect(&socket).is_err() {
            info!("the agent has ended");
            return Ok(());
        }
        std::thread::sleep(pause);
    }
    Err(DrainError::Stays(pid))
}

/// Why the lease was not given back.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// The settings.
    #[error(transparent)]
    Settings(#[from] OutboundError),
    /// The subnet controller.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// The copy on disk.
    #[error(transparent)]
    Store(#[from] LeaseStoreError),
    /// Nobody can be asked at all.
    #[error("cannot ask the subnet controller: {0}")]
    System(#[from] std::io::Error),
}

/// Gives the cell's lease back to the subnet controller, and forgets it. What is on the disk goes
/// even when nobody answers: the lease ends by itself then.
pub fn release(spec: &FollowSpec, root: &Root) -> Result<(), ReleaseError> {
    let ask = || -> Result<(), ReleaseError> {
        let asker = Asker::new(spec.certs.files(root), spec.leases.timeout);
        let client = LeaseClient::new(&spec.leases.url, asker)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(client.release(spec.underlay))?)
    };
    let asked = ask();
    LeaseStore::new(root).remove()?;
    asked
}

/// Removes what the cell leaves in its network namespace: its own device, and the filters of a
/// dataplane that does not run any more.
pub fn remove_devices(root: &Root) -> Result<(), NetlinkError> {
    host::remove()?;
    if Client::connect(&root.dataplane_socket(), Role::Observer).is_ok() {
        info!("the dataplane runs; its filters stay");
        return Ok(());
    }
    let netlink = Netlink::open()?;
    for link in netlink.links()? {
        if netlink.remove_divert(&link)? {
            info!(device = link.name, "removed the dataplane's filter");
        }
    }
    Ok(())
}
