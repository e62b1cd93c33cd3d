//! The policy server against its contract, with a platform that is not there.

mod access;
mod counts;
mod description;
mod external;
mod faults;
mod fuzz;
mod given_groups;
mod group_watch;
mod internal;
mod platform;
mod platform_tls;
mod replicas;
mod security_groups;
mod watch;
mod world;
