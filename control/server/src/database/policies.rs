//! Policies (contract sections 1.4 to 1.6 and 3).

use std::collections::HashMap;

use serde::Serialize;
use sqlx::Row;
use sqlx::any::AnyRow;

use super::error::{DatabaseError, Fault};
use super::rows::{check_name, list, names, narrow};
use super::session::{Access, Session, statement, work};
use super::watcher::Topic;
use super::{Database, changes, tags};
use crate::policy::{Policy, PolicyFilter, Protocol, TagNumber, TaggedPolicy};

impl Database {
    /// Creates policies, all or none. Those that exist stay as they are. Apps without a tag get
    /// one; [`DatabaseError::NoFreeTag`] when there are none left.
    pub async fn create_policies(&self, policies: &[Policy]) -> Result<(), DatabaseError> {
        let ids = app_ids(policies);
        for id in &ids {
            check_name("the id of an app", id)?;
        }
        let (settings, ids) = (&self.inner.settings, &*ids);
        let generation = self
            .run("create policies", Access::Policies, move |session| {
                work(async move {
                    let (generation, now) = changes::next_generation(session).await?;
                    let tags = tags::give(session, settings, ids, tags::APP, now).await?;
                    let created = insert(session, policies, &tags).await?;
                    changes::log(session, generation, true, &created, settings.change_log).await?;
                    Ok(generation)
                })
            })
            .await?;
        self.publish(Topic::Policies, generation);
        Ok(())
    }

    /// Deletes policies that match exactly, all or none of those that exist; others are skipped.
    /// Tags that no policy needs any more go into quarantine.
    pub async fn delete_policies(&self, policies: &[Policy]) -> Result<(), DatabaseError> {
        let limit = self.inner.settings.change_log;
        // What cannot be stored is not there.
        let storable = |id: &str| check_name("the id of an app", id).is_ok();
        let policies: Vec<_> = policies
            .iter()
            .filter(|policy| storable(&policy.source) && storable(&policy.destination))
            .cloned()
            .collect();
        let policies = &*policies;
        let generation = self
            .run("delete policies", Access::Policies, move |session| {
                work(async move {
                    let (generation, now) = changes::next_generation(session).await?;
                    let deleted = delete(session, policies).await?;
                    tags::release(session, &deleted, now).await?;
                    changes::log(session, generation, false, &deleted, limit).await?;
                    Ok(generation)
                })
            })
            .await?;
        self.publish(Topic::Policies, generation);
        Ok(())
    }

    /// The policies that `filter` names, by the tags of their sources and destinations.
    pub async fn policies(
        &self,
        filter: &PolicyFilter,
    ) -> Result<Vec<TaggedPolicy>, DatabaseError> {
        let operation = match filter {
            PolicyFilter::All => "all policies",
            _ => "policies by ids",
        };
        self.run(operation, Access::Read, move |session| {
            work(async move { select(session, filter).await })
        })
        .await
    }

    /// How many policies each of `apps` is the source of; those without any are not in the answer.
    pub async fn policy_count_by_source(
        &self,
        apps: &[String],
    ) -> Result<HashMap<String, u64>, DatabaseError> {
        self.run("policy count by source", Access::Read, move |session| {
            work(async move {
                const COUNT: &str = "SELECT tags.id, COUNT(*) \
                FROM policies JOIN tags ON tags.number = policies.source \
                WHERE tags.id IN (SELECT value ->> 'name' FROM json_each($1)) GROUP BY tags.id";
                let rows = session.rows(statement(COUNT).bind(names(apps)?)).await?;
                rows.iter().map(|row| Ok((row.try_get(0)?, narrow(row, 1)?))).collect()
            })
        })
        .await
    }

    /// How many policies there are.
    pub async fn policy_count(&self) -> Result<u64, DatabaseError> {
        self.run("policy count", Access::Read, move |session| {
            work(async move {
                narrow(&session.row(statement("SELECT COUNT(*) FROM policies")).await?, 0)
            })
        })
        .await
    }
}

/// The apps of policies, in order, sources before destinations, some more than once.
fn app_ids(policies: &[Policy]) -> Vec<&str> {
    let ends = policies.iter().map(|policy| [&*policy.source, &*policy.destination]);
    ends.flatten().collect()
}

/// A row of the table, as `json_each` takes it.
#[derive(Debug, Serialize)]
struct Entry {
    source: u32,
    destination: u32,
    protocol: &'static str,
    first_port: u32,
    last_port: u32,
}

/// The columns of [`Entry`].
macro_rules! entry_columns {
    () => {
        "CAST(value ->> 'source' AS BIGINT), CAST(value ->> 'destination' AS BIGINT), \
         value ->> 'protocol', \
         CAST(value ->> 'first_port' AS BIGINT), CAST(value ->> 'last_port' AS BIGINT)"
    };
}

/// Inserts what is not there; returns that, in its order.
async fn insert(
    session: &mut Session<'_>,
    policies: &[Policy],
    tags: &HashMap<&str, u32>,
) -> Result<Vec<TaggedPolicy>, Fault> {
    const INSERT: &str = concat!(
        "INSERT INTO policies (source, destination, protocol, first_port, last_port) SELECT ",
        entry_columns!(),
        " FROM json_each($1) WHERE true ON CONFLICT DO NOTHING \
         RETURNING source, destination, protocol, first_port, last_port"
    );
    changed(session, INSERT, policies, tags).await
}

