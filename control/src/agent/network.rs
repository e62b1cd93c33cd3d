//! Changes of the network: a new network file, a policy, or what servers say.

use std::os::fd::AsFd;
use std::time::Instant;

use sarcenet_agent_api::{AttachmentId, ErrorCode, Policy, ranges};
use tracing::{error, info, warn};

use super::logging::{self, Switches};
use super::{
    Agent, Failure, PATIENCE, inner_mtu, open_namespace, report, reserve_snat_ports, terms,
};
use crate::config::{ConfigError, EditError, Network, PolicyFile};
use crate::dataplane::NotInForce;
use crate::followed::Followed;
use crate::host;

impl Agent {
    /// Reads the network file again if it has changed, and puts it in force. A file with mistakes
    /// changes nothing; they are logged and shown in the status.
    pub fn reload(&self) {
        let _one_at_a_time = self.configuration.lock();
        let path = &self.options.network;
        let read = Network::text(path).and_then(|text| {
            if text == self.inner.lock().text {
                return Ok(None);
            }
            let network = Network::parse_file(path, &text);
            self.inner.lock().text = text;
            network.map(Some)
        });
        match read.and_then(|network| {
            network.map_or(Ok(None), |new| self.put_base_in_force(new).map(Some))
        }) {
            Ok(None) => {}
            Ok(Some(_)) => {
                let mut inner = self.inner.lock();
                inner.digest = Network::digest(&inner.text);
                info!("network file read again");
            }
            Err(mistakes) => self.reject(&mistakes),
        }
    }

    /// Remembers what is wrong with the newest file; the old state stays in force.
    fn reject(&self, error: &ConfigError) {
        let lines = error.lines();
        let mut inner = self.inner.lock();
        if inner.mistakes != lines {
            for line in &lines {
                error!("the network file is not used: {line}");
            }
            inner.mistakes = lines;
        }
        if let ConfigError::Read { .. } = error {
            // Whatever it says when it can be read again is news.
            inner.text.clear();
        }
    }

    /// Changes what the servers said, and puts the outcome in force. Returns the version to wait
    /// for. When the outcome cannot be in force as the cell is now, nothing is changed.
    pub fn follow(&self, change: impl FnOnce(&mut Followed)) -> Result<u64, ConfigError> {
        let _one_at_a_time = self.configuration.lock();
        let (base, before) = {
            let inner = self.inner.lock();
            (inner.base.clone(), inner.followed.clone())
        };
        let mut after = before.clone();
        change(&mut after);
        if after == before {
            return Ok(self.inner.lock().version);
        }
        let network = after.network(&base, &self.options.cell);
        let version = self.put_in_force(base, network)?;
        self.inner.lock().followed = after;
        Ok(version)
    }

    /// What the servers have said last.
    pub fn followed(&self) -> Followed {
        self.inner.lock().followed.clone()
    }

    /// Shows in the status what a server does not say or do, or no longer. There is one problem for
    /// each `subject`.
    pub fn note(&self, subject: &'static str, problem: Option<String>) {
        let mut inner = self.inner.lock();
        match problem {
            Some(problem) => inner.server_problems.insert(subject, problem),
            None => inner.server_problems.remove(subject),
        };
    }

    /// How many other cells packets can be sent to, and how many leases of other cells cannot be
    /// used.
    pub fn reachable(&self) -> (usize, usize) {
        let inner = self.inner.lock();
        let cells = inner.network.cells.len().saturating_sub(1);
        (cells, inner.followed.unroutable(inner.network.overlay))
    }

    /// Waits until a version that [`Self::follow`] returned, or a later one, is in force.
    pub fn wait(&self, version: u64) -> Result<(), NotInForce> {
        // Before anything is published nothing is in force, whatever was changed.
        self.dataplane.wait(version.max(1), PATIENCE)
    }

    /// Puts a network file in force that was read without mistakes. Returns the version to wait for.
    fn put_base_in_force(&self, base: Network) -> Result<u64, ConfigError> {
        let (before, followed) = {
            let inner = self.inner.lock();
            let before = (inner.base.control.clone(), inner.base.status);
            (before, inner.followed.clone())
        };
        for (key, same) in
            [("control", before.0 == base.control), ("status", before.1 == base.status)]
        {
            if !same {
                let reason = "has changed, which is in force when the agent is started again";
                return Err(self.not_now(format!("`{key}` {reason}")));
            }
        }
        if let Some(lease) = &followed.lease
            && !(base.overlay.contains(&lease.subnet)
                && base.overlay.prefix_len() < lease.subnet.prefix_len())
        {
            let reason = format!(
                "the cell's lease {} is not a part of the overlay {}; start the agent again for a \
                 new lease",
                lease.subnet, base.overlay
            );
            return Err(self.not_now(reason));
        }
        let network = followed.network(&base, &self.options.cell);
        let version = self.put_in_force(base, network)?;
        let mut inner = self.inner.lock();
        inner.mistakes = Vec::new();
        inner.read_at = Instant::now();
        Ok(version)
    }

