//! From the network file and the containers of this cell to what the dataplane shall know, and
//! from one such state to the next.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use ipnet::Ipv4Net;
use sarcenet_agent_api::{AttachmentId, Policy};
use sarcenet_dataplane_api::client::Snapshot;
use sarcenet_dataplane_api::{
    Attach, Cell, Container, Logging, Peer, PortId, Rule, RuleId, RuleKey, Update,
};

use crate::config::{CellSpec, Network};

/// A container whose queue is at hand.
#[derive(Debug, Clone)]
pub struct Attached {
    /// Which interface of which container.
    pub id: AttachmentId,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its app.
    pub app: Option<String>,
    /// How it is attached.
    pub attach: Attach,
    /// The descriptor that goes with that.
    pub queue: Arc<OwnedFd>,
}

/// Everything the dataplane shall know. Queues are compared by identity: another queue under the
/// same port is another container.
#[derive(Debug, Clone)]
pub struct Desired {
    cell: Cell,
    host: Option<Arc<OwnedFd>>,
    peers: BTreeMap<Ipv4Net, Peer>,
    containers: BTreeMap<PortId, (Container, Arc<OwnedFd>)>,
    rules: BTreeMap<RuleKey, RuleId>,
}

/// A change with its descriptors.
#[derive(Debug)]
pub struct Change {
    /// The change; its generation is set by the client.
    pub update: Update,
    fds: Vec<Arc<OwnedFd>>,
}

impl Change {
    /// The descriptors, in the order that the update needs.
    pub fn fds(&self) -> Vec<BorrowedFd<'_>> {
        self.fds.iter().map(|fd| fd.as_fd()).collect()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.update == Update::default()
    }
}

/// Names of policies, as the dataplane carries them in rules. A name is a hash of the policy's
/// text, so that it means the same policy after a restart of the agent, when the dataplane shows
/// flows that were admitted before; two policies of the same hash get neighbouring names.
#[derive(Debug, Default)]
pub struct RuleNames {
    names: BTreeMap<RuleId, Policy>,
}

/// Names kept, those of revoked policies included, before the revoked ones are forgotten.
const NAMES_KEPT: usize = 100_000;

impl RuleNames {
    /// The policy of that name.
    pub fn policy(&self, id: RuleId) -> Option<&Policy> {
        self.names.get(&id)
    }

    /// The name of a policy.
    fn name(&mut self, policy: &Policy) -> RuleId {
        let mut id = fnv1a(&policy.to_string()).max(1);
        loop {
            match self.names.get(&RuleId(id)) {
                Some(known) if known == policy => return RuleId(id),
                None => {
                    self.names.insert(RuleId(id), policy.clone());
                    return RuleId(id);
                }
                Some(_) => id = id.wrapping_add(1).max(1),
            }
        }
    }

    /// Forgets revoked policies when there are very many.
    fn bound(&mut self, network: &Network) {
        if self.names.len() > NAMES_KEPT.max(2 * network.policies.len()) {
            let kept: std::collections::HashSet<&Policy> = network.policies.iter().collect();
            self.names.retain(|_, policy| kept.contains(policy));
        }
    }
}

