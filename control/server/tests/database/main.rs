//! The database with a real SQLite file and a real PostgreSQL server, which is started here:
//! the same tests for both.

mod adoption;
mod changes;
mod concurrency;
mod faults;
mod leases;
mod opening;
mod policies;
mod security_groups;
mod tags;
mod world;
