//! The policies of the newest generation, and what became of older ones.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, OnceLock};

use axum::body::Bytes;

use crate::policy::TaggedPolicy;

/// Most generations that are remembered.
const STEPS: usize = 256;

/// Most policies in all steps together; a step of more is not remembered.
const POLICIES: usize = 20_000;

/// What one generation changed of the one before.
#[derive(Debug)]
struct Step {
    /// The generation before.
    since: i64,
    added: Vec<TaggedPolicy>,
    removed: Vec<TaggedPolicy>,
}

impl Step {
    fn len(&self) -> usize {
        self.added.len() + self.removed.len()
    }
}

/// A generation and the way to it. The default is the one before all: nothing is known.
#[derive(Debug, Default)]
pub(super) struct Generations {
    generation: i64,
    /// In order, each once.
    policies: Vec<TaggedPolicy>,
    /// Without gaps, the last one leads to `generation`.
    steps: VecDeque<Arc<Step>>,
    written: OnceLock<Bytes>,
}

/// What became of policies, all steps taken together.
#[derive(Debug, Default)]
pub(super) struct Difference<'a>(BTreeMap<&'a TaggedPolicy, bool>);

impl<'a> Difference<'a> {
    /// Policies that were not there.
    pub(super) fn added(&self) -> impl Iterator<Item = &'a TaggedPolicy> {
        self.0.iter().filter(|(_, added)| **added).map(|(policy, _)| *policy)
    }

    /// Policies that are there no longer.
    pub(super) fn removed(&self) -> impl Iterator<Item = &'a TaggedPolicy> {
        self.0.iter().filter(|(_, added)| !**added).map(|(policy, _)| *policy)
    }

    /// Whether any of them is wanted.
    pub(super) fn concerns(&self, wanted: impl Fn(&TaggedPolicy) -> bool) -> bool {
        self.0.keys().any(|policy| wanted(policy))
    }

    /// A policy that comes and goes is as it was.
    fn note(&mut self, policy: &'a TaggedPolicy, added: bool) {
        if self.0.remove(policy).is_none_or(|before| before == added) {
            self.0.insert(policy, added);
        }
    }
}

impl Generations {
    /// The newest generation; 0 when nothing is known.
    pub(super) fn generation(&self) -> i64 {
        self.generation
    }

    /// The policies of the newest generation.
    pub(super) fn policies(&self) -> impl Iterator<Item = &TaggedPolicy> {
        self.policies.iter()
    }

    /// All policies as the answer has them, once somebody has written it.
    pub(super) fn written(&self) -> &OnceLock<Bytes> {
        &self.written
    }

    /// What became of the policies of `generation`, if that is known.
    pub(super) fn since(&self, generation: i64) -> Option<Difference<'_>> {
        let mut difference = Difference::default();
        if generation == self.generation {
            return (generation != 0).then_some(difference);
        }
        let first = self.steps.iter().position(|step| step.since == generation)?;
        for step in self.steps.range(first..) {
            for policy in &step.removed {
                difference.note(policy, false);
            }
            for policy in &step.added {
                difference.note(policy, true);
            }
        }
        Some(difference)
    }

    /// The next generation. Where it is older than this one the database was put back, and the past
    /// is another one.
    pub(super) fn followed_by(&self, generation: i64, mut policies: Vec<TaggedPolicy>) -> Self {
        policies.sort_unstable();
        policies.dedup();
        let mut steps = VecDeque::new();
        if self.generation != 0 && generation > self.generation {
            steps.clone_from(&self.steps);
            let step = Step {
                since: self.generation,
                added: only_in(&policies, &self.policies),
                removed: only_in(&self.policies, &policies),
            };
            steps.push_back(Arc::new(step));
        }
        let mut total: usize = steps.iter().map(|step| step.len()).sum();
        while steps.len() > STEPS || total > POLICIES {
            let Some(oldest) = steps.pop_front() else { break };
            total -= oldest.len();
        }
        Self { generation, policies, steps, written: OnceLock::new() }
    }
}

/// What is in the first list and not in the second; both are in order.
fn only_in(first: &[TaggedPolicy], second: &[TaggedPolicy]) -> Vec<TaggedPolicy> {
    let mut others = second.iter().peekable();
    let mut only = Vec::new();
    for policy in first {
        while others.next_if(|other| *other < policy).is_some() {}
        if others.peek().is_none_or(|other| *other != policy) {
            only.push(policy.clone());
        }
    }
    only
}
