//! From the network file and the containers of this cell to what the dataplane shall know, and
//! from one such state to the next.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use ipnet::Ipv4Net;
use sarcenet_agent_api::{AttachmentId, CellTerms, RuleMeaning, Terms, ranges};
use sarcenet_dataplane_api::client::Snapshot;
use sarcenet_dataplane_api::{
    Attach, Cell, Container, EgressSet, Logging, MAX_LISTED, Outside, Peer, PortId, PortRange,
    Protocol, Rule, RuleId, RuleKey, SetId, Settings, Update,
};

use crate::config::{CellSpec, Network, OutsideSpec};
use crate::egress::{ContainerSets, EgressBook, Rules};
use crate::rule_names::RuleNames;

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
    /// What its runtime said about it.
    pub terms: Arc<Terms>,
    /// The descriptor that goes with the way in which it is attached.
    pub queue: Arc<OwnedFd>,
}

/// What this cell is now.
#[derive(Debug, Clone, Copy)]
pub struct Here<'a> {
    /// What the network file says.
    pub network: &'a Network,
    /// Which of its cells this is.
    pub cell: &'a CellSpec,
    /// Largest inner IP packet, in bytes.
    pub mtu: u16,
    /// The queue of the cell's own device.
    pub host: Option<&'a Arc<OwnedFd>>,
    /// All addresses of the cell.
    pub addresses: &'a [Ipv4Addr],
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
    egress: BTreeMap<SetId, Rules>,
    settings: BTreeMap<PortId, Settings>,
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

/// The port of a container: the host part of its address, so that it is stable, small, and comes
/// again as late as the address does.
pub fn port(subnet: Ipv4Net, address: Ipv4Addr) -> PortId {
    PortId((u32::from(address) - u32::from(subnet.network())) as u16)
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
    /// What the dataplane of this cell shall know.
    pub fn new(
        here: Here<'_>,
        containers: &[Attached],
        names: &mut RuleNames,
        book: &mut EgressBook,
    ) -> Self {
        let Here { network, cell, mtu, host, .. } = here;
        names.bound(network);
        let peers = network.cells.iter().filter(|other| other.subnet != cell.subnet).map(|other| {
            let &CellSpec { underlay, subnet, mac, .. } = other;
            (subnet, Peer { subnet, underlay, mac })
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
            let id = names.name(&RuleMeaning::Policy(policy.clone()));
            for &destination in receivers {
                let key =
                    RuleKey { source, destination, protocol: policy.protocol, ports: policy.ports };
                rules.insert(key, id);
            }
        }
        if let Some(source) = network.router_tag {
            for (key, port) in for_routers(source, containers) {
                // A policy that says the same has the name.
                rules.entry(key).or_insert_with(|| names.name(&RuleMeaning::Routers { port }));
            }
        }
        let (egress, settings) = beyond(here, containers, names, book);
        let outside = network.outside.as_ref().map(|spec| outside(here, spec, containers));
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
                outside,
                logging: network.outside.as_ref().map_or_else(Logging::default, |o| o.logging),
                tracking: network.tracking,
                tag: network.own_tag.unwrap_or(0),
                open: network.open_overlay,
            },
            host: host.cloned(),
            peers: peers.collect(),
            containers: containers.collect(),
            rules,
            egress,
            settings,
        }
    }

    /// The same, with something else recorded as events.
    #[must_use]
    pub fn with_logging(mut self, logging: Logging) -> Self {
        self.cell.logging = logging;
        self
    }

    /// Whether anything is to be recorded as events, be it that a rule or a limit asks for it.
    pub fn records_events(&self) -> bool {
        let by_limit = |settings: &Settings| {
            settings.connections.is_some_and(|limit| limit.log || limit.dry_run)
        };
        self.cell.logging.overlay
            || self.cell.logging.egress
            || self.settings.values().any(by_limit)
            || self.egress.values().any(|rules| rules.iter().any(|rule| rule.log))
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
            egress: self.egress.iter().map(whole_set).collect(),
            settings: self.settings.values().cloned().collect(),
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
        // A name never means other rules, so a set that is there already is the same.
        let new_sets = self.egress.iter().filter(|(id, _)| !old.egress.contains_key(id));
        update.egress = new_sets.map(whole_set).collect();
        update.egress_gone =
            old.egress.keys().filter(|id| !self.egress.contains_key(id)).copied().collect();
        update.settings = self
            .settings
            .iter()
            .filter(|(port, settings)| old.settings.get(port) != Some(settings))
            .map(|(_, settings)| settings.clone())
            .collect();
        // Nothing takes settings away but the end of the container: empty ones do the same.
        let bare = old
            .settings
            .keys()
            .filter(|port| !self.settings.contains_key(port) && self.containers.contains_key(port));
        update.settings.extend(bare.map(|&port| bare_settings(port)));
        change
    }
}

