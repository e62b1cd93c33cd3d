//! What the agent gets from servers: its lease and those of the other cells.

pub mod asker;
pub mod lease;
pub mod metrics;
pub mod pause;
pub mod tell;
