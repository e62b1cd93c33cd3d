//! All that an agent has to do with the policy server: it asks itself for policies and security groups,
//! or is told them by a program beside it, and puts them in force.

use std::sync::Arc;

use sarcenet_agent_api::LoggingChange;
use sarcenet_server::http::metrics::Metrics;
use sarcenet_server::http::reply;
use sarcenet_server::http::{Server, Stop};
use tokio::task::JoinHandle;

use super::followers::Followers;
use super::force::{SwitchLogging, logging_route};
use super::in_force::Learned;
use super::keeper::Keeper;
use super::policy_metrics::PolicyMetrics;
use super::saved::SavedFile;
use super::start::FollowError;
use super::tell::serve;
use crate::agent::Agent;
use crate::config::FollowSpec;

/// What the policy server says, being put in force.
pub struct PolicyServerFollowing {
    keeper: JoinHandle<()>,
    followers: Option<Followers>,
    logging: Option<Server>,
}

impl PolicyServerFollowing {
    /// Puts what is `learned` in force until it is time to `stop`. Begins with what the agent has
    /// already.
    pub async fn start(
        agent: &Arc<Agent>,
        spec: &FollowSpec,
        learned: &Learned,
        metrics: &Metrics,
        stop: &Stop,
    ) -> Result<Self, FollowError> {
        let root = &agent.options().root;
        let counters = PolicyMetrics::new(metrics);
        let keeper =
            Keeper::new(Arc::clone(agent), learned, SavedFile::new(root), counters.clone());
        let keeper = tokio::spawn(keeper.run(stop.clone()));
        let mut following = Self { keeper, followers: None, logging: None };
        if let Some(spec) = &spec.policy_server {
            let tenants = agent.tenants();
            let followers =
                Followers::start(spec, root, &tenants, learned, &counters, metrics, stop);
            following.followers = Some(followers.await?);
            if let Some(address) = spec.logging {
                let router = reply::with_fallbacks(logging_route(switch(agent)));
                following.logging = Some(serve("logging", address, router, metrics, stop).await?);
            }
        }
        Ok(following)
    }

    /// Waits until all of it has stopped; what was learned last is on the disk then.
    pub async fn finished(self) {
        // A keeper that has come to an end by itself has nothing left to do.
        let _ = self.keeper.await;
        if let Some(followers) = self.followers {
            followers.finished().await;
        }
        if let Some(logging) = self.logging {
            logging.finished().await;
        }
    }
}

/// The agent's own switch.
fn switch(agent: &Arc<Agent>) -> SwitchLogging {
    let agent = Arc::clone(agent);
    Arc::new(move |change| {
        if change == LoggingChange::default() {
            return Ok(agent.logging().overlay);
        }
        agent.change_logging(change).map(|status| status.overlay).map_err(|e| e.to_string())
    })
}
