//! The subnet controller: who has which part of the overlay (contract section 4).

mod api;
mod body;
mod metrics;
pub mod pool;

pub use api::{Settings, routes};
pub use body::{LeaseBody, LeaseBodyError};
pub use metrics::LeaseMetrics;
