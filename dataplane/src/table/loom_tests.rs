//! Models of the index's protocol: loom runs every order in which the threads' steps can be seen.
//!
//! What the epoch does is stood in for by a count of readers, because crossbeam-epoch does not
//! run under loom: a place is used again only when no reader was seen after it was taken out.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, AtomicUsize, fence};
use loom::thread;
use std::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};

use super::Index;

/// Runs a model in every order that has at most six preemptions: bugs that need more are rare,
/// and all orders would take hours.
fn model(run: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(6);
    builder.check(run);
}

/// A table of two places as the flow table keeps them: a key and something that belongs to it.
struct Table {
    index: Index,
    places: [(AtomicU64, AtomicU64); 2],
    readers: AtomicUsize,
}

/// Keys that share both buckets and the tag: nothing but the key itself tells them apart.
const HASH: u64 = 0x1234_5678_0000_0001;
/// The hash of their other view, where they have two.
const OUTER: u64 = 0x8765_4321_0000_0000;

impl Table {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            index: Index::new(1).unwrap(),
            places: Default::default(),
            readers: AtomicUsize::new(0),
        })
    }

    fn fill(&self, place: u32, key: u64) {
        let (its_key, data) = &self.places[place as usize];
        its_key.store(key, Relaxed);
        data.store(key * 10, Relaxed);
    }

    fn find(&self, key: u64) -> Option<u32> {
        self.find_by(HASH, key)
    }

    fn find_by(&self, hash: u64, key: u64) -> Option<u32> {
        self.index.find(hash, |place| self.places[place as usize].0.load(Relaxed) == key)
    }

    /// As the flow table inserts: put if absent, under the lock.
    fn insert(&self, place: u32, key: u64) -> bool {
        let _lock = self.index.lock(HASH);
        if self.find(key).is_some() {
            return false;
        }
        self.fill(place, key);
        self.index.insert(HASH, place).is_ok()
    }

    /// As the flow table inserts what has two views: the outer one first.
    fn insert_both(&self, place: u32, key: u64) -> bool {
        let _lock = self.index.lock_both(HASH, OUTER);
        if self.find(key).is_some() || self.find_by(OUTER, key).is_some() {
            return false;
        }
        self.fill(place, key);
        self.index.insert(OUTER, place).is_ok() && self.index.insert(HASH, place).is_ok()
    }

    /// As the flow table removes it: who takes the inner view out takes the outer one too.
    fn remove_both(&self, place: u32) -> bool {
        self.index.remove(HASH, place) && {
            assert!(self.index.remove(OUTER, place), "the outer view is there for the remover");
            true
        }
    }

    /// Looks a key up and checks that what was found is all there.
    fn read(&self, key: u64) -> bool {
        self.read_by(HASH, key)
    }

    fn read_by(&self, hash: u64, key: u64) -> bool {
        self.readers.fetch_add(1, SeqCst);
        fence(SeqCst);
        let found = self.find_by(hash, key);
        if let Some(place) = found {
            let (its_key, data) = &self.places[place as usize];
            assert_eq!((its_key.load(Relaxed), data.load(Relaxed)), (key, key * 10));
        }
        self.readers.fetch_sub(1, SeqCst);
        found.is_some()
    }
}

#[test]
fn loom_two_insert_the_same_key() {
    model(|| {
        let table = Table::new();
        let writers: Vec<_> = (0..2)
            .map(|place| {
                let table = table.clone();
                thread::spawn(move || table.insert(place, 7))
            })
            .collect();
        table.read(7);
        let made: Vec<bool> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
        assert_eq!(made.iter().filter(|&&made| made).count(), 1);
        assert!(table.read(7));
        assert_eq!(table.index.neighbours(HASH).count(), 1);
    });
}

