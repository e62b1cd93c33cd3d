//! Lock-free hash index: hash -> 32-bit value.
//!
//! A bucket is one cache line of eight slots, a slot is one word: 32 bits of the hash (the tag)
//! and the value. Every hash has two buckets and an entry never moves, so a reader that looks
//! into both cannot miss an entry that is there. One store publishes an entry, one takes it out.
//!
//! The index does not know keys. Two entries may have the same tag, so whoever looks up compares
//! the key where the value points; and whoever inserts makes sure first, under [`Index::lock`],
//! that the key is not there. Values that were taken out must not be used for another key while a
//! reader may still follow them: see [`crate::flow::FlowTable`].

use std::io;

use crossbeam_utils::CachePadded;

use super::prefetch;
use super::sync::{AtomicU64, Lock, MutexGuard, Ordering};
#[cfg(not(loom))]
use crate::memory::Memory;
use crate::memory::Pages;

/// Slots of a bucket; few in a model, which runs every order of all accesses to them.
#[cfg(not(loom))]
const SLOTS: usize = 8;
#[cfg(loom)]
const SLOTS: usize = 2;

/// An entry goes into its first bucket while that has fewer entries than this, so that most
/// look-ups read one line; beyond, into the emptier of the two, so that pairs fill up late.
const PREFER_FIRST: u32 = SLOTS as u32 * 5 / 8;

/// Locks for writers of the same key.
#[cfg(not(loom))]
const STRIPES: usize = 256;
#[cfg(loom)]
const STRIPES: usize = 1;

/// One cache line of slots. A slot is `tag << 32 | value + 1`, or 0.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub(crate) struct Bucket([AtomicU64; SLOTS]);

#[cfg(not(loom))]
const _: () = assert!(size_of::<Bucket>() == 64);

/// Both buckets of a hash are full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PairFull;

/// See the module's description.
pub struct Index {
    #[cfg(not(loom))]
    buckets: Memory<Bucket>,
    #[cfg(loom)]
    buckets: Vec<Bucket>,
    mask: u32,
    stripes: Box<[CachePadded<Lock>]>,
}

impl Index {
    /// An index that takes `capacity` entries at most three quarters full, in 11 to 22 bytes for
    /// each.
    pub fn new(capacity: usize) -> io::Result<Self> {
        let slots = capacity.saturating_add(capacity / 3);
        let buckets = slots.div_ceil(SLOTS).max(2).checked_next_power_of_two();
        let buckets =
            buckets.filter(|&n| n <= 1 << 28).ok_or(io::Error::from(io::ErrorKind::OutOfMemory))?;
        Ok(Self {
            #[cfg(not(loom))]
            buckets: Memory::anonymous(buckets)?,
            #[cfg(loom)]
            buckets: (0..buckets).map(|_| Bucket::default()).collect(),
            mask: buckets as u32 - 1,
            stripes: (0..STRIPES).map(|_| CachePadded::default()).collect(),
        })
    }

    /// What its memory lies in.
    pub fn pages(&self) -> Pages {
        #[cfg(not(loom))]
        return self.buckets.pages();
        #[cfg(loom)]
        Pages::Ordinary
    }

    /// Keeps other writers of the same hash away.
    pub fn lock(&self, hash: u64) -> MutexGuard<'_, ()> {
        self.stripes[hash as usize % STRIPES].lock()
    }

    /// Keeps other writers of two hashes away. Locks are taken in the order of their numbers, so
    /// two who lock the same ones cannot wait for each other.
    pub fn lock_both(&self, a: u64, b: u64) -> (MutexGuard<'_, ()>, Option<MutexGuard<'_, ()>>) {
        let (a, b) = (a as usize % STRIPES, b as usize % STRIPES);
        let first = self.stripes[a.min(b)].lock();
        (first, (a != b).then(|| self.stripes[a.max(b)].lock()))
    }

    /// Keeps all other writers away, in the order of [`Index::lock_both`].
    pub fn lock_all(&self) -> Vec<MutexGuard<'_, ()>> {
        self.stripes.iter().map(|stripe| stripe.lock()).collect()
    }

    /// Asks for the cache line where the entry of `hash` most likely is.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        prefetch(self.first(hash));
    }

    /// Asks for the cache line where it is otherwise.
    #[inline]
    pub fn prefetch_second(&self, hash: u64) {
        prefetch(self.second(hash));
    }

    /// A value with the tag of `hash` in its first bucket; probably, not surely, the right one.
    #[inline]
    pub fn guess(&self, hash: u64) -> Option<u32> {
        self.first(hash).find(hash, |_| true)
    }

    /// The same in its second bucket.
    #[inline]
    pub fn guess_second(&self, hash: u64) -> Option<u32> {
        self.second(hash).find(hash, |_| true)
    }

    /// The value with this hash for which `is` says yes.
    #[inline]
    pub fn find(&self, hash: u64, mut is: impl FnMut(u32) -> bool) -> Option<u32> {
        let first = self.first(hash).find(hash, &mut is);
        first.or_else(|| self.second(hash).find(hash, &mut is))
    }

    /// Publishes a value, which must be below `u32::MAX`. Whatever was written before is seen by
    /// whoever finds it. The caller holds [`Index::lock`] and knows that the key is not there.
    pub fn insert(&self, hash: u64, value: u32) -> Result<(), PairFull> {
        let (first, second) = (self.first(hash), self.second(hash));
        loop {
            let (in_first, in_second) = (first.used(), second.used());
            let choice = if in_first < PREFER_FIRST || in_first <= in_second {
                (first, in_first)
            } else {
                (second, in_second)
            };
            if choice.1 == SLOTS as u32 {
                return Err(PairFull);
            }
            // Writers of other keys share the bucket, so the slot may be gone by now.
            if choice.0.put(word(hash, value)) {
                return Ok(());
            }
        }
    }

    /// Takes a value out. False when it was not there: of several who try, one succeeds.
    pub fn remove(&self, hash: u64, value: u32) -> bool {
        let word = word(hash, value);
        self.first(hash).take(word) || self.second(hash).take(word)
    }

    /// All values in the buckets of `hash`.
    pub fn neighbours(&self, hash: u64) -> impl Iterator<Item = u32> {
        let slots = self.first(hash).0.iter().chain(&self.second(hash).0);
        slots.filter_map(|slot| (slot.load(Ordering::Acquire) as u32).checked_sub(1))
    }

    /// Entries in all buckets, counted one by one.
    #[cfg(all(test, not(loom)))]
    pub fn len(&self) -> usize {
        self.buckets.iter().map(|bucket| bucket.used() as usize).sum()
    }

    fn first(&self, hash: u64) -> &Bucket {
        &self.buckets[(hash as u32 & self.mask) as usize]
    }

    fn second(&self, hash: u64) -> &Bucket {
        // An odd number of buckets away, so never the first again.
        let distance = (tag(hash) as u32).wrapping_mul(0x9e37_79b9) >> 3 | 1;
        &self.buckets[((hash as u32 ^ distance) & self.mask) as usize]
    }
}

