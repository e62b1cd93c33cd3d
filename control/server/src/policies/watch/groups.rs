//! How cells hear of changes of security groups without asking all the time.
//!
//! `GET /networking/v1/internal/security_groups_last_updated?watch=<generation>&timeout=<seconds>[&space_guids=<list>]`
//! answers `{"generation":n,"changed":true}` as soon as the groups that the cell has may not be the ones
//! there are any more. The generation is the moment that the same path tells without `watch`; 0 is that of a
//! cell that knows nothing. The cell then reads the groups, page by page as ever, and has those of
//! generation `n` or later: the next question, with `n`, tells of what came meanwhile. Groups do
//! not travel in the answer, because pages bound what one answer can be, and a cell that reads again
//! what it has read does no harm.
//!
//! `space_guids` names the spaces whose groups the cell has, beside those that hold everywhere: it is not
//! woken for others. Without it every change wakes it. When nothing that concerns the cell changes within
//! the timeout the answer is `{"generation":n,"changed":false}`: what it has is as good as that of
//! generation `n`, which may be newer than the one that it named. Of the time before a question
//! the server knows nothing but its end: whoever names another generation than the latest is answered at once.
//!
//! Timeouts, seats and replicas are as with policies.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use prometheus_client::metrics::gauge::Gauge;
use serde::Serialize;
use tokio::sync::Mutex;

use super::WatchError;
use super::seats::{Seats, deadline};
use crate::database::{Database, DatabaseError, SecurityGroupSnapshot};
use crate::http::Stop;
use crate::policy::SecurityGroup;

/// What the groups are, and those who wait for others.
#[derive(Debug)]
pub(in super::super) struct GroupWatch {
    database: Database,
    seats: Seats,
    /// One at a time brings it up to date for all.
    picture: Mutex<Option<Arc<Picture>>>,
}

/// What a cell asks.
#[derive(Debug)]
pub(in super::super) struct GroupQuestion {
    /// The generation that it has.
    pub(in super::super) generation: i64,
    /// How long it will wait.
    pub(in super::super) timeout: Duration,
    /// The spaces whose groups it has; none: all of them.
    pub(in super::super) spaces: Option<HashSet<String>>,
}

/// What it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(in super::super) struct GroupAnswer {
    /// The latest generation.
    generation: i64,
    /// Whether what it has may be different from that.
    changed: bool,
}

/// All groups of a generation, as far as one must tell them from those of another.
#[derive(Debug)]
struct Picture {
    generation: i64,
    groups: Vec<Sketch>,
}

#[derive(Debug)]
struct Sketch {
    /// Of all that cells are told of it.
    digest: Digest,
    everywhere: bool,
    spaces: HashSet<String>,
}

type Digest = [u8; 32];

impl GroupWatch {
    /// At most `seats` can wait at a time, and nobody when it is time to stop.
    pub(in super::super) fn new(database: &Database, seats: usize, stop: Stop) -> Self {
        let database = database.clone();
        Self { database, seats: Seats::new(seats, stop), picture: Mutex::new(None) }
    }

    /// How many wait, now and later.
    pub(in super::super) fn waiting(&self) -> Gauge {
        self.seats.waiting()
    }

    /// Waits until the groups of the generation named are others.
    pub(in super::super) async fn answer(
        &self,
        question: &GroupQuestion,
    ) -> Result<GroupAnswer, WatchError> {
        let _seat = self.seats.take().ok_or(WatchError::Full)?;
        let deadline = deadline(question.timeout);
        let mut changes = self.database.security_group_changes();
        let mut newest = question.generation.max(*changes.borrow_and_update());
        let first = self.picture(newest).await?;
        if first.generation != question.generation {
            return Ok(GroupAnswer { generation: first.generation, changed: true });
        }
        let before = first.view(question.spaces.as_ref());
        drop(first);
        loop {
            let over = self.seats.rest(&mut changes, deadline).await;
            newest = newest.max(*changes.borrow_and_update());
            // At the end the database is asked: a notice may have been lost on its way from another
            // replica.
            let now = self.picture(if over { i64::MAX } else { newest }).await?;
            let changed = now.view(question.spaces.as_ref()) != before;
            if changed || over {
                return Ok(GroupAnswer { generation: now.generation, changed });
            }
        }
    }

    /// The groups of a generation that is not older than `newest`, if the database has one.
    async fn picture(&self, newest: i64) -> Result<Arc<Picture>, DatabaseError> {
        let mut picture = self.picture.lock().await;
        let latest = match &*picture {
            Some(picture) if picture.generation >= newest => return Ok(Arc::clone(picture)),
            // Somebody may know of a generation that was before the database was put back.
            Some(_) => Some(self.database.security_groups_last_updated().await?),
            None => None,
        };
        match &*picture {
            Some(picture) if latest == Some(picture.generation) => Ok(Arc::clone(picture)),
            _ => {
                let new = Arc::new(Picture::of(self.database.security_group_snapshot().await?));
                *picture = Some(Arc::clone(&new));
                Ok(new)
            }
        }
    }
}