#[test]
fn loom_two_keys_in_one_bucket() {
    model(|| {
        let table = Table::new();
        // Their keys have different locks in general: here they take none.
        let other = {
            let table = table.clone();
            thread::spawn(move || {
                table.fill(1, 8);
                table.index.insert(HASH, 1).unwrap();
            })
        };
        table.fill(0, 7);
        table.index.insert(HASH, 0).unwrap();
        assert!(table.read(7));
        other.join().unwrap();
        assert!(table.read(7) && table.read(8));
    });
}

#[test]
fn loom_a_visible_entry_is_a_whole_entry() {
    model(|| {
        let table = Table::new();
        let writer = {
            let table = table.clone();
            thread::spawn(move || table.insert(0, 7))
        };
        // `read` asserts that the data belongs to the key.
        table.read(7);
        writer.join().unwrap();
        assert!(table.read(7));
    });
}

#[test]
fn loom_one_of_two_removes() {
    model(|| {
        let table = Table::new();
        assert!(table.insert(0, 7));
        let other = {
            let table = table.clone();
            thread::spawn(move || table.index.remove(HASH, 0))
        };
        let mine = table.index.remove(HASH, 0);
        assert!(mine != other.join().unwrap());
        assert!(!table.read(7));
    });
}

#[test]
fn loom_a_place_is_not_used_again_under_a_reader() {
    model(|| {
        let table = Table::new();
        assert!(table.insert(0, 7));
        let writer = {
            let table = table.clone();
            thread::spawn(move || {
                assert!(table.index.remove(HASH, 0));
                // The stand-in for the epoch: it too fences between taking out and looking for
                // readers, and between becoming a reader and looking up.
                fence(SeqCst);
                if table.readers.load(SeqCst) == 0 {
                    assert!(table.insert(0, 8));
                }
            })
        };
        table.read(7);
        writer.join().unwrap();
        assert!(!table.read(7));
    });
}

#[test]
fn loom_an_entry_that_stays_is_always_found() {
    model(|| {
        let table = Table::new();
        assert!(table.insert(0, 7));
        let writer = {
            let table = table.clone();
            thread::spawn(move || {
                assert!(table.insert(1, 8));
                assert!(table.index.remove(HASH, 1));
            })
        };
        assert!(table.read(7));
        writer.join().unwrap();
        assert_eq!(table.places[0].0.load(Acquire), 7);
    });
}

#[test]
fn loom_two_views_come_and_go_together() {
    model(|| {
        let table = Table::new();
        let writer = {
            let table = table.clone();
            thread::spawn(move || assert!(table.insert_both(0, 7)))
        };
        // By either view; the other one may not be there yet.
        let mut removed = false;
        if let Some(place) = table.find(7).or_else(|| table.find_by(OUTER, 7)) {
            removed = table.remove_both(place);
        }
        writer.join().unwrap();
        assert_eq!((table.read(7), table.read_by(OUTER, 7)), (!removed, !removed));
    });
}

#[test]
fn loom_one_of_two_removes_both_views() {
    model(|| {
        let table = Table::new();
        assert!(table.insert_both(0, 7));
        let other = {
            let table = table.clone();
            thread::spawn(move || table.remove_both(0))
        };
        let mine = table.remove_both(0);
        assert!(mine != other.join().unwrap());
        assert!(!table.read(7) && !table.read_by(OUTER, 7));
    });
}

#[test]
fn loom_a_place_is_not_used_again_under_a_reader_of_the_outer_view() {
    model(|| {
        let table = Table::new();
        assert!(table.insert_both(0, 7));
        let writer = {
            let table = table.clone();
            thread::spawn(move || {
                assert!(table.remove_both(0));
                fence(SeqCst);
                if table.readers.load(SeqCst) == 0 {
                    assert!(table.insert_both(0, 8));
                }
            })
        };
        // `read_by` asserts that what it found stays what it was.
        table.read_by(OUTER, 7);
        writer.join().unwrap();
        assert!(!table.read_by(OUTER, 7) && !table.read(7));
    });
}
