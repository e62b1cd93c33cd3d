//! The generation of the policies, and the log of what changed from one to the next.

use serde::Serialize;
use sqlx::Row;
use sqlx::any::AnyRow;

use super::Database;
use super::error::{DatabaseError, Fault};
use super::policies;
use super::rows::list;
use super::session::{Access, Session, statement, work};
use super::watcher::Topic;
use crate::policy::{PolicyFilter, TaggedPolicy};

/// A policy that came or went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyChange {
    /// The generation in which it did.
    pub generation: i64,
    /// Whether it came.
    pub added: bool,
    /// The policy, with the tags that its apps had then.
    pub policy: TaggedPolicy,
}

/// What leads from one generation to the latest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyChanges {
    /// The latest generation.
    pub generation: i64,
    /// In the order of their generations.
    pub changes: Vec<PolicyChange>,
}

/// The policies of one generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicySnapshot {
    /// The generation.
    pub generation: i64,
    /// Those that were asked for.
    pub policies: Vec<TaggedPolicy>,
}

impl Database {
    /// The generation of the policies: nanoseconds since the epoch of their last change
    /// (contract section 2.2). Every create and delete that reaches the database makes it greater,
    /// also one that changes nothing, whatever the clock does.
    pub async fn last_updated(&self) -> Result<i64, DatabaseError> {
        self.run("last updated", Access::Read, move |session| {
            work(async move { Ok(generation(session).await?) })
        })
        .await
    }

    /// The policies that `filter` names, and their generation.
    pub async fn snapshot(&self, filter: &PolicyFilter) -> Result<PolicySnapshot, DatabaseError> {
        self.run("policy snapshot", Access::Read, move |session| {
            work(async move {
                let generation = generation(session).await?;
                let policies = policies::select(session, filter).await?;
                Ok(PolicySnapshot { generation, policies })
            })
        })
        .await
    }

    /// What has changed since `since`. `None` when that is not known any more, or never was: take
    /// a [`snapshot`](Self::snapshot).
    pub async fn changes_since(&self, since: i64) -> Result<Option<PolicyChanges>, DatabaseError> {
        self.run("policy changes", Access::Read, move |session| {
            work(async move {
                const INFO: &str = "SELECT last_updated, forgotten FROM policies_info";
                let info = session.row(statement(INFO)).await?;
                let (generation, forgotten): (i64, i64) = (info.try_get(0)?, info.try_get(1)?);
                if since < forgotten || since > generation {
                    return Ok(None);
                }
                const CHANGES: &str = "SELECT source, source_tag, destination, destination_tag, \
                protocol, first_port, last_port, generation, added \
                FROM policy_changes WHERE generation > $1 ORDER BY position";
                let rows = session.rows(statement(CHANGES).bind(since)).await?;
                let changes = rows.iter().map(change).collect::<Result<_, _>>()?;
                Ok(Some(PolicyChanges { generation, changes }))
            })
        })
        .await
    }
}

fn change(row: &AnyRow) -> Result<PolicyChange, Fault> {
    let added: i64 = row.try_get(8)?;
    Ok(PolicyChange {
        generation: row.try_get(7)?,
        added: added != 0,
        policy: policies::tagged(row)?,
    })
}

async fn generation(session: &mut Session<'_>) -> Result<i64, sqlx::Error> {
    session.number(statement("SELECT last_updated FROM policies_info")).await
}

/// Moves the generation on; returns it with the time. It is the time where that is greater.
pub(super) async fn next_generation(session: &mut Session<'_>) -> Result<(i64, i64), Fault> {
    const NEXT: &str = "UPDATE policies_info SET last_updated = \
        CASE WHEN last_updated < $1 THEN $1 ELSE last_updated + 1 END RETURNING last_updated";
    let now = session.now().await?;
    let generation = session.number(statement(NEXT).bind(now)).await?;
    session.notify(Topic::Policies, generation).await?;
    Ok((generation, now))
}

/// An entry of the log, as `json_each` takes it.
#[derive(Debug, Serialize)]
struct Entry<'a> {
    position: i64,
    source: &'a str,
    source_tag: u32,
    destination: &'a str,
    destination_tag: u32,
    protocol: &'static str,
    first_port: u32,
    last_port: u32,
}

/// Writes what changed in `generation` to the log, and forgets the oldest entries beyond `limit`.
pub(super) async fn log(
    session: &mut Session<'_>,
    generation: i64,
    added: bool,
    policies: &[TaggedPolicy],
    limit: u32,
) -> Result<(), Fault> {
    if policies.is_empty() {
        return Ok(());
    }
    const COUNT: &str = "UPDATE policies_info SET changes = changes + $1 RETURNING changes";
    let written = session.number(statement(COUNT).bind(policies.len() as i64)).await?;
    let first = written - policies.len() as i64 + 1;
    let entries = (first..).zip(policies).map(|(position, tagged)| Entry {
        position,
        source: &tagged.policy.source,
        source_tag: tagged.source_tag.0,
        destination: &tagged.policy.destination,
        destination_tag: tagged.destination_tag.0,
        protocol: tagged.policy.protocol.name(),
        first_port: tagged.policy.first_port,
        last_port: tagged.policy.last_port,
    });
    const LOG: &str = "INSERT INTO policy_changes (position, generation, added, source, \
        source_tag, destination, destination_tag, protocol, first_port, last_port) \
        SELECT CAST(value ->> 'position' AS BIGINT), $2, $3, value ->> 'source', \
        CAST(value ->> 'source_tag' AS BIGINT), value ->> 'destination', \
        CAST(value ->> 'destination_tag' AS BIGINT), value ->> 'protocol', \
        CAST(value ->> 'first_port' AS BIGINT), CAST(value ->> 'last_port' AS BIGINT) \
        FROM json_each($1)";
    let entries = list(&entries.collect::<Vec<_>>())?;
    let insert = statement(LOG).bind(entries).bind(generation).bind(i64::from(added));
    session.execute(insert).await?;

    // A generation is kept whole or not at all. Positions have no gaps: they are counted under
    // the lock, in the transaction that uses them.
    const OLDEST: &str = "SELECT COALESCE(MAX(generation), 0) FROM policy_changes \
        WHERE position <= $1";
    let forget = session.number(statement(OLDEST).bind(written - i64::from(limit))).await?;
    if forget > 0 {
        const FORGET: &str = "DELETE FROM policy_changes WHERE generation <= $1";
        session.execute(statement(FORGET).bind(forget)).await?;
        const FORGOTTEN: &str = "UPDATE policies_info SET forgotten = $1";
        session.execute(statement(FORGOTTEN).bind(forget)).await?;
    }
    Ok(())
}
