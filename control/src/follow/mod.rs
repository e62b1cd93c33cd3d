//! What the agent gets from servers: its lease and those of the other cells.

pub mod asker;
pub mod lease;
pub mod leave;
pub mod metrics;
pub mod pause;
mod start;
pub mod tell;

pub use start::{FollowError, Follower, Following, Prepared};
