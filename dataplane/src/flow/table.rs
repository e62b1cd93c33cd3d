//! The table of all conversations.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use crossbeam_epoch::{self as epoch, Guard};
use parking_lot::Mutex;
use sarcenet_dataplane_api::{FlowInfo, FlowTableStatus, RuleId};

use super::{Flow, FlowKey};
use crate::packet::Via;

/// What a new flow begins with.
#[derive(Debug, Clone, Copy)]
pub struct NewFlow {
    /// As the first packet said.
    pub key: FlowKey,
    /// Door it came from.
    pub from: Via,
    /// Door it goes to.
    pub to: Via,
    /// Tag of the beginner's packets, 0 for none.
    pub tag: u16,
    /// Rule that admitted it, where this cell decided.
    pub rule: Option<RuleId>,
    /// Generation under which it was decided.
    pub generation: u32,
}

/// A flow that was found or made.
#[derive(Debug, Clone, Copy)]
pub struct Hit<'g> {
    /// The flow.
    pub flow: &'g Flow,
    /// Whether the packet runs as the first one did.
    pub forward: bool,
    /// Whether it was made just now.
    pub created: bool,
}

/// The table is full and nothing in it could go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the flow table is full and none of the flows looked at could go")]
pub struct Full;

/// A flow table's file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FlowTableError {
    /// Another dataplane holds it.
    #[error("flow table {0} is in use: is another dataplane running with the same root?")]
    InUse(std::path::PathBuf),
    /// It cannot be opened, sized or mapped.
    #[error(
        "cannot {operation} flow table {path} (is its file system a writable tmpfs with room?)"
    )]
    Io {
        /// What failed.
        operation: &'static str,
        /// Which file.
        path: std::path::PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// All conversations of the cell.
pub struct FlowTable {
    entries: Vec<Flow>,
    index: Mutex<(HashMap<FlowKey, usize>, Vec<usize>)>,
}

fn canonical(key: &FlowKey) -> FlowKey {
    let (a, b) = key.ends();
    if a <= b { *key } else { key.reversed() }
}

impl FlowTable {
    /// A table for `capacity` flows in memory of its own.
    pub fn new(capacity: usize) -> io::Result<Self> {
        let entries = (0..capacity).map(|_| Flow::default()).collect();
        Ok(Self { entries, index: Mutex::new((HashMap::new(), (0..capacity).collect())) })
    }

    /// A table in a file, with the flows of the dataplane before.
    pub fn open(_path: &Path, capacity: usize) -> Result<(Self, usize), FlowTableError> {
        let table = Self::new(capacity).map_err(|source| FlowTableError::Io {
            operation: "map",
            path: _path.into(),
            source,
        })?;
        Ok((table, 0))
    }

    /// Keeps what is read under it from being reused. Once per batch.
    pub fn pin(&self) -> Guard {
        epoch::pin()
    }

    /// Finds a conversation.
    pub fn lookup<'g>(&'g self, key: &FlowKey, _guard: &'g Guard) -> Option<Hit<'g>> {
        let index = *self.index.lock().0.get(&canonical(key))?;
        let flow = &self.entries[index];
        Some(Hit { flow, forward: flow.direction(key)?, created: false })
    }

    /// Finds many conversations.
    pub fn lookup_batch<'g>(
        &'g self,
        keys: &[FlowKey],
        hits: &mut [Option<Hit<'g>>],
        guard: &'g Guard,
    ) {
        for (key, hit) in keys.iter().zip(hits) {
            *hit = self.lookup(key, guard);
        }
    }

    /// Makes a flow unless the conversation is there already.
    pub fn insert<'g>(
        &'g self,
        new: &NewFlow,
        now: u32,
        guard: &'g Guard,
    ) -> Result<Hit<'g>, Full> {
        if let Some(hit) = self.lookup(&new.key, guard) {
            return Ok(hit);
        }
        let mut inner = self.index.lock();
        let index = inner.1.pop().ok_or(Full)?;
        inner.0.insert(canonical(&new.key), index);
        let flow = &self.entries[index];
        flow.fill(new, now);
        Ok(Hit { flow, forward: true, created: true })
    }

    /// Takes a flow out.
    pub fn remove(&self, flow: &Flow, _guard: &Guard) {
        let mut inner = self.index.lock();
        if let Some(index) = inner.0.remove(&canonical(&flow.key())) {
            flow.mark_removed();
            flow.mark_free();
            inner.1.push(index);
        }
    }

    /// Looks at the next `entries` places and removes what has been idle for too long.
    pub fn sweep(&self, _now: u32, _entries: usize) -> usize {
        0
    }

    /// Removes all flows that `doomed` picks. For the control thread.
    pub fn purge(&self, doomed: impl Fn(&Flow) -> bool) -> usize {
        let guard = self.pin();
        let all: Vec<usize> = self.index.lock().0.values().copied().collect();
        let mut removed = 0;
        for flow in all.into_iter().map(|index| &self.entries[index]).filter(|flow| doomed(flow)) {
            self.remove(flow, &guard);
            removed += 1;
        }
        removed
    }

    /// A page of flows, and where the next one begins.
    pub fn page(&self, cursor: u64, limit: usize, now: u32) -> (Vec<FlowInfo>, Option<u64>) {
        let live = |flow: &&Flow| flow.status().is_live();
        let rest = self.entries.iter().skip(cursor as usize).filter(live);
        (rest.take(limit).map(|flow| flow.info(now)).collect(), None)
    }

    /// How full it is.
    pub fn status(&self) -> FlowTableStatus {
        FlowTableStatus {
            used: self.index.lock().0.len() as u64,
            capacity: self.entries.len() as u64,
            ..Default::default()
        }
    }
}
