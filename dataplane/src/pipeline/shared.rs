//! What all workers and the control thread share.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::trace::TraceHub;
use crate::events::EventLog;
use crate::flow::FlowTable;
use crate::policy::PolicyTable;
use crate::topology::Topology;

/// Tables, the topology in force, and the observers of packets and events.
pub struct Shared {
    /// Known conversations.
    pub flows: FlowTable,
    /// Which conversations may begin. Changed by the control thread before the topology that
    /// carries the change's generation is published, so that whatever a worker decided in between
    /// is decided once more.
    pub policy: PolicyTable,
    /// Who watches packets.
    pub trace: TraceHub,
    /// What is recorded of conversations.
    pub events: EventLog,
    topology: Mutex<Arc<Topology>>,
    published: AtomicU64,
}

impl Shared {
    /// With these flows, no rules, and a topology that carries nothing.
    pub fn new(flows: FlowTable) -> Self {
        Self {
            flows,
            policy: PolicyTable::new(),
            trace: TraceHub::default(),
            events: EventLog::default(),
            topology: Mutex::default(),
            published: AtomicU64::new(0),
        }
    }

    /// The topology in force.
    pub fn topology(&self) -> Arc<Topology> {
        Arc::clone(&self.topology.lock())
    }

    /// Puts a topology in force: workers take it up with their next batch, and new conversations
    /// are translated as its cell says.
    pub fn publish(&self, topology: Topology) {
        let cell = topology.cell();
        let outside = cell.and_then(|cell| Some((cell.underlay, cell.outside.as_ref()?)));
        let (address, ports, limit) = outside
            .map_or((Ipv4Addr::UNSPECIFIED, None, 0), |(address, outside)| {
                (address, outside.snat_ports, outside.snat_per_container)
            });
        if let Some(cell) = cell {
            self.flows.set_tracking(&cell.tracking);
        }
        self.flows.set_source_nat_limit(limit);
        self.flows.set_cell(address, ports);
        *self.topology.lock() = Arc::new(topology);
        self.published.fetch_add(1, Ordering::Release);
    }

    /// How many topologies have been published; workers compare it once per batch. A worker that
    /// reads the number first and the topology second never misses one.
    pub(super) fn published(&self) -> u64 {
        self.published.load(Ordering::Acquire)
    }
}
