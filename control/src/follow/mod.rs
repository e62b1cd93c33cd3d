//! What the agent gets from servers: its lease and those of the other cells, policies and security
//! groups. It is enforced here, and stays so when the servers are gone.

pub mod ask;
pub mod asker;
pub mod beside;
pub mod followers;
pub mod force;
pub mod groups;
pub mod handover;
pub mod in_force;
pub mod keeper;
pub mod lease;
pub mod leave;
pub mod metrics;
pub mod outside_terms;
pub mod pause;
pub mod policies;
pub mod policy_metrics;
pub mod policy_server;
pub mod routers;
pub mod saved;
mod start;
pub mod tell;
mod trouble;

pub use start::{FollowError, Follower, Following, Prepared};
