//! Asking the policy server for policies and security groups: in an agent that does so itself, and in
//! a program beside it.

use std::sync::Arc;

use sarcenet_server::http::metrics::Metrics;
use sarcenet_server::http::{Server, Stop};
use sarcenet_server::outbound;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::info;

use super::asker::Asker;
use super::force::{Forcing, force_router};
use super::groups::{GroupFollower, GroupSettings};
use super::in_force::Learned;
use super::policies::{PolicyFollower, PolicySettings};
use super::policy_metrics::PolicyMetrics;
use super::start::FollowError;
use super::tell::serve;
use crate::agent::Tenants;
use crate::config::PolicyServerSpec;
use crate::paths::Root;

/// Who may wait at a time until a server has been asked.
const FORCES: usize = 64;

/// Those who ask the policy server.
pub struct Followers {
    tasks: JoinSet<()>,
    force: Server,
}

impl Followers {
    /// Begins with what has been `learned`, and has it up to date until it is time to `stop`, for the
    /// containers of these `tenants`.
    pub async fn start(
        spec: &PolicyServerSpec,
        root: &Root,
        tenants: &watch::Receiver<Arc<Tenants>>,
        learned: &Learned,
        counters: &PolicyMetrics,
        metrics: &Metrics,
        stop: &Stop,
    ) -> Result<Self, FollowError> {
        let &PolicyServerSpec { interval, timeout, watch, .. } = spec;
        let files = spec.certs.files(root);
        let url = outbound::server(&spec.url)?;
        let mut tasks = JoinSet::new();

        let (force_policies, forced) = mpsc::channel(FORCES);
        let follower = PolicyFollower::new(
            PolicySettings { url: url.clone(), interval, timeout, watch },
            Asker::new(files.clone(), timeout),
            tenants.clone(),
            learned.policies.clone(),
            forced,
            counters.clone(),
        );
        tasks.spawn(until(stop.clone(), follower.run()));

        let mut force_groups = None;
        if let Some(interval) = spec.security_groups {
            let (force, forced) = mpsc::channel(FORCES);
            force_groups = Some(force);
            let follower = GroupFollower::new(
                GroupSettings { url, interval, timeout, watch },
                Asker::new(files, timeout),
                tenants.clone(),
                learned.groups.clone(),
                forced,
                counters.clone(),
            );
            tasks.spawn(until(stop.clone(), follower.run()));
        }

        let forcing = Forcing {
            policies: force_policies,
            groups: force_groups,
            in_force: learned.in_force.subscribe(),
        };
        let force = serve("force", spec.force, force_router(forcing), metrics, stop).await?;
        info!(server = spec.url, force = %force.address(), "following the policy server");
        Ok(Self { tasks, force })
    }

    /// Waits until all of it has stopped.
    pub async fn finished(mut self) {
        while self.tasks.join_next().await.is_some() {}
        self.force.finished().await;
    }
}

async fn until(stop: Stop, work: impl Future<Output = ()>) {
    tokio::select! {
        () = stop.stopped() => {}
        () = work => {}
    }
}
