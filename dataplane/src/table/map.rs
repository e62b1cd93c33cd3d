//! A map that is read without locks and written by a control thread.

use std::alloc::{Layout, handle_alloc_error};

use crossbeam_epoch::{self as epoch, Guard};
use parking_lot::Mutex;

use super::{Index, Published, Retired, hash_pair};

/// A map from 64-bit keys. Readers find a value under an epoch guard; a writer replaces values
/// whole and makes room as needed, so nothing is ever refused; a system without memory ends the
/// process, as with any other collection.
pub struct Map<V> {
    /// Replaced by a larger one when it is full.
    content: Published<Content<V>>,
    writer: Mutex<Writer>,
    retired: Retired,
}

struct Content<V> {
    index: Index,
    nodes: Box<[Published<Node<V>>]>,
}

struct Node<V> {
    key: u64,
    value: V,
}

/// What only writers need to know.
#[derive(Default)]
struct Writer {
    /// Nodes not in use.
    free: Vec<u32>,
}

/// Room of a map that has not grown yet.
const SMALLEST: usize = 64;

impl<V> Default for Map<V> {
    fn default() -> Self {
        Self {
            content: Published::default(),
            writer: Mutex::default(),
            retired: Retired::default(),
        }
    }
}

impl<V: Clone + Send + Sync + 'static> Map<V> {
    /// The value of a key.
    #[inline]
    pub fn get<'g>(&self, key: u64, guard: &'g Guard) -> Option<&'g V> {
        self.content.load(guard)?.find(key, guard).map(|(_, node)| &node.value)
    }

    /// Gives a key the value that `change` makes of its present one; none takes it out. Returns
    /// what `change` returned besides.
    pub fn update<R>(&self, key: u64, change: impl FnOnce(Option<&V>) -> (Option<V>, R)) -> R {
        let mut writer = self.writer.lock();
        let guard = epoch::pin();
        let content = self.content.load(&guard);
        let found = content.and_then(|content| content.find(key, &guard));
        let (value, result) = change(found.map(|(_, node)| &node.value));
        match (found, content, value) {
            (Some((at, _)), Some(content), Some(value)) => {
                content.nodes[at as usize].replace(
                    Some(Node { key, value }),
                    &self.retired,
                    &guard,
                );
            }
            (Some((at, _)), Some(content), None) => {
                content.index.remove(hash(key), at);
                content.nodes[at as usize].replace(None, &self.retired, &guard);
                writer.free.push(at);
            }
            (_, content, Some(value)) => {
                let added = content.is_some_and(|content| {
                    content.add(&mut writer, &self.retired, &guard, key, &value)
                });
                if !added {
                    self.grow(&mut writer, (key, value), &guard);
                }
            }
            (_, _, None) => {}
        }
        self.tidy(guard);
        result
    }

    /// Exactly these entries from now on, at once: a reader sees all the old or all the new ones.
    pub fn replace(&self, entries: &[(u64, V)]) {
        let mut writer = self.writer.lock();
        let guard = epoch::pin();
        self.publish(&mut writer, entries, entries.len(), &guard);
        self.tidy(guard);
    }

    /// Lets others finish what this thread has replaced, and destroys what they have finished.
    fn tidy(&self, guard: Guard) {
        guard.flush();
        drop(guard);
        self.retired.clear();
    }

    /// Moves everything, and one entry more, to twice the room.
    fn grow(&self, writer: &mut Writer, new: (u64, V), guard: &Guard) {
        let old = self.content.load(guard);
        let nodes = old.iter().flat_map(|content| content.nodes.iter());
        let mut entries: Vec<(u64, V)> = nodes
            .filter_map(|node| node.load(guard).map(|node| (node.key, node.value.clone())))
            .collect();
        entries.push(new);
        let room = old.map_or(0, |content| content.nodes.len()) * 2;
        self.publish(writer, &entries, room, guard);
    }

    fn publish(&self, writer: &mut Writer, entries: &[(u64, V)], mut room: usize, guard: &Guard) {
        room = room.max(SMALLEST);
        loop {
            let content = Content {
                index: Index::new(room)
                    .unwrap_or_else(|_| handle_alloc_error(Layout::new::<Index>())),
                nodes: (0..room).map(|_| Published::default()).collect(),
            };
            let mut next = Writer { free: (0..room as u32).rev().collect() };
            if entries
                .iter()
                .all(|(key, value)| content.add(&mut next, &self.retired, guard, *key, value))
            {
                *writer = next;
                self.content.replace(Some(content), &self.retired, guard);
                return;
            }
            // Two full buckets: rare at this load, and likely gone with twice the buckets.
            room *= 2;
        }
    }
}

