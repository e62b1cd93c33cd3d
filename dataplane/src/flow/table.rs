//! The table of all conversations.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU64, AtomicUsize};

use crossbeam_epoch::{self as epoch, Guard};
use crossbeam_utils::CachePadded;
use parking_lot::Mutex;
use sarcenet_dataplane_api::{FlowInfo, FlowTableStatus, RuleId};

use super::eviction::{self, Worth};
use super::slab::Slab;
use super::tracking::Timeouts;
use super::{Flow, FlowKey};
use crate::packet::Via;
use crate::table::Index;

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
    inner: Arc<Inner>,
}

struct Inner {
    slab: Slab,
    index: Index,
    capacity: usize,
    /// Flows now. Reserved before a flow is made, so it never exceeds the capacity.
    used: CachePadded<AtomicUsize>,
    created: CachePadded<AtomicU64>,
    expired: AtomicU64,
    evicted: AtomicU64,
    /// Where the next sweep goes on.
    sweep_at: CachePadded<AtomicUsize>,
    /// Places taken out of the index, to be given back together.
    limbo: CachePadded<Mutex<Vec<u32>>>,
}

/// Places beyond the capacity, for removed flows that somebody may still look at: what a
/// flood replaces while a worker that holds a guard is kept from its processor for some
/// milliseconds. Touched only when that happens.
const SPARE: std::ops::RangeInclusive<usize> = 1024..=65_536;

/// Places that a walk over the table looks at under one guard.
const WALK: usize = 8192;

/// Removed flows that wait for the epoch together.
const LIMBO: usize = 64;

/// Keys looked up together: enough to have many cache misses at once, few enough that what was
/// fetched is still there.
const GROUP: usize = 32;

/// Places that one page of flows looks at, at most.
const PAGE_SCAN: usize = 65_536;

