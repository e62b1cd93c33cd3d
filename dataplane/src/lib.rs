//! The packet engine of a Sarcenet cell.
//!
//! It knows links, addresses, tags and rules, and no word of the platform above it. A packet's
//! way through it: [`link`] receives a [`packet::Batch`], [`pipeline`] decides every packet of it
//! (headers by [`wire`], known conversations by [`flow`], new ones by [`policy`], how much of them
//! by [`limit`]), and the links transmit. [`worker`] is the loop that does so; [`control`] takes desired state from a
//! controller and publishes it to the workers.

pub mod arguments;
pub mod control;
pub mod events;
pub mod flow;
pub mod limit;
pub mod link;
pub mod memory;
pub mod nat;
pub mod packet;
pub mod pipeline;
pub mod policy;
pub mod process;
pub mod table;
pub mod topology;
pub mod wire;
pub mod worker;
