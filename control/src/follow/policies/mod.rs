//! Following the policies of the policy server.

mod answer;
mod course;
mod set;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::Url;
use sarcenet_server::outbound::resource;
use tokio::sync::{mpsc, watch};
use tracing::info;

pub(super) use answer::tag;
pub use answer::{Answer, AnswerError, List};
pub(crate) use answer::{DestinationText, PolicyText};
pub use course::{Course, Problem, Question, Reply, Step};
pub use set::{Policies, PoliciesError};

use super::ask::{AskError, get, host};
use super::asker::Asker;
use super::force::Force;
use super::pause::Pause;
use super::policy_metrics::PolicyMetrics;
use super::trouble::Trouble;
use crate::agent::Tenants;

/// In metrics and the log.
const WHAT: &str = "policies";

/// Longest URL that servers take, in bytes.
const LONGEST_URL: usize = 65_534;

/// How a policy server is followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicySettings {
    /// Its internal API.
    pub url: Url,
    /// How often it is asked when it does not tell of changes itself.
    pub interval: Duration,
    /// How long an answer may take, beside the time that the server is asked to wait.
    pub timeout: Duration,
    /// Whether it is asked to tell of changes.
    pub watch: bool,
}

/// What is known of the policies.
#[derive(Debug, Clone, Default)]
pub struct PolicyState {
    /// The policies; none before any server has said anything.
    pub policies: Option<Arc<Policies>>,
    /// Their generation; 0 if the server has none.
    pub generation: i64,
    /// When they came to be, by the server's clock, in nanoseconds since the epoch; none if that is
    /// not known, or was before this agent began.
    pub changed_at: Option<i64>,
    /// Counts what was learned.
    pub round: u64,
    /// Why nothing is learned at the moment.
    pub problem: Option<String>,
}

/// Follows the policies of one server.
#[derive(Debug)]
pub struct PolicyFollower {
    settings: PolicySettings,
    asker: Asker,
    course: Course,
    tenants: watch::Receiver<Arc<Tenants>>,
    /// The apps that were asked for last, where only those here are.
    apps: BTreeSet<String>,
    state: watch::Sender<PolicyState>,
    force: mpsc::Receiver<Force>,
    /// Who wants to know how it is.
    waiting: Vec<Force>,
    metrics: PolicyMetrics,
    trouble: Trouble,
}

impl PolicyFollower {
    /// Begins with what `state` has, and keeps it up to date. Whoever sends a [`Force`] has the
    /// server asked at once.
    pub fn new(
        settings: PolicySettings,
        asker: Asker,
        tenants: watch::Receiver<Arc<Tenants>>,
        state: watch::Sender<PolicyState>,
        force: mpsc::Receiver<Force>,
        metrics: PolicyMetrics,
    ) -> Self {
        let PolicyState { policies, generation, .. } = state.borrow().clone();
        let policies = policies.unwrap_or_default();
        let course = Course::new(settings.watch, settings.interval, generation, policies);
        Self {
            settings,
            asker,
            course,
            tenants,
            apps: BTreeSet::new(),
            state,
            force,
            waiting: Vec::new(),
            trouble: Trouble::none(WHAT, WHAT, metrics.clone()),
            metrics,
        }
    }

    /// Follows for as long as it is polled.
    pub async fn run(mut self) {
        loop {
            self.waiting.extend(std::iter::from_fn(|| self.force.try_recv().ok()));
            if !self.waiting.is_empty() {
                self.course.doubted();
            }
            let question = self.course.question();
            let url = self.url(question);
            let patience = self.settings.timeout + question.wait();
            let began = Instant::now();
            let body = tokio::select! {
                body = get(&self.asker, &url, patience) => body,
                // What would wait for changes makes room for a question that is answered at once.
                Some(force) = self.force.recv(), if !question.wait().is_zero() => {
                    self.waiting.push(force);
                    continue;
                }
            };
            let pause = self.replied(question, &url, body, began.elapsed());
            self.rest(pause).await;
        }
    }

