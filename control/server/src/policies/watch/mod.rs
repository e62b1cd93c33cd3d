//! How cells follow changes without asking all the time.
//!
//! `GET /networking/v1/internal/policies?watch=<generation>&timeout=<seconds>[&id=<list>]` answers as
//! soon as the policies are of another generation than the one named. A generation is a number;
//! 0 is that of a cell that knows nothing. There are two kinds of answers:
//!
//! * `{"generation":n,"since":m,"added":[..],"removed":[..]}`: what became of the policies of generation
//!   `m`, which is the one that was named. The cell takes `removed` away, then puts `added` in; a policy
//!   whose tags have changed is in both. Both are empty when nothing changed within the timeout;
//!   `n` may be newer than `m` even so, when changes cancelled each other out or were of other ids.
//! * `{"generation":n,"policies":[..]}`: all policies. What is not among them is gone. It is the answer when
//!   the server does not know what has happened since the generation named: always for 0, and
//!   after it was restarted.
//!
//! Policies are written as everywhere in the internal API. `id` limits all lists to policies with one of
//! these at either end, and the cell is not woken for others. A cell whose list of ids changes
//! asks with `watch=0` once, because the past of the new ones is not in any difference.
//!
//! `timeout` is 30 s if it is missing and at most [`LONGEST`]; 0 asks for an answer at once. The server
//! takes off up to a quarter of it at random, so that cells which began together do not come back
//! together. Any replica can be asked with the generation of another one. When too many wait already
//! the answer is 503 with `Retry-After`; whoever is told so, or gets no answer, asks again after a
//! pause that grows.

mod generations;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use serde::Serialize;
use tokio::sync::{Mutex, Semaphore, watch};
use tokio::time::Instant;
use uuid::Uuid;

use super::payload::TaggedPayload;
use crate::database::{Database, DatabaseError};
use crate::policy::{PolicyFilter, TaggedPolicy};
use generations::{Difference, Generations};

/// Longest time that a cell can ask the server to wait.
pub(super) const LONGEST: Duration = Duration::from_mins(5);

/// How long the server waits if the cell does not say.
pub(super) const DEFAULT: Duration = Duration::from_secs(30);

/// How often the policies are read anew when they change while they are read.
const ATTEMPTS: usize = 5;

/// The policies as they were last read, and those who wait for newer ones.
#[derive(Debug)]
pub(super) struct Watch {
    database: Database,
    tag_bytes: u8,
    seats: Arc<Semaphore>,
    known: Mutex<Arc<Generations>>,
    stopping: watch::Sender<bool>,
}

/// What a cell asks.
#[derive(Debug)]
pub(super) struct Question {
    /// The generation that it has.
    pub(super) generation: i64,
    /// How long it will wait.
    pub(super) timeout: Duration,
    /// The ids that it cares for; none: all.
    pub(super) ids: Option<HashSet<String>>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum WatchError {
    /// As many wait as may.
    #[error("too many watchers")]
    Full,
    /// The policies cannot be read.
    #[error("database read failed")]
    Database(#[from] DatabaseError),
    /// They change faster than they can be read.
    #[error("database read failed")]
    Busy,
    /// They cannot be written down.
    #[error("map policies as bytes failed")]
    Json(#[from] serde_json::Error),
}

#[derive(Serialize)]
struct Changes<'a> {
    generation: i64,
    since: i64,
    added: Vec<TaggedPayload<'a>>,
    removed: Vec<TaggedPayload<'a>>,
}

#[derive(Serialize)]
struct Snapshot<'a> {
    generation: i64,
    policies: Vec<TaggedPayload<'a>>,
}

impl Question {
    fn wants(&self, policy: &TaggedPolicy) -> bool {
        let wanted = |ids: &HashSet<String>| {
            ids.contains(&policy.policy.source) || ids.contains(&policy.policy.destination)
        };
        self.ids.as_ref().is_none_or(wanted)
    }
}

impl Watch {
    /// At most `seats` can wait at a time.
    pub(super) fn new(database: &Database, tag_bytes: u8, seats: usize) -> Self {
        Self {
            database: database.clone(),
            tag_bytes,
            seats: Arc::new(Semaphore::new(seats)),
            known: Mutex::new(Arc::default()),
            stopping: watch::Sender::new(false),
        }
    }

