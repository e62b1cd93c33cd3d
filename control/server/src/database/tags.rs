//! Tags: the numbers that stand for apps and routers (contract section 3.2).
//!
//! A released number is quarantined: cells may still hold rules for its last owner. Numbers are
//! never returned to a store of free ones; their rows say who had them last and until when. So a
//! returning owner gets its own back, and rows have the numbers 1 to their count.

use std::collections::{BTreeSet, HashMap, HashSet};

use serde::Serialize;
use sqlx::Row;
use tracing::warn;

use super::error::{DatabaseError, Fault};
use super::rows::{check_name, list, names, narrow};
use super::session::{Access, Session, statement, work};
use super::{Database, DatabaseSettings};
use crate::policy::{Tag, TagNumber, TaggedPolicy};

/// The type of tags that policies make, and that go with them.
pub(super) const APP: &str = "app";

/// Whose a number becomes, as `json_each` takes it.
#[derive(Debug, Serialize)]
struct Owner<'a> {
    number: i64,
    id: &'a str,
}

impl Database {
    /// All tags in use, by number (contract section 1.7).
    pub async fn tags(&self) -> Result<Vec<Tag>, DatabaseError> {
        self.run("tags", Access::Read, move |session| {
            work(async move {
                const TAGS: &str =
                    "SELECT number, id, kind FROM tags WHERE released_at IS NULL ORDER BY number";
                let rows = session.rows(statement(TAGS)).await?;
                rows.iter()
                    .map(|row| {
                        Ok(Tag {
                            number: TagNumber(narrow(row, 0)?),
                            id: row.try_get(1)?,
                            kind: row.try_get(2)?,
                        })
                    })
                    .collect()
            })
        })
        .await
    }

    /// The tag of `id`, which gets one if it has none (contract section 2.3).
    pub async fn create_tag(&self, id: &str, kind: &str) -> Result<Tag, DatabaseError> {
        check_name("the type of a tag", kind)?;
        check_name("the id of a tag", id)?;
        let number = self
            .run("create tag", Access::Policies, move |session| {
                work(async move {
                    let now = session.now().await?;
                    let tags = give(session, &self.inner.settings, &[id], kind, now).await?;
                    tags.get(id).copied().ok_or_else(|| Fault::Stored(format!("no tag for {id:?}")))
                })
            })
            .await?;
        Ok(Tag { number: TagNumber(number), id: id.to_owned(), kind: kind.to_owned() })
    }

    /// Refuses to go on with fewer bits than the tags in use need, and forgets released ones that
    /// do not fit any more.
    pub(super) async fn fit_tags(&self) -> Result<(), DatabaseError> {
        let greatest = greatest_number(&self.inner.settings);
        let used = self
            .run("fit tags", Access::Policies, move |session| {
                work(async move {
                    const FORGET: &str =
                        "DELETE FROM tags WHERE number > $1 AND released_at IS NOT NULL";
                    session.execute(statement(FORGET).bind(greatest)).await?;
                    const USED: &str = "SELECT COALESCE(MAX(number), 0) FROM tags";
                    Ok(session.number(statement(USED)).await?)
                })
            })
            .await?;
        if used > greatest {
            let bits = self.inner.settings.tag_bits;
            let reason = format!("tag {used} is in use and does not fit into {bits} bits");
            return Err(DatabaseError::Settings { place: self.inner.location.name(), reason });
        }
        Ok(())
    }
}

/// The greatest number there is.
fn greatest_number(settings: &DatabaseSettings) -> i64 {
    (1 << settings.tag_bits) - 1
}

/// Gives each of `ids`, in their order, the tag it has, had, or gets now: the lowest number that
/// is neither in use nor in quarantine. If there are only quarantined ones left, the one that
/// has been released longest; a cell that has not asked for that long has more to worry about
/// than an app without a tag.
pub(super) async fn give<'a>(
    session: &mut Session<'_>,
    settings: &DatabaseSettings,
    ids: &[&'a str],
    kind: &str,
    now: i64,
) -> Result<HashMap<&'a str, u32>, Fault> {
    const KNOWN: &str = "SELECT tags.id, number, kind, \
        CASE WHEN released_at IS NULL THEN 0 ELSE 1 END \
        FROM tags JOIN json_each($1) ON tags.id = value ->> 'name'";
    let rows = session.rows(statement(KNOWN).bind(names(ids)?)).await?;
    let mut known = HashMap::new();
    for row in &rows {
        let id: String = row.try_get(0)?;
        let number: u32 = narrow(row, 1)?;
        let existing: String = row.try_get(2)?;
        let released = row.try_get::<i64, _>(3)? != 0;
        if !released && existing != kind {
            return Err(DatabaseError::TagType { id, wanted: kind.to_owned(), existing }.into());
        }
        known.insert(id, (number, released));
    }

    let mut tags = HashMap::new();
    let (mut returning, mut new) = (Vec::new(), Vec::new());
    let mut seen = HashSet::new();
    for &id in ids.iter().filter(|&&id| seen.insert(id)) {
        match known.get(id) {
            Some(&(number, released)) => {
                tags.insert(id, number);
                if released {
                    returning.push(Owner { number: i64::from(number), id });
                }
            }
            None => new.push(id),
        }
    }
    // First, so that nobody else gets these.
    own(session, &returning, kind).await?;
    let numbers = free_numbers(session, settings, new.len(), now).await?;
    let owners: Vec<_> =
        numbers.iter().zip(&new).map(|(&number, &id)| Owner { number, id }).collect();
    own(session, &owners, kind).await?;
    if let Some(&id) = new.get(numbers.len()) {
        let tags = greatest_number(settings) as u32;
        return Err(DatabaseError::NoFreeTag { id: id.to_owned(), tags }.into());
    }
    for owner in &owners {
        tags.insert(owner.id, owner.number as u32);
    }
    Ok(tags)
}