    /// Where to ask it.
    fn url(&mut self, question: Question) -> Url {
        let path = |last| ["networking", "v1", "internal", last];
        let server = &self.settings.url;
        match question {
            Question::LastUpdated => resource(server, &path("policies_last_updated"), &[]),
            Question::Changes { since, wait } => {
                let (since, wait) = (since.to_string(), wait.as_secs().to_string());
                resource(server, &path("policies"), &[("watch", &since), ("timeout", &wait)])
            }
            Question::All => {
                self.apps.clone_from(&self.tenants.borrow_and_update().apps);
                let apps: Vec<_> = self.apps.iter().map(String::as_str).collect();
                let apps = apps.join(",");
                // Servers that watch say so when they are asked to; others do not mind.
                let watch = [("watch", "0"), ("timeout", "0")];
                let watch = if self.settings.watch { &watch[..] } else { &[] };
                let some = resource(server, &path("policies"), &[watch, &[("id", &apps)]].concat());
                if some.as_str().len() <= LONGEST_URL {
                    return some;
                }
                resource(server, &path("policies"), watch)
            }
        }
    }

    /// Takes note of an answer. Returns how long to wait.
    fn replied(
        &mut self,
        question: Question,
        url: &Url,
        body: Result<Vec<u8>, AskError>,
        elapsed: Duration,
    ) -> Pause {
        let (was_well, was_watching) = (self.course.is_well(), self.course.is_watching());
        let reply = match body {
            Ok(body) => read(question, &body).unwrap_or_else(|reason| {
                Reply::Failed(AskError::Garbage { host: host(url), reason })
            }),
            Err(error) => Reply::Failed(error),
        };
        let Step { news, problem, pause } = self.course.replied(reply, elapsed);
        if was_watching != self.course.is_watching() {
            let (server, seconds) = (host(url), self.settings.interval.as_secs());
            if was_watching {
                info!(
                    "{server} does not tell of changes of policies; it is asked every {seconds} s"
                );
            } else {
                info!("{server} tells of changes of policies by itself");
            }
        }
        let Self { trouble, state, .. } = self;
        let heard = problem.as_ref().map(|problem| (problem.kind(), problem as _));
        trouble.heard(heard, |now| state.send_modify(|state| state.problem = now));
        let generation = self.course.generation();
        self.metrics.watched(self.course.is_watching(), generation);
        let first = self.state.borrow().policies.is_none() && problem.is_none();
        if news
            || (first && self.course.is_complete())
            || generation != self.state.borrow().generation
        {
            // What happened while nobody listened says nothing about how fast changes arrive.
            let changed_at = self.course.changed_at().filter(|_| was_well);
            let policies = Some(Arc::clone(self.course.policies()));
            self.state.send_modify(|state| {
                let (round, problem) = (state.round + 1, state.problem.take());
                *state = PolicyState { policies, generation, changed_at, round, problem };
            });
        }
        let outcome = match problem {
            None => Ok(self.state.borrow().round),
            Some(problem) => Err(problem.to_string()),
        };
        // As long as something is missing another question comes at once.
        if outcome.is_err() || self.course.is_complete() {
            self.answer(&outcome);
        }
        pause
    }

    fn answer(&mut self, outcome: &Result<u64, String>) {
        for waiting in self.waiting.drain(..) {
            // Who has gone does not want to know any more.
            let _ = waiting.send(outcome.clone());
        }
    }

    /// Waits, unless something happens that makes it right to ask at once.
    async fn rest(&mut self, pause: Pause) {
        let mut over = std::pin::pin!(tokio::time::sleep(pause.time()));
        loop {
            let polls = !self.course.is_watching() && self.course.is_well();
            tokio::select! {
                () = &mut over => return,
                Some(force) = self.force.recv() => {
                    self.waiting.push(force);
                    return;
                }
                Ok(()) = self.tenants.changed(), if polls => {
                    if self.tenants.borrow_and_update().apps != self.apps {
                        self.course.apps_changed();
                        return;
                    }
                }
            }
        }
    }
}

/// What an answer to this question says, or why it says nothing.
fn read(question: Question, body: &[u8]) -> Result<Reply, String> {
    match question {
        Question::LastUpdated => {
            let text = std::str::from_utf8(body).map_err(|e| e.to_string())?;
            let moment = text.trim().parse().map_err(|_| "it is no number".to_owned())?;
            Ok(Reply::LastUpdated(moment))
        }
        Question::Changes { .. } | Question::All => {
            answer::read(body).map(Reply::Policies).map_err(|e| e.to_string())
        }
    }
}
