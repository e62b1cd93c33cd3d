//! The agent as a process that follows `sarcenet control` over mTLS, in a network namespace of its
//! own, before a dataplane that only writes down what it is told. Needs root.

mod drop_in;
#[path = "../agent/fake.rs"]
#[expect(dead_code, reason = "shared with the tests of the agent alone, which ask more of it")]
mod fake;
mod faults;
mod leases;
mod leaving;
mod policies;
mod policy_server;
#[path = "../control/process.rs"]
mod process;
mod routers;
#[path = "../control/world.rs"]
#[expect(dead_code, reason = "shared with the tests of the servers, which ask more of it")]
mod servers;
mod world;
