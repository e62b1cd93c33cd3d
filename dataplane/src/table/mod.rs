//! Tables that many workers read without a lock while few threads write.
//!
//! [`Index`] is the lock-free hash index under all of them; [`Map`] is a map built on it for the
//! control thread to write, [`crate::flow::FlowTable`] a table of its own. [`PortRanges`] and
//! [`PrefixMap`] are immutable: they are replaced whole.
//!
//! Unsafe code lives in two small files, `prefetch` (one instruction) and `published` (one
//! pointer), and in [`crate::memory`].

#![deny(unsafe_code)]

mod cut;
mod hash;
mod index;
mod map;
mod port_ranges;
#[expect(unsafe_code, reason = "a processor hint takes a raw pointer")]
mod prefetch;
mod prefix_map;
#[expect(unsafe_code, reason = "follows a pointer that the epoch keeps alive")]
mod published;
mod sync;

#[cfg(all(test, loom))]
mod loom_tests;

pub(crate) use cut::cut;
pub use hash::hash_pair;
#[cfg(not(loom))]
pub(crate) use index::Bucket;
pub use index::{Index, PairFull};
pub use map::Map;
pub use port_ranges::PortRanges;
pub use prefetch::prefetch;
pub use prefix_map::PrefixMap;
pub use published::{Published, Retired};
