//! The database's [statistics](super::DatabaseStatistics) as metrics (contract section 1.9).
//!
//! | Metric | Labels |
//! | --- | --- |
//! | `sarcenet_database_connections` | |
//! | `sarcenet_database_queries_total`, `sarcenet_database_failed_queries_total` | |
//! | `sarcenet_database_queries_in_flight` | |
//! | `sarcenet_database_slowest_query_seconds` | |
//! | `sarcenet_database_operations_total` | operation, result: `ok`, `failed` |
//! | `sarcenet_database_operation_seconds_total` | operation, result |
//! | `sarcenet_database_slowest_operation_seconds` | operation |

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::TypedMetric;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use super::{Database, OperationStatistics};
use crate::http::metrics::Metrics;

impl Database {
    /// Has the statistics shown with the metrics of the process.
    pub fn show_in(&self, metrics: &Metrics) {
        let collector = Box::new(Shown(self.clone()));
        metrics.register(|registry| registry.register_collector(collector));
    }
}

#[derive(Debug)]
struct Shown(Database);

impl Collector for Shown {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let read = self.0.statistics();
        let out = &mut encoder;
        let connections = ConstGauge::new(i64::from(read.connections));
        single(out, "connections", "Connections open now", None, &connections)?;
        let queries = ConstCounter::new(read.queries);
        single(out, "queries", "Queries that have ended", None, &queries)?;
        let failed = ConstCounter::new(read.queries_failed);
        single(out, "failed_queries", "Queries that failed", None, &failed)?;
        let in_flight = ConstGauge::new(read.queries_in_flight as i64);
        single(out, "queries_in_flight", "Queries that have begun", None, &in_flight)?;
        let slowest = ConstGauge::new(read.slowest_query.as_secs_f64());
        single(out, "slowest_query", "Longest query", Some(&Unit::Seconds), &slowest)?;

        // One family after the other: in the text all samples of one stand together.
        let operations: Vec<(&str, OperationStatistics)> = read.operations.into_iter().collect();
        let counts = |of: &OperationStatistics| [of.succeeded, of.failed].map(ConstCounter::new);
        by_result(out, "operations", "Operations that have ended", None, &operations, counts)?;
        let times = |of: &OperationStatistics| {
            [of.success_time, of.failure_time].map(|time| ConstCounter::new(time.as_secs_f64()))
        };
        let (help, unit) = ("Time of operations with their waits", Some(&Unit::Seconds));
        by_result(out, "operation", help, unit, &operations, times)?;
        let slowest = |of: &OperationStatistics| [ConstGauge::new(of.slowest.as_secs_f64())];
        let labels = |operation| [[("operation", operation)]];
        let (help, unit) = ("Longest operation", Some(&Unit::Seconds));
        family(out, "slowest_operation", help, unit, &operations, slowest, labels)
    }
}

fn single<M: EncodeMetric + TypedMetric>(
    out: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    metric: &M,
) -> fmt::Result {
    let name = format!("sarcenet_database_{name}");
    metric.encode(out.encode_descriptor(&name, help, unit, M::TYPE)?)
}

fn by_result<M: EncodeMetric + TypedMetric>(
    out: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    operations: &[(&str, OperationStatistics)],
    metrics: impl Fn(&OperationStatistics) -> [M; 2],
) -> fmt::Result {
    let labels =
        |operation| ["ok", "failed"].map(|result| [("operation", operation), ("result", result)]);
    family(out, name, help, unit, operations, metrics, labels)
}

/// Writes `N` samples with `L` labels for each operation.
fn family<'a, M: EncodeMetric + TypedMetric, const N: usize, const L: usize>(
    out: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    operations: &[(&'a str, OperationStatistics)],
    metrics: impl Fn(&OperationStatistics) -> [M; N],
    labels: impl Fn(&'a str) -> [[(&'a str, &'a str); L]; N],
) -> fmt::Result {
    let name = format!("sarcenet_database_{name}");
    let mut samples = out.encode_descriptor(&name, help, unit, M::TYPE)?;
    for (operation, statistics) in operations {
        for (metric, labels) in metrics(statistics).iter().zip(labels(operation)) {
            metric.encode(samples.encode_family(&labels)?)?;
        }
    }
    Ok(())
}
