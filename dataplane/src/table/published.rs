//! A pointer that readers follow without a lock.

use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Acquire};

use crossbeam_epoch::{Atomic, Guard, Owned, Shared};
use parking_lot::Mutex;

/// Values that readers can no longer see, waiting to be destroyed by who replaced them: workers
/// run the epoch's deferred work, and freeing a large table there would hold up packets.
#[derive(Clone, Default)]
pub struct Retired(Arc<Mutex<Vec<Box<dyn Send>>>>);

impl Retired {
    /// Destroys what waits here.
    pub fn clear(&self) {
        let waiting = std::mem::take(&mut *self.0.lock());
        drop(waiting);
    }
}

/// A value, or none, that is replaced whole.
pub struct Published<T>(Atomic<T>);

impl<T> Default for Published<T> {
    fn default() -> Self {
        Self(Atomic::null())
    }
}

impl<T: Send + Sync + 'static> Published<T> {
    /// A value to begin with.
    pub fn new(value: T) -> Self {
        Self(Atomic::new(value))
    }

    /// The value as it is now; it lives as long as the guard.
    #[inline]
    pub fn load<'g>(&self, guard: &'g Guard) -> Option<&'g T> {
        // SAFETY: the pointer is null or was made from an `Owned` in `new` or `replace`, whose
        // release store this load acquires. A value that was replaced is destroyed only after
        // every guard that could have loaded it is gone.
        unsafe { self.0.load(Acquire, guard).as_ref() }
    }

    /// Puts another value in its place.
    pub fn replace(&self, value: Option<T>, retired: &Retired, guard: &Guard) {
        let new = value.map_or_else(Shared::null, |value| Owned::new(value).into_shared(guard));
        let old = self.0.swap(new, AcqRel, guard);
        if old.is_null() {
            return;
        }
        let retired = retired.clone();
        // SAFETY: the swap has taken the only shared way to `old`, so this is its only owner once
        // all guards of today are gone, which is when the closure runs. It captures nothing that
        // is borrowed, and `T` may be sent to the thread that runs it.
        unsafe {
            guard.defer_unchecked(move || retired.0.lock().push(old.into_owned().into_box()));
        }
    }
}

impl<T> Drop for Published<T> {
    fn drop(&mut self) {
        let value = std::mem::take(&mut self.0);
        // SAFETY: `&mut self`: nobody else has the pointer, and values replaced before are not
        // reached from it.
        drop(unsafe { value.try_into_owned() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_epoch as epoch;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    struct Counted(Arc<AtomicUsize>, u32);

    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    #[test]
    fn old_values_live_as_long_as_their_guard_and_die_in_clear() {
        let drops = Arc::new(AtomicUsize::new(0));
        let retired = Retired::default();
        let published = Published::new(Counted(drops.clone(), 1));
        {
            let guard = epoch::pin();
            let one = published.load(&guard).unwrap();
            published.replace(Some(Counted(drops.clone(), 2)), &retired, &guard);
            retired.clear();
            assert_eq!((one.1, drops.load(SeqCst)), (1, 0));
            assert_eq!(published.load(&guard).unwrap().1, 2);
        }
        // Other tests of this process pin too, so it may take a few rounds.
        for _ in 0..1_000_000 {
            epoch::pin().flush();
            retired.clear();
            if drops.load(SeqCst) == 1 {
                break;
            }
            std::thread::yield_now();
        }
        assert_eq!(drops.load(SeqCst), 1);
        drop(published);
        assert_eq!(drops.load(SeqCst), 2);
    }
}