impl FlowTable {
    /// A table for `capacity` flows in memory of its own. It is touched only as it fills; a full
    /// one takes 64 bytes for each flow and 11 to 22 for its index.
    pub fn new(capacity: usize) -> io::Result<Self> {
        let places = places(capacity).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self::with_slab(Slab::anonymous(places)?, Index::new(capacity)?, capacity))
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
        let index = Index::new(capacity).map_err(no_memory)?;
        let table = Self::with_slab(Slab::open(path, places)?, index, capacity);
        let adopted = table.inner.adopt();
        Ok((table, adopted))
    }

    fn with_slab(slab: Slab, index: Index, capacity: usize) -> Self {
        Self {
            inner: Arc::new(Inner {
                slab,
                index,
                capacity,
                used: CachePadded::default(),
                created: CachePadded::default(),
                expired: AtomicU64::default(),
                evicted: AtomicU64::default(),
                sweep_at: CachePadded::default(),
                limbo: CachePadded::new(Mutex::new(Vec::with_capacity(LIMBO))),
            }),
        }
    }

    /// Keeps every flow found under it as it is: removed perhaps, but not made into another.
    /// Once per batch; a guard held for long keeps places from being used again.
    pub fn pin(&self) -> Guard {
        epoch::pin()
    }

    /// Finds the conversation of a packet.
    #[inline]
    pub fn lookup<'g>(&'g self, key: &FlowKey, guard: &'g Guard) -> Option<Hit<'g>> {
        self.inner.find(key, key.hash(), guard)
    }

    /// Finds the conversations of many packets, more than twice as fast as one by one when the
    /// table is larger than the caches. `hits` is as long as `keys`.
    pub fn lookup_batch<'g>(
        &'g self,
        keys: &[FlowKey],
        hits: &mut [Option<Hit<'g>>],
        guard: &'g Guard,
    ) {
        for (keys, hits) in keys.chunks(GROUP).zip(hits.chunks_mut(GROUP)) {
            self.inner.find_group(keys, hits, guard);
        }
    }

    /// Makes a flow. When the conversation is there already, that flow is returned unchanged.
    /// `now` is in tenths of a second since the dataplane started.
    pub fn insert<'g>(
        &'g self,
        new: &NewFlow,
        now: u32,
        guard: &'g Guard,
    ) -> Result<Hit<'g>, Full> {
        let inner = &self.inner;
        let hash = new.key.hash();
        let _stripe = inner.index.lock(hash);
        if let Some(hit) = inner.find(&new.key, hash, guard) {
            return Ok(hit);
        }
        let place = inner.reserve(hash, now, guard)?;
        let Some(flow) = inner.slab.get(place) else { return Err(Full) };
        flow.fill(new, now);
        if inner.publish(hash, place, now, guard) {
            inner.created.fetch_add(1, Relaxed);
            Ok(Hit { flow, forward: true, created: true })
        } else {
            flow.mark_removed();
            inner.used.fetch_sub(1, Relaxed);
            inner.retire(place, guard);
            Err(Full)
        }
    }

    /// Takes a flow out; without effect when it is out already.
    pub fn remove(&self, flow: &Flow, guard: &Guard) {
        self.inner.remove(flow, guard);
    }

    /// Looks at the next `entries` places and removes flows that were silent for too long.
    /// Returns how many. Calls go round the table together, from whichever thread.
    pub fn sweep(&self, now: u32, entries: usize) -> usize {
        let inner = &self.inner;
        let end = inner.slab.high_water();
        let entries = entries.min(end);
        if inner.used.load(Relaxed) == 0 || entries == 0 {
            return 0;
        }
        let guard = self.pin();
        let start = inner.sweep_at.fetch_add(entries, Relaxed);
        let removed = (0..entries)
            .filter_map(|step| inner.slab.get((start.wrapping_add(step) % end) as u32))
            .filter(|flow| eviction::is_expired(flow, now, &Timeouts::DEFAULT))
            .filter(|flow| inner.remove(flow, &guard))
            .count();
        inner.expired.fetch_add(removed as u64, Relaxed);
        removed
    }

    /// Removes all flows that `doomed` picks. Walks the whole table: for the control thread.
    pub fn purge(&self, doomed: impl Fn(&Flow) -> bool) -> usize {
        let mut guard = self.pin();
        let mut removed = 0;
        for place in 0..self.inner.slab.high_water() {
            if place % WALK == 0 {
                guard.repin();
            }
            if let Some(flow) = self.inner.slab.get(place as u32)
                && flow.status().is_live()
                && doomed(flow)
            {
                removed += usize::from(self.inner.remove(flow, &guard));
            }
        }
        removed
    }

    /// Up to `limit` flows from `cursor` on (0 at first), and the cursor of the next page; none
    /// at the table's end. A page of a sparse table may have fewer flows, even none, and yet a
    /// next one. `now` as in [`FlowTable::insert`].
    pub fn page(&self, cursor: u64, limit: usize, now: u32) -> (Vec<FlowInfo>, Option<u64>) {
        let _guard = self.pin();
        let end = self.inner.slab.high_water();
        let start = usize::try_from(cursor).unwrap_or(end).min(end);
        let stop = end.min(start.saturating_add(PAGE_SCAN));
        let mut flows = Vec::new();
        for place in start..stop {
            if flows.len() == limit {
                return (flows, Some(place as u64));
            }
            let flow = self.inner.slab.get(place as u32).filter(|flow| flow.status().is_live());
            flows.extend(flow.map(|flow| flow.info(now)));
        }
        (flows, (stop < end).then_some(stop as u64))
    }

    /// How full it is.
    pub fn status(&self) -> FlowTableStatus {
        let inner = &self.inner;
        FlowTableStatus {
            used: inner.used.load(Relaxed) as u64,
            capacity: inner.capacity as u64,
            created: inner.created.load(Relaxed),
            expired: inner.expired.load(Relaxed),
            evicted: inner.evicted.load(Relaxed),
        }
    }
}

impl Drop for FlowTable {
    fn drop(&mut self) {
        self.inner.slab.unlock();
    }
}

fn places(capacity: usize) -> Option<usize> {
    // Places are numbered in 32 bits, and the index needs one number for itself.
    let spare = capacity.clamp(*SPARE.start(), *SPARE.end());
    capacity.checked_add(spare).filter(|&places| capacity > 0 && places < u32::MAX as usize)
}

impl Inner {
    #[inline]
    fn find<'g>(&'g self, key: &FlowKey, hash: u64, _guard: &'g Guard) -> Option<Hit<'g>> {
        let mut hit = None;
        self.index.find(hash, |place| {
            hit = self.hit(place, key);
            hit.is_some()
        });
        hit
    }

