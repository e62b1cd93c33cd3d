//! Atomics and locks of the tables: the standard ones, or those of loom when a model runs.

pub(super) use std::sync::atomic::Ordering;
#[cfg(not(loom))]
pub(super) use {parking_lot::MutexGuard, std::sync::atomic::AtomicU64};

#[cfg(loom)]
pub(super) use {loom::sync::MutexGuard, model::AtomicU64};

/// A lock that guards no value of its own.
#[derive(Debug, Default)]
pub(super) struct Lock(
    #[cfg(not(loom))] parking_lot::Mutex<()>,
    #[cfg(loom)] loom::sync::Mutex<()>,
);

impl Lock {
    #[cfg(not(loom))]
    pub(super) fn lock(&self) -> MutexGuard<'_, ()> {
        self.0.lock()
    }

    #[cfg(loom)]
    pub(super) fn lock(&self) -> MutexGuard<'_, ()> {
        self.0.lock().expect("no model panics while it holds a lock")
    }
}

#[cfg(loom)]
mod model {
    use std::sync::atomic::Ordering::{self, Relaxed};

    /// loom's atomic, and a second one that every access changes first.
    ///
    /// loom 0.7 explores another order of two steps only when the later one finds the earlier one
    /// as the *last* access to the same object, and does not count two loads as dependent. A
    /// thread that loads a slot and then exchanges it would hide the load of another thread before
    /// it, and that order would never run. A relaxed change of the companion makes all accesses
    /// dependent, and orders no memory.
    #[derive(Debug, Default)]
    pub(crate) struct AtomicU64 {
        value: loom::sync::atomic::AtomicU64,
        companion: loom::sync::atomic::AtomicU64,
    }

    impl AtomicU64 {
        pub(crate) fn load(&self, order: Ordering) -> u64 {
            self.companion.fetch_add(1, Relaxed);
            self.value.load(order)
        }

        pub(crate) fn compare_exchange(
            &self,
            old: u64,
            new: u64,
            success: Ordering,
            failure: Ordering,
        ) -> Result<u64, u64> {
            self.companion.fetch_add(1, Relaxed);
            self.value.compare_exchange(old, new, success, failure)
        }
    }
}
