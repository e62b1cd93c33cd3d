//! What is recorded of conversations, and in whose names.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use sarcenet_agent_api::{ErrorCode, LoggingChange, LoggingStatus};
use sarcenet_dataplane_api::{Event, Logging};
use tracing::info;

use super::{Agent, Entry, Failure, Inner, PATIENCE};
use crate::config::Network;
use crate::events::{ContainerFacts, Record};

/// What was switched at run time; the rest is as configured. Forgotten with the agent, and when
/// the network file says something new about it.
#[derive(Debug, Default)]
pub(super) struct Switches {
    overlay: Option<bool>,
    egress: Option<bool>,
}

/// What the network file says of it.
pub(super) fn configured(network: &Network) -> Logging {
    network.outside.as_ref().map_or_else(Logging::default, |outside| outside.logging)
}

impl Inner {
    /// What is recorded now.
    pub(super) fn logging(&self) -> Logging {
        let configured = configured(&self.network);
        Logging {
            overlay: self.switches.overlay.unwrap_or(configured.overlay),
            egress: self.switches.egress.unwrap_or(configured.egress),
            ..configured
        }
    }
}

impl Entry {
    fn facts(&self) -> ContainerFacts {
        ContainerFacts {
            id: self.saved.id.container.clone(),
            app: self.saved.app.clone(),
            space: self.saved.terms.metadata.space_id.clone(),
            organisation: self.saved.terms.metadata.org_id.clone(),
        }
    }
}

impl Agent {
    /// Where records are written.
    pub(super) fn events_file(&self, inner: &Inner) -> PathBuf {
        let root = &self.options.root;
        let named = inner.network.outside.as_ref().and_then(|outside| outside.log_file.as_ref());
        named.map_or_else(|| root.events_file(), |path| root.below(path))
    }

    /// What is recorded of conversations, and how that goes.
    pub fn logging(&self) -> LoggingStatus {
        let (logging, file) = {
            let inner = self.inner.lock();
            (inner.logging(), self.events_file(&inner))
        };
        let Logging { overlay, egress, denied_per_second, accepted_udp_per_second } = logging;
        let progress = self.events.progress();
        LoggingStatus {
            overlay,
            egress,
            denied_per_second,
            accepted_udp_per_second,
            file: file.display().to_string(),
            written: progress.written,
            lost: progress.lost,
            problem: progress.problem,
        }
    }

    /// Switches recording on or off and waits until that is in force.
    pub fn change_logging(&self, change: LoggingChange) -> Result<LoggingStatus, Failure> {
        let LoggingChange { overlay, egress } = change;
        let version = {
            let _one_at_a_time = self.configuration.lock();
            let mut inner = self.inner.lock();
            inner.switches.overlay = overlay.or(inner.switches.overlay);
            inner.switches.egress = egress.or(inner.switches.egress);
            self.publish(&mut inner)
        };
        self.dataplane.wait(version, PATIENCE).map_err(|e| {
            let message = format!("what is recorded will change, but {e}");
            Failure::new(ErrorCode::Dataplane, message)
        })?;
        let logging = self.logging();
        info!(overlay = logging.overlay, egress = logging.egress, "recording switched");
        Ok(logging)
    }

    /// Events in the words of the platform. What is not known any more stays without names.
    pub(super) fn describe(&self, events: &[Event]) -> Vec<Record> {
        let inner = self.inner.lock();
        let containers: HashMap<Ipv4Addr, &Entry> =
            inner.containers.values().map(|entry| (entry.saved.address, entry)).collect();
        let apps: HashMap<u16, &str> =
            inner.network.apps.iter().map(|(app, tag)| (tag, app)).collect();
        let record = |event: &Event| {
            let facts = containers.get(&event.container).map(|entry| entry.facts());
            let source_app = apps.get(&event.tag).map(|&app| app.to_owned());
            let rule = event.rule.and_then(|id| inner.names.meaning(id)).map(ToString::to_string);
            Record::new(event, &inner.cell.name, facts, source_app, rule)
        };
        events.iter().map(record).collect()
    }
}
