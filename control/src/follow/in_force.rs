//! What of that which was learned is in force, for those who wait for it.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{info, warn};

use super::groups::GroupState;
use super::policies::PolicyState;
use super::policy_metrics::PolicyMetrics;
use super::routers::OverlayState;
use super::saved::Saved;

/// How long the dataplane may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What of that which was learned is in force.
#[derive(Debug, Clone, Default)]
pub struct InForce {
    /// The round of the policies.
    pub policies: u64,
    /// The round of the security groups.
    pub groups: u64,
    /// The round of what holds in the overlay beside policies.
    pub overlay: u64,
    /// Why a later one is not.
    pub problem: Option<String>,
}

/// Waits until it is `so`, but not for ever. What is said then is why it is not.
pub async fn until(
    in_force: &watch::Receiver<InForce>,
    so: impl FnMut(&InForce) -> bool,
) -> Result<(), String> {
    let mut now = in_force.clone();
    let waited = timeout(PATIENCE, now.wait_for(so)).await;
    match waited.map(|waited| waited.map(drop)) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err("the agent is ending".into()),
        Err(_) => {
            let problem = in_force.borrow().problem.clone();
            Err(problem.unwrap_or_else(|| "the dataplane takes too long".into()))
        }
    }
}

/// What servers have said, and what of it is in force. Clones are the same.
#[derive(Debug, Clone)]
pub struct Learned {
    /// The policies.
    pub policies: watch::Sender<PolicyState>,
    /// The security groups, and what else holds of the outside.
    pub groups: watch::Sender<GroupState>,
    /// What holds in the overlay beside policies.
    pub overlay: watch::Sender<OverlayState>,
    /// What of all that is in force.
    pub in_force: watch::Sender<InForce>,
}

/// What is learned at a time.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// The policies.
    pub policies: PolicyState,
    /// The security groups, and what else holds of the outside.
    pub groups: GroupState,
    /// What holds in the overlay beside policies.
    pub overlay: OverlayState,
}

/// Hears what is learned.
#[derive(Debug, Clone)]
pub struct Hearing {
    policies: watch::Receiver<PolicyState>,
    groups: watch::Receiver<GroupState>,
    overlay: watch::Receiver<OverlayState>,
}

impl Learned {
    /// Begins with what was known at the end.
    pub fn new(saved: Saved) -> Self {
        let Saved { policies, generation, groups, outside, overlay, router_tag } = saved;
        let policies = PolicyState { policies, generation, ..PolicyState::default() };
        let overlay = OverlayState { terms: overlay, router_tag, ..OverlayState::default() };
        Self {
            policies: watch::Sender::new(policies),
            groups: watch::Sender::new(GroupState { groups, outside, ..GroupState::default() }),
            overlay: watch::Sender::new(overlay),
            in_force: watch::Sender::default(),
        }
    }

    /// Hears what is learned from now on.
    pub fn hear(&self) -> Hearing {
        Hearing {
            policies: self.policies.subscribe(),
            groups: self.groups.subscribe(),
            overlay: self.overlay.subscribe(),
        }
    }
}

impl Hearing {
    /// What is known now.
    pub fn now(&mut self) -> Known {
        Known {
            policies: self.policies.borrow_and_update().clone(),
            groups: self.groups.borrow_and_update().clone(),
            overlay: self.overlay.borrow_and_update().clone(),
        }
    }

    /// Waits until something else is known.
    pub async fn changed(&mut self) {
        tokio::select! {
            Ok(()) = self.policies.changed() => {}
            Ok(()) = self.groups.changed() => {}
            Ok(()) = self.overlay.changed() => {}
            // Nobody learns anything any more.
            else => std::future::pending().await,
        }
    }
}

impl Known {
    /// What of it is to be kept.
    pub fn saved(&self) -> Saved {
        let Self { policies, groups, overlay } = self;
        Saved {
            policies: policies.policies.clone(),
            generation: policies.generation,
            groups: groups.groups.clone(),
            outside: groups.outside.clone(),
            overlay: overlay.terms,
            router_tag: overlay.router_tag,
        }
    }
}

/// Tells what is in force, and counts it.
#[derive(Debug)]
pub(super) struct Teller {
    in_force: watch::Sender<InForce>,
    metrics: PolicyMetrics,
    /// The round of policies of which it was told how long they took.
    timed: u64,
}

impl Teller {
    /// To those who wait for `in_force`.
    pub(super) fn new(in_force: watch::Sender<InForce>, metrics: PolicyMetrics) -> Self {
        Self { in_force, metrics, timed: 0 }
    }

    /// All of this is in force.
    pub(super) fn done(&mut self, Known { policies, groups, overlay }: &Known) {
        let delay = policies.changed_at.filter(|_| policies.round != self.timed).and_then(since);
        self.timed = policies.round;
        if let Some(now) = &policies.policies {
            self.metrics.policies(now.len(), now.left_out(), delay);
        }
        if let Some(now) = &groups.groups {
            self.metrics.groups(now.groups.len(), now.left_out);
        }
        let (policies, groups, overlay) = (policies.round, groups.round, overlay.round);
        self.in_force.send_modify(|now| {
            if now.problem.is_some() {
                info!("what the policy server says is in force again");
            }
            *now = InForce { policies, groups, overlay, problem: None };
        });
    }

    /// It is not, as nothing newer is; said once.
    pub(super) fn failed(&self, problem: String) {
        refused(&self.in_force, problem);
    }
}

/// What was learned is not put in force; said once.
pub(super) fn refused(in_force: &watch::Sender<InForce>, problem: String) {
    in_force.send_if_modified(|in_force| {
        let news = in_force.problem.as_ref() != Some(&problem);
        if news {
            warn!("what the policy server says is not put in force: {problem}");
            in_force.problem = Some(problem);
        }
        news
    });
}

/// The time since `moment`, in nanoseconds since the epoch; none if this cell's clock is behind.
fn since(moment: i64) -> Option<Duration> {
    let moment = Duration::from_nanos(u64::try_from(moment).ok()?);
    SystemTime::now().duration_since(UNIX_EPOCH).ok()?.checked_sub(moment)
}

/// Whether two are one.
pub(super) fn same<T>(one: Option<&Arc<T>>, other: Option<&Arc<T>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (one, other) => one.is_none() && other.is_none(),
    }
}
