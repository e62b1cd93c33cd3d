//! What the policy server says: followed, kept and enforced.

mod bad_servers;
mod enforced;
mod groups;
mod others;
mod world;
