//! The control socket: desired state in, status out.
//!
//! [`Server`] accepts connections and gives each a thread; what is said there is checked and kept
//! as desired state ([`desired`]) and put in force by the [`Engine`]. None of this is on a
//! packet's way: workers see the results only.

#![forbid(unsafe_code)]

pub mod desired;
mod doors;
mod engine;
mod grants;
mod server;
mod session;
mod tending;

pub use doors::{DoorError, Doors};
pub use engine::{ApplyError, Engine, Staged};
pub use server::{MAX_CONNECTIONS, Server};

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
