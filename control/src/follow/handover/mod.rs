//! What the policy server says, from the program that asks it to the agent that puts it in force,
//! where these are two as in Cloud Foundry.
//!
//! It goes over the agent's socket, in the form in which the agent keeps it on its disk. The agent
//! keeps it there as always, so that it needs nobody when it starts again. Who comes back, the
//! program or the agent, begins anew: the program says everything once on each connection, and then
//! what has become something else.

mod give;
mod take;

pub use give::Giver;
pub use take::{Inbox, Taking};
