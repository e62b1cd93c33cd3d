//! Security groups, as Cloud Controller has them (contract sections 1.10, 2.4 and 16.1).

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Serialize;
use sqlx::Row;

use super::Database;
use super::error::{DatabaseError, Fault};
use super::rows::{check_name, check_text, list, names};
use super::session::{Access, Session, statement, work};
use super::watcher::Topic;
use crate::policy::SecurityGroup;

/// The security groups of one generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecurityGroupSnapshot {
    /// The generation: when they changed last, in nanoseconds since the epoch.
    pub generation: i64,
    /// All of them, in the order of their rows.
    pub groups: Vec<SecurityGroup>,
}

impl Database {
    /// Makes `groups` the ones there are: by their GUIDs some stay, some change, some come and
    /// some go. Returns whether anything did; what stays is not written.
    pub async fn replace_security_groups(
        &self,
        groups: &[SecurityGroup],
    ) -> Result<bool, DatabaseError> {
        for group in groups {
            check_name("the GUID of a security group", &group.guid)?;
            check_text("the name of a security group", &group.name)?;
            check_text("the rules of a security group", &group.rules)?;
            for space in group.staging_spaces.iter().chain(&group.running_spaces) {
                check_name("a space of a security group", space)?;
            }
        }
        let generation = self.run("replace security groups", Access::SecurityGroups, move |session| {
            work(async move {
                let stored = read(session, &Selection::All).await?;
                let last = stored.last().map_or(0, |group| group.row);
                let changes = Changes::between(&stored, groups, last);
                if changes.none() {
                    return Ok(None);
                }
                changes.write(session).await?;
                const UPDATED: &str = "UPDATE security_groups_info SET last_updated = \
                CASE WHEN last_updated < $1 THEN $1 ELSE last_updated + 1 END RETURNING last_updated";
                let now = session.now().await?;
                let generation = session.number(statement(UPDATED).bind(now)).await?;
                session.notify(Topic::SecurityGroups, generation).await?;
                Ok(Some(generation))
            })
        })
        .await?;
        if let Some(generation) = generation {
            self.publish(Topic::SecurityGroups, generation);
        }
        Ok(generation.is_some())
    }

    /// The groups that hold everywhere, and those bound to one of `spaces`, in the order of their
    /// rows from row `from` on; `limit` of them, all if it is not above 0. With them the row of
    /// the first one that was left out, or 0.
    pub async fn security_groups(
        &self,
        spaces: &[String],
        from: i64,
        limit: i64,
    ) -> Result<(Vec<SecurityGroup>, i64), DatabaseError> {
        self.run("security groups", Access::Read, move |session| {
            work(async move {
                let most =
                    usize::try_from(limit).ok().filter(|&most| most > 0).unwrap_or(usize::MAX);
                let rows = limit.checked_add(1).filter(|_| limit > 0).unwrap_or(i64::MAX);
                let selection = Selection::Spaces { spaces: names(spaces)?, from, rows };
                let mut groups = read(session, &selection).await?;
                let next = groups.get(most).map_or(0, |group| group.row);
                groups.truncate(most);
                Ok((groups, next))
            })
        })
        .await
    }

    /// All groups, and their generation.
    pub async fn security_group_snapshot(&self) -> Result<SecurityGroupSnapshot, DatabaseError> {
        self.run("security group snapshot", Access::Read, move |session| {
            work(async move {
                let generation = generation(session).await?;
                let groups = read(session, &Selection::All).await?;
                Ok(SecurityGroupSnapshot { generation, groups })
            })
        })
        .await
    }

    /// When security groups changed last, in nanoseconds since the epoch (contract section 16.1):
    /// their generation, which every change makes greater.
    pub async fn security_groups_last_updated(&self) -> Result<i64, DatabaseError> {
        self.run("security groups last updated", Access::Read, move |session| {
            work(async move { Ok(generation(session).await?) })
        })
        .await
    }
}

async fn generation(session: &mut Session<'_>) -> Result<i64, sqlx::Error> {
    session.number(statement("SELECT last_updated FROM security_groups_info")).await
}

/// Which groups are read.
enum Selection {
    All,
    Spaces { spaces: String, from: i64, rows: i64 },
}

/// The condition of [`Selection::Spaces`], in a query of groups and one of their spaces.
macro_rules! selected_groups {
    ($columns:literal) => {
        concat!(
            "SELECT ",
            $columns,
            " FROM security_groups WHERE position >= $2 AND (staging_default = 1 \
             OR running_default = 1 OR position IN (SELECT security_group \
             FROM security_group_spaces WHERE space IN (SELECT value ->> 'name' \
             FROM json_each($1)))) ORDER BY position LIMIT $3"
        )
    };
}

