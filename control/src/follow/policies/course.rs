//! What is asked next, and what an answer means: decisions without clock and network.
//!
//! A server of ours is watched: it is told the generation of the policies here and answers when there
//! is a newer one, with what has changed. One of Cloud Foundry's does not know the question and
//! answers with all policies at once. It is then asked at intervals when its policies changed last,
//! and for all of them when that has moved. Unlike its own agents (contract section 9.2), what it
//! said is remembered only when the policies themselves have been read. Should a server of ours
//! take its place, its answer to the next question for all policies tells.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;

use super::answer::Answer;
use super::set::{Policies, PoliciesError};
use crate::follow::ask::{AskError, FailureKind};
use crate::follow::pause::Pause;

/// How long a server is asked to wait for changes. A notice that is lost on its way between replicas
/// costs no more than this.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// What is waited after a change: many that come one by one are put in force together.
const AFTER_NEWS: Duration = Duration::from_millis(20);

/// A question to the policy server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// What has become of the policies of this generation; 0 asks for all.
    Changes {
        /// The generation.
        since: i64,
        /// How long the server may wait for changes.
        wait: Duration,
    },
    /// When policies changed last.
    LastUpdated,
    /// All policies of the apps here.
    All,
}

impl Question {
    /// How long the server may wait before it answers.
    pub fn wait(self) -> Duration {
        match self {
            Self::Changes { wait, .. } => wait,
            Self::LastUpdated | Self::All => Duration::ZERO,
        }
    }
}

/// What came of a question.
#[derive(Debug)]
pub enum Reply {
    /// Policies, or what became of them.
    Policies(Answer),
    /// When policies changed last, in nanoseconds since the epoch.
    LastUpdated(i64),
    /// Nothing.
    Failed(AskError),
}

/// Why nothing was learned.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The server did not answer.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// What it answers contradicts itself.
    #[error("the policies of the server contradict each other: {0}")]
    Contradiction(PoliciesError),
    /// What it answers cannot be applied to what is here.
    #[error(
        "what the server says has changed does not fit what is known here: {0}; asking for everything"
    )]
    Misfit(String),
    /// The answer is of another kind than the question.
    #[error("the server answers something else than was asked")]
    Unasked,
}

impl Problem {
    /// What kind it is of.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Ask(error) => error.kind(),
            Self::Contradiction(_) | Self::Unasked => FailureKind::Garbage,
            Self::Misfit(_) => FailureKind::Misfit,
        }
    }
}

/// What a reply leads to.
#[derive(Debug)]
pub struct Step {
    /// Other policies than before.
    pub news: bool,
    /// What went wrong; then the policies are as they were.
    pub problem: Option<Problem>,
    /// How long to wait before the next question.
    pub pause: Pause,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// The policies here are of this generation; 0: of none.
    Watch { generation: i64 },
    /// `known` is when the policies here had changed last, as the server said before they were read.
    Poll { known: Option<i64>, next: Next },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    LastUpdated,
    /// Everything, which is of this moment or later.
    All {
        of: Option<i64>,
    },
}

/// The policies, and where in the conversation with the server they are.
#[derive(Debug)]
pub struct Course {
    watch: bool,
    interval: Duration,
    mode: Mode,
    /// Whether the server has answered since the start.
    confirmed: bool,
    failures: u32,
    policies: Arc<Policies>,
}

impl Course {
    /// Begins with the policies that were known at the end, with their generation if a server of ours
    /// said them. Asks every `interval` where it cannot `watch`.
    pub fn new(watch: bool, interval: Duration, generation: i64, policies: Arc<Policies>) -> Self {
        let mode = if watch { Mode::Watch { generation } } else { Mode::poll() };
        Self { watch, interval, mode, confirmed: false, failures: 0, policies }
    }

    /// The policies as they are known now.
    pub fn policies(&self) -> &Arc<Policies> {
        &self.policies
    }

    /// Their generation; 0 if the server has none.
    pub fn generation(&self) -> i64 {
        match self.mode {
            Mode::Watch { generation } => generation,
            Mode::Poll { .. } => 0,
        }
    }

    /// When they came to be, by the server's clock, in nanoseconds since the epoch.
    pub fn changed_at(&self) -> Option<i64> {
        match self.mode {
            Mode::Watch { generation } => Some(generation).filter(|generation| *generation > 0),
            Mode::Poll { known, .. } => known,
        }
    }

    /// Whether the server has answered the last question.
    pub fn is_well(&self) -> bool {
        self.confirmed && self.failures == 0
    }

    /// Whether all policies are here that the server has, as far as it has said.
    pub fn is_complete(&self) -> bool {
        match self.mode {
            Mode::Watch { generation } => generation != 0,
            Mode::Poll { next, .. } => next == Next::LastUpdated,
        }
    }

    /// Whether the server tells of changes by itself.
    pub fn is_watching(&self) -> bool {
        matches!(self.mode, Mode::Watch { .. })
    }

