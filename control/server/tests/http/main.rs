//! The servers as clients find them: real sockets on the loopback interface, real certificates.

mod answers;
mod lease_storm;
mod leases;
mod limits;
mod mutual_tls;
mod shutdown;
mod store;
mod world;