    fn not_now(&self, reason: String) -> ConfigError {
        ConfigError::NotNow { path: self.options.network.display().to_string(), reason }
    }

    /// Puts `network` in force, which came of `base`. Returns the version to wait for.
    fn put_in_force(&self, base: Network, network: Network) -> Result<u64, ConfigError> {
        let path = &self.options.network;
        let cell = network.cell_of(path, &self.options.cell)?.clone();
        let refuse = |message: String| Err(self.not_now(message));
        let (old_cell, old_overlay, old_mtu, attached) = {
            let inner = self.inner.lock();
            let attached = !inner.containers.is_empty();
            (inner.cell.clone(), inner.network.overlay, inner.mtu, attached)
        };
        if cell.subnet != old_cell.subnet && attached {
            return refuse(format!(
                "the subnet of {} cannot change from {} to {} while containers are attached",
                cell.name, old_cell.subnet, cell.subnet
            ));
        }
        if let Some((id, why)) = self.collision(&network) {
            return refuse(format!("container {id}: {why}"));
        }
        if let Err(e) = reserve_snat_ports(&network) {
            return refuse(e.to_string());
        }
        let same_door = cell == old_cell && network.overlay == old_overlay;
        let mtu = match inner_mtu(&network, &cell) {
            Ok(mtu) => mtu,
            Err(e) => return refuse(e.to_string()),
        };
        if !(same_door && mtu == old_mtu)
            && let Err(e) = host::set_up(cell.subnet, network.overlay, mtu)
        {
            return refuse(format!("cannot set {} up: {e}", host::DEVICE));
        }
        let (version, interfaces) = {
            let mut inner = self.inner.lock();
            if logging::configured(&network) != logging::configured(&inner.network) {
                inner.switches = Switches::default();
            }
            if network.open_overlay && !inner.network.open_overlay {
                warn!("{}", report::OPEN);
            }
            inner.base = base;
            inner.network = network;
            inner.cell = cell;
            inner.mtu = mtu;
            let interfaces: Vec<_> = inner
                .containers
                .values()
                .filter(|_| mtu != old_mtu)
                .map(|entry| (entry.saved.clone(), inner.interface(&entry.saved)))
                .collect();
            (self.publish(&mut inner), interfaces)
        };
        for (saved, interface) in interfaces {
            let set = open_namespace(&saved).and_then(|netns| interface.set_up(netns.as_fd()));
            if let Err(e) = set {
                warn!(container = %saved.id, "cannot set the new MTU: {e}");
            }
        }
        Ok(version)
    }

    /// The first container whose mapped ports `network` does not allow, and why.
    fn collision(&self, network: &Network) -> Option<(AttachmentId, String)> {
        let inner = self.inner.lock();
        inner.containers.values().find_map(|entry| {
            let why = terms::collision(network, &ranges(&entry.saved.terms.mappings))?;
            Some((entry.saved.id.clone(), why))
        })
    }

    /// Writes a policy into the network file, or takes it out, and waits until that is in force
    /// on this cell. Returns whether the file had to be changed.
    pub fn change_policy(&self, policy: &Policy, allow: bool) -> Result<bool, Failure> {
        let (version, changed) = {
            let _one_at_a_time = self.configuration.lock();
            if let Some(control) = &self.inner.lock().base.control {
                let server = control.policy_server.as_ref();
                let server = server.map_or_else(String::new, |server| format!(" ({})", server.url));
                let message = format!(
                    "policies of this cell come from the policy server{server}; change them there: \
                     `sarcenet policy allow --server` with the address of its external API"
                );
                return Err(Failure::new(ErrorCode::Config, message));
            }
            let outcome = PolicyFile::lock(&self.options.network)
                .and_then(|file| file.change(policy, allow))
                .map_err(|e| edit_failure(&e))?;
            let version = self
                .put_base_in_force(outcome.network)
                .inspect_err(|e| self.reject(e))
                .map_err(|e| Failure::new(ErrorCode::Config, e.to_string()))?;
            let mut inner = self.inner.lock();
            inner.digest = Network::digest(&outcome.text);
            inner.text = outcome.text;
            (version, outcome.changed)
        };
        self.dataplane.wait(version, PATIENCE).map_err(|e| {
            let message = format!("the network file says so now, but {e}");
            Failure::new(ErrorCode::Dataplane, message)
        })?;
        if changed {
            info!(%policy, allow, "policy changed");
        }
        Ok(changed)
    }
}

fn edit_failure(error: &EditError) -> Failure {
    let code = match error {
        EditError::Write { .. } => ErrorCode::Storage,
        EditError::Config(_) | EditError::Shape(_) => ErrorCode::Config,
    };
    Failure::new(code, error.to_string())
}
