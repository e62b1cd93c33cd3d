//! How many policies there are, and who was refused (contract section 1.9).

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::counting;
use crate::database::{Database, DatabaseError};
use crate::http::Stop;
use crate::http::metrics::Metrics;

/// `sarcenet_policies`.
#[derive(Debug, Clone)]
pub struct PolicyMetrics(Gauge);

impl PolicyMetrics {
    /// Registers it.
    pub fn new(metrics: &Metrics) -> Self {
        let policies = Gauge::default();
        metrics.register(|registry| {
            registry.register("sarcenet_policies", "Policies in the database", policies.clone());
        });
        Self(policies)
    }

    /// Counts what is in the database.
    pub async fn count(&self, database: &Database) -> Result<(), DatabaseError> {
        self.0.set(i64::try_from(database.policy_count().await?).unwrap_or(i64::MAX));
        Ok(())
    }

    /// Counts again and again.
    pub async fn follow(self, database: Database, stop: Stop) {
        counting::follow("policies", &stop, || self.count(&database)).await;
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Why {
    reason: &'static str,
}

/// `sarcenet_refused_callers_total`, by reason: `missing` (no token), `unknown`, `expired`, `uaa` (UAA
/// knows no such token or does not answer), `scope` (the token is good for something else).
#[derive(Debug, Clone)]
pub(super) struct Refusals(Family<Why, Counter>);

impl Refusals {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let refusals = Family::default();
        metrics.register(|registry| {
            let help = "Requests whose token was not good enough";
            registry.register("sarcenet_refused_callers", help, refusals.clone());
        });
        Self(refusals)
    }

    pub(super) fn count(&self, reason: &'static str) {
        self.0.get_or_create(&Why { reason }).inc();
    }
}