/// The half of a hash that does not choose the first bucket.
const fn tag(hash: u64) -> u64 {
    hash >> 32
}

const fn word(hash: u64, value: u32) -> u64 {
    tag(hash) << 32 | (value as u64 + 1)
}

impl Bucket {
    #[inline]
    fn find(&self, hash: u64, mut is: impl FnMut(u32) -> bool) -> Option<u32> {
        let tag = tag(hash);
        // All eight first and no branch between them: which one matches cannot be predicted.
        let mut matches = 0_u32;
        for (i, slot) in self.0.iter().enumerate() {
            matches |= u32::from(slot.load(Ordering::Relaxed) >> 32 == tag) << i;
        }
        while matches != 0 {
            let slot = &self.0[matches.trailing_zeros() as usize % SLOTS];
            // Again, now with what its writer wrote before it. It may have changed since.
            let word = slot.load(Ordering::Acquire);
            if word >> 32 == tag
                && let Some(value) = (word as u32).checked_sub(1)
                && is(value)
            {
                return Some(value);
            }
            matches &= matches - 1;
        }
        None
    }

    fn used(&self) -> u32 {
        self.0.iter().map(|slot| u32::from(slot.load(Ordering::Relaxed) != 0)).sum()
    }

    /// Puts a word into a free slot. False when others took all there were.
    fn put(&self, word: u64) -> bool {
        self.0.iter().any(|slot| {
            slot.load(Ordering::Relaxed) == 0
                && slot.compare_exchange(0, word, Ordering::Release, Ordering::Relaxed).is_ok()
        })
    }

    fn take(&self, word: u64) -> bool {
        self.0.iter().any(|slot| {
            slot.load(Ordering::Relaxed) == word
                && slot.compare_exchange(word, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::table::hash_pair;

    #[test]
    fn finds_what_is_there_and_nothing_else() {
        let index = Index::new(1000).unwrap();
        for value in 0..1000 {
            index.insert(hash_pair(u64::from(value), 0), value).unwrap();
        }
        for value in 0..1000 {
            let hash = hash_pair(u64::from(value), 0);
            assert_eq!(index.find(hash, |found| found == value), Some(value));
            assert_eq!(index.find(hash_pair(u64::from(value), 1), |_| true), None);
        }
        for value in 0..1000 {
            let hash = hash_pair(u64::from(value), 0);
            assert!(index.remove(hash, value));
            assert!(!index.remove(hash, value));
            assert_eq!(index.find(hash, |found| found == value), None);
        }
        assert_eq!(index.len(), 0);
    }

    #[test]
    fn the_same_hash_with_several_values() {
        let index = Index::new(100).unwrap();
        for value in 0..16 {
            index.insert(42, value).unwrap();
        }
        assert_eq!(index.insert(42, 16), Err(PairFull));
        for value in 0..16 {
            assert_eq!(index.find(42, |found| found == value), Some(value));
        }
        let mut all: Vec<u32> = index.neighbours(42).collect();
        all.sort_unstable();
        assert_eq!(all, (0..16).collect::<Vec<_>>());
        assert!(index.remove(42, 9));
        assert_eq!(index.insert(42, 16), Ok(()));
    }

    #[test]
    fn hash_zero_and_value_zero_are_an_entry() {
        let index = Index::new(1).unwrap();
        assert_eq!(index.find(0, |_| true), None);
        index.insert(0, 0).unwrap();
        assert_eq!(index.find(0, |_| true), Some(0));
        assert_eq!(index.guess(0), Some(0));
    }

    #[test]
    fn three_quarters_full_is_not_full() {
        // 196,608 is the capacity at which the number of buckets is about to double.
        let index = Index::new(196_608).unwrap();
        assert_eq!(index.buckets.len(), 32_768);
        let refused = (0..196_608)
            .filter(|&value| index.insert(hash_pair(u64::from(value), 7), value).is_err())
            .count();
        // Chance decides; 15 on average.
        assert!(refused < 60, "{refused} pairs were full");
    }

    #[test]
    fn most_entries_are_in_their_first_bucket() {
        let index = Index::new(65_536).unwrap();
        for value in 0..65_536 {
            index.insert(hash_pair(u64::from(value), 3), value).unwrap();
        }
        let first = (0..65_536_u32)
            .filter(|&value| {
                let hash = hash_pair(u64::from(value), 3);
                index.first(hash).find(hash, |found| found == value).is_some()
            })
            .count();
        assert!(first > 56_000, "{first} of 65536");
    }
}
