//! From what servers have said to what is in force and on the disk.

use std::sync::Arc;
use std::time::Duration;

use sarcenet_server::http::Stop;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::warn;

use super::in_force::{Hearing, InForce, Known, Learned, Teller, refused};
use super::policy_metrics::PolicyMetrics;
use super::saved::{Saved, SavedFile};
use crate::agent::Agent;
use crate::followed::Followed;

/// After a write nothing is written for so many times as long as it took: what is learned is on the
/// disk soon after it is in force, and many changes do not keep the disk busy.
const REST: u32 = 10;

/// When to try again what has failed.
const RETRY: Duration = Duration::from_secs(5);

/// What the agent was given, and what to wait for until it is in force.
#[derive(Debug, Clone, Default)]
struct Given {
    version: u64,
    known: Known,
}

/// Puts in force what is learned, and keeps it.
#[derive(Debug)]
pub struct Keeper {
    agent: Arc<Agent>,
    hearing: Hearing,
    file: SavedFile,
    in_force: watch::Sender<InForce>,
    metrics: PolicyMetrics,
}

impl Keeper {
    /// Between what is `learned` and `agent` and `file`.
    pub fn new(
        agent: Arc<Agent>,
        learned: &Learned,
        file: SavedFile,
        metrics: PolicyMetrics,
    ) -> Self {
        let (hearing, in_force) = (learned.hear(), learned.in_force.clone());
        Self { agent, hearing, file, in_force, metrics }
    }

    /// Keeps until it is time to stop.
    pub async fn run(self, stop: Stop) {
        let (given, taken) = watch::channel(Given::default());
        let agent = Arc::clone(&self.agent);
        let teller = Teller::new(self.in_force.clone(), self.metrics.clone());
        tokio::select! {
            () = self.give(&given, &stop) => {}
            () = tell(agent, taken, teller) => {}
        }
    }

    /// Hands what is learned to the agent, and to the disk.
    async fn give(&self, given: &watch::Sender<Given>, stop: &Stop) {
        let mut hearing = self.hearing.clone();
        let mut on_disk = hearing.now().saved();
        let mut write_at = Instant::now();
        loop {
            let now = hearing.now();
            let mut retry = None;
            self.agent.note("policies", now.policies.problem.clone());
            self.agent.note("security groups", now.groups.problem.clone());
            self.agent.note("routers", now.overlay.problem.clone());
            match self.follow(&now).await {
                Ok(version) => {
                    given.send_replace(Given { version, known: now.clone() });
                }
                Err(problem) => {
                    refused(&self.in_force, problem);
                    retry = Some(Instant::now() + RETRY);
                }
            }
            let wanted = now.saved();
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
                () = hearing.changed() => {}
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

    async fn follow(&self, Known { policies, groups, overlay }: &Known) -> Result<u64, String> {
        let agent = Arc::clone(&self.agent);
        let policies = policies.policies.clone();
        let outside = groups.outside.clone();
        let groups = groups.groups.as_ref().map(|groups| Arc::clone(&groups.groups));
        let (overlay, router_tag) = (overlay.terms, overlay.router_tag);
        let followed = spawn_blocking(move || {
            agent.follow(|followed| {
                *followed = Followed {
                    policies,
                    groups,
                    outside,
                    overlay,
                    router_tag,
                    lease: followed.lease.take(),
                    cells: std::mem::take(&mut followed.cells),
                };
            })
        });
        match followed.await {
            Ok(Ok(version)) => Ok(version),
            Ok(Err(error)) => Err(error.to_string()),
            Err(error) => Err(error.to_string()),
        }
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

/// Tells when what the agent was given is in force.
async fn tell(agent: Arc<Agent>, mut given: watch::Receiver<Given>, mut teller: Teller) {
    while given.changed().await.is_ok() {
        loop {
            let Given { version, known } = given.borrow_and_update().clone();
            let agent = Arc::clone(&agent);
            let problem = match spawn_blocking(move || agent.wait(version)).await {
                Ok(Ok(())) => {
                    teller.done(&known);
                    break;
                }
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
            };
            teller.failed(problem);
            sleep(Duration::from_millis(200)).await;
        }
    }
}
