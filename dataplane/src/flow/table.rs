//! The table of all conversations.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crossbeam_epoch::{self as epoch, Guard};
use sarcenet_dataplane_api::{FlowInfo, FlowState, FlowTableStatus, RuleId, Timeouts, Tracking};

use super::eviction;
use super::slab::Slab;
use super::store::{self, Store, places};
use super::window::{self, Segment};
use super::{Admission, Flow, FlowKey};
use crate::memory::Pages;
use crate::nat::Nat;
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
    /// Whether it is translated. `key` is the inner view in any case.
    pub nat: Nat,
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

/// A flow cannot be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InsertError {
    /// The table is full and nothing in it could go.
    #[error("the flow table is full and none of the flows looked at could go")]
    Full,
    /// Its container has as many conversations that nobody has answered as it may, and none of
    /// those looked at could go.
    #[error("the container has too many conversations that nobody has answered")]
    HalfOpen,
    /// No translation of it is free: every port of the cell that was tried is in use towards the
    /// same endpoint, the container has as many conversations as it may, the cell has no address
    /// or ports for it, or another conversation is in the way.
    #[error("no port of the cell is free for the conversation")]
    NatExhausted,
}

/// A flow table's file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FlowTableError {
    /// Another dataplane holds it.
    #[error("flow table {0} is in use: is another dataplane running with the same root?")]
    InUse(PathBuf),
    /// It cannot be opened, sized or mapped.
    #[error("cannot {operation} flow table {path}; it needs a writable tmpfs with room for it")]
    Io {
        /// What failed.
        operation: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The index has no memory.
    #[error("no memory for a flow table of {capacity} flows; ask for fewer")]
    Memory {
        /// Flows asked for.
        capacity: usize,
        /// What the system said.
        source: io::Error,
    },
}

/// All conversations of a cell.
///
/// Workers look up without a lock; making a flow takes a lock that only the same conversation
/// competes for. The place of a removed flow is used again when no [`Guard`] of that time is left.
pub struct FlowTable {
    pub(super) store: Arc<Store>,
}

/// Places that a walk over the table looks at under one guard.
const WALK: usize = 8192;

/// Places that one page of flows looks at, at most.
const PAGE_SCAN: usize = 65_536;

impl FlowTable {
    /// A table for `capacity` flows in memory of its own. It is touched only as it fills; a full
    /// one takes 64 bytes for each flow and 22 to 43 for its index.
    pub fn new(capacity: usize) -> io::Result<Self> {
        let places = places(capacity).ok_or(io::ErrorKind::OutOfMemory)?;
        let slab = Slab::anonymous(places)?;
        Ok(Self { store: Store::new(slab, store::index(capacity)?, capacity) })
    }

    /// A table in a file, with the flows that the dataplane before has left in it. They are to be
    /// decided again (their generation is 0), keep their state, and count as seen just now. The
    /// file is locked; it belongs on a tmpfs.
    ///
    /// Returns the table and how many flows were taken over: none when the file is new, or has
    /// another layout or capacity.
    pub fn open(path: &Path, capacity: usize) -> Result<(Self, usize), FlowTableError> {
        let no_memory = |source| FlowTableError::Memory { capacity, source };
        let places =
            places(capacity).ok_or_else(|| no_memory(io::ErrorKind::OutOfMemory.into()))?;
        let index = store::index(capacity).map_err(no_memory)?;
        let store = Store::new(Slab::open(path, places)?, index, capacity);
        let adopted = store.adopt();
        Ok((Self { store }, adopted))
    }

    /// What the memory of its index lies in.
    pub fn index_pages(&self) -> Pages {
        self.store.index_pages()
    }

    /// Keeps every flow found under it as it is: removed perhaps, but not made into another.
    /// Once per batch; a guard held for long keeps places from being used again.
    pub fn pin(&self) -> Guard {
        epoch::pin()
    }

    /// Finds the conversation of a packet.
    #[inline]
    pub fn lookup<'g>(&'g self, key: &FlowKey, guard: &'g Guard) -> Option<Hit<'g>> {
        self.store.find(key, key.hash(), guard)
    }

    /// Finds the conversations of many packets, more than twice as fast as one by one when the
    /// table is larger than the caches. `hits` is as long as `keys`.
    pub fn lookup_batch<'g>(
        &'g self,
        keys: &[FlowKey],
        hits: &mut [Option<Hit<'g>>],
        guard: &'g Guard,
    ) {
        self.store.find_batch(keys, hits, guard);
    }

