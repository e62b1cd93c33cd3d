//! What has changed lately, read from the database once for all who wait.

use std::collections::{BTreeMap, VecDeque};

use crate::database::{PolicyChange, PolicyChanges};
use crate::policy::TaggedPolicy;

/// Most changes that are remembered; who missed more asks the database.
const CHANGES: usize = 10_000;

/// The changes after one generation up to another.
#[derive(Debug, Clone)]
pub(super) struct Log {
    /// All changes after this generation are here.
    after: i64,
    /// The latest generation.
    generation: i64,
    changes: VecDeque<PolicyChange>,
}

impl Log {
    /// Knows of one generation only.
    pub(super) fn at(generation: i64) -> Self {
        Self { after: generation, generation, changes: VecDeque::new() }
    }

    /// What leads from `generation`, as the database has it.
    pub(super) fn since(generation: i64, changes: PolicyChanges) -> Self {
        let mut log = Self::at(generation);
        log.extend(changes);
        log
    }

    /// The latest generation.
    pub(super) fn generation(&self) -> i64 {
        self.generation
    }

    /// Adds what came after the latest generation, and forgets the oldest beyond the bound.
    pub(super) fn extend(&mut self, changes: PolicyChanges) {
        self.generation = changes.generation;
        self.changes.extend(changes.changes);
        let surplus = self.changes.len().saturating_sub(CHANGES);
        if let Some(last) = self.changes.drain(..surplus).next_back() {
            self.after = last.generation;
        }
    }

    /// What became of the policies of `generation`, if that is known.
    pub(super) fn difference(&self, generation: i64) -> Option<Difference> {
        if generation < self.after || generation > self.generation {
            return None;
        }
        let first = self.changes.partition_point(|change| change.generation <= generation);
        let mut difference = Difference::default();
        for change in self.changes.range(first..) {
            difference.note(change);
        }
        Some(difference)
    }
}

/// What became of policies, all changes taken together.
#[derive(Debug, Default)]
pub(super) struct Difference(BTreeMap<TaggedPolicy, bool>);

impl Difference {
    /// Policies that were not there.
    pub(super) fn added(&self) -> impl Iterator<Item = &TaggedPolicy> {
        self.0.iter().filter(|(_, added)| **added).map(|(policy, _)| policy)
    }

    /// Policies that are there no longer.
    pub(super) fn removed(&self) -> impl Iterator<Item = &TaggedPolicy> {
        self.0.iter().filter(|(_, added)| !**added).map(|(policy, _)| policy)
    }

    /// Whether any of them is wanted.
    pub(super) fn concerns(&self, wanted: impl Fn(&TaggedPolicy) -> bool) -> bool {
        self.0.keys().any(wanted)
    }

    /// A policy that comes and goes, or goes and comes, is as it was.
    fn note(&mut self, change: &PolicyChange) {
        if self.0.remove(&change.policy).is_none_or(|before| before == change.added) {
            self.0.insert(change.policy.clone(), change.added);
        }
    }
}