    /// The flow at a place, if it is the conversation of that key.
    #[inline]
    fn hit(&self, place: u32, key: &FlowKey) -> Option<Hit<'_>> {
        let flow = self.slab.get(place)?;
        flow.direction(key).map(|forward| Hit { flow, forward, created: false })
    }

    /// Looks up to [`GROUP`] keys up in steps, each of which asks for the cache lines that the
    /// next one reads.
    #[inline]
    fn find_group<'g>(&'g self, keys: &[FlowKey], hits: &mut [Option<Hit<'g>>], guard: &'g Guard) {
        let mut hashes = [0_u64; GROUP];
        let mut guesses = [None; GROUP];
        for (key, hash) in keys.iter().zip(&mut hashes) {
            *hash = key.hash();
            self.index.prefetch(*hash);
        }
        let hashes = &hashes[..keys.len()];
        let mut missing = 0_u32;
        for (i, (&hash, guess)) in hashes.iter().zip(&mut guesses).enumerate() {
            *guess = self.index.guess(hash);
            if let Some(place) = *guess {
                self.slab.prefetch(place);
            } else {
                self.index.prefetch_second(hash);
                missing |= 1 << i;
            }
        }
        while missing != 0 {
            let i = missing.trailing_zeros() as usize % GROUP;
            missing &= missing - 1;
            guesses[i] = self.index.guess_second(hashes[i]);
            if let Some(place) = guesses[i] {
                self.slab.prefetch(place);
            }
        }
        for (i, (key, hit)) in keys.iter().zip(hits).enumerate() {
            *hit = guesses[i].and_then(|place| {
                self.hit(place, key).or_else(|| {
                    // Another key with the same tag, once in billions.
                    self.find(key, hashes[i], guard)
                })
            });
        }
    }

    /// A place for one more flow, which is counted as used.
    fn reserve(self: &Arc<Self>, hash: u64, now: u32, guard: &Guard) -> Result<u32, Full> {
        let mut taken = None;
        let full = self.used.fetch_add(1, Relaxed) >= self.capacity;
        if !full || self.evict_sample(hash, now, guard) {
            taken = self.slab.take();
        }
        if taken.is_none() {
            self.used.fetch_sub(1, Relaxed);
            // Removed places may only wait for the epoch to go on.
            guard.flush();
        }
        taken.ok_or(Full)
    }

    /// Puts a filled place into the index, if need be in the place of another flow.
    fn publish(self: &Arc<Self>, hash: u64, place: u32, now: u32, guard: &Guard) -> bool {
        // Others may fill the slots that were made free, but hardly again and again.
        for _ in 0..8 {
            if self.index.insert(hash, place).is_ok() {
                return true;
            }
            let neighbours = self.index.neighbours(hash).filter_map(|place| self.slab.get(place));
            let Some(victim) = neighbours.min_by_key(|flow| Worth::of(flow, now)) else { continue };
            if self.remove(victim, guard) {
                self.evicted.fetch_add(1, Relaxed);
            }
        }
        false
    }

    /// Removes the least valuable of some flows. False when there was none among them.
    fn evict_sample(self: &Arc<Self>, hash: u64, now: u32, guard: &Guard) -> bool {
        let flow_at = |place| self.slab.get(place);
        // Another worker may choose the same one, and take it first.
        for attempt in 0..4 {
            let Some(victim) =
                eviction::choose(hash ^ attempt, self.slab.high_water(), now, flow_at)
            else {
                continue;
            };
            if self.remove(victim, guard) {
                self.evicted.fetch_add(1, Relaxed);
                return true;
            }
        }
        false
    }

    fn remove(self: &Arc<Self>, flow: &Flow, guard: &Guard) -> bool {
        let Some(place) = self.slab.place(flow) else { return false };
        if !self.index.remove(flow.key().hash(), place) {
            return false;
        }
        // From here on this is the only one who removes it.
        flow.mark_removed();
        self.used.fetch_sub(1, Relaxed);
        self.retire(place, guard);
        true
    }

    /// Gives a place back once nobody can be looking at it.
    fn retire(self: &Arc<Self>, place: u32, guard: &Guard) {
        let mut limbo = self.limbo.lock();
        limbo.push(place);
        if limbo.len() < LIMBO {
            return;
        }
        let places = std::mem::replace(&mut *limbo, Vec::with_capacity(LIMBO));
        drop(limbo);
        let inner = Arc::clone(self);
        guard.defer(move || inner.slab.give(&places));
        guard.flush();
    }

    /// Takes over what lies in the slab. What is no flow, or a second one of the same
    /// conversation, is free.
    fn adopt(&self) -> usize {
        let guard = epoch::pin();
        let mut free = Vec::new();
        for place in 0..self.slab.high_water() as u32 {
            let Some(flow) = self.slab.get(place) else { continue };
            let (key, used) = (flow.key(), self.used.load(Relaxed));
            let hash = key.hash();
            let fits = used < self.capacity && flow.adopt();
            if fits
                && self.find(&key, hash, &guard).is_none()
                && self.index.insert(hash, place).is_ok()
            {
                self.used.store(used + 1, Relaxed);
            } else {
                flow.mark_removed();
                free.push(place);
            }
        }
        self.slab.give(&free);
        self.used.load(Relaxed)
    }
}

#[cfg(test)]
mod tests;
