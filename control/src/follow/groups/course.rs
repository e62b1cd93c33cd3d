//! What is asked next, and what an answer means: decisions without clock and network.
//!
//! A server of ours is watched: told the generation of the groups here, it answers when they may be
//! others, and they are read again. One of Cloud Foundry's says at once when its groups changed
//! last, or does not know the question (contract section 16.1); it is asked at intervals. Each
//! question is one that either understands, so that one may take the other's place.

use std::time::Duration;

use axum::http::StatusCode;

use super::answer::Told;
use crate::follow::ask::AskError;
use crate::follow::pause::Pause;

/// How long a server is asked to wait for changes. A notice that is lost on its way between replicas
/// costs no more than this.
const PATIENCE: Duration = Duration::from_secs(30);

/// Cells that are told of one change do not read all groups at the same moment, but within this.
const SPREAD: Duration = Duration::from_millis(200);

/// How soon a server is asked again that has nothing to say, and says so before its time: it is
/// about to end, most likely.
const EARLY: Duration = Duration::from_secs(5);

/// A question to the policy server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// Whether groups have changed since this generation; 0 is that of who knows none.
    Changes {
        /// The generation.
        since: i64,
        /// How long the server may wait for changes.
        wait: Duration,
    },
    /// When groups changed last.
    LastUpdated,
    /// The groups of the spaces here.
    All,
}

/// What came of a question.
#[derive(Debug)]
pub enum Reply {
    /// When groups changed, or whether.
    Told(Told),
    /// The groups were read.
    Read,
    /// Nothing.
    Failed(AskError),
}

/// What a reply leads to.
#[derive(Debug)]
pub struct Step {
    /// What went wrong; then the groups are as they were.
    pub problem: Option<AskError>,
    /// How long to wait before the next question.
    pub pause: Pause,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// To ask for changes.
    Ask,
    /// To read the groups, which are of this generation then, or later.
    Read { of: Option<i64> },
}

/// Where in the conversation with the server one is.
#[derive(Debug)]
pub struct Course {
    watch: bool,
    interval: Duration,
    /// Whether the server tells of changes by itself.
    watching: bool,
    /// Whether it, or something before it, does not like to be asked for that.
    refused: bool,
    /// Of which generation the groups here are at least: that which the server told before they
    /// were read. None if it does not tell, or if they are to be read again in any case.
    known: Option<i64>,
    next: Next,
    /// Whether the server has answered since it was last doubted.
    confirmed: bool,
    failures: u32,
}

impl Course {
    /// Nothing is known. Asks every `interval` where it cannot `watch`.
    pub fn new(watch: bool, interval: Duration) -> Self {
        Self {
            watch,
            interval,
            watching: false,
            refused: false,
            known: None,
            next: Next::Ask,
            confirmed: false,
            failures: 0,
        }
    }

    /// Whether the server tells of changes by itself.
    pub fn is_watching(&self) -> bool {
        self.watching
    }

    /// Whether the server has answered the last question.
    pub fn is_well(&self) -> bool {
        self.confirmed && self.failures == 0
    }

    /// Whether the groups here are those of the server, as far as it has said.
    pub fn is_complete(&self) -> bool {
        self.is_well() && self.next == Next::Ask
    }

    /// What to ask.
    pub fn question(&self) -> Question {
        if self.next != Next::Ask {
            return Question::All;
        }
        if !self.watch || self.refused {
            return Question::LastUpdated;
        }
        // One that has failed must say soon that it is well again, as must one that is not known.
        let waits = self.watching && self.is_well() && self.known.is_some();
        let wait = if waits { PATIENCE } else { Duration::ZERO };
        Question::Changes { since: self.known.unwrap_or(0), wait }
    }

    /// There are spaces here whose groups have not been read. Where no generation is known, any answer
    /// to the next question leads to that.
    pub fn spaces_came(&mut self) {
        if self.next == Next::Ask && self.known.is_some() {
            self.next = Next::Read { of: self.known };
        }
    }

    /// Somebody wants to be sure: the groups are read again.
    pub fn doubted(&mut self) {
        self.confirmed = false;
        (self.known, self.next) = (None, Next::Ask);
    }

    /// Takes note of what came, after `elapsed`, of the last [`question`](Self::question).
    pub fn replied(&mut self, reply: Reply, elapsed: Duration) -> Step {
        let question = self.question();
        let pause = match reply {
            Reply::Failed(error) => return self.failed(question, error),
            Reply::Told(Told::Change { generation, changed }) => {
                self.watching = true;
                if changed || self.known.is_none() {
                    self.next = Next::Read { of: Some(generation) };
                    // Whoever knows nothing yet has not been told together with others.
                    if self.known.is_none() { Pause::NONE } else { Pause::up_to(SPREAD) }
                } else {
                    self.known = Some(generation);
                    match question {
                        Question::Changes { wait, .. } if elapsed < wait / 2 => {
                            Pause::about(self.interval.min(EARLY))
                        }
                        _ => Pause::NONE,
                    }
                }
            }
            Reply::Told(Told::Moment(moment)) => {
                self.watching = false;
                // Earlier is as good as later: the database may have been put back.
                if moment.is_some() && self.known == moment {
                    Pause::about(self.interval)
                } else {
                    self.next = Next::Read { of: moment };
                    Pause::NONE
                }
            }
            Reply::Read => {
                if let Next::Read { of } = std::mem::replace(&mut self.next, Next::Ask) {
                    self.known = of;
                }
                if self.watching { Pause::NONE } else { Pause::about(self.interval) }
            }
        };
        self.failures = 0;
        self.confirmed = true;
        Step { problem: None, pause }
    }

    fn failed(&mut self, question: Question, error: AskError) -> Step {
        self.failures = self.failures.saturating_add(1);
        // After any other failure it may be another server.
        self.refused = matches!(question, Question::Changes { .. })
            && error.status() == Some(StatusCode::BAD_REQUEST);
        if self.refused {
            self.watching = false;
        }
        // What was read in part is not there. The generation here is asked for again, which says
        // whether anything must be read: a server that was away is not read by all cells when it is back.
        self.next = Next::Ask;
        let pause = match &error {
            AskError::Busy { pause, .. } => Pause::asked(*pause),
            _ => Pause::after(self.failures),
        };
        Step { problem: Some(error), pause }
    }
}

#[cfg(test)]
mod tests;