    /// What to ask.
    pub fn question(&self) -> Question {
        match self.mode {
            Mode::Watch { generation } => {
                // One that has failed must say soon that it is well again.
                let wait = if self.is_well() { PATIENCE } else { Duration::ZERO };
                Question::Changes { since: generation, wait }
            }
            Mode::Poll { next: Next::LastUpdated, .. } => Question::LastUpdated,
            Mode::Poll { next: Next::All { .. }, .. } => Question::All,
        }
    }

    /// Other apps are here: where only theirs are asked for, all must be asked for again.
    pub fn apps_changed(&mut self) {
        self.all_again();
    }

    /// Somebody wants to be sure: the next answer says how it is.
    pub fn doubted(&mut self) {
        self.confirmed = false;
        self.all_again();
    }

    fn all_again(&mut self) {
        if let Mode::Poll { known, next: next @ Next::LastUpdated } = &mut self.mode {
            *next = Next::All { of: *known };
        }
    }

    /// Takes note of what came, after `elapsed`, of the last [`question`](Self::question).
    pub fn replied(&mut self, reply: Reply, elapsed: Duration) -> Step {
        let question = self.question();
        let outcome = match reply {
            Reply::Failed(error) => Err(self.failed(error)),
            Reply::LastUpdated(moment) => self.last_updated(moment),
            Reply::Policies(answer) => self.answered(question, answer),
        };
        match outcome {
            Ok((news, pause)) => {
                self.failures = 0;
                self.confirmed = true;
                let pause = match question {
                    // A server that has nothing to say, and says so at once, is not asked at once.
                    Question::Changes { wait, .. } if self.is_watching() && !news => {
                        if elapsed < wait / 2 { Pause::about(self.interval) } else { Pause::NONE }
                    }
                    _ => pause,
                };
                Step { news, problem: None, pause }
            }
            Err(problem) => {
                self.failures = self.failures.saturating_add(1);
                let pause = match &problem {
                    Problem::Ask(AskError::Busy { pause, .. }) => Pause::asked(*pause),
                    _ => Pause::after(self.failures),
                };
                Step { news: false, problem: Some(problem), pause }
            }
        }
    }

    fn failed(&mut self, error: AskError) -> Problem {
        if !self.is_watching() {
            // Whether all is well does not depend on this one question.
            self.all_again();
        } else if error.status() == Some(StatusCode::BAD_REQUEST) {
            // It, or something before it, does not like the question.
            self.mode = Mode::Poll { known: None, next: Next::All { of: None } };
        }
        error.into()
    }

    fn last_updated(&mut self, moment: i64) -> Result<(bool, Pause), Problem> {
        let Mode::Poll { known, next } = &mut self.mode else { return Err(Problem::Unasked) };
        if *known == Some(moment) {
            return Ok((false, Pause::about(self.interval)));
        }
        // Earlier is as good as later: the database may have been put back.
        *next = Next::All { of: Some(moment) };
        Ok((false, Pause::NONE))
    }

    fn answered(&mut self, asked: Question, answer: Answer) -> Result<(bool, Pause), Problem> {
        let next_poll = Pause::about(self.interval);
        match (asked, answer) {
            (Question::Changes { .. }, Answer::Everything { generation, list }) => {
                let policies = Policies::new(list).map_err(Problem::Contradiction)?;
                self.mode = Mode::Watch { generation };
                Ok((self.put(policies), Pause::about(AFTER_NEWS)))
            }
            (
                Question::Changes { since: asked, .. },
                Answer::Changes { generation, since, added, removed },
            ) => {
                // Whatever goes wrong from here on, the next answer is everything.
                self.mode = Mode::Watch { generation: 0 };
                if since != asked || asked == 0 {
                    return Err(Problem::Misfit(format!("it is since {since}, not {asked}")));
                }
                let policies = self.policies.changed(added, &removed);
                let policies = policies.map_err(|e| Problem::Misfit(e.to_string()))?;
                self.mode = Mode::Watch { generation };
                Ok((self.put(policies), Pause::about(AFTER_NEWS)))
            }
            (Question::Changes { .. }, Answer::Plain(list)) => {
                let policies = Policies::new(list).map_err(Problem::Contradiction)?;
                self.mode = Mode::poll();
                Ok((self.put(policies), next_poll))
            }
            (Question::All, Answer::Everything { .. }) if self.watch => {
                self.mode = Mode::Watch { generation: 0 };
                Ok((false, Pause::NONE))
            }
            (Question::All, Answer::Everything { list, .. } | Answer::Plain(list)) => {
                let policies = Policies::new(list).map_err(Problem::Contradiction)?;
                if let Mode::Poll { known, next: next @ Next::All { .. } } = &mut self.mode {
                    if let Next::All { of } = next {
                        *known = *of;
                    }
                    *next = Next::LastUpdated;
                }
                Ok((self.put(policies), next_poll))
            }
            (Question::All, Answer::Changes { .. }) | (Question::LastUpdated, _) => {
                Err(Problem::Unasked)
            }
        }
    }

    /// Whether that changes anything.
    fn put(&mut self, policies: Policies) -> bool {
        if *self.policies == policies {
            return false;
        }
        self.policies = Arc::new(policies);
        true
    }
}

impl Mode {
    /// Nothing is known of the server.
    fn poll() -> Self {
        Self::Poll { known: None, next: Next::LastUpdated }
    }
}