/// FNV-1a, 32 bits.
fn fnv1a(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// The port of a container: the host part of its address, so that it is stable, small, and comes
/// again as late as the address does.
pub fn port(subnet: Ipv4Net, address: Ipv4Addr) -> PortId {
    PortId((u32::from(address) - u32::from(subnet.network())) as u16)
}

/// MAC address of a cell's VTEP: `ee:ee` and the base of its subnet (contract section 4.3).
fn vtep_mac(subnet: Ipv4Net) -> [u8; 6] {
    let [a, b, c, d] = subnet.network().octets();
    [0xee, 0xee, a, b, c, d]
}

/// What people call a container.
fn display_name(id: &AttachmentId) -> String {
    if id.ifname == "eth0" {
        id.container.clone()
    } else {
        format!("{}/{}", id.container, id.ifname)
    }
}

impl Desired {
    /// What the dataplane of `cell` shall know.
    pub fn new(
        network: &Network,
        cell: &CellSpec,
        mtu: u16,
        host: Option<Arc<OwnedFd>>,
        containers: &[Attached],
        names: &mut RuleNames,
    ) -> Self {
        names.bound(network);
        let peers = network.cells.iter().filter(|other| other.name != cell.name).map(|other| {
            let (subnet, underlay) = (other.subnet, other.underlay);
            (subnet, Peer { subnet, underlay, mac: vtep_mac(subnet) })
        });
        let mut by_app: BTreeMap<&str, Vec<Ipv4Addr>> = BTreeMap::new();
        for container in containers {
            if let Some(app) = &container.app {
                by_app.entry(app).or_default().push(container.address);
            }
        }
        let mut rules = BTreeMap::new();
        for policy in &network.policies {
            let (Some(source), Some(receivers)) =
                (network.tag(&policy.from), by_app.get(policy.to.as_str()))
            else {
                continue;
            };
            let id = names.name(policy);
            for &destination in receivers {
                let key =
                    RuleKey { source, destination, protocol: policy.protocol, ports: policy.ports };
                rules.insert(key, id);
            }
        }
        let containers = containers.iter().map(|container| {
            let port = port(cell.subnet, container.address);
            let tag = container.app.as_deref().and_then(|app| network.tag(app)).unwrap_or(0);
            let name = display_name(&container.id);
            let entry =
                Container { port, address: container.address, tag, name, attach: container.attach };
            (port, (entry, Arc::clone(&container.queue)))
        });
        Self {
            cell: Cell {
                underlay: cell.underlay,
                subnet: cell.subnet,
                overlay: network.overlay,
                vni: network.vni,
                tunnel_port: network.port,
                mtu,
                revoke: network.revoke,
                uplink: network.uplink,
                host: host.is_some(),
                outside: None,
                logging: Logging::default(),
            },
            host,
            peers: peers.collect(),
            containers: containers.collect(),
            rules,
        }
    }

    /// The same, with something else recorded as events.
    #[must_use]
    pub fn with_logging(mut self, logging: Logging) -> Self {
        self.cell.logging = logging;
        self
    }

    /// Whether anything is to be recorded as events.
    pub fn records_events(&self) -> bool {
        self.cell.logging.overlay || self.cell.logging.egress
    }

    /// Rules in it.
    pub fn rules(&self) -> usize {
        self.rules.len()
    }

    /// Whether it has the container's port with that queue.
    pub fn has(&self, port: PortId, queue: &Arc<OwnedFd>) -> bool {
        self.containers.get(&port).is_some_and(|(_, held)| Arc::ptr_eq(held, queue))
    }

    /// The whole of it.
    pub fn snapshot(&self) -> Snapshot<'_> {
        Snapshot {
            cell: Some((self.cell.clone(), self.host.as_ref().map(|fd| fd.as_fd()))),
            peers: self.peers.values().copied().collect(),
            containers: self
                .containers
                .values()
                .map(|(container, queue)| (container.clone(), queue.as_fd()))
                .collect(),
            rules: self.rules.iter().map(|(&key, &id)| Rule { id, key }).collect(),
        }
    }

    /// What leads from `old` to this.
    pub fn since(&self, old: &Self) -> Change {
        let same_host = match (&old.host, &self.host) {
            (Some(old), Some(new)) => Arc::ptr_eq(old, new),
            (None, None) => true,
            _ => false,
        };
        let mut change = Change { update: Update::default(), fds: Vec::new() };
        let update = &mut change.update;
        if old.cell != self.cell || !same_host {
            update.cell = Some(self.cell.clone());
            change.fds.extend(self.host.clone());
        }
        update.peers_gone =
            old.peers.keys().filter(|subnet| !self.peers.contains_key(subnet)).copied().collect();
        update.peers = self
            .peers
            .iter()
            .filter(|(subnet, peer)| old.peers.get(subnet) != Some(peer))
            .map(|(_, peer)| *peer)
            .collect();
        update.containers_gone = old
            .containers
            .keys()
            .filter(|port| !self.containers.contains_key(port))
            .copied()
            .collect();
        for (port, (container, queue)) in &self.containers {
            let same = old
                .containers
                .get(port)
                .is_some_and(|(before, held)| before == container && Arc::ptr_eq(held, queue));
            if !same {
                update.containers.push(container.clone());
                change.fds.push(Arc::clone(queue));
            }
        }
        update.rules_gone =
            old.rules.keys().filter(|key| !self.rules.contains_key(key)).copied().collect();
        update.rules = self
            .rules
            .iter()
            .filter(|(key, id)| old.rules.get(key) != Some(id))
            .map(|(&key, &id)| Rule { id, key })
            .collect();
        change
    }
}

#[cfg(test)]
mod tests;
