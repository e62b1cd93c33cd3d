//! How much a container may send, be sent, and open.
//!
//! All limits are token buckets. Time is given by the caller, in nanoseconds of a clock that does
//! not go back (`CLOCK_MONOTONIC`); one that is a little behind, as read by another worker, does
//! no harm.

#![forbid(unsafe_code)]

mod bucket;
mod connections;
mod meter;

pub use bucket::TokenBucket;
pub use connections::{Admission, ConnectionLimiter};
