//! Control processes: the cell's agent, the servers that cells ask, and the operator's command.
//!
//! The agent turns the network file and the containers that CNI plugins ask for into the
//! dataplane's desired state, and owns what must survive its own restart.

#![forbid(unsafe_code)]

pub mod address_watch;
pub mod agent;
pub mod attach;
pub mod cli;
pub mod collector;
pub mod config;
pub mod dataplane;
pub mod demo;
pub mod desired;
pub mod drop_in;
pub mod durable;
pub mod egress;
pub mod events;
pub mod follow;
pub mod followed;
pub mod host;
pub mod ipam;
mod metrics;
pub mod netlink;
pub mod netns;
pub mod paths;
pub mod policy_client;
pub mod ports;
mod process;
pub mod rule_names;
pub mod security_groups;
pub mod server;
pub mod servers;
mod signals;
pub mod state;
pub mod sysctl;
pub mod watch;
