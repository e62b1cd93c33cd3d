//! App-to-app rules: "senders with this tag may open conversations with that container on those
//! ports".
//!
//! Every (tag, container, protocol) has one entry in a lock-free map, its port ranges beside it,
//! so deciding takes the same time whatever the number of rules, and a change touches nothing
//! but the entries that it is about.

#![forbid(unsafe_code)]

pub mod egress;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_epoch::Guard;
use parking_lot::Mutex;
use sarcenet_dataplane_api::{PortRange, Rule, RuleId, RuleKey};

use crate::table::{Map, PortRanges};

/// All rules in force. Workers ask, the control thread changes.
#[derive(Default)]
pub struct PolicyTable {
    map: Map<PortRanges>,
    /// Changes are made one at a time.
    writer: Mutex<()>,
    rules: AtomicUsize,
}

/// What changes for one entry of the map.
#[derive(Default)]
struct Change {
    gone: Vec<PortRange>,
    new: Vec<(PortRange, RuleId)>,
}

impl PolicyTable {
    /// No rules: nothing is admitted.
    pub fn new() -> Self {
        Self::default()
    }

    /// The rule that admits a new conversation, if any. Tag 0 is nobody's.
    #[inline]
    pub fn admit(
        &self,
        source_tag: u16,
        destination: Ipv4Addr,
        protocol: u8,
        port: u16,
        guard: &Guard,
    ) -> Option<RuleId> {
        if source_tag == 0 {
            return None;
        }
        self.map.get(map_key(source_tag, destination, protocol), guard)?.get(port)
    }

    /// Removes `gone`, compared exactly, then adds `new`; a rule whose key is there already gets
    /// the new name. Each entry changes in one step, so a conversation that both the old and the
    /// new rules admit is never refused. Rules for tag 0 or with no port are left out.
    pub fn apply(&self, gone: &[RuleKey], new: &[Rule]) {
        let mut changes: BTreeMap<u64, Change> = BTreeMap::new();
        for key in gone {
            changes.entry(rule_map_key(key)).or_default().gone.push(key.ports);
        }
        for rule in new.iter().filter(|rule| is_sound(rule)) {
            let change = changes.entry(rule_map_key(&rule.key)).or_default();
            change.new.push((rule.key.ports, rule.id));
        }
        let _writer = self.writer.lock();
        for (key, change) in changes {
            let (before, after) = self.map.update(key, |present| {
                let present = present.cloned().unwrap_or_default();
                let next = present.changed(&change.gone, &change.new);
                let counts = (present.len(), next.len());
                (Some(next).filter(|next| !next.is_empty()), counts)
            });
            self.rules.fetch_add(after.wrapping_sub(before), Ordering::Relaxed);
        }
    }

    /// Exactly these rules from now on, all at once.
    pub fn replace(&self, rules: &[Rule]) {
        let mut sorted: Vec<(u64, PortRange, RuleId)> = rules
            .iter()
            .filter(|rule| is_sound(rule))
            .map(|rule| (rule_map_key(&rule.key), rule.key.ports, rule.id))
            .collect();
        // Stable: of rules with equal keys the last one counts, as in `apply`.
        sorted.sort_by_key(|&(key, ..)| key);
        let entries: Vec<(u64, PortRanges)> = sorted
            .chunk_by(|a, b| a.0 == b.0)
            .map(|group| {
                let ranges = group.iter().map(|&(_, ports, rule)| (ports, rule));
                (group[0].0, PortRanges::new(ranges))
            })
            .collect();
        let _writer = self.writer.lock();
        self.map.replace(&entries);
        let count = entries.iter().map(|(_, ranges)| ranges.len()).sum();
        self.rules.store(count, Ordering::Relaxed);
    }

    /// How many rules are in force.
    pub fn len(&self) -> usize {
        self.rules.load(Ordering::Relaxed)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

const fn is_sound(rule: &Rule) -> bool {
    rule.key.source != 0 && rule.key.ports.first <= rule.key.ports.last
}

fn rule_map_key(key: &RuleKey) -> u64 {
    map_key(key.source, key.destination, key.protocol.number())
}

fn map_key(tag: u16, destination: Ipv4Addr, protocol: u8) -> u64 {
    u64::from(tag) << 40 | u64::from(u32::from(destination)) << 8 | u64::from(protocol)
}

#[cfg(test)]
mod tests;
