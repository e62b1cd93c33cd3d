//! What containers may do beyond app-to-app rules, made ready for workers. Rules are compiled
//! once for all containers that share them, and limits keep what is left of them across changes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use sarcenet_dataplane_api::{EgressRule, PortId, SetId, Settings};

use crate::limit::{ConnectionLimiter, TokenBucket};
use crate::policy::egress::EgressTable;
use crate::topology::{ConnectionBudget, EgressSetEntry, Grants};

/// The grants in force.
#[derive(Debug, Default)]
pub(super) struct GrantBook {
    tables: HashMap<SetId, Arc<EgressTable>>,
    granted: BTreeMap<PortId, (Settings, Arc<Grants>)>,
}

impl GrantBook {
    /// Makes this what is in force. Sets that no container uses are not compiled.
    pub(super) fn change(
        &mut self,
        sets: &BTreeMap<SetId, Vec<EgressRule>>,
        settings: &BTreeMap<PortId, Settings>,
    ) {
        let used = |id: &SetId| {
            settings.values().any(|s| s.denied == Some(*id) || s.allowed == Some(*id))
        };
        self.tables.retain(|id, _| used(id));
        for (&id, rules) in sets.iter().filter(|(id, _)| used(id)) {
            // A set never has other rules under the same name.
            self.tables.entry(id).or_insert_with(|| Arc::new(EgressTable::compile(rules)));
        }
        let before = std::mem::take(&mut self.granted);
        for (&port, settings) in settings {
            let entry = match before.get(&port) {
                Some((same, grants)) if same == settings => Arc::clone(grants),
                before => Arc::new(self.ready(settings, before.map(|(s, g)| (s, &**g)))),
            };
            self.granted.insert(port, (settings.clone(), entry));
        }
    }

    /// What is in force.
    pub(super) fn grants(&self) -> impl Iterator<Item = (PortId, Arc<Grants>)> {
        self.granted.iter().map(|(&port, (_, grants))| (port, Arc::clone(grants)))
    }

    fn ready(&self, settings: &Settings, before: Option<(&Settings, &Grants)>) -> Grants {
        let set = |id: Option<SetId>| {
            let id = id?;
            self.tables.get(&id).map(|rules| EgressSetEntry { id, rules: Arc::clone(rules) })
        };
        let bucket = |rate: Option<sarcenet_dataplane_api::Rate>, before: Option<(_, Option<&Arc<TokenBucket>>)>| {
            let rate = rate?;
            let kept = before.filter(|(old, _)| *old == Some(rate)).and_then(|(_, kept)| kept);
            Some(kept.map_or_else(|| Arc::new(TokenBucket::new(rate)), Arc::clone))
        };
        let connections = settings.connections.map(|limit| {
            let same_pace = |budget: &&ConnectionBudget| {
                (budget.limit.per_second, budget.limit.burst) == (limit.per_second, limit.burst)
            };
            let kept = before.and_then(|(_, grants)| grants.connections.as_ref()).filter(same_pace);
            let limiter = kept.map_or_else(
                || Arc::new(ConnectionLimiter::new(limit.per_second, limit.burst)),
                |budget| Arc::clone(&budget.limiter),
            );
            ConnectionBudget { limit, limiter }
        });
        Grants {
            denied: set(settings.denied),
            allowed: set(settings.allowed),
            mappings: settings.mappings.clone(),
            send: bucket(settings.send, before.map(|(s, g)| (s.send, g.send.as_ref()))),
            receive: bucket(settings.receive, before.map(|(s, g)| (s.receive, g.receive.as_ref()))),
            connections,
        }
    }
}
