//! What the agent tells of itself and of the dataplane, in the text form of OpenMetrics, made anew
//! each time that it is asked. What is counted while servers are followed is in
//! [`crate::follow`].

mod agent;
mod dataplane;

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet};
use prometheus_client::metrics::MetricType;
use sarcenet_server::http::metrics::Metrics;

use crate::follow::tell::Started;
use crate::paths::Root;

/// Has the agent that is `started` at some time, and the dataplane below `root`, told with `metrics`.
pub(crate) fn register(metrics: &Metrics, started: Started, root: &Root) {
    metrics.register(|registry| {
        registry.register_collector(Box::new(agent::AgentMetrics::of(started)));
        let dataplane = dataplane::DataplaneMetrics::at(root.dataplane_socket());
        registry.register_collector(Box::new(dataplane));
    });
}

/// Writes metrics whose values are at hand.
#[derive(Debug)]
struct Writer<'a>(DescriptorEncoder<'a>);

impl Writer<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }

    /// `name` is without `_total`.
    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let mut one = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        one.encode_counter::<NoLabelSet, _, u64>(&value, None)
    }

    /// With a value for each set of labels; `name` is without `_total`.
    fn counters<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let mut all = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in values {
            all.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        }
        Ok(())
    }
}
