//! `sarcenet control` and `sarcenet certs` as processes, on ports of the loopback interface that the
//! system picks.

mod drop_in;
mod faults;
mod platform;
mod running;
mod starting;
mod world;
