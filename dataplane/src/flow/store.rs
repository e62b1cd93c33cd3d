//! What a flow table is made of: the slab, the index over it, and what is counted.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU64, AtomicUsize};

use crossbeam_epoch::{self as epoch, Guard};
use crossbeam_utils::CachePadded;
use parking_lot::{Mutex, RwLock};
use sarcenet_dataplane_api::Timeouts;

use super::eviction::{self, Worth};
use super::half_open::HalfOpen;
use super::slab::Slab;
use super::tracking::TCP;
use super::translated::Translated;
use super::window::Windows;
use super::{Flow, FlowKey, Hit, InsertError, NewFlow};
use crate::memory::Pages;
use crate::nat::Nat;
use crate::packet::Via;
use crate::table::Index;

/// All that lives on while somebody may look at a flow.
pub(super) struct Store {
    pub(super) slab: Slab,
    pub(super) index: Index,
    /// What is known of flows with NAT.
    pub(super) translated: Translated,
    /// How many flows of each container wait for an answer.
    pub(super) half_open: HalfOpen,
    pub(super) capacity: usize,
    /// Flows now. Reserved before a flow is made, so it never exceeds the capacity.
    pub(super) used: CachePadded<AtomicUsize>,
    pub(super) created: CachePadded<AtomicU64>,
    pub(super) expired: AtomicU64,
    pub(super) evicted: AtomicU64,
    /// Unanswered flows that made way for others of the same container.
    pub(super) replaced: AtomicU64,
    /// Where the next sweep goes on.
    pub(super) sweep_at: CachePadded<AtomicUsize>,
    /// When flows expire.
    pub(super) timeouts: RwLock<Timeouts>,
    /// Places taken out of the index, to be given back together.
    limbo: CachePadded<Mutex<Vec<u32>>>,
}

/// Places beyond the capacity, for removed flows that somebody may still look at: what a
/// flood replaces while a worker that holds a guard is kept from its processor for some
/// milliseconds. Touched only when that happens.
const SPARE: std::ops::RangeInclusive<usize> = 1024..=65_536;

/// Removed flows that wait for the epoch together.
const LIMBO: usize = 64;

/// Keys looked up together: enough to have many cache misses at once, few enough that what was
/// fetched is still there.
const GROUP: usize = 32;

/// Places that a table of this capacity needs; none when that is more than can be numbered.
pub(super) fn places(capacity: usize) -> Option<usize> {
    // Places are numbered in 32 bits, and the index needs one number for itself.
    let spare = capacity.clamp(*SPARE.start(), *SPARE.end());
    capacity.checked_add(spare).filter(|&places| capacity > 0 && places < u32::MAX as usize)
}

/// An index that has room for both views of as many flows.
pub(super) fn index(capacity: usize) -> io::Result<Index> {
    Index::new(capacity.saturating_mul(2))
}

impl Store {
    pub(super) fn new(slab: Slab, index: Index, capacity: usize) -> Arc<Self> {
        Arc::new(Self {
            slab,
            index,
            translated: Translated::default(),
            half_open: HalfOpen::new(),
            capacity,
            used: CachePadded::default(),
            created: CachePadded::default(),
            expired: AtomicU64::default(),
            evicted: AtomicU64::default(),
            replaced: AtomicU64::default(),
            sweep_at: CachePadded::default(),
            timeouts: RwLock::default(),
            limbo: CachePadded::new(Mutex::new(Vec::with_capacity(LIMBO))),
        })
    }

    pub(super) fn index_pages(&self) -> Pages {
        self.index.pages()
    }

