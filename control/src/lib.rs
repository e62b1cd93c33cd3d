//! Control processes: the cell's agent and the operator's command.
//!
//! The agent turns the network file and the containers that CNI plugins ask for into the
//! dataplane's desired state, and owns what must survive its own restart.

#![forbid(unsafe_code)]

pub mod config;
pub mod demo;
pub mod durable;