/// Deletes what is there; returns that, in its order.
async fn delete(
    session: &mut Session<'_>,
    policies: &[Policy],
) -> Result<Vec<TaggedPolicy>, Fault> {
    const TAGS: &str = "SELECT id, number FROM tags \
        WHERE id IN (SELECT value ->> 'name' FROM json_each($1))";
    let ids = app_ids(policies);
    let mut tags = HashMap::new();
    for row in session.rows(statement(TAGS).bind(names(&ids)?)).await? {
        tags.insert(row.try_get::<String, _>(0)?, narrow(&row, 1)?);
    }
    let tags = tags.iter().map(|(id, &number)| (&**id, number)).collect();
    const DELETE: &str = concat!(
        "DELETE FROM policies WHERE (source, destination, protocol, first_port, last_port) IN \
         (SELECT ",
        entry_columns!(),
        " FROM json_each($1)) RETURNING source, destination, protocol, first_port, last_port"
    );
    changed(session, DELETE, policies, &tags).await
}

/// Runs a statement that takes entries and returns those that it has changed.
async fn changed(
    session: &mut Session<'_>,
    sql: &'static str,
    policies: &[Policy],
    tags: &HashMap<&str, u32>,
) -> Result<Vec<TaggedPolicy>, Fault> {
    let mut entries = Vec::new();
    for policy in policies {
        // Apps without a tag have no policies.
        let (Some(&source), Some(&destination)) =
            (tags.get(&*policy.source), tags.get(&*policy.destination))
        else {
            continue;
        };
        entries.push(Entry {
            source,
            destination,
            protocol: policy.protocol.name(),
            first_port: policy.first_port,
            last_port: policy.last_port,
        });
    }
    if entries.is_empty() {
        return Ok(Vec::new());
    }
    let ids: HashMap<u32, &str> = tags.iter().map(|(&id, &number)| (number, id)).collect();
    let name = |row: &AnyRow, column| -> Result<(String, TagNumber), Fault> {
        let number: u32 = narrow(row, column)?;
        let id = ids.get(&number).ok_or_else(|| {
            Fault::Stored(format!("a policy was changed that has the unknown tag {number}"))
        })?;
        Ok(((*id).to_owned(), TagNumber(number)))
    };
    let mut changed = Vec::new();
    for row in session.rows(statement(sql).bind(list(&entries)?)).await? {
        let (source, source_tag) = name(&row, 0)?;
        let (destination, destination_tag) = name(&row, 1)?;
        let policy = Policy {
            source,
            destination,
            protocol: protocol(&row, 2)?,
            first_port: narrow(&row, 3)?,
            last_port: narrow(&row, 4)?,
        };
        changed.push(TaggedPolicy { policy, source_tag, destination_tag });
    }
    // The databases return them in an order of theirs.
    changed.sort_by(|a, b| a.policy.cmp(&b.policy));
    Ok(changed)
}

/// The columns that [`tagged`] reads, and what they are read from.
macro_rules! select_policies {
    ($condition:literal) => {
        concat!(
            "SELECT s.id, s.number, d.id, d.number, protocol, first_port, last_port FROM policies \
             JOIN tags AS s ON s.number = source JOIN tags AS d ON d.number = destination ",
            $condition,
            " ORDER BY source, destination, protocol, first_port, last_port"
        )
    };
}

/// Reads policies within a transaction.
pub(super) async fn select(
    session: &mut Session<'_>,
    filter: &PolicyFilter,
) -> Result<Vec<TaggedPolicy>, Fault> {
    let select = match filter {
        PolicyFilter::All => statement(select_policies!("")),
        PolicyFilter::Source(ids) => statement(select_policies!(
            "WHERE s.id IN (SELECT value ->> 'name' FROM json_each($1))"
        ))
        .bind(names(ids)?),
        PolicyFilter::Destination(ids) => statement(select_policies!(
            "WHERE d.id IN (SELECT value ->> 'name' FROM json_each($1))"
        ))
        .bind(names(ids)?),
        PolicyFilter::Either(ids) => statement(select_policies!(
            "WHERE s.id IN (SELECT value ->> 'name' FROM json_each($1)) \
             OR d.id IN (SELECT value ->> 'name' FROM json_each($1))"
        ))
        .bind(names(ids)?),
        PolicyFilter::Both(sources, destinations) => statement(select_policies!(
            "WHERE s.id IN (SELECT value ->> 'name' FROM json_each($1)) \
             AND d.id IN (SELECT value ->> 'name' FROM json_each($2))"
        ))
        .bind(names(sources)?)
        .bind(names(destinations)?),
    };
    session.rows(select).await?.iter().map(tagged).collect()
}

/// Reads source, its tag, destination, its tag, protocol, first and last port.
pub(super) fn tagged(row: &AnyRow) -> Result<TaggedPolicy, Fault> {
    Ok(TaggedPolicy {
        policy: Policy {
            source: row.try_get(0)?,
            destination: row.try_get(2)?,
            protocol: protocol(row, 4)?,
            first_port: narrow(row, 5)?,
            last_port: narrow(row, 6)?,
        },
        source_tag: TagNumber(narrow(row, 1)?),
        destination_tag: TagNumber(narrow(row, 3)?),
    })
}

fn protocol(row: &AnyRow, column: usize) -> Result<Protocol, Fault> {
    match row.try_get(column)? {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        other => Err(Fault::Stored(format!("a policy has the protocol {other:?}"))),
    }
}