    #[inline]
    pub(super) fn find<'g>(
        &'g self,
        key: &FlowKey,
        hash: u64,
        _guard: &'g Guard,
    ) -> Option<Hit<'g>> {
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
        let forward =
            flow.direction(key).or_else(|| flow.translated_direction(key, self.cell()))?;
        Some(Hit { flow, forward, created: false })
    }

    /// Finds the conversations of many packets.
    pub(super) fn find_batch<'g>(
        &'g self,
        keys: &[FlowKey],
        hits: &mut [Option<Hit<'g>>],
        guard: &'g Guard,
    ) {
        for (keys, hits) in keys.chunks(GROUP).zip(hits.chunks_mut(GROUP)) {
            self.find_group(keys, hits, guard);
        }
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
                self.slab.prefetch(place, keys[i].protocol == TCP);
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
                self.slab.prefetch(place, keys[i].protocol == TCP);
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

    /// The sequence numbers of a flow.
    #[inline]
    pub(super) fn windows(&self, flow: &Flow) -> Option<Windows<'_>> {
        self.slab.windows(self.slab.place(flow)?)
    }

    /// Makes a flow unless the conversation is there.
    pub(super) fn insert<'g>(
        self: &'g Arc<Self>,
        new: &NewFlow,
        now: u32,
        guard: &'g Guard,
    ) -> Result<Hit<'g>, InsertError> {
        match new.nat {
            Nat::None => self.insert_as_is(new, now, guard),
            Nat::Source => self.insert_source(new, now, guard),
            Nat::Destination { cell_port } => self.insert_destination(new, cell_port, now, guard),
        }
    }

    /// Makes a flow without NAT unless the conversation is there.
    fn insert_as_is<'g>(
        self: &'g Arc<Self>,
        new: &NewFlow,
        now: u32,
        guard: &'g Guard,
    ) -> Result<Hit<'g>, InsertError> {
        let hash = new.key.hash();
        let _stripe = self.index.lock(hash);
        if let Some(hit) = self.find(&new.key, hash, guard) {
            return Ok(hit);
        }
        let place = self.reserve(new.from, hash, now, guard)?;
        let Some(flow) = self.slab.get(place) else { return Err(InsertError::Full) };
        self.fill(flow, place, new, 0, now);
        if self.publish(hash, place, now, guard) {
            self.created.fetch_add(1, Relaxed);
            Ok(Hit { flow, forward: true, created: true })
        } else {
            self.end(flow, place, guard);
            Err(InsertError::Full)
        }
    }

    /// Writes a new flow into a place that was reserved for it.
    pub(super) fn fill(&self, flow: &Flow, place: u32, new: &NewFlow, chosen: u16, now: u32) {
        if new.key.protocol == TCP
            && let Some(windows) = self.slab.windows(place)
        {
            windows.clear();
        }
        flow.fill(new, chosen, now);
    }

    /// A place for one more flow from this door, which is counted as used and unanswered.
    pub(super) fn reserve(
        self: &Arc<Self>,
        from: Via,
        hash: u64,
        now: u32,
        guard: &Guard,
    ) -> Result<u32, InsertError> {
        self.charge_half_open(from, hash, now, guard)?;
        let mut taken = None;
        let full = self.used.fetch_add(1, Relaxed) >= self.capacity;
        if !full || self.evict_sample(hash, now, guard) {
            taken = self.slab.take();
        }
        if taken.is_none() {
            self.used.fetch_sub(1, Relaxed);
            self.half_open.discharge(from);
            // Removed places may only wait for the epoch to go on.
            guard.flush();
        }
        taken.ok_or(InsertError::Full)
    }

    /// Puts a filled place into the index, if need be in the place of another flow.
    pub(super) fn publish(
        self: &Arc<Self>,
        hash: u64,
        place: u32,
        now: u32,
        guard: &Guard,
    ) -> bool {
        // Others may fill the slots that were made free, but hardly again and again.
        for _ in 0..8 {
            if self.index.insert(hash, place).is_ok() {
                return true;
            }
            // Not the flow itself, whose other view may be here already.
            let neighbours = self.index.neighbours(hash).filter(|&other| other != place);
            let neighbours = neighbours.filter_map(|place| self.slab.get(place));
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

    pub(super) fn remove(self: &Arc<Self>, flow: &Flow, guard: &Guard) -> bool {
        let Some(place) = self.slab.place(flow) else { return false };
        let key = flow.key();
        // Before the flow is taken out: see `translated`.
        let outer = self.outer_hash(flow, &key);
        if !self.index.remove(key.hash(), place) {
            return false;
        }
        // From here on this is the only one who removes it.
        if let Some(outer) = outer {
            self.index.remove(outer, place);
            self.discharge(flow);
        }
        self.end(flow, place, guard);
        true
    }

    /// The end of a flow that the index does not lead to any more.
    pub(super) fn end(self: &Arc<Self>, flow: &Flow, place: u32, guard: &Guard) {
        if flow.mark_removed() {
            self.half_open.discharge(flow.from());
        }
        self.used.fetch_sub(1, Relaxed);
        self.retire(place, guard);
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
        let store = Arc::clone(self);
        guard.defer(move || store.slab.give(&places));
        guard.flush();
    }

    /// Takes over what lies in the slab. What is no flow, or a second one of the same
    /// conversation, is free.
    pub(super) fn adopt(&self) -> usize {
        let guard = epoch::pin();
        let mut free = Vec::new();
        self.check_offer();
        for place in 0..self.slab.high_water() as u32 {
            let Some(flow) = self.slab.get(place) else { continue };
            let (key, used) = (flow.key(), self.used.load(Relaxed));
            let fits = used < self.capacity && flow.adopt();
            if fits && self.adopt_views(flow, &key, place, &guard) {
                self.used.store(used + 1, Relaxed);
                if flow.status().waits()
                    && let Some(count) = self.half_open.count(flow.from())
                {
                    count.fetch_add(1, Relaxed);
                }
            } else {
                flow.mark_removed();
                free.push(place);
            }
        }
        self.slab.give(&free);
        self.used.load(Relaxed)
    }
}
