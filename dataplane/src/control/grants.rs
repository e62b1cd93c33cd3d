//! What containers may do beyond app-to-app rules, made ready for workers. Rules are compiled
//! once for all containers that share them, and limits keep what is left of them across changes.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use sarcenet_dataplane_api::{PortId, Rate, SetId, Settings};

use super::desired::AccessChange;
use crate::{
    limit::{ConnectionLimiter, TokenBucket},
    policy::egress::EgressTable,
    topology::{ConnectionBudget, Grants},
};

/// The grants in force.
#[derive(Debug, Default)]
pub(super) struct GrantBook {
    tables: HashMap<SetId, Arc<EgressTable>>,
    granted: BTreeMap<PortId, (Settings, Arc<Grants>)>,
}

impl GrantBook {
    /// Follows a change. `now_ns` is the workers' clock: new limits begin full.
    pub(super) fn change(&mut self, change: AccessChange, now_ns: u64) {
        for id in change.sets_gone {
            self.tables.remove(&id);
        }
        for port in change.settings_gone {
            self.granted.remove(&port);
        }
        let changed: HashSet<SetId> = change.sets_new.iter().map(|(id, _)| *id).collect();
        for (id, rules) in change.sets_new {
            self.tables.insert(id, Arc::new(EgressTable::compile(&rules)));
        }
        let names_changed = |settings: &&Settings| {
            let sets = settings.denied.into_iter().chain(settings.allowed);
            sets.into_iter().any(|id| changed.contains(&id))
        };
        let same = self.granted.values().map(|(settings, _)| settings).filter(names_changed);
        let again: Vec<Settings> = same.cloned().collect();
        // What is new comes after what is only to be compiled again.
        for settings in again.into_iter().chain(change.settings_new) {
            let grants = Arc::new(self.ready(&settings, now_ns));
            self.granted.insert(settings.port, (settings, grants));
        }
    }

    /// What is in force.
    pub(super) fn grants(&self) -> impl Iterator<Item = (PortId, Arc<Grants>)> {
        self.granted.iter().map(|(&port, (_, grants))| (port, Arc::clone(grants)))
    }

    fn ready(&self, settings: &Settings, now_ns: u64) -> Grants {
        let before = self.granted.get(&settings.port).map(|(settings, grants)| (settings, grants));
        let table = |id: Option<SetId>| self.tables.get(&id?).map(Arc::clone);
        let connections = settings.connections.map(|limit| {
            let same_pace = |budget: &&ConnectionBudget| {
                (budget.limit.per_second, budget.limit.burst) == (limit.per_second, limit.burst)
            };
            let kept = before.and_then(|(_, grants)| grants.connections.as_ref()).filter(same_pace);
            let limiter = kept.map_or_else(
                || Arc::new(ConnectionLimiter::new(&limit, now_ns)),
                |budget| Arc::clone(&budget.limiter),
            );
            ConnectionBudget { limit, limiter }
        });
        Grants {
            denied: table(settings.denied),
            allowed: table(settings.allowed),
            mappings: settings.mappings.clone(),
            send: bucket(settings.send, before.map(|(old, ready)| (old.send, &ready.send)), now_ns),
            receive: bucket(
                settings.receive,
                before.map(|(old, ready)| (old.receive, &ready.receive)),
                now_ns,
            ),
            connections,
        }
    }
}

/// The bucket for a rate: the one before when the rate is the same.
fn bucket(
    rate: Option<Rate>,
    before: Option<(Option<Rate>, &Option<Arc<TokenBucket>>)>,
    now_ns: u64,
) -> Option<Arc<TokenBucket>> {
    let kept = before.filter(|(old, _)| *old == rate).and_then(|(_, bucket)| bucket.as_ref());
    rate.map(|rate| kept.map_or_else(|| Arc::new(TokenBucket::new(&rate, now_ns)), Arc::clone))
}