/// Groups in the order of their rows, each with its spaces in theirs.
async fn read(
    session: &mut Session<'_>,
    selection: &Selection,
) -> Result<Vec<SecurityGroup>, Fault> {
    const ALL: &str = "SELECT position, guid, name, rules, staging_default, running_default \
        FROM security_groups ORDER BY position";
    const ALL_SPACES: &str = "SELECT security_group, running, space FROM security_group_spaces \
        ORDER BY security_group, running, position";
    const SOME: &str =
        selected_groups!("position, guid, name, rules, staging_default, running_default");
    const SOME_SPACES: &str = concat!(
        "SELECT security_group, running, space FROM security_group_spaces \
         WHERE security_group IN (SELECT position FROM (",
        selected_groups!("position"),
        ") AS selected) ORDER BY security_group, running, position"
    );
    let (groups, spaces) = match selection {
        Selection::All => (statement(ALL), statement(ALL_SPACES)),
        Selection::Spaces { spaces, from, rows } => {
            let bound = |sql| statement(sql).bind(spaces.clone()).bind(*from).bind(*rows);
            (bound(SOME), bound(SOME_SPACES))
        }
    };
    let mut read = BTreeMap::new();
    for row in session.rows(groups).await? {
        let group = SecurityGroup {
            row: row.try_get(0)?,
            guid: row.try_get(1)?,
            name: row.try_get(2)?,
            rules: row.try_get(3)?,
            staging_default: row.try_get::<i64, _>(4)? != 0,
            running_default: row.try_get::<i64, _>(5)? != 0,
            staging_spaces: Vec::new(),
            running_spaces: Vec::new(),
        };
        read.insert(group.row, group);
    }
    for row in session.rows(spaces).await? {
        let group: i64 = row.try_get(0)?;
        let running = row.try_get::<i64, _>(1)? != 0;
        if let Some(group) = read.get_mut(&group) {
            let spaces =
                if running { &mut group.running_spaces } else { &mut group.staging_spaces };
            spaces.push(row.try_get(2)?);
        }
    }
    Ok(read.into_values().collect())
}

/// A row of the table of groups, as `json_each` takes it.
#[derive(Debug, Serialize)]
struct GroupEntry<'a> {
    position: i64,
    guid: &'a str,
    name: &'a str,
    rules: &'a str,
    staging_default: u8,
    running_default: u8,
}

/// A row of the table of spaces, as `json_each` takes it.
#[derive(Debug, Serialize)]
struct SpaceEntry<'a> {
    group: i64,
    running: u8,
    position: usize,
    space: &'a str,
}

/// What must be written.
#[derive(Debug, Default)]
struct Changes<'a> {
    gone: Vec<i64>,
    written: Vec<GroupEntry<'a>>,
    spaces: Vec<SpaceEntry<'a>>,
}

impl<'a> Changes<'a> {
    /// What leads from `stored`, whose last row is `last`, to `wanted`. Of two groups with one
    /// GUID the later one counts.
    fn between(stored: &[SecurityGroup], wanted: &'a [SecurityGroup], mut last: i64) -> Self {
        let rows: HashMap<&str, &SecurityGroup> =
            stored.iter().map(|group| (&*group.guid, group)).collect();
        let latest: HashMap<&str, usize> =
            wanted.iter().enumerate().map(|(place, group)| (&*group.guid, place)).collect();
        let gone = stored.iter().filter(|group| !latest.contains_key(&*group.guid));
        let mut changes = Self { gone: gone.map(|group| group.row).collect(), ..Self::default() };
        for (place, group) in wanted.iter().enumerate() {
            if latest.get(&*group.guid) != Some(&place) {
                continue;
            }
            let known = rows.get(&*group.guid);
            let row = known.map_or(last + 1, |known| known.row);
            last = last.max(row);
            if known.is_some_and(|known| **known == (SecurityGroup { row, ..group.clone() })) {
                continue;
            }
            changes.written.push(GroupEntry {
                position: row,
                guid: &group.guid,
                name: &group.name,
                rules: &group.rules,
                staging_default: group.staging_default.into(),
                running_default: group.running_default.into(),
            });
            for (running, spaces) in [(0, &group.staging_spaces), (1, &group.running_spaces)] {
                let entries = spaces.iter().enumerate();
                changes.spaces.extend(entries.map(|(position, space)| SpaceEntry {
                    group: row,
                    running,
                    position,
                    space,
                }));
            }
        }
        changes
    }

    fn none(&self) -> bool {
        self.gone.is_empty() && self.written.is_empty()
    }

    async fn write(&self, session: &mut Session<'_>) -> Result<(), Fault> {
        /// A row in a list.
        #[derive(Serialize)]
        struct Place {
            position: i64,
        }
        const DELETE: &str = "DELETE FROM security_groups WHERE position IN \
            (SELECT CAST(value ->> 'position' AS BIGINT) FROM json_each($1))";
        let gone: Vec<_> = self.gone.iter().map(|&position| Place { position }).collect();
        session.execute(statement(DELETE).bind(list(&gone)?)).await?;

        const UPSERT: &str = "INSERT INTO security_groups \
            (position, guid, name, rules, staging_default, running_default) \
            SELECT CAST(value ->> 'position' AS BIGINT), value ->> 'guid', value ->> 'name', \
            value ->> 'rules', CAST(value ->> 'staging_default' AS BIGINT), \
            CAST(value ->> 'running_default' AS BIGINT) FROM json_each($1) WHERE true \
            ON CONFLICT (position) DO UPDATE SET name = excluded.name, rules = excluded.rules, \
            staging_default = excluded.staging_default, \
            running_default = excluded.running_default";
        session.execute(statement(UPSERT).bind(list(&self.written)?)).await?;

        const UNBIND: &str = "DELETE FROM security_group_spaces WHERE security_group IN \
            (SELECT CAST(value ->> 'position' AS BIGINT) FROM json_each($1))";
        let written: HashSet<_> = self.written.iter().map(|group| group.position).collect();
        let written: Vec<_> = written.into_iter().map(|position| Place { position }).collect();
        session.execute(statement(UNBIND).bind(list(&written)?)).await?;

        const BIND: &str = "INSERT INTO security_group_spaces \
            (security_group, running, position, space) \
            SELECT CAST(value ->> 'group' AS BIGINT), CAST(value ->> 'running' AS BIGINT), \
            CAST(value ->> 'position' AS BIGINT), value ->> 'space' FROM json_each($1)";
        session.execute(statement(BIND).bind(list(&self.spaces)?)).await?;
        Ok(())
    }
}
