//! What the agent counts, in the text form of OpenMetrics.
//!
//! | Metric | Labels | Meaning |
//! | --- | --- | --- |
//! | `sarcenet_agent_lease_renewals_total` | result | renewals of the cell's lease: `success`, `failure` |
//! | `sarcenet_agent_converges_total` | result | other cells' leases put in force, or not |
//! | `sarcenet_agent_cells` | | other cells that packets can be sent to |
//! | `sarcenet_agent_unroutable_leases` | | leases of other cells that cannot be used |
//! | `sarcenet_agent_lease_save_failures_total` | | leases that could not be written to the disk |
//! | `sarcenet_agent_last_renewal_timestamp_seconds` | | when the lease was renewed, since the epoch |
//! | `sarcenet_agent_last_converge_timestamp_seconds` | | likewise |
//! | `sarcenet_agent_start_timestamp_seconds` | | when the agent was started |

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use sarcenet_server::http::metrics::Metrics;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    result: &'static str,
}

/// What is counted of leases.
#[derive(Debug, Clone, Default)]
pub struct LeaseMetrics {
    renewals: Family<Outcome, Counter>,
    converges: Family<Outcome, Counter>,
    cells: Gauge,
    unroutable: Gauge,
    unsaved: Counter,
    last_renewal: Gauge,
    last_converge: Gauge,
}

impl LeaseMetrics {
    /// Registers them, and the time of the start, which is now.
    pub fn new(metrics: &Metrics) -> Self {
        let this = Self::default();
        for family in [&this.renewals, &this.converges] {
            // There from the start, so that the first failure shows as an increase.
            for result in ["success", "failure"] {
                drop(family.get_or_create(&Outcome { result }));
            }
        }
        let started = Gauge::default();
        set_to_now(&started);
        metrics.register(|registry| {
            let Self { renewals, converges, cells, unroutable, unsaved, .. } = this.clone();
            let Self { last_renewal, last_converge, .. } = this.clone();
            registry.register(
                "sarcenet_agent_lease_renewals",
                "Renewals of the cell's lease",
                renewals,
            );
            registry.register(
                "sarcenet_agent_converges",
                "Other cells' leases put in force",
                converges,
            );
            registry.register(
                "sarcenet_agent_cells",
                "Other cells that packets can be sent to",
                cells,
            );
            registry.register(
                "sarcenet_agent_unroutable_leases",
                "Leases of other cells that cannot be used",
                unroutable,
            );
            registry.register(
                "sarcenet_agent_lease_save_failures",
                "Leases that could not be written to the disk",
                unsaved,
            );
            registry.register(
                "sarcenet_agent_last_renewal_timestamp_seconds",
                "When the lease was renewed last, since the epoch",
                last_renewal,
            );
            registry.register(
                "sarcenet_agent_last_converge_timestamp_seconds",
                "When other cells' leases were put in force last, since the epoch",
                last_converge,
            );
            registry.register(
                "sarcenet_agent_start_timestamp_seconds",
                "When the agent was started, since the epoch",
                started,
            );
        });
        this
    }

    pub(super) fn renewal(&self, success: bool) {
        count(&self.renewals, success);
        if success {
            set_to_now(&self.last_renewal);
        }
    }

    pub(super) fn converge(&self, success: bool) {
        count(&self.converges, success);
        if success {
            set_to_now(&self.last_converge);
        }
    }

    pub(super) fn cells(&self, cells: usize, unroutable: usize) {
        self.cells.set(cells as i64);
        self.unroutable.set(unroutable as i64);
    }

    pub(super) fn not_saved(&self) {
        self.unsaved.inc();
    }
}

fn count(family: &Family<Outcome, Counter>, success: bool) {
    let result = if success { "success" } else { "failure" };
    family.get_or_create(&Outcome { result }).inc();
}

fn set_to_now(gauge: &Gauge) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    gauge.set(now.as_secs() as i64);
}
