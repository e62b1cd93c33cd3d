//! Which flows may go: those that were silent for too long, and, when room is needed, those that
//! are worth least.

use std::cmp::Reverse;

use sarcenet_dataplane_api::{FlowState, Timeouts};

use super::Flow;
use super::tracking::limit;
use crate::table::{hash_pair, prefetch};

/// Flows looked at together.
const GROUP: usize = 8;
/// Places looked at one after the other when no flow was met at random.
const FALLBACK: usize = 512;
/// Groups looked at before an established conversation has to go.
const GROUPS: usize = 8;

/// What a flow is worth; the least goes first, and of equals the one silent for longest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Worth(Class, Reverse<u32>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    /// Closed or reset: nothing is lost.
    Finished,
    /// Never answered, or never confirmed by the one who asked: what floods and scans leave.
    HalfOpen,
    /// Both sides have spoken.
    Established,
}

impl Worth {
    pub(super) fn of(flow: &Flow, now: u32) -> Self {
        let class = if flow.has_finished() {
            Class::Finished
        } else if flow.established() && flow.state() != FlowState::SynReceived {
            Class::Established
        } else {
            Class::HalfOpen
        };
        Self(class, Reverse(flow.idle(now)))
    }
}

/// Whether a flow was silent for longer than its state allows.
pub(super) fn is_expired(flow: &Flow, now: u32, timeouts: &Timeouts) -> bool {
    flow.status().is_live() && flow.idle(now) > limit(timeouts, flow.key().protocol, flow.state())
}

/// Chooses a flow to go among `places` places, at most 64 of which are looked at, at random: a
/// flood cannot choose its victims. As soon as a group has a flow that is not established, the
/// worst of that group goes, so established conversations survive a flood of new ones.
pub(super) fn choose<'a>(
    seed: u64,
    places: usize,
    now: u32,
    flow_at: impl Fn(u32) -> Option<&'a Flow>,
) -> Option<&'a Flow> {
    let mut worst: Option<(Worth, &Flow)> = None;
    for group in 0..GROUPS {
        let live = sample(seed, group, places, &flow_at).filter(|flow| flow.status().is_live());
        let here = live.map(|flow| (Worth::of(flow, now), flow));
        worst = here.chain(worst).min_by_key(|(worth, _)| *worth);
        if worst.is_some_and(|(worth, _)| worth.0 < Class::Established) {
            break;
        }
    }
    let chosen = worst.map(|(_, flow)| flow);
    // Only in a table much smaller than its spare places.
    let mut others = (0..places.min(FALLBACK) as u32).filter_map(flow_at);
    chosen.or_else(|| others.find(|flow| flow.status().is_live()))
}

/// Chooses one of the flows that `is_alike` takes, the longest silent one of a group of places that
/// has any; at most 64 places are looked at, at random, and some more in a small table.
pub(super) fn choose_alike<'a>(
    seed: u64,
    places: usize,
    now: u32,
    flow_at: impl Fn(u32) -> Option<&'a Flow>,
    is_alike: impl Fn(&Flow) -> bool,
) -> Option<&'a Flow> {
    let at_random = (0..GROUPS).find_map(|group| {
        let alike = sample(seed, group, places, &flow_at).filter(|flow| is_alike(flow));
        alike.max_by_key(|flow| flow.idle(now))
    });
    let mut others = (0..places.min(FALLBACK) as u32).filter_map(&flow_at);
    at_random.or_else(|| others.find(|flow| is_alike(flow)))
}

/// A group of flows at random places, asked for together.
fn sample<'a>(
    seed: u64,
    group: usize,
    places: usize,
    flow_at: impl Fn(u32) -> Option<&'a Flow>,
) -> impl Iterator<Item = &'a Flow> {
    let mut sample = [None; GROUP];
    for (i, slot) in sample.iter_mut().enumerate() {
        let random = hash_pair(seed, (group * GROUP + i) as u64);
        let place = (u128::from(random) * places as u128) >> 64;
        *slot = flow_at(place as u32);
        if let Some(flow) = slot {
            prefetch(*flow);
        }
    }
    sample.into_iter().flatten()
}