    /// Makes a flow. When the conversation is there already, that flow is returned unchanged.
    /// With [`Nat::Source`] a port of the cell is chosen that no other conversation with the same
    /// endpoint has; [`FlowTable::translation`] says which. `now` is in tenths of a second since the dataplane started.
    pub fn insert<'g>(
        &'g self,
        new: &NewFlow,
        now: u32,
        guard: &'g Guard,
    ) -> Result<Hit<'g>, InsertError> {
        self.store.insert(new, now, guard)
    }

    /// Whether a packet may be carried as part of a conversation. `segment` is none for other
    /// protocols than TCP.
    #[inline]
    pub fn admits(&self, hit: &Hit<'_>, segment: Option<&Segment>) -> Admission {
        let Some(segment) = segment else { return Admission::Continue };
        let (flow, forward) = (hit.flow, hit.forward);
        let admission = flow.admits(forward, Some(segment.flags));
        let Some(windows) = self.store.windows(flow) else { return admission };
        match admission {
            Admission::Continue => match windows.place(flow.state(), forward, segment) {
                window::Place::Inside => Admission::Continue,
                window::Place::Aside => Admission::Aside,
                window::Place::Anew => Admission::Anew,
                window::Place::Outside => Admission::OutOfWindow,
            },
            // An end that has closed may have forgotten the connection since.
            Admission::Invalid
                if flow.state() == FlowState::FinWait && windows.renews(forward, segment) =>
            {
                Admission::Anew
            }
            other => other,
        }
    }

    /// Notes that packets of a conversation are carried: state, sequence numbers, counters, time.
    /// `admission` is what [`FlowTable::admits`] said, [`Admission::Continue`] for the first packet.
    /// `now` is in tenths of a second since the dataplane started.
    #[inline(always)]
    pub fn track(
        &self,
        hit: &Hit<'_>,
        admission: Admission,
        segment: Option<&Segment>,
        packets: u32,
        bytes: u32,
        now: u32,
    ) {
        let (flow, forward) = (hit.flow, hit.forward);
        flow.count(forward, packets, bytes, now);
        let answered = match segment {
            None => flow.advance(forward, None),
            Some(segment) => self.follow(flow, forward, admission, segment),
        };
        if answered {
            self.store.half_open.discharge(flow.from());
        }
    }

    /// Follows a TCP connection over one more segment. Returns whether it was the first answer.
    #[inline]
    fn follow(&self, flow: &Flow, forward: bool, admission: Admission, segment: &Segment) -> bool {
        let Some(windows) = self.store.windows(flow) else { return false };
        match admission {
            Admission::Aside => {
                windows.note_aside(forward, segment);
                false
            }
            Admission::Anew => {
                flow.set_scales(windows.renew(forward, segment));
                flow.renew()
            }
            _ => {
                let before = flow.scales();
                let scales = windows.note(flow.state(), forward, segment, before);
                if scales != before {
                    flow.set_scales(scales);
                }
                flow.advance(forward, Some(segment.flags))
            }
        }
    }

    /// Takes a flow out; without effect when it is out already.
    pub fn remove(&self, flow: &Flow, guard: &Guard) {
        self.store.remove(flow, guard);
    }

    /// Looks at the next `entries` places and removes flows that were silent for too long.
    /// Returns how many. Calls go round the table together, from whichever thread.
    pub fn sweep(&self, now: u32, entries: usize) -> usize {
        let store = &self.store;
        let end = store.slab.high_water();
        let entries = entries.min(end);
        if store.used.load(Relaxed) == 0 || entries == 0 {
            return 0;
        }
        let guard = self.pin();
        let timeouts = *store.timeouts.read();
        let start = store.sweep_at.fetch_add(entries, Relaxed);
        let removed = (0..entries)
            .filter_map(|step| store.slab.get((start.wrapping_add(step) % end) as u32))
            .filter(|flow| eviction::is_expired(flow, now, &timeouts))
            .filter(|flow| store.remove(flow, &guard))
            .count();
        store.expired.fetch_add(removed as u64, Relaxed);
        removed
    }

    /// Sets how many conversations that nobody has answered a container may have, at least one.
    /// One that has more keeps them.
    pub fn set_half_open_limit(&self, per_container: u32) {
        self.store.half_open.set_limit(per_container);
    }

    /// Sets how conversations are followed: their timeouts from the next sweep on.
    pub fn set_tracking(&self, tracking: &Tracking) {
        self.set_timeouts(tracking.timeouts);
        let share = self.store.capacity / 100 * usize::from(tracking.half_open_percent)
            + self.store.capacity % 100 * usize::from(tracking.half_open_percent) / 100;
        self.set_half_open_limit(u32::try_from(share).unwrap_or(u32::MAX));
    }

    /// Sets how long flows may be silent, from the next sweep on.
    pub fn set_timeouts(&self, timeouts: Timeouts) {
        *self.store.timeouts.write() = timeouts;
    }

    /// Removes all flows that `doomed` picks. Walks the whole table: for the control thread.
    pub fn purge(&self, doomed: impl Fn(&Flow) -> bool) -> usize {
        let mut guard = self.pin();
        let mut removed = 0;
        for place in 0..self.store.slab.high_water() {
            if place % WALK == 0 {
                guard.repin();
            }
            if let Some(flow) = self.store.slab.get(place as u32)
                && flow.status().is_live()
                && doomed(flow)
            {
                removed += usize::from(self.store.remove(flow, &guard));
            }
        }
        removed
    }

    /// Up to `limit` flows from `cursor` on (0 at first), and the cursor of the next page; none
    /// at the table's end. A page of a sparse table may have fewer flows, even none, and yet a
    /// next one. `now` as in [`FlowTable::insert`].
    pub fn page(&self, cursor: u64, limit: usize, now: u32) -> (Vec<FlowInfo>, Option<u64>) {
        let _guard = self.pin();
        let end = self.store.slab.high_water();
        let start = usize::try_from(cursor).unwrap_or(end).min(end);
        let stop = end.min(start.saturating_add(PAGE_SCAN));
        let cell = self.store.cell();
        let mut flows = Vec::new();
        for place in start..stop {
            if flows.len() == limit {
                return (flows, Some(place as u64));
            }
            let flow = self.store.slab.get(place as u32).filter(|flow| flow.status().is_live());
            flows.extend(flow.map(|flow| flow.info(now, cell)));
        }
        (flows, (stop < end).then_some(stop as u64))
    }

    /// How full it is.
    pub fn status(&self) -> FlowTableStatus {
        let store = &self.store;
        FlowTableStatus {
            used: store.used.load(Relaxed) as u64,
            capacity: store.capacity as u64,
            created: store.created.load(Relaxed),
            expired: store.expired.load(Relaxed),
            evicted: store.evicted.load(Relaxed),
            replaced: store.replaced.load(Relaxed),
        }
    }
}

impl Drop for FlowTable {
    fn drop(&mut self) {
        self.store.slab.unlock();
    }
}

#[cfg(test)]
mod tests;
