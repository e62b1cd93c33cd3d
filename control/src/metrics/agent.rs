//! The agent itself.
//!
//! | Metric | Meaning |
//! | --- | --- |
//! | `sarcenet_agent_uptime_seconds` | time since it started |
//! | `sarcenet_agent_containers` | containers attached |
//! | `sarcenet_agent_collected_containers_total` | containers that had ended without a DEL and were removed |
//! | `sarcenet_agent_free_addresses` | addresses for more of them |
//! | `sarcenet_agent_rules` | rules on this cell that were made of policies |
//! | `sarcenet_agent_problems` | what somebody should look at: the lines under `problems` of `sarcenet status` |
//! | `sarcenet_agent_dataplane_ready` | 1 when the dataplane has the whole desired state |
//! | `sarcenet_agent_dataplane_generation` | generation in force there |
//!
//! None of them is there before the cell has a lease.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use sarcenet_agent_api::AgentStatus;

use super::Writer;
use crate::follow::tell::Started;

/// The agent, once it is started.
pub(super) struct AgentMetrics(Started);

impl AgentMetrics {
    pub(super) fn of(started: Started) -> Self {
        Self(started)
    }
}

impl fmt::Debug for AgentMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AgentMetrics").finish_non_exhaustive()
    }
}

impl Collector for AgentMetrics {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let agent = self.0.read().clone();
        agent.map_or(Ok(()), |agent| write(&agent.status(), Writer(encoder)))
    }
}

fn write(status: &AgentStatus, mut to: Writer<'_>) -> fmt::Result {
    let problems = status.problems.len() + status.config.mistakes.len();
    let help = "Containers that had ended without a DEL and were removed";
    to.counter("sarcenet_agent_collected_containers", help, status.collected)?;
    let mut gauge = |name, help, value| to.gauge(name, help, value);
    gauge("sarcenet_agent_uptime_seconds", "Time since the agent started", status.uptime_s)?;
    gauge("sarcenet_agent_containers", "Containers attached", status.containers.into())?;
    let free = status.addresses_free.into();
    gauge("sarcenet_agent_free_addresses", "Addresses for more containers", free)?;
    gauge("sarcenet_agent_rules", "Rules that were made of policies", status.rules.into())?;
    gauge("sarcenet_agent_problems", "What somebody should look at", problems as u64)?;
    let ready = u64::from(status.dataplane.ready);
    let help = "Whether the dataplane has the whole desired state";
    gauge("sarcenet_agent_dataplane_ready", help, ready)?;
    let help = "Generation in force in the dataplane";
    gauge("sarcenet_agent_dataplane_generation", help, status.dataplane.generation)
}
