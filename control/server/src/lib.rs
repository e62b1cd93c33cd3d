//! The servers of a deployment: what cells ask for policies, security groups and leases.
#![forbid(unsafe_code)]

pub mod access;
pub mod certs;
pub mod client;
pub mod cloud_controller;
mod counting;
pub mod database;
mod expiring;
pub mod http;
pub mod lease;
pub mod leases;
pub mod outbound;
pub mod policies;
pub mod policy;
pub mod syncer;
