//! The servers of a deployment: what cells ask for policies, security groups and leases.
#![forbid(unsafe_code)]

pub mod certs;
pub mod client;
pub mod database;
pub mod http;
pub mod lease;
pub mod leases;
pub mod policy;
