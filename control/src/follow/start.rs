//! An agent that follows servers, with all that goes on beside it.

use std::sync::Arc;

use sarcenet_server::http::metrics::Metrics;
use sarcenet_server::http::{ServeError, Server, Stop, Stopper, stop};
use sarcenet_server::outbound::OutboundError;
use tokio::runtime::Handle;
use tokio::task::{JoinError, JoinHandle};
use tracing::{info, warn};

use super::asker::Asker;
use super::handover::Inbox;
use super::in_force::Learned;
use super::lease::client::LeaseClient;
use super::lease::overlay::{self, OverlayError};
use super::lease::store::LeaseStore;
use super::lease::{Fatal, Keeper, Rules, StartFailure};
use super::metrics::LeaseMetrics;
use super::policy_server::PolicyServerFollowing;
use super::saved::{Saved, SavedError, SavedFile};
use super::tell::{self, Started};
use crate::agent::{Agent, Found, StartError};
use crate::config::FollowSpec;
use crate::followed::Followed;

/// Why an agent does not follow servers, or does not any more.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// The overlay is in use on this cell.
    #[error(transparent)]
    Overlay(#[from] OverlayError),
    /// The address of a server.
    #[error(transparent)]
    Address(#[from] OutboundError),
    /// An address to listen on.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// There is no lease.
    #[error(transparent)]
    Lease(#[from] StartFailure),
    /// The agent itself.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The lease is lost.
    #[error(transparent)]
    Fatal(#[from] Fatal),
    /// What the policy server said before cannot be read.
    #[error(transparent)]
    Saved(#[from] SavedError),
    /// A part of it came to an end.
    #[error("a part of the agent ended by itself: {0}")]
    Ended(#[from] JoinError),
}

/// An agent whose files have been read, and that has asked nobody yet.
pub struct Prepared {
    found: Found,
    spec: FollowSpec,
    keeper: Keeper,
    saved: Saved,
    metrics: Metrics,
    started: Started,
    status: Option<Server>,
    stopper: Stopper,
    stop: Stop,
}

impl Prepared {
    /// Looks at the cell, and tells of the agent's health from here on. Blocks; `runtime` is where
    /// all else goes on.
    pub fn new(found: Found, spec: FollowSpec, runtime: &Handle) -> Result<Self, FollowError> {
        let root = &found.options().root;
        let overlay = found.base().overlay;
        overlay::check(overlay, root)?;
        let (saved, problem) = SavedFile::new(root).load()?;
        if let Some(problem) = problem {
            warn!("{problem}");
        }
        let metrics = Metrics::default();
        let asker = Asker::new(spec.certs.files(root), spec.leases.timeout);
        let keeper = Keeper::new(
            LeaseClient::new(&spec.leases.url, asker)?,
            LeaseStore::new(root),
            Rules::new(overlay, spec.underlay, &spec.leases),
            spec.leases.interval,
            LeaseMetrics::new(&metrics),
            found.address(),
        )?;
        let (stopper, stop) = stop();
        let started = Started::default();
        let status = tell::status(found.base().status, root, &started, &metrics, &stop);
        let status = runtime.block_on(status)?;
        Ok(Self { found, spec, keeper, saved, metrics, started, status, stopper, stop })
    }

    /// What the servers said: a lease at least, for which it waits, and what the policy server said
    /// before.
    pub async fn lease(&mut self) -> Result<Followed, FollowError> {
        let followed = self.keeper.begin(self.found.containers()).await?;
        let Saved { policies, groups, outside, overlay, router_tag, .. } = self.saved.clone();
        let groups = groups.map(|groups| Arc::clone(&groups.groups));
        Ok(Followed { policies, groups, outside, overlay, router_tag, ..followed })
    }

    /// The agent. The dataplane is not talked to yet. Blocks.
    pub fn agent(self, followed: Followed, runtime: &Handle) -> Result<Following, FollowError> {
        let Self { found, spec, keeper, saved, metrics, started, status, stopper, stop } = self;
        let agent = found.agent(followed)?;
        *started.write() = Some(Arc::clone(&agent));
        let router = tell::network_info(Arc::clone(&agent));
        let info = tell::serve("network_info", spec.network_info, router, &metrics, &stop);
        let info = runtime.block_on(info)?;
        info!(network_info = %info.address(), "telling of the cell's subnet");
        let servers = status.into_iter().chain([info]).collect();
        let learned = Learned::new(saved);
        let runtime = runtime.clone();
        Ok(Following { agent, spec, keeper, learned, metrics, servers, runtime, stopper, stop })
    }
}

/// An agent with a lease.
pub struct Following {
    agent: Arc<Agent>,
    spec: FollowSpec,
    keeper: Keeper,
    learned: Learned,
    metrics: Metrics,
    servers: Vec<Server>,
    runtime: Handle,
    stopper: Stopper,
    stop: Stop,
}

impl Following {
    /// The agent.
    pub fn agent(&self) -> &Arc<Agent> {
        &self.agent
    }

    /// Where a program beside the agent hands in what the policy server says, if that is how the
    /// agent learns it.
    pub fn inbox(&self) -> Option<Arc<Inbox>> {
        let told = self.spec.policy_server.is_none();
        let inbox = || {
            let needed = !self.spec.leases.single_ip;
            Inbox::new(self.learned.clone(), self.runtime.clone(), needed)
        };
        told.then(|| Arc::new(inbox()))
    }

    /// Where metrics are registered that `/metrics` tells.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Follows the servers from here on.
    pub async fn follow(self) -> Result<Follower, FollowError> {
        let Self { agent, spec, keeper, learned, metrics, servers, stopper, stop, .. } = self;
        let policies =
            PolicyServerFollowing::start(&agent, &spec, &learned, &metrics, &stop).await?;
        let lease = tokio::spawn(keeper.keep(agent, stop));
        Ok(Follower { lease, policies, servers, stopper })
    }
}

/// What goes on beside an agent that follows servers.
pub struct Follower {
    lease: JoinHandle<Result<(), Fatal>>,
    policies: PolicyServerFollowing,
    servers: Vec<Server>,
    stopper: Stopper,
}

impl Follower {
    /// Waits until the agent cannot go on.
    pub async fn failed(&mut self) -> FollowError {
        match (&mut self.lease).await {
            Ok(Ok(())) => std::future::pending().await,
            Ok(Err(fatal)) => fatal.into(),
            Err(error) => error.into(),
        }
    }

    /// Ends all of it. Requests that are there are answered.
    pub async fn stop(self) {
        self.stopper.stop();
        self.policies.finished().await;
        for server in self.servers {
            server.finished().await;
        }
    }
}