impl Picture {
    fn of(snapshot: SecurityGroupSnapshot) -> Self {
        let SecurityGroupSnapshot { generation, groups } = snapshot;
        Self { generation, groups: groups.into_iter().map(Sketch::of).collect() }
    }

    /// What a cell sees of it.
    fn view(&self, spaces: Option<&HashSet<String>>) -> Digest {
        let mut context = Context::new(&SHA256);
        for group in &self.groups {
            let is_seen =
                group.everywhere || spaces.is_none_or(|spaces| !group.spaces.is_disjoint(spaces));
            if is_seen {
                context.update(&group.digest);
            }
        }
        finish(context)
    }
}

impl Sketch {
    fn of(group: SecurityGroup) -> Self {
        let SecurityGroup {
            row,
            guid,
            name,
            rules,
            staging_default,
            running_default,
            staging_spaces,
            running_spaces,
        } = group;
        let mut context = Context::new(&SHA256);
        context.update(&row.to_be_bytes());
        context.update(&[staging_default.into(), running_default.into()]);
        let texts = [&guid, &name, &rules].into_iter().chain(&staging_spaces);
        // Where the first list of spaces ends must be seen.
        context.update(&(staging_spaces.len() as u64).to_be_bytes());
        for text in texts.chain(&running_spaces) {
            context.update(&(text.len() as u64).to_be_bytes());
            context.update(text.as_bytes());
        }
        Self {
            digest: finish(context),
            everywhere: staging_default || running_default,
            spaces: staging_spaces.into_iter().chain(running_spaces).collect(),
        }
    }
}

fn finish(context: Context) -> Digest {
    let mut digest = Digest::default();
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(guid: &str) -> SecurityGroup {
        SecurityGroup {
            row: 1,
            guid: guid.into(),
            name: "name".into(),
            rules: "[]".into(),
            staging_default: false,
            running_default: false,
            staging_spaces: vec!["a".into()],
            running_spaces: vec!["b".into()],
        }
    }

    /// What is seen from these spaces of these groups.
    fn view(groups: &[SecurityGroup], spaces: Option<&[&str]>) -> Digest {
        let snapshot = SecurityGroupSnapshot { generation: 1, groups: groups.to_vec() };
        let spaces = spaces.map(|spaces| spaces.iter().map(ToString::to_string).collect());
        Picture::of(snapshot).view(spaces.as_ref())
    }

    #[test]
    fn whatever_a_cell_would_read_otherwise_is_another_view() {
        let is = group("g");
        let others = [
            SecurityGroup { row: 2, ..is.clone() },
            SecurityGroup { guid: "gn".into(), name: "ame".into(), ..is.clone() },
            SecurityGroup { name: "other".into(), ..is.clone() },
            SecurityGroup { rules: "[{}]".into(), ..is.clone() },
            SecurityGroup { staging_default: true, ..is.clone() },
            SecurityGroup { running_default: true, ..is.clone() },
            SecurityGroup { staging_spaces: Vec::new(), ..is.clone() },
            SecurityGroup { running_spaces: Vec::new(), ..is.clone() },
            SecurityGroup {
                staging_spaces: vec!["a".into(), "b".into()],
                running_spaces: Vec::new(),
                ..is.clone()
            },
        ];
        for spaces in [None, Some(&["a", "b"][..])] {
            let now = view(std::slice::from_ref(&is), spaces);
            assert_ne!(now, view(&[], spaces));
            for other in &others {
                assert_ne!(now, view(std::slice::from_ref(other), spaces), "{other:?}");
            }
        }
    }

    #[test]
    fn a_cell_sees_the_groups_of_its_spaces_and_those_that_hold_everywhere() {
        let of = |guid: &str, spaces: &[&str], default| SecurityGroup {
            running_spaces: spaces.iter().map(ToString::to_string).collect(),
            staging_spaces: Vec::new(),
            staging_default: default,
            ..group(guid)
        };
        let before = [of("s", &["s"], false), of("t", &["t"], false), of("all", &[], true)];
        // What becomes of them, and which cells see that: of space s, of t, of none, and one that
        // does not say.
        let table = [
            (vec![of("s", &["s"], false)], [true, true, true, true]),
            (before[1..].to_vec(), [true, false, false, true]),
            (vec![before[0].clone(), before[2].clone()], [false, true, false, true]),
            (
                vec![of("s", &["t"], false), before[1].clone(), before[2].clone()],
                [true, true, false, true],
            ),
            (
                vec![of("s", &["s", "u"], false), before[1].clone(), before[2].clone()],
                [true, false, false, true],
            ),
            (vec![before[0].clone(), before[1].clone(), of("all", &["s"], false)], [true; 4]),
            ([&before[..], &[of("u", &["u"], false)]].concat(), [false, false, false, true]),
            ([&before[..], &[of("u", &["u"], true)]].concat(), [true; 4]),
            (before.to_vec(), [false; 4]),
        ];
        let cells = [Some(&["s"][..]), Some(&["t"]), Some(&[]), None];
        for (after, expected) in table {
            let seen = cells.map(|spaces| view(&before, spaces) != view(&after, spaces));
            assert_eq!(seen, expected, "{after:?}");
        }
    }
}
