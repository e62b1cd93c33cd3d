//! The dataplane, which is asked over its socket when somebody wants to know.
//!
//! | Metric | Labels | Meaning |
//! | --- | --- | --- |
//! | `sarcenet_dataplane_up` | | 1 when it answers; without an answer it is all there is |
//! | `sarcenet_dataplane_uptime_seconds` | | time since it started |
//! | `sarcenet_dataplane_generation` | | generation in force |
//! | `sarcenet_dataplane_rules` | | rules in force |
//! | `sarcenet_dataplane_peers` | | other cells |
//! | `sarcenet_dataplane_transmitted_packets_total` | | packets sent on |
//! | `sarcenet_dataplane_answered_packets_total` | | packets answered with an ICMP error |
//! | `sarcenet_dataplane_suppressed_answers_total` | | such answers that were too many |
//! | `sarcenet_dataplane_dropped_packets_total` | reason | packets that ended here, see [`DropReason`] |
//! | `sarcenet_dataplane_flows` | | flows now |
//! | `sarcenet_dataplane_flow_capacity` | | flows that fit |
//! | `sarcenet_dataplane_created_flows_total` | | flows ever made |
//! | `sarcenet_dataplane_ended_flows_total` | why | `expired`, `evicted`, `replaced` |
//! | `sarcenet_dataplane_link_packets_total` | link, direction | packets read (`rx`) and written (`tx`) |
//! | `sarcenet_dataplane_link_bytes_total` | link, direction | their bytes |
//! | `sarcenet_dataplane_link_errors_total` | link | reads and writes that failed |
//! | `sarcenet_dataplane_worker_packets_total` | worker | packets carried |
//! | `sarcenet_dataplane_worker_batches_total` | worker | in how many batches |
//! | `sarcenet_dataplane_worker_sleeps_total` | worker | times without anything to do |
//! | `sarcenet_dataplane_worker_merged_acks_total` | worker | acknowledgments left out for later ones |
//!
//! Super-packets count as one. A link is `uplink`, `host`, or a container's name.

use std::fmt;
use std::path::PathBuf;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use sarcenet_dataplane_api::client::Client;
use sarcenet_dataplane_api::{DropReason, LinkStatus, Role, Status, WorkerStatus};

use super::Writer;

/// The dataplane that listens on this socket.
#[derive(Debug)]
pub(super) struct DataplaneMetrics(PathBuf);

impl DataplaneMetrics {
    pub(super) fn at(socket: PathBuf) -> Self {
        Self(socket)
    }
}

impl Collector for DataplaneMetrics {
    /// Blocks for as long as the dataplane may take.
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut to = Writer(encoder);
        let status = Client::connect(&self.0, Role::Observer).and_then(|mut it| it.status());
        let up = u64::from(status.is_ok());
        to.gauge("sarcenet_dataplane_up", "Whether the dataplane answers", up)?;
        match status {
            Ok(status) => {
                whole(&status, &mut to)?;
                flows(&status, &mut to)?;
                links(&status.links, &mut to)?;
                workers(&status.workers, &mut to)
            }
            // The agent's log says why: it is connected all the time.
            Err(_) => Ok(()),
        }
    }
}

fn whole(status: &Status, to: &mut Writer<'_>) -> fmt::Result {
    let help = "Time since the dataplane started";
    to.gauge("sarcenet_dataplane_uptime_seconds", help, status.uptime_s)?;
    to.gauge("sarcenet_dataplane_generation", "Generation in force", status.generation)?;
    to.gauge("sarcenet_dataplane_rules", "Rules in force", status.rules)?;
    to.gauge("sarcenet_dataplane_peers", "Other cells", status.peers)?;
    let help = "Packets sent on";
    to.counter("sarcenet_dataplane_transmitted_packets", help, status.transmitted)?;
    let help = "Packets answered with an ICMP error";
    to.counter("sarcenet_dataplane_answered_packets", help, status.answered)?;
    let help = "ICMP errors that were too many to be sent";
    to.counter("sarcenet_dataplane_suppressed_answers", help, status.answers_suppressed)?;
    // All of them from the start, so that the first one shows as an increase.
    let drops = DropReason::ALL.iter().map(|reason| {
        let same = status.drops.iter().filter(|drops| drops.reason == *reason);
        ([("reason", reason.token())], same.map(|drops| drops.packets).sum())
    });
    to.counters("sarcenet_dataplane_dropped_packets", "Packets that ended here", drops)
}

fn flows(status: &Status, to: &mut Writer<'_>) -> fmt::Result {
    let flows = &status.flows;
    to.gauge("sarcenet_dataplane_flows", "Flows now", flows.used)?;
    to.gauge("sarcenet_dataplane_flow_capacity", "Flows that fit", flows.capacity)?;
    to.counter("sarcenet_dataplane_created_flows", "Flows ever made", flows.created)?;
    let ended =
        [("expired", flows.expired), ("evicted", flows.evicted), ("replaced", flows.replaced)];
    let ended = ended.map(|(why, count)| ([("why", why)], count));
    to.counters("sarcenet_dataplane_ended_flows", "Flows that went early or idle", ended)
}

fn links(links: &[LinkStatus], to: &mut Writer<'_>) -> fmt::Result {
    let both = |rx: fn(&LinkStatus) -> u64, tx: fn(&LinkStatus) -> u64| {
        links.iter().flat_map(move |link| {
            [("rx", rx(link)), ("tx", tx(link))].map(|(direction, count)| {
                ([("link", link.name.as_str()), ("direction", direction)], count)
            })
        })
    };
    let packets = both(|link| link.rx_packets, |link| link.tx_packets);
    to.counters("sarcenet_dataplane_link_packets", "Packets read and written", packets)?;
    let bytes = both(|link| link.rx_bytes, |link| link.tx_bytes);
    to.counters("sarcenet_dataplane_link_bytes", "Bytes read and written", bytes)?;
    let errors = links.iter().map(|link| ([("link", link.name.as_str())], link.errors));
    to.counters("sarcenet_dataplane_link_errors", "Reads and writes that failed", errors)
}

fn workers(workers: &[WorkerStatus], to: &mut Writer<'_>) -> fmt::Result {
    let each = |count: fn(&WorkerStatus) -> u64| {
        workers.iter().map(move |worker| ([("worker", worker.worker)], count(worker)))
    };
    let packets = each(|worker| worker.packets);
    to.counters("sarcenet_dataplane_worker_packets", "Packets carried", packets)?;
    let batches = each(|worker| worker.batches);
    to.counters("sarcenet_dataplane_worker_batches", "Batches of packets carried", batches)?;
    let sleeps = each(|worker| worker.sleeps);
    to.counters("sarcenet_dataplane_worker_sleeps", "Times without anything to do", sleeps)?;
    let merged = each(|worker| worker.acks_merged);
    let help = "TCP acknowledgments left out for later ones";
    to.counters("sarcenet_dataplane_worker_merged_acks", help, merged)
}
