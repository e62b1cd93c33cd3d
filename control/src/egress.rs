//! Which egress rules a container has: from the network file and its terms to sets of rules for
//! the dataplane, one for each distinct list, shared by all containers that have it.
//!
//! What a container may reach is said by security groups where the network file has them (the list
//! may be empty), else by the rules that its runtime passed, as the kernel stack takes those when
//! the sync of security groups is turned off (contract section 7.2, step 9).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use ipnet::Ipv4Net;
use sarcenet_agent_api::{AttachmentId, Metadata, NetOutRule, RuleMeaning, Terms};
use sarcenet_dataplane_api::{EgressRule, SetId, Traffic};

use crate::config::{DenyNetworks, Network};
use crate::rule_names::{RuleNames, fnv1a};
use crate::security_groups::{EgressSpec, Phase, RuleError, SecurityGroup, applying};

/// Rules of a set.
pub type Rules = Arc<Vec<EgressRule>>;

/// A set and its name.
pub type NamedSet = (SetId, Rules);

/// Sets kept by name, those that nobody uses any more included, before these are forgotten.
const SETS_KEPT: usize = 4096;

/// Names of sets. A name is a hash of the rules; it never means other rules as long as it is known.
#[derive(Debug, Default)]
struct SetNames {
    known: BTreeMap<SetId, Rules>,
}

impl SetNames {
    /// The set of these rules.
    fn name(&mut self, rules: Vec<EgressRule>) -> NamedSet {
        let mut id = fnv1a(rules.iter().flat_map(bytes));
        loop {
            match self.known.get(&SetId(id)) {
                Some(known) if **known == rules => return (SetId(id), Arc::clone(known)),
                None => {
                    let rules = Arc::new(rules);
                    self.known.insert(SetId(id), Arc::clone(&rules));
                    return (SetId(id), rules);
                }
                Some(_) => id = id.wrapping_add(1),
            }
        }
    }

    /// Forgets sets that nobody holds when there are many.
    fn bound(&mut self) {
        if self.known.len() > SETS_KEPT {
            self.known.retain(|_, rules| Arc::strong_count(rules) > 1);
        }
    }
}

/// A rule as bytes, for hashing.
fn bytes(rule: &EgressRule) -> impl Iterator<Item = u8> + use<> {
    let (kind, ports) = match rule.traffic {
        Traffic::All => (0, 0),
        Traffic::Tcp(ports) => (1, u32::from(ports.first) << 16 | u32::from(ports.last)),
        Traffic::Udp(ports) => (2, u32::from(ports.first) << 16 | u32::from(ports.last)),
        Traffic::Icmp { kind, code } => {
            let number = |byte: Option<u8>| byte.map_or(0x100, u32::from);
            (3, number(kind) << 16 | number(code))
        }
    };
    let words = [rule.id.0, rule.first.into(), rule.last.into(), ports];
    let last = [kind << 1 | u8::from(rule.log)];
    words.into_iter().flat_map(u32::to_le_bytes).chain(last)
}

/// Sets as they were made, so that each is made once and not at every change of something else.
#[derive(Debug, Default)]
pub struct EgressBook {
    names: SetNames,
    groups: Option<Arc<Vec<SecurityGroup>>>,
    deny: DenyNetworks,
    by_space: HashMap<(Phase, Option<String>), Option<NamedSet>>,
    by_phase: HashMap<Option<Phase>, Option<NamedSet>>,
    by_container: BTreeMap<AttachmentId, (Arc<Terms>, Option<NamedSet>)>,
}

/// What a container may not reach, and what it may.
#[derive(Debug, Default)]
pub struct ContainerSets {
    /// Refused first.
    pub denied: Option<NamedSet>,
    /// Admitted after that; of several rules the last one counts.
    pub allowed: Option<NamedSet>,
}

impl EgressBook {
    /// Forgets what was made for another network than this.
    pub fn begin(&mut self, network: &Network) {
        if self.groups != network.security_groups {
            self.groups.clone_from(&network.security_groups);
            self.by_space.clear();
        }
        let deny = network.outside.as_ref().map(|outside| &outside.deny_networks);
        if deny != Some(&self.deny) {
            self.deny = deny.cloned().unwrap_or_default();
            self.by_phase.clear();
        }
    }

    /// Forgets containers that are not there any more.
    pub fn end(&mut self, there: &HashSet<&AttachmentId>) {
        self.by_container.retain(|id, _| there.contains(id));
        self.names.bound();
    }

