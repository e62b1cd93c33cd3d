//! How the sync of security groups is (contract section 1.10).
//!
//! | Metric | Labels | Meaning |
//! | --- | --- | --- |
//! | `sarcenet_security_group_syncs_total` | result | `changed`, `same`, `unchanged` at their source, `elsewhere`: another replica does it, `nothing` is known of them |
//! | `sarcenet_security_group_sync_failures_total` | reason | `database`; of Cloud Controller `latest`, `list`, `unstable` |
//! | `sarcenet_security_groups_synced_timestamp_seconds` | | when the database last had what the source has, since the epoch |

use std::sync::atomic::AtomicU64;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::{SyncError, Synced};
use crate::http::metrics::Metrics;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfResult {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfReason {
    reason: &'static str,
}

/// The counters. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct SyncMetrics {
    syncs: Family<OfResult, Counter>,
    failures: Family<OfReason, Counter>,
    synced: Gauge<f64, AtomicU64>,
}

impl SyncMetrics {
    /// Counters that are shown among `metrics`.
    pub fn new(metrics: &Metrics) -> Self {
        let these = Self::default();
        let Self { syncs, failures, synced } = these.clone();
        metrics.register(|registry| {
            let help = "Looks for changes of security groups";
            registry.register("sarcenet_security_group_syncs", help, syncs);
            let help = "Looks for changes of security groups that came to nothing";
            registry.register("sarcenet_security_group_sync_failures", help, failures);
            let help = "When the database last had what the source has, since the epoch";
            registry.register("sarcenet_security_groups_synced_timestamp_seconds", help, synced);
        });
        these
    }

    /// Takes note of how a turn ended.
    pub fn count(&self, outcome: &Result<Synced, SyncError>) {
        let result = match outcome {
            Ok(Synced::Nothing) => "nothing",
            Ok(Synced::Elsewhere) => "elsewhere",
            Ok(Synced::Unchanged) => "unchanged",
            Ok(Synced::Compared(false)) => "same",
            Ok(Synced::Compared(true)) => "changed",
            Err(error) => {
                self.failures.get_or_create(&OfReason { reason: reason(error) }).inc();
                return;
            }
        };
        self.syncs.get_or_create(&OfResult { result }).inc();
        if !matches!(outcome, Ok(Synced::Nothing | Synced::Elsewhere)) {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            self.synced.set(now.as_secs_f64());
        }
    }
}

fn reason(error: &SyncError) -> &'static str {
    match error {
        SyncError::Database(_) => "database",
        SyncError::Latest(_) => "latest",
        SyncError::List(_) => "list",
        SyncError::Unstable => "unstable",
    }
}
