//! A small memory of answers that are not asked for again for a while.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Instant;

use parking_lot::Mutex;

/// Values with a moment at which each is forgotten, and a bound on how many there are.
#[derive(Debug)]
pub(crate) struct Expiring<K, V> {
    capacity: usize,
    entries: Mutex<HashMap<K, (V, Instant)>>,
}

impl<K: Hash + Eq, V: Clone> Expiring<K, V> {
    /// Holds at most `capacity` values; 0 remembers nothing.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { capacity, entries: Mutex::new(HashMap::new()) }
    }

    /// The value, if it holds still.
    pub(crate) fn get(&self, key: &K, now: Instant) -> Option<V> {
        let entries = self.entries.lock();
        entries.get(key).filter(|(_, until)| now < *until).map(|(value, _)| value.clone())
    }

    /// Remembers a value until the given moment. When there is no room, what is over goes first, then
    /// everything: those who are turned out ask once more.
    pub(crate) fn put(&self, key: K, value: V, now: Instant, until: Instant) {
        if self.capacity == 0 || until <= now {
            return;
        }
        let mut entries = self.entries.lock();
        if entries.len() >= self.capacity && !entries.contains_key(&key) {
            entries.retain(|_, (_, until)| now < *until);
            if entries.len() >= self.capacity {
                entries.clear();
            }
        }
        entries.insert(key, (value, until));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn values_are_forgotten_in_time_and_never_exceed_the_bound() {
        let (map, start) = (Expiring::new(2), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        map.put("a", 1, start, after(10));
        map.put("b", 2, start, after(20));
        assert_eq!((map.get(&"a", after(9)), map.get(&"a", after(10))), (Some(1), None));
        map.put("c", 3, after(10), after(30));
        assert_eq!(map.get(&"b", after(10)), Some(2), "only what was over made room");
        map.put("d", 4, after(10), after(30));
        assert_eq!((map.get(&"b", after(10)), map.get(&"d", after(10))), (None, Some(4)));
        map.put("e", 5, after(10), after(10));
        assert_eq!(map.get(&"e", start), None, "over before it began");
        assert!(map.entries.lock().len() <= 2);
    }

    #[test]
    fn without_room_nothing_is_remembered() {
        let (map, now) = (Expiring::new(0), Instant::now());
        map.put((), (), now, now + Duration::from_secs(1));
        assert_eq!(map.get(&(), now), None);
    }
}
