//! What the policy server says: followed, whatever it does.

mod bad_servers;
mod groups;
mod others;
pub(crate) mod world;
