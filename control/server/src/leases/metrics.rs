//! How many leases there are (contract section 4.6).

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::counting;
use crate::database::{Database, DatabaseError};
use crate::http::Stop;
use crate::http::metrics::Metrics;
use crate::lease::Pools;

/// After this long without a renewal a lease is stale: its cell is in trouble.
const STALE: Duration = Duration::from_hours(1);

/// Longer than any lease goes without a renewal: a hundred years, which is a number of nanoseconds
/// that databases have.
const EVER: Duration = Duration::from_hours(100 * 365 * 24);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    /// `block` or `single`.
    kind: &'static str,
}

/// `sarcenet_leases` and `sarcenet_free_leases`, by kind (`block`, `single`), and
/// `sarcenet_stale_leases`.
#[derive(Debug, Clone)]
pub struct LeaseMetrics {
    pools: Pools,
    total: Family<Kind, Gauge>,
    free: Family<Kind, Gauge>,
    stale: Gauge,
}

impl LeaseMetrics {
    /// Registers them.
    pub fn new(pools: Pools, metrics: &Metrics) -> Self {
        let this = Self {
            pools,
            total: Family::default(),
            free: Family::default(),
            stale: Gauge::default(),
        };
        metrics.register(|registry| {
            let Self { total, free, stale, .. } = this.clone();
            registry.register("sarcenet_leases", "Leases, over or not", total);
            registry.register("sarcenet_free_leases", "Subnets that nobody has", free);
            registry.register("sarcenet_stale_leases", "Leases not renewed for an hour", stale);
        });
        this
    }

    /// Counts what is in the database.
    pub async fn count(&self, database: &Database) -> Result<(), DatabaseError> {
        let all = database.leases(EVER).await?;
        let stale = database.lease_counts(STALE).await?.stale;
        for (single, kind) in [(false, "block"), (true, "single")] {
            let subnets = all.iter().map(|lease| lease.subnet);
            let of_kind = subnets.clone().filter(|subnet| (subnet.prefix_len() == 32) == single);
            let kind = Kind { kind };
            self.total.get_or_create(&kind).set(of_kind.count() as i64);
            self.free.get_or_create(&kind).set(self.pools.free(single, subnets).into());
        }
        self.stale.set(stale as i64);
        Ok(())
    }

    /// Counts again and again.
    pub async fn follow(self, database: Database, stop: Stop) {
        counting::follow("leases", &stop, || self.count(&database)).await;
    }
}
