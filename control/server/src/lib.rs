//! The servers of a deployment: what cells ask for policies, security groups and leases.
#![forbid(unsafe_code)]

pub mod database;
pub mod lease;
pub mod policy;
