//! The policy server: who may send what to whom.
//!
//! [`external_router`] serves users and their programs (contract section 1), [`internal_router`] serves
//! cells (contract section 2). Both are made of tables of routes. What a change must pass is in
//! `guard`, what a body means in `payload`, how cells follow changes in `watch`.

mod audit;
mod cleaner;
mod cors;
mod external;
mod guard;
mod internal;
mod metrics;
mod payload;
mod query;
pub mod routes;
mod watch;

pub use cleaner::{CleanError, Cleaner};
pub use external::{ExternalSettings, external_router};
pub use internal::{Internal, InternalSettings, internal_router};
pub use metrics::PolicyMetrics;