fn whole_set((&id, rules): (&SetId, &Rules)) -> EgressSet {
    EgressSet { id, from: 0, rules: rules.to_vec() }
}

fn bare_settings(port: PortId) -> Settings {
    Settings {
        port,
        denied: None,
        allowed: None,
        mappings: Vec::new(),
        send: None,
        receive: None,
        connections: None,
    }
}

/// The TCP ports that apps name, open to routers with the tag `source` (contract section 9.2).
fn for_routers(source: u16, containers: &[Attached]) -> impl Iterator<Item = (RuleKey, u16)> {
    // What belongs to no app is nobody's to open (contract section 7.11).
    containers.iter().filter(|container| container.app.is_some()).flat_map(move |container| {
        let (destination, protocol) = (container.address, Protocol::Tcp);
        container.terms.metadata.listening().into_iter().map(move |port| {
            let ports = PortRange { first: port, last: port };
            (RuleKey { source, destination, protocol, ports }, port)
        })
    })
}

/// The way to the outside, of this cell.
fn outside(here: Here<'_>, spec: &OutsideSpec, containers: &[Attached]) -> Outside {
    let Here { network, cell, addresses, .. } = here;
    let own = |address: &Ipv4Addr| {
        !(address.is_loopback() || *address == cell.underlay || network.overlay.contains(address))
    };
    let mut local: Vec<_> = addresses.iter().copied().filter(own).collect();
    local.sort_unstable();
    local.dedup();
    local.truncate(MAX_LISTED);
    Outside {
        snat_ports: Some(spec.snat_ports),
        snat_per_container: spec.max_connections_per_container,
        not_masqueraded: joined(&spec.no_masquerade, containers, |cell| &cell.not_masqueraded),
        local,
        services: joined(&spec.services(), containers, |cell| &cell.services),
    }
}

/// What the network file says, with what containers have brought along.
fn joined<T: Copy + Ord>(
    configured: &[T],
    containers: &[Attached],
    brought: impl Fn(&CellTerms) -> &Vec<T>,
) -> Vec<T> {
    let brought = containers.iter().flat_map(|container| brought(&container.terms.cell));
    let mut brought: Vec<_> = brought.copied().filter(|one| !configured.contains(one)).collect();
    brought.sort_unstable();
    brought.dedup();
    let mut all = configured.to_vec();
    all.extend(brought);
    all.truncate(MAX_LISTED);
    all
}

/// Settings of containers, and the sets of egress rules that they name.
fn beyond(
    here: Here<'_>,
    containers: &[Attached],
    names: &mut RuleNames,
    book: &mut EgressBook,
) -> (BTreeMap<SetId, Rules>, BTreeMap<PortId, Settings>) {
    let Here { network, cell, .. } = here;
    book.begin(network);
    let (mut egress, mut all) = (BTreeMap::new(), BTreeMap::new());
    for container in containers {
        let port = port(cell.subnet, container.address);
        let terms = &container.terms;
        let mut settings = bare_settings(port);
        (settings.send, settings.receive) = (terms.bandwidth.send, terms.bandwidth.receive);
        if let Some(spec) = &network.outside {
            let ContainerSets { denied, allowed } = book.sets(&container.id, terms, names);
            let mut use_set = |set: Option<(SetId, Rules)>| {
                let (id, rules) = set?;
                egress.insert(id, rules);
                Some(id)
            };
            (settings.denied, settings.allowed) = (use_set(denied), use_set(allowed));
            settings.mappings = ranges(&terms.mappings);
            settings.send = settings.send.or(spec.bandwidth);
            settings.receive = settings.receive.or(spec.bandwidth);
            settings.connections = spec.outbound_connections;
        }
        if settings != bare_settings(port) {
            all.insert(port, settings);
        }
    }
    book.end(&containers.iter().map(|container| &container.id).collect());
    (egress, all)
}

#[cfg(test)]
mod tests;