    /// Lets all who wait go, with the answer that nothing has changed.
    pub(super) fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Waits for another generation than the one named, and says what became of it.
    pub(super) async fn answer(&self, question: &Question) -> Result<Bytes, WatchError> {
        let _seat = self.seats.try_acquire().map_err(|_| WatchError::Full)?;
        let deadline = Instant::now() + jitter(question.timeout);
        let mut changes = self.database.changes();
        let mut stopping = self.stopping.subscribe();
        let told = *changes.borrow_and_update();
        let mut generations = self.at_least(told.max(question.generation)).await?;
        loop {
            match generations.since(question.generation) {
                None => return self.snapshot(question, &generations),
                Some(difference) if difference.concerns(|policy| question.wants(policy)) => {
                    return self.changes(question, &generations, &difference);
                }
                Some(_) => {}
            }
            let over = tokio::select! {
                // Who has stopped changing has closed its end; only the timeout is left then.
                Ok(()) = changes.changed() => false,
                _ = stopping.wait_for(|stopping| *stopping) => true,
                () = tokio::time::sleep_until(deadline) => true,
            };
            let told = *changes.borrow_and_update();
            // A notice may have been lost on its way from another replica.
            let newest = if over { told.max(self.database.last_updated().await?) } else { told };
            generations = self.at_least(newest).await?;
            if over {
                return match generations.since(question.generation) {
                    None => self.snapshot(question, &generations),
                    Some(difference) => self.changes(question, &generations, &difference),
                };
            }
        }
    }

    /// The policies, not older than `generation`. One reads them for all who wait.
    async fn at_least(&self, generation: i64) -> Result<Arc<Generations>, WatchError> {
        let mut known = self.known.lock().await;
        if known.generation() < generation || known.generation() == 0 {
            let (newest, policies) = self.read().await?;
            if newest != known.generation() {
                *known = Arc::new(known.followed_by(newest, policies));
            }
        }
        Ok(Arc::clone(&known))
    }

    /// All policies and exactly their generation: what cells are told must be the same from all
    /// replicas, or differences would not fit.
    async fn read(&self) -> Result<(i64, Vec<TaggedPolicy>), WatchError> {
        let mut before = self.database.last_updated().await?;
        for _ in 0..ATTEMPTS {
            let policies = self.database.policies(&PolicyFilter::All).await?;
            let after = self.database.last_updated().await?;
            if before == after {
                return Ok((after, policies));
            }
            before = after;
        }
        Err(WatchError::Busy)
    }

    fn changes(
        &self,
        question: &Question,
        generations: &Generations,
        difference: &Difference<'_>,
    ) -> Result<Bytes, WatchError> {
        let changes = Changes {
            generation: generations.generation(),
            since: question.generation,
            added: self.list(question, difference.added()),
            removed: self.list(question, difference.removed()),
        };
        Ok(serde_json::to_vec(&changes)?.into())
    }

    /// Written once for all who want everything.
    fn snapshot(
        &self,
        question: &Question,
        generations: &Generations,
    ) -> Result<Bytes, WatchError> {
        let write = || {
            let policies = self.list(question, generations.policies());
            serde_json::to_vec(&Snapshot { generation: generations.generation(), policies })
        };
        match (&question.ids, generations.written().get()) {
            (None, Some(text)) => Ok(text.clone()),
            (None, None) => {
                let text = Bytes::from(write()?);
                Ok(generations.written().get_or_init(|| text).clone())
            }
            (Some(_), _) => Ok(write()?.into()),
        }
    }

    fn list<'a>(
        &self,
        question: &Question,
        policies: impl Iterator<Item = &'a TaggedPolicy>,
    ) -> Vec<TaggedPayload<'a>> {
        let wanted = policies.filter(|policy| question.wants(policy));
        wanted.map(|policy| TaggedPayload::new(policy, self.tag_bytes)).collect()
    }
}

/// Three quarters of the time, and a random part of the last one.
fn jitter(timeout: Duration) -> Duration {
    let random = Uuid::new_v4().as_u128() as u16;
    timeout.mul_f64(0.75 + 0.25 * f64::from(random) / f64::from(u16::MAX))
}
