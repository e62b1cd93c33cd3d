//! `sarcenet control` and `sarcenet certs` as processes, on ports of the loopback interface that the
//! system picks.

mod drop_in;
mod faults;
mod group_file;
mod platform;
#[expect(dead_code, reason = "shared with the tests of agents, which end by themselves")]
mod process;
mod running;
mod starting;
mod world;
