//! The policy server against its contract, with a platform that is not there.

mod access;
mod counts;
mod description;
mod external;
mod faults;
mod fuzz;
mod internal;
mod platform;
mod replicas;
mod security_groups;
mod watch;
mod world;
