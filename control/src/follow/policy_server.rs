//! All that has to do with the policy server: asking it for policies and security groups, and what
//! becomes of the answers.

use std::sync::Arc;

use sarcenet_server::http::metrics::Metrics;
use sarcenet_server::http::{Server, Stop};
use sarcenet_server::outbound;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::asker::Asker;
use super::force::{Forcing, force_router, logging_router};
use super::groups::{GroupFollower, GroupSettings, GroupState};
use super::keeper::{InForce, Keeper};
use super::policies::{PolicyFollower, PolicySettings, PolicyState};
use super::policy_metrics::PolicyMetrics;
use super::saved::{Saved, SavedFile};
use super::start::FollowError;
use super::tell::serve;
use crate::agent::Agent;
use crate::config::FollowSpec;

/// Who may wait at a time until a server has been asked.
const FORCES: usize = 64;

/// The policy server, being followed.
pub struct PolicyServerFollowing {
    tasks: JoinSet<()>,
    force: Server,
    logging: Option<Server>,
}

impl PolicyServerFollowing {
    /// Begins with what was `saved`, which the agent has already, and follows until it is time to
    /// `stop`.
    pub async fn start(
        agent: &Arc<Agent>,
        spec: &FollowSpec,
        saved: Saved,
        metrics: &Metrics,
        stop: &Stop,
    ) -> Result<Self, FollowError> {
        let root = &agent.options().root;
        let files = spec.certs.files(root);
        let timeout = spec.policies.timeout;
        let url = outbound::server(&spec.policies.url)?;
        let counters = PolicyMetrics::new(metrics);
        let mut tasks = JoinSet::new();

        let Saved { policies, generation, groups } = saved;
        let policies = PolicyState { policies, generation, ..PolicyState::default() };
        let policies = watch::Sender::new(policies);
        let groups = watch::Sender::new(GroupState { groups, ..GroupState::default() });
        let in_force = watch::Sender::new(InForce::default());
        let keeper = Keeper::new(
            Arc::clone(agent),
            policies.subscribe(),
            groups.subscribe(),
            SavedFile::new(root),
            in_force.clone(),
            counters.clone(),
        );
        tasks.spawn(keeper.run(stop.clone()));

        let (force_policies, forced) = mpsc::channel(FORCES);
        let settings = PolicySettings {
            url: url.clone(),
            interval: spec.policies.interval,
            timeout,
            watch: spec.policies.watch,
        };
        let follower = PolicyFollower::new(
            settings,
            Asker::new(files.clone(), timeout),
            agent.tenants(),
            policies,
            forced,
            counters.clone(),
        );
        tasks.spawn(until(stop.clone(), follower.run()));

        let mut force_groups = None;
        if let Some(interval) = spec.security_groups {
            let (force, forced) = mpsc::channel(FORCES);
            force_groups = Some(force);
            let settings = GroupSettings { url, interval, timeout };
            let follower = GroupFollower::new(
                settings,
                Asker::new(files, timeout),
                agent.tenants(),
                groups,
                forced,
                counters,
            );
            tasks.spawn(until(stop.clone(), follower.run()));
        }

        let forcing = Forcing {
            policies: force_policies,
            groups: force_groups,
            in_force: in_force.subscribe(),
        };
        let force = serve("force", spec.force, force_router(forcing), metrics, stop).await?;
        let logging = match spec.logging {
            Some(address) => {
                let router = logging_router(Arc::clone(agent));
                Some(serve("logging", address, router, metrics, stop).await?)
            }
            None => None,
        };
        Ok(Self { tasks, force, logging })
    }

    /// Waits until all of it has stopped; what was learned last is on the disk then.
    pub async fn finished(mut self) {
        while self.tasks.join_next().await.is_some() {}
        self.force.finished().await;
        if let Some(logging) = self.logging {
            logging.finished().await;
        }
    }
}

async fn until(stop: Stop, work: impl Future<Output = ()>) {
    tokio::select! {
        () = stop.stopped() => {}
        () = work => {}
    }
}
