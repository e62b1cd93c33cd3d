//! Changes, one after the other, and who has them when.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::timeout_at;

use super::servers::{Servers, policy};

/// The apps whose policies change.
pub(super) const APPS: [&str; 2] = ["changing-source", "changing-destination"];

/// How long an observer may take before the measurement is given up.
const PATIENCE: Duration = Duration::from_secs(30);

/// Between the last observer of a change and the next one, so that no change rides on another's.
const PAUSE: Duration = Duration::from_millis(5);

/// A policy between the two [`APPS`] that comes or goes, known by its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) added: bool,
    pub(super) port: u64,
}

/// What an observer says: it has a change now. Or why it never will.
pub(super) type Seen = Result<(usize, Change, Instant)>;

/// How many changes there are, and by how many each is awaited.
#[derive(Debug, Clone, Copy)]
pub(super) struct Changes {
    pub(super) count: u32,
    /// They are numbered from 0.
    pub(super) observers: usize,
}

/// What was measured, in nanoseconds and in the order of the changes.
#[derive(Debug, Default)]
pub(super) struct Latencies {
    /// Of each request that changed something.
    pub(super) request: Vec<u64>,
    /// From the answer to each observer.
    pub(super) observer: Vec<u64>,
    /// From the answer to the last observer.
    pub(super) last: Vec<u64>,
}

impl Change {
    /// The change with this number: policies are created and then deleted again, in turns.
    fn numbered(number: u32) -> Self {
        Self { added: number.is_multiple_of(2), port: u64::from(1024 + number / 2) }
    }

    async fn make(self, servers: &Servers) -> Result<()> {
        let what = if self.added { "policies" } else { "policies/delete" };
        let policy = policy(APPS[0], APPS[1], u32::try_from(self.port)?);
        servers.change(what, &json!({"policies": [policy]})).await
    }

    /// The changes in a difference that an agent is answered with.
    pub(super) fn among(difference: &Value) -> impl Iterator<Item = Self> + '_ {
        [("added", true), ("removed", false)].into_iter().flat_map(move |(list, added)| {
            let policies = difference[list].as_array().into_iter().flatten();
            let ours = policies.filter(|policy| policy["source"]["id"] == APPS[0]);
            let port = |policy: &Value| policy["destination"]["ports"]["start"].as_u64();
            ours.filter_map(port).map(move |port| Self { added, port })
        })
    }
}

impl Changes {
    /// Makes them all, each when every observer has the one before.
    pub(super) async fn make(
        self,
        servers: &Servers,
        seen: &mut UnboundedReceiver<Seen>,
    ) -> Result<Latencies> {
        let mut latencies = Latencies::default();
        for number in 0..self.count {
            let change = Change::numbered(number);
            let began = Instant::now();
            change.make(servers).await?;
            let answered = Instant::now();
            latencies.request.push(nanoseconds(answered - began));
            let mut last = 0;
            for at in self.all_have(change, seen).await? {
                // Some have it before the one who asked for it has the answer.
                let after = nanoseconds(at.saturating_duration_since(answered));
                latencies.observer.push(after);
                last = last.max(after);
            }
            latencies.last.push(last);
            tokio::time::sleep(PAUSE).await;
        }
        Ok(latencies)
    }

    /// When each observer had a change.
    async fn all_have(
        self,
        wanted: Change,
        seen: &mut UnboundedReceiver<Seen>,
    ) -> Result<Vec<Instant>> {
        let mut waiting: HashSet<usize> = (0..self.observers).collect();
        let mut moments = Vec::with_capacity(self.observers);
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !waiting.is_empty() {
            let Ok(said) = timeout_at(deadline, seen.recv()).await else {
                let seconds = PATIENCE.as_secs();
                bail!("{} observers do not have {wanted:?} after {seconds} s", waiting.len());
            };
            let (observer, change, at) = said.context("nobody observes")??;
            if change == wanted && waiting.remove(&observer) {
                moments.push(at);
            }
        }
        Ok(moments)
    }
}

fn nanoseconds(time: Duration) -> u64 {
    time.as_nanos().try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_found_in_a_difference() {
        let other = policy("another", APPS[1], 9);
        let ours = |port| policy(APPS[0], APPS[1], port);
        let difference = json!({"generation": 7, "since": 3,
            "added": [ours(5), other, ours(6)], "removed": [ours(4)]});
        let found: Vec<_> = Change::among(&difference).map(|it| (it.added, it.port)).collect();
        assert_eq!(found, [(true, 5), (true, 6), (false, 4)]);
        assert_eq!(Change::among(&json!({"generation": 7, "policies": []})).count(), 0);
    }

    #[test]
    fn what_is_created_is_deleted_next() {
        let of = |number| Change::numbered(number);
        assert_eq!((of(0).added, of(1).added, of(0).port == of(1).port), (true, false, true));
        assert_ne!(of(1).port, of(2).port);
    }

    #[tokio::test]
    async fn each_observer_counts_once_and_for_the_right_change() -> Result<()> {
        let (sender, mut seen) = tokio::sync::mpsc::unbounded_channel();
        let (wanted, other) = (Change::numbered(2), Change::numbered(1));
        let now = Instant::now();
        for said in [(0, other), (1, wanted), (1, wanted), (0, wanted)] {
            sender.send(Ok((said.0, said.1, now)))?;
        }
        let changes = Changes { count: 1, observers: 2 };
        assert_eq!(changes.all_have(wanted, &mut seen).await?.len(), 2);
        drop(sender);
        assert!(changes.all_have(wanted, &mut seen).await.is_err());
        Ok(())
    }
}
