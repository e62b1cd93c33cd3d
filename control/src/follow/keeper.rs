//! From what servers have said to what is in force and on the disk.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sarcenet_server::http::Stop;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{info, warn};

use super::groups::GroupState;
use super::policies::PolicyState;
use super::policy_metrics::PolicyMetrics;
use super::saved::{Saved, SavedFile};
use crate::agent::Agent;

/// After a write nothing is written for so many times as long as it took: what is learned is on the
/// disk soon after it is in force, and many changes do not keep the disk busy.
const REST: u32 = 10;

/// When to try again what has failed.
const RETRY: Duration = Duration::from_secs(5);

/// What of that which was learned is in force.
#[derive(Debug, Clone, Default)]
pub struct InForce {
    /// The round of the policies.
    pub policies: u64,
    /// The round of the security groups.
    pub groups: u64,
    /// Why a later one is not.
    pub problem: Option<String>,
}

/// What the agent was given, and what to wait for until it is in force.
#[derive(Debug, Clone, Default)]
struct Given {
    version: u64,
    policies: PolicyState,
    groups: GroupState,
}

/// Puts in force what is learned, and keeps it.
#[derive(Debug)]
pub struct Keeper {
    agent: Arc<Agent>,
    policies: watch::Receiver<PolicyState>,
    groups: watch::Receiver<GroupState>,
    file: SavedFile,
    in_force: watch::Sender<InForce>,
    metrics: PolicyMetrics,
}

impl Keeper {
    /// Between these; what is in force is told by `in_force`.
    pub fn new(
        agent: Arc<Agent>,
        policies: watch::Receiver<PolicyState>,
        groups: watch::Receiver<GroupState>,
        file: SavedFile,
        in_force: watch::Sender<InForce>,
        metrics: PolicyMetrics,
    ) -> Self {
        Self { agent, policies, groups, file, in_force, metrics }
    }

    /// Keeps until it is time to stop.
    pub async fn run(self, stop: Stop) {
        let (given, taken) = watch::channel(Given::default());
        let (agent, in_force) = (Arc::clone(&self.agent), self.in_force.clone());
        tokio::select! {
            () = self.give(&given, &stop) => {}
            () = tell(agent, taken, in_force, self.metrics.clone()) => {}
        }
    }

    /// Hands what is learned to the agent, and to the disk.
    async fn give(&self, given: &watch::Sender<Given>, stop: &Stop) {
        let (mut policies, mut groups) = (self.policies.clone(), self.groups.clone());
        let mut on_disk = saved(&policies.borrow(), &groups.borrow());
        let mut write_at = Instant::now();
        loop {
            let now = (policies.borrow_and_update().clone(), groups.borrow_and_update().clone());
            let mut retry = None;
            self.agent.note("policies", now.0.problem.clone());
            self.agent.note("security groups", now.1.problem.clone());
            match self.follow(&now).await {
                Ok(version) => {
                    let (policies, groups) = now.clone();
                    given.send_replace(Given { version, policies, groups });
                }
                Err(problem) => {
                    self.refused(problem);
                    retry = Some(Instant::now() + RETRY);
                }
            }
            let wanted = saved(&now.0, &now.1);
            if wanted != on_disk && Instant::now() >= write_at {
                let began = Instant::now();
                if self.save(&wanted).await {
                    on_disk.clone_from(&wanted);
                    write_at = Instant::now() + began.elapsed() * REST;
                } else {
                    write_at = Instant::now() + RETRY;
                }
            }
            let due = [retry, (wanted != on_disk).then_some(write_at)].into_iter().flatten().min();
            let due = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Ok(()) = policies.changed() => {}
                Ok(()) = groups.changed() => {}
                () = due => {}
                () = stop.stopped() => {
                    if wanted != on_disk {
                        self.save(&wanted).await;
                    }
                    return;
                }
            }
        }
    }

    async fn follow(&self, (policies, groups): &(PolicyState, GroupState)) -> Result<u64, String> {
        let agent = Arc::clone(&self.agent);
        let policies = policies.policies.clone();
        let groups = groups.groups.as_ref().map(|groups| Arc::clone(&groups.groups));
        let followed = spawn_blocking(move || {
            agent.follow(|followed| (followed.policies, followed.groups) = (policies, groups))
        });
        match followed.await {
            Ok(Ok(version)) => Ok(version),
            Ok(Err(error)) => Err(error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// What the servers say cannot be put in force; said once.
    fn refused(&self, problem: String) {
        self.in_force.send_if_modified(|in_force| {
            let news = in_force.problem.as_ref() != Some(&problem);
            if news {
                warn!("what the policy server says is not put in force: {problem}");
                in_force.problem = Some(problem);
            }
            news
        });
    }

    async fn save(&self, saved: &Saved) -> bool {
        let (file, saved) = (self.file.clone(), saved.clone());
        match spawn_blocking(move || file.save(&saved)).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                warn!("{error}");
                false
            }
            Err(error) => {
                warn!("cannot write {}: {error}", self.file.path().display());
                false
            }
        }
    }
}

fn saved(policies: &PolicyState, groups: &GroupState) -> Saved {
    let PolicyState { policies, generation, .. } = policies.clone();
    Saved { policies, generation, groups: groups.groups.clone() }
}

/// Tells when what the agent was given is in force.
async fn tell(
    agent: Arc<Agent>,
    mut given: watch::Receiver<Given>,
    in_force: watch::Sender<InForce>,
    metrics: PolicyMetrics,
) {
    let mut told = 0;
    while given.changed().await.is_ok() {
        loop {
            let Given { version, policies, groups } = given.borrow_and_update().clone();
            let agent = Arc::clone(&agent);
            let waited = spawn_blocking(move || agent.wait(version)).await;
            let problem = match waited {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(error) => Some(error.to_string()),
            };
            let done = problem.is_none();
            if done {
                let delay = policies.changed_at.filter(|_| policies.round != told).and_then(since);
                told = policies.round;
                if let Some(now) = &policies.policies {
                    metrics.policies(now.len(), now.left_out(), delay);
                }
                if let Some(now) = &groups.groups {
                    metrics.groups(now.groups.len(), now.left_out);
                }
            }
            let news = InForce { policies: policies.round, groups: groups.round, problem };
            in_force.send_modify(|now| {
                if done {
                    if now.problem.is_some() {
                        info!("what the policy server says is in force again");
                    }
                    *now = news;
                } else {
                    now.problem = news.problem;
                }
            });
            if done {
                break;
            }
            sleep(Duration::from_millis(200)).await;
        }
    }
}

/// The time since `moment`, in nanoseconds since the epoch; none if this cell's clock is behind.
fn since(moment: i64) -> Option<Duration> {
    let moment = Duration::from_nanos(u64::try_from(moment).ok()?);
    SystemTime::now().duration_since(UNIX_EPOCH).ok()?.checked_sub(moment)
}
