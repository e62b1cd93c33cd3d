//! Following the servers: what they say becomes what is enforced here, and stays so when they are
//! gone.

pub mod ask;
pub mod force;
pub mod groups;
pub mod keeper;
pub mod metrics;
pub mod pause;
pub mod policies;
pub mod policy_server;
pub mod saved;
mod trouble;
