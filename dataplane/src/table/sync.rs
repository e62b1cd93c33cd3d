//! Atomics and locks of the tables: the standard ones, or those of loom when a model runs.

#[cfg(loom)]
pub(super) use loom::sync::{MutexGuard, atomic::AtomicU64};
#[cfg(not(loom))]
pub(super) use {parking_lot::MutexGuard, std::sync::atomic::AtomicU64};

pub(super) use std::sync::atomic::Ordering;

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