/// Up to `count` numbers that can be given to somebody else, the best ones first.
async fn free_numbers(
    session: &mut Session<'_>,
    settings: &DatabaseSettings,
    count: usize,
    now: i64,
) -> Result<Vec<i64>, Fault> {
    if count == 0 {
        return Ok(Vec::new());
    }
    let quarantine = i64::try_from(settings.tag_quarantine.as_nanos()).unwrap_or(i64::MAX);
    let released_before = now.saturating_sub(quarantine);
    let greatest = greatest_number(settings);
    const RESTED: &str = "SELECT number FROM tags \
        WHERE released_at IS NOT NULL AND released_at <= $1 AND number <= $2 \
        ORDER BY number LIMIT $3";
    let rested = statement(RESTED).bind(released_before).bind(greatest).bind(count as i64);
    let mut numbers = Vec::new();
    for row in session.rows(rested).await? {
        numbers.push(row.try_get(0)?);
    }
    let last = session.number(statement("SELECT COALESCE(MAX(number), 0) FROM tags")).await?;
    let unused = (last + 1..=greatest).take(count - numbers.len());
    numbers.extend(unused);
    if numbers.len() < count {
        const QUARANTINED: &str = "SELECT number FROM tags \
            WHERE released_at IS NOT NULL AND released_at > $1 AND number <= $2 \
            ORDER BY released_at, number LIMIT $3";
        let missing = (count - numbers.len()) as i64;
        let quarantined = statement(QUARANTINED).bind(released_before).bind(greatest).bind(missing);
        let rows = session.rows(quarantined).await?;
        if !rows.is_empty() {
            warn!(
                tags = rows.len(),
                "tags are given to others before their quarantine is over: no others are left"
            );
        }
        for row in rows {
            numbers.push(row.try_get(0)?);
        }
    }
    Ok(numbers)
}

/// Makes numbers belong to `owners`, whoever had them.
async fn own(session: &mut Session<'_>, owners: &[Owner<'_>], kind: &str) -> Result<(), Fault> {
    if owners.is_empty() {
        return Ok(());
    }
    const OWN: &str = "INSERT INTO tags (number, id, kind) \
        SELECT CAST(value ->> 'number' AS BIGINT), value ->> 'id', $2 \
        FROM json_each($1) WHERE true \
        ON CONFLICT (number) DO UPDATE \
        SET id = excluded.id, kind = excluded.kind, released_at = NULL";
    session.execute(statement(OWN).bind(list(owners)?).bind(kind.to_owned())).await?;
    Ok(())
}

/// Releases the tags of `deleted` policies that no other policy has. All of them are of type `app`: no others are given to policies, and what is in use keeps its type.
pub(super) async fn release(
    session: &mut Session<'_>,
    deleted: &[TaggedPolicy],
    now: i64,
) -> Result<(), Fault> {
    /// A number in a list.
    #[derive(Serialize)]
    struct Number {
        number: u32,
    }
    // Nothing but the number chooses: with conditions on other columns PostgreSQL expects next to
    // no rows while it has no statistics, and reads the list again for each of ten thousand.
    const RELEASE: &str = "UPDATE tags SET released_at = $2 \
        WHERE number IN (SELECT CAST(value ->> 'number' AS BIGINT) FROM json_each($1)) \
        AND NOT EXISTS (SELECT 1 FROM policies WHERE source = tags.number) \
        AND NOT EXISTS (SELECT 1 FROM policies WHERE destination = tags.number)";
    let numbers: BTreeSet<_> =
        deleted.iter().flat_map(|policy| [policy.source_tag.0, policy.destination_tag.0]).collect();
    let numbers: Vec<_> = numbers.into_iter().map(|number| Number { number }).collect();
    session.execute(statement(RELEASE).bind(list(&numbers)?).bind(now)).await?;
    Ok(())
}
