//! The stages, in the order a packet meets them.

#![forbid(unsafe_code)]

mod counters;
mod shared;
mod trace;

pub use counters::{Counters, Totals};
pub use shared::Shared;
pub use trace::{TraceHub, TraceObserver};
