//! How cells follow changes without asking all the time: of policies here, of security groups in
//! `groups`.
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
//!   the server does not know what has happened since the generation named: always for 0, for one
//!   beyond the log of the database, and after the database was put back.
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

mod groups;
mod log;
mod seats;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::time::Duration;

use axum::body::Bytes;
use prometheus_client::metrics::gauge::Gauge;
use serde::Serialize;
use tokio::sync::Mutex;

use super::payload::TaggedPayload;
use crate::database::{Database, DatabaseError, PolicySnapshot};
use crate::http::Stop;
use crate::policy::{PolicyFilter, TaggedPolicy};
pub(super) use groups::{GroupQuestion, GroupWatch};
use log::{Difference, Log};
use seats::{Seats, deadline};

/// Longest time that a cell can ask the server to wait.
pub(super) const LONGEST: Duration = Duration::from_mins(5);

/// How long the server waits if the cell does not say.
pub(super) const DEFAULT: Duration = Duration::from_secs(30);

/// What has changed, and those who wait for more.
#[derive(Debug)]
pub(super) struct Watch {
    database: Database,
    tag_bytes: u8,
    seats: Seats,
    /// One at a time brings it up to date for all.
    log: Mutex<Option<Log>>,
    /// All policies of a generation, as the answer has them. One at a time reads and writes them
    /// for all: cells that were away come back together.
    everything: Mutex<(i64, Bytes)>,
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
    /// What they wait for cannot be read.
    #[error("database read failed")]
    Database(#[from] DatabaseError),
    /// Policies cannot be written down.
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
struct Everything<'a> {
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
    /// At most `seats` can wait at a time, and nobody when it is time to stop.
    pub(super) fn new(database: &Database, tag_bytes: u8, seats: usize, stop: Stop) -> Self {
        Self {
            database: database.clone(),
            tag_bytes,
            seats: Seats::new(seats, stop),
            log: Mutex::new(None),
            everything: Mutex::new((0, Bytes::new())),
        }
    }

    /// How many wait, now and later.
    pub(super) fn waiting(&self) -> Gauge {
        self.seats.waiting()
    }

    /// Waits for another generation than the one named, and says what became of it.
    pub(super) async fn answer(&self, question: &Question) -> Result<Bytes, WatchError> {
        let _seat = self.seats.take().ok_or(WatchError::Full)?;
        let deadline = deadline(question.timeout);
        let mut changes = self.database.changes();
        let mut newest = question.generation;
        let mut over = false;
        loop {
            newest = newest.max(*changes.borrow_and_update());
            let Some((generation, difference)) =
                self.difference(question.generation, newest).await?
            else {
                return self.everything(question).await;
            };
            if over || difference.concerns(|policy| question.wants(policy)) {
                return self.changes(question, generation, &difference);
            }
            over = self.seats.rest(&mut changes, deadline).await;
            if over {
                // A notice may have been lost on its way from another replica.
                newest = newest.max(self.database.last_updated().await?);
            }
        }
    }

    /// What became of the policies of generation `since`, up to one that is not older than
    /// `newest`. Nothing is known of 0, nor of generations that the database does not know.
    async fn difference(
        &self,
        since: i64,
        newest: i64,
    ) -> Result<Option<(i64, Difference)>, DatabaseError> {
        if since == 0 {
            return Ok(None);
        }
        let mut log = self.log.lock().await;
        match &mut *log {
            Some(log) if log.generation() >= newest => {}
            Some(old) => match self.database.changes_since(old.generation()).await? {
                Some(changes) => old.extend(changes),
                None => *log = None,
            },
            None => {}
        }
        if let Some(difference) = log.as_ref().and_then(|log| log.difference(since)) {
            let generation = log.as_ref().map_or(since, Log::generation);
            return Ok(Some((generation, difference)));
        }
        // Older than what is remembered here: the database knows more, and then so do others who ask.
        let Some(changes) = self.database.changes_since(since).await? else { return Ok(None) };
        let longer = Log::since(since, changes);
        let found = longer.difference(since).map(|difference| (longer.generation(), difference));
        if log.as_ref().is_none_or(|log| log.generation() <= longer.generation()) {
            *log = Some(longer);
        }
        Ok(found)
    }

    fn changes(
        &self,
        question: &Question,
        generation: i64,
        difference: &Difference,
    ) -> Result<Bytes, WatchError> {
        let changes = Changes {
            generation,
            since: question.generation,
            added: self.list(difference.added().filter(|policy| question.wants(policy))),
            removed: self.list(difference.removed().filter(|policy| question.wants(policy))),
        };
        Ok(serde_json::to_vec(&changes)?.into())
    }

    async fn everything(&self, question: &Question) -> Result<Bytes, WatchError> {
        if let Some(ids) = &question.ids {
            let filter = PolicyFilter::Either(ids.iter().cloned().collect());
            return self.written(&self.database.snapshot(&filter).await?);
        }
        let mut everything = self.everything.lock().await;
        let generation = self.database.last_updated().await?;
        if everything.0 != generation {
            let snapshot = self.database.snapshot(&PolicyFilter::All).await?;
            *everything = (snapshot.generation, self.written(&snapshot)?);
        }
        Ok(everything.1.clone())
    }

    fn written(&self, snapshot: &PolicySnapshot) -> Result<Bytes, WatchError> {
        let policies = self.list(snapshot.policies.iter());
        let everything = Everything { generation: snapshot.generation, policies };
        Ok(serde_json::to_vec(&everything)?.into())
    }

    fn list<'a>(&self, policies: impl Iterator<Item = &'a TaggedPolicy>) -> Vec<TaggedPayload<'a>> {
        policies.map(|policy| TaggedPayload::new(policy, self.tag_bytes)).collect()
    }
}
