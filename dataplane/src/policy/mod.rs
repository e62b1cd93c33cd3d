//! App-to-app rules: "senders with this tag may open conversations with that container on those
//! ports".

use std::collections::HashMap;
use std::net::Ipv4Addr;

use crossbeam_epoch::Guard;
use parking_lot::RwLock;
use sarcenet_dataplane_api::{Rule, RuleId, RuleKey};

/// All rules in force.
#[derive(Default)]
pub struct PolicyTable {
    rules: RwLock<HashMap<RuleKey, RuleId>>,
}

impl PolicyTable {
    /// No rules: nothing is admitted.
    pub fn new() -> Self {
        Self::default()
    }

    /// The rule that admits a new conversation, if any. Tag 0 is nobody's.
    pub fn admit(
        &self,
        source_tag: u16,
        destination: Ipv4Addr,
        protocol: u8,
        port: u16,
        _guard: &Guard,
    ) -> Option<RuleId> {
        let rules = self.rules.read();
        let admits = |key: &RuleKey| {
            source_tag != 0
                && key.source == source_tag
                && key.destination == destination
                && key.protocol.number() == protocol
                && key.ports.contains(port)
        };
        rules.iter().filter(|(key, _)| admits(key)).map(|(_, &id)| id).min()
    }

    /// Removes `gone`, then adds `new`.
    pub fn apply(&self, gone: &[RuleKey], new: &[Rule]) {
        let mut rules = self.rules.write();
        for key in gone {
            rules.remove(key);
        }
        rules.extend(new.iter().map(|rule| (rule.key, rule.id)));
    }

    /// Exactly these rules from now on.
    pub fn replace(&self, rules: &[Rule]) {
        *self.rules.write() = rules.iter().map(|rule| (rule.key, rule.id)).collect();
    }

    /// How many rules are in force.
    pub fn len(&self) -> usize {
        self.rules.read().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
