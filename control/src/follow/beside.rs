//! Following the policy server in a program beside the agent (contract section 9): the agent is told
//! what was learned, and goes on with it when the program is gone.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use sarcenet_agent_api::AgentClient;
use sarcenet_server::http::metrics::Metrics;
use sarcenet_server::http::{reply, stop};
use tokio::sync::watch;
use tracing::info;

use super::followers::Followers;
use super::force::{SwitchLogging, logging_route};
use super::handover::Giver;
use super::in_force::{InForce, Learned};
use super::outside_terms::OutsideTerms;
use super::policy_metrics::PolicyMetrics;
use super::routers::OverlayTerms;
use super::saved::Saved;
use super::start::FollowError;
use super::tell;
use crate::config::PolicyServerSpec;
use crate::paths::Root;

/// What such a program is told to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BesideSpec {
    /// How the policy server is followed.
    pub policy_server: PolicyServerSpec,
    /// What the agent is told beside that.
    pub outside: OutsideTerms,
    /// What it is told of the overlay beside policies.
    pub overlay: OverlayTerms,
    /// Where health and metrics are told, and recording can be switched.
    pub debug: SocketAddr,
}

/// Follows until `ended`. The agent may come later, and go and come again.
pub async fn follow<T>(
    spec: BesideSpec,
    root: &Root,
    ended: impl Future<Output = T>,
) -> Result<T, FollowError> {
    let BesideSpec { policy_server, outside, overlay, debug } = spec;
    let (stopper, stop) = stop();
    let metrics = Metrics::default();
    let counters = PolicyMetrics::new(&metrics);
    let (outside, overlay) = (Some(Arc::new(outside)), Some(overlay));
    let learned = Learned::new(Saved { outside, overlay, ..Saved::default() });
    let (tenants, whose) = watch::channel(Arc::default());
    let (met, mut meeting) = watch::channel(false);

    let problem = problem(meeting.clone(), learned.in_force.subscribe());
    let routes = tell::health_and_metrics(problem, metrics.clone());
    let routes = routes.merge(logging_route(switch(root.agent_socket())));
    let telling =
        tell::serve("debug", debug, reply::with_fallbacks(routes), &metrics, &stop).await?;
    info!(debug = %telling.address(), "ready");

    let giver = Giver::new(root.agent_socket(), &learned, tenants, met, counters.clone());
    let giver = tokio::spawn(giver.run(stop.clone()));
    let mut ended = std::pin::pin!(ended);
    // Nothing is asked before it is known for whom: what was said of others would be all there is.
    let early = tokio::select! {
        _ = meeting.wait_for(|met| *met) => None,
        ended = &mut ended => Some(ended),
    };
    let (ended, followers) = if let Some(ended) = early {
        (ended, None)
    } else {
        let followers =
            Followers::start(&policy_server, root, &whose, &learned, &counters, &metrics, &stop);
        let followers = followers.await?;
        (ended.await, Some(followers))
    };
    stopper.stop();
    // What is not told yet will be, by the next one.
    giver.abort();
    if let Some(followers) = followers {
        followers.finished().await;
    }
    telling.finished().await;
    Ok(ended)
}

/// What is wrong with the program.
fn problem(
    met: watch::Receiver<bool>,
    in_force: watch::Receiver<InForce>,
) -> impl Fn() -> Option<String> + Clone + Send + Sync + 'static {
    move || {
        let problem = in_force.borrow().problem.clone();
        let never = (!*met.borrow()).then(|| "the agent has not been reached yet".to_owned());
        problem.or(never)
    }
}

/// The switch of the agent that listens on this socket.
fn switch(socket: PathBuf) -> SwitchLogging {
    Arc::new(move |change| {
        let mut agent = AgentClient::connect(&socket).map_err(|e| e.to_string())?;
        agent.logging(change).map(|status| status.overlay).map_err(|e| e.to_string())
    })
}
