//! The policy server against its contract, with a platform that is not there.

mod access;
mod description;
mod external;
mod faults;
mod internal;
mod platform;
mod security_groups;
mod watch;
mod world;
