//! Names of rules, as the dataplane carries them.
//!
//! A name is a hash of the text of what the rule was made from, so that it means the same after a
//! restart of the agent, when the dataplane shows flows that were admitted before; two texts of the
//! same hash get neighbouring names.

use std::collections::{BTreeMap, HashSet};

use sarcenet_agent_api::{Policy, RuleMeaning};
use sarcenet_dataplane_api::RuleId;

use crate::config::Network;

/// Names kept, those of revoked policies included, before the revoked ones are forgotten.
const NAMES_KEPT: usize = 100_000;

/// Names of rules and what they mean.
#[derive(Debug, Default)]
pub struct RuleNames {
    names: BTreeMap<RuleId, RuleMeaning>,
}

impl RuleNames {
    /// What a rule of that name was made from.
    pub fn meaning(&self, id: RuleId) -> Option<&RuleMeaning> {
        self.names.get(&id)
    }

    /// The name of what is made from `meaning`.
    pub fn name(&mut self, meaning: &RuleMeaning) -> RuleId {
        let mut id = fnv1a(meaning.to_string().bytes()).max(1);
        loop {
            match self.names.get(&RuleId(id)) {
                Some(known) if known == meaning => return RuleId(id),
                None => {
                    self.names.insert(RuleId(id), meaning.clone());
                    return RuleId(id);
                }
                Some(_) => id = id.wrapping_add(1).max(1),
            }
        }
    }

    /// Forgets what is not in force when there is very much. What egress rules and those for routers
    /// were made from is bounded by itself, and kept.
    pub fn bound(&mut self, network: &Network) {
        if self.names.len() > NAMES_KEPT.max(2 * network.policies.len()) {
            let kept: HashSet<&Policy> = network.policies.iter().collect();
            self.names.retain(|_, meaning| match meaning {
                RuleMeaning::Policy(policy) => kept.contains(policy),
                RuleMeaning::SecurityGroup { group, number } => {
                    let groups = network.security_groups.iter().flat_map(|groups| groups.iter());
                    let mut named = groups.filter(|known| known.name == *group);
                    named.any(|known| *number as usize <= known.rules.len())
                }
                RuleMeaning::NetOut { .. }
                | RuleMeaning::Denied { .. }
                | RuleMeaning::Routers { .. } => true,
            });
        }
    }
}

/// FNV-1a, 32 bits.
pub fn fnv1a(bytes: impl IntoIterator<Item = u8>) -> u32 {
    let step = |hash: u32, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    bytes.into_iter().fold(0x811c_9dc5, step)
}

#[cfg(test)]
mod tests {
    use sarcenet_agent_api::{parse_ports, parse_protocol};

    use super::*;

    fn policy(ports: &str) -> RuleMeaning {
        RuleMeaning::Policy(Policy {
            from: "app-a".into(),
            to: "app-b".into(),
            protocol: parse_protocol("tcp").unwrap(),
            ports: parse_ports(ports).unwrap(),
        })
    }

    #[test]
    fn names_are_stable_and_survive_revocation() {
        let (mut names, mut again) = (RuleNames::default(), RuleNames::default());
        let group = RuleMeaning::SecurityGroup { group: "public".into(), number: 1 };
        let meanings = [policy("8080"), policy("53"), group, RuleMeaning::NetOut { number: 1 }];
        let ids: Vec<_> = meanings.iter().map(|meaning| names.name(meaning)).collect();
        for (meaning, id) in meanings.iter().zip(&ids).rev() {
            assert_eq!(again.name(meaning), *id);
            assert_eq!(names.meaning(*id), Some(meaning));
        }
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), 4);
        assert_eq!(names.meaning(RuleId(0)), None);
    }
}
