//! `sarcenet control` and `sarcenet certs` as processes, on ports of the loopback interface that the
//! system picks.

mod running;
mod starting;
mod world;