impl<V: Clone + Send + Sync + 'static> Content<V> {
    fn find<'g>(&self, key: u64, guard: &'g Guard) -> Option<(u32, &'g Node<V>)> {
        let mut found = None;
        let at = self.index.find(hash(key), |at| {
            let node = self.nodes.get(at as usize).and_then(|node| node.load(guard));
            found = node.filter(|node| node.key == key);
            found.is_some()
        })?;
        Some((at, found?))
    }

    /// Adds a key that is not there. False when there is no room.
    fn add(
        &self,
        writer: &mut Writer,
        retired: &Retired,
        guard: &Guard,
        key: u64,
        value: &V,
    ) -> bool {
        let Some(at) = writer.free.pop() else { return false };
        let node = &self.nodes[at as usize];
        node.replace(Some(Node { key, value: value.clone() }), retired, guard);
        let _stripe = self.index.lock(hash(key));
        if self.index.insert(hash(key), at).is_ok() {
            return true;
        }
        node.replace(None, retired, guard);
        writer.free.push(at);
        false
    }
}

fn hash(key: u64) -> u64 {
    hash_pair(key, 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
    use std::time::{Duration, Instant};

    fn set(map: &Map<u64>, key: u64, value: Option<u64>) -> Option<u64> {
        map.update(key, |old| (value, old.copied()))
    }

    proptest! {
        #[test]
        fn does_what_a_hash_map_does(
            steps in prop::collection::vec((0_u64..400, any::<Option<u64>>()), 0..1200),
            snapshot_at in 0_usize..1200,
        ) {
            let (map, mut model) = (Map::default(), HashMap::new());
            for (i, (key, value)) in steps.into_iter().enumerate() {
                if i == snapshot_at {
                    model = (0..300).map(|key| (key, key + 1)).collect();
                    map.replace(&model.iter().map(|(&k, &v)| (k, v)).collect::<Vec<_>>());
                }
                let old = match value {
                    Some(value) => model.insert(key, value),
                    None => model.remove(&key),
                };
                prop_assert_eq!(set(&map, key, value), old);
            }
            let guard = epoch::pin();
            for key in 0..400 {
                prop_assert_eq!(map.get(key, &guard), model.get(&key));
            }
        }
    }

    #[test]
    fn readers_always_see_one_of_the_values_that_were_true() {
        let map = Map::default();
        let stop = AtomicBool::new(false);
        // Key 1 is always there, whatever else happens; each value names its key.
        set(&map, 1, Some(1 << 32));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !stop.load(Relaxed) {
                        let guard = epoch::pin();
                        assert_eq!(map.get(1, &guard).map(|value| value >> 32), Some(1));
                        for key in 2..200 {
                            let value = map.get(key, &guard);
                            assert!(value.is_none_or(|value| value >> 32 == key));
                        }
                    }
                });
            }
            let until = Instant::now() + Duration::from_millis(500);
            let mut round = 0_u64;
            while Instant::now() < until {
                round += 1;
                for key in 1..200 {
                    let gone = key != 1 && (key + round).is_multiple_of(3);
                    set(&map, key, (!gone).then_some(key << 32 | round & 0xffff));
                }
                let all: Vec<(u64, u64)> = (1..100).map(|key| (key, key << 32)).collect();
                map.replace(&all);
            }
            stop.store(true, Relaxed);
        });
    }
}