    /// The sets of a container.
    pub fn sets(
        &mut self,
        id: &AttachmentId,
        terms: &Arc<Terms>,
        names: &mut RuleNames,
    ) -> ContainerSets {
        let phase = Phase::of(&terms.metadata);
        let allowed = match &self.groups {
            Some(_) => self.of_groups(phase, &terms.metadata, names),
            None => self.of_runtime(id, terms, names),
        };
        ContainerSets { denied: self.denied(phase, names), allowed }
    }

    fn of_groups(
        &mut self,
        phase: Option<Phase>,
        metadata: &Metadata,
        names: &mut RuleNames,
    ) -> Option<NamedSet> {
        let phase = phase?;
        let space = metadata.space_id.clone().filter(|space| !space.is_empty());
        if let Some(made) = self.by_space.get(&(phase, space.clone())) {
            return made.clone();
        }
        let groups = self.groups.as_ref().map_or(&[][..], |groups| groups);
        let mut rules = Vec::new();
        for group in applying(groups, phase, space.as_deref()) {
            for (spec, number) in group.rules.iter().zip(1..) {
                let group = group.name.clone();
                let id = names.name(&RuleMeaning::SecurityGroup { group, number });
                rules.extend(spec.rules(id));
            }
        }
        let made = self.names.some(rules);
        self.by_space.insert((phase, space), made.clone());
        made
    }

    fn of_runtime(
        &mut self,
        id: &AttachmentId,
        terms: &Arc<Terms>,
        names: &mut RuleNames,
    ) -> Option<NamedSet> {
        if let Some((same, made)) = self.by_container.get(id)
            && Arc::ptr_eq(same, terms)
        {
            return made.clone();
        }
        let mut rules = Vec::new();
        for (number, spec) in usable(&terms.net_out) {
            rules.extend(spec.rules(names.name(&RuleMeaning::NetOut { number })));
        }
        let made = self.names.some(rules);
        self.by_container.insert(id.clone(), (Arc::clone(terms), made.clone()));
        made
    }

    fn denied(&mut self, phase: Option<Phase>, names: &mut RuleNames) -> Option<NamedSet> {
        if let Some(made) = self.by_phase.get(&phase) {
            return made.clone();
        }
        let DenyNetworks { always, running, staging } = &self.deny;
        let more: &[Ipv4Net] = match phase {
            Some(Phase::Running) => running,
            Some(Phase::Staging) => staging,
            None => &[],
        };
        let mut rules = Vec::new();
        for &network in always.iter().chain(more) {
            let id = names.name(&RuleMeaning::Denied { network });
            rules.extend(EgressSpec::everything_to(network).rules(id));
        }
        let made = self.names.some(rules);
        self.by_phase.insert(phase, made.clone());
        made
    }
}

impl SetNames {
    /// The set of these rules, none of none. A rule that says what an earlier one says is left out
    /// (contract section 7.6).
    fn some(&mut self, mut rules: Vec<EgressRule>) -> Option<NamedSet> {
        let mut seen = HashSet::with_capacity(rules.len());
        rules.retain(|rule| seen.insert((rule.first, rule.last, rule.traffic, rule.log)));
        (!rules.is_empty()).then(|| self.name(rules))
    }
}

/// The rules of a runtime that mean something, with their numbers from 1. The others were refused or
/// left out when the container came.
fn usable(rules: &[NetOutRule]) -> impl Iterator<Item = (u32, EgressSpec)> {
    let numbered = rules.iter().zip(1..);
    numbered.filter_map(|(rule, number)| Some((number, EgressSpec::from_garden(rule).ok()?)))
}

/// What is wrong with the rules of a runtime.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct NetOutCheck {
    /// Rules that say nothing, by number from 1.
    pub left_out: Vec<(u32, RuleError)>,
    /// Rules of the dataplane that come of the others.
    pub rules: usize,
}

/// Looks for mistakes in the rules of a runtime.
///
/// # Errors
/// The number, from 1, of the first rule that makes no sense, and why.
pub fn check_net_out(rules: &[NetOutRule]) -> Result<NetOutCheck, (u32, RuleError)> {
    let mut check = NetOutCheck::default();
    for (rule, number) in rules.iter().zip(1..) {
        match EgressSpec::from_garden(rule) {
            Ok(spec) => check.rules += spec.destinations.len() * spec.traffic.len(),
            Err(e) if e.is_left_out() => check.left_out.push((number, e)),
            Err(e) => return Err((number, e)),
        }
    }
    Ok(check)
}

#[cfg(test)]
mod tests;
