//! Desired state: what the controller said, checked before any of it takes effect.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::Hash,
    net::Ipv4Addr,
};

use ipnet::Ipv4Net;
use sarcenet_dataplane_api::{
    Cell, Container, Peer, PortId, PortRange, Rule, RuleId, RuleKey, Update,
};

mod access;
mod invalid;

pub use access::{Access, AccessChange, MAX_EGRESS_TOTAL, MAX_SETS};
pub use invalid::Invalid;

/// Most rules of a cell; keeps a controller's mistake from filling the memory.
pub const MAX_RULES: usize = 1 << 20;

/// Most other cells.
pub const MAX_PEERS: usize = 1 << 16;

/// Longest name of a container, in bytes.
pub const MAX_NAME: usize = 256;

/// Smallest MTU that IPv4 hosts must be able to take (RFC 791 section 3.1, RFC 1122 section 3.3.3).
const MIN_MTU: u16 = 576;

/// Who is where, apart from the rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places {
    /// This cell.
    pub cell: Option<Cell>,
    /// Other cells, by subnet.
    pub peers: BTreeMap<Ipv4Net, Peer>,
    /// Containers of this cell, by port.
    pub containers: BTreeMap<PortId, Container>,
}

/// Everything the controller has said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    /// Who is where.
    pub places: Places,
    /// Which conversations may begin.
    pub rules: HashMap<RuleKey, RuleId>,
    /// What containers may do beyond that.
    pub access: Access,
}

/// A checked change, for [`Desired::accept`]. Parts that do not change are none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The places afterwards.
    pub places: Option<Places>,
    /// Which rules change.
    pub rules: RuleChange,
    /// What containers may do afterwards; [`Access::towards`] says what of it changes.
    pub access: Option<Access>,
}

/// A checked change of rules. `gone` is applied before `new`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuleChange {
    /// Rules to remove.
    pub gone: Vec<RuleKey>,
    /// Rules to add.
    pub new: Vec<Rule>,
}

impl Places {
    /// These places after `update`, unchecked.
    fn after(&self, update: &Update) -> Result<Self, Invalid> {
        let mut places = self.clone();
        for subnet in &update.peers_gone {
            places.peers.remove(subnet);
        }
        for port in &update.containers_gone {
            places.containers.remove(port);
        }
        if let Some(cell) = &update.cell {
            places.cell = Some(cell.clone());
        }
        for &peer in &update.peers {
            places.peers.insert(peer.subnet, peer);
        }
        let mut ports = HashSet::new();
        for container in &update.containers {
            if !ports.insert(container.port) {
                return Err(wrong_container(container, "its port occurs twice".into()));
            }
            places.containers.insert(container.port, container.clone());
        }
        Ok(places)
    }

    /// Whether all this can be true at once.
    pub fn check(&self) -> Result<(), Invalid> {
        let Some(cell) = &self.cell else {
            let nobody = self.peers.is_empty() && self.containers.is_empty();
            return if nobody { Ok(()) } else { Err(Invalid::NoCell) };
        };
        check_cell(cell)?;
        check_peers(cell, &self.peers)?;
        check_containers(cell, &self.containers)
    }
}

fn has_host_bits(net: Ipv4Net) -> bool {
    net.addr() != net.network()
}

fn check_cell(cell: &Cell) -> Result<(), Invalid> {
    let wrong = |what: String| Err(Invalid::Cell { subnet: cell.subnet, what });
    if has_host_bits(cell.subnet) || has_host_bits(cell.overlay) {
        let (subnet, overlay) = (cell.subnet.trunc(), cell.overlay.trunc());
        return wrong(format!("host bits set; the networks are {subnet} and {overlay}"));
    }
    if !cell.overlay.contains(&cell.subnet) {
        return wrong(format!("lies outside the overlay {}", cell.overlay));
    }
    let underlay = cell.underlay;
    if !is_host(underlay) {
        return wrong(format!("underlay address {underlay} is not the address of a host"));
    }
    if cell.overlay.contains(&underlay) {
        return wrong(format!("underlay address {underlay} lies inside the overlay"));
    }
    if cell.vni >> 24 != 0 {
        return wrong(format!("VNI {} does not fit 24 bits", cell.vni));
    }
    if cell.tunnel_port == 0 {
        return wrong("tunnel port 0".into());
    }
    if cell.mtu < MIN_MTU {
        return wrong(format!("MTU {} is below the {MIN_MTU} bytes that IPv4 needs", cell.mtu));
    }
    if let Some(what) = cell.tracking.mistake() {
        return wrong(what);
    }
    match cell.outside.as_ref().and_then(|outside| access::mistake_in_outside(cell, outside)) {
        Some(what) => wrong(what),
        None => Ok(()),
    }
}

fn check_peers(cell: &Cell, peers: &BTreeMap<Ipv4Net, Peer>) -> Result<(), Invalid> {
    if peers.len() > MAX_PEERS {
        return Err(Invalid::TooMany { what: "peers", count: peers.len(), max: MAX_PEERS });
    }
    // In order of base address, two networks of which one contains the other are neighbours, or
    // everything between them lies in the containing one too.
    let mut before: Option<Ipv4Net> = None;
    for (&subnet, peer) in peers {
        let wrong = |what: String| Err(Invalid::Peer { subnet, underlay: peer.underlay, what });
        if has_host_bits(subnet) {
            return wrong(format!("host bits set; the network is {}", subnet.trunc()));
        }
        if !cell.overlay.contains(&subnet) {
            return wrong(format!("lies outside the overlay {}", cell.overlay));
        }
        if subnet.contains(&cell.subnet) || cell.subnet.contains(&subnet) {
            return wrong(format!("overlaps this cell's subnet {}", cell.subnet));
        }
        if let Some(before) = before.filter(|before| before.contains(&subnet)) {
            return wrong(format!("overlaps the peer subnet {before}"));
        }
        if !is_host(peer.underlay) || peer.underlay == cell.underlay {
            return wrong("its underlay address is not that of another host".into());
        }
        before = Some(subnet);
    }
    Ok(())
}

fn check_containers(cell: &Cell, containers: &BTreeMap<PortId, Container>) -> Result<(), Invalid> {
    let mut by_address: HashMap<Ipv4Addr, &Container> = HashMap::new();
    for container in containers.values() {
        let wrong = |what: String| Err(wrong_container(container, what));
        if container.name.len() > MAX_NAME {
            return wrong(format!("its name is longer than {MAX_NAME} bytes"));
        }
        if !cell.subnet.contains(&container.address) {
            return wrong(format!("its address lies outside the cell's subnet {}", cell.subnet));
        }
        if container.address == cell.subnet.network() {
            return wrong("its address is the cell's own".into());
        }
        if let Some(other) = by_address.insert(container.address, container) {
            return wrong(format!(
                "its address is that of container {} (port {}) too",
                other.name, other.port.0
            ));
        }
    }
    Ok(())
}

fn wrong_container(container: &Container, what: String) -> Invalid {
    Invalid::Container {
        name: container.name.chars().take(MAX_NAME).collect(),
        port: container.port,
        address: container.address,
        what,
    }
}

fn check_rule(rule: &Rule) -> Result<(), Invalid> {
    let wrong = |what| Err(Invalid::Rule { id: rule.id, key: rule.key, what });
    let PortRange { first, last } = rule.key.ports;
    if rule.id.0 == 0 {
        return wrong("0 is not the name of a rule");
    }
    if rule.key.source == 0 {
        return wrong("tag 0 means no tag and can be allowed nothing");
    }
    if first > last {
        return wrong("its first port lies behind its last one");
    }
    if !is_host(rule.key.destination) {
        return wrong("its destination is not the address of a host");
    }
    Ok(())
}

fn is_host(address: Ipv4Addr) -> bool {
    !(address.is_unspecified() || address.is_multicast() || address.is_broadcast())
}

/// The items of `all` whose key comes for the last time: a later one replaces an earlier one.
fn last_of_each<T: Copy, K: Eq + Hash>(all: &[T], key: impl Fn(&T) -> K) -> Vec<T> {
    let mut seen = HashSet::with_capacity(all.len());
    let mut kept: Vec<T> =
        all.iter().rev().filter(|item| seen.insert(key(item))).copied().collect();
    kept.reverse();
    kept
}

impl Desired {
    /// What `update` would change, checked against this state; nothing is changed here.
    pub fn plan(&self, update: &Update) -> Result<Plan, Invalid> {
        let touches_places = update.cell.is_some()
            || !update.peers.is_empty()
            || !update.peers_gone.is_empty()
            || !update.containers.is_empty()
            || !update.containers_gone.is_empty();
        let places = touches_places.then(|| self.places.after(update)).transpose()?;
        let touches_access = self.access.is_touched_by(update);
        let access = touches_access.then(|| self.access.clone().after(update)).transpose()?;
        if let Some(places) = &places {
            places.check()?;
        }
        if places.is_some() || access.is_some() {
            let access = access.as_ref().unwrap_or(&self.access);
            access.check(places.as_ref().unwrap_or(&self.places))?;
        }
        Ok(Plan { places, rules: self.plan_rules(update)?, access })
    }

    /// What leads from here to `wanted`.
    pub fn plan_towards(&self, wanted: Self) -> Result<Plan, Invalid> {
        wanted.places.check()?;
        wanted.access.check(&wanted.places)?;
        let rules = self.rules_towards(&wanted);
        Ok(Plan { places: Some(wanted.places), rules, access: Some(wanted.access) })
    }

    fn plan_rules(&self, update: &Update) -> Result<RuleChange, Invalid> {
        update.rules.iter().try_for_each(check_rule)?;
        let mut new = last_of_each(&update.rules, |rule| rule.key);
        // A rule that is there already stays untouched; one of another name replaces it.
        let removed: HashSet<RuleKey> = update.rules_gone.iter().copied().collect();
        new.retain(|rule| {
            removed.contains(&rule.key) || self.rules.get(&rule.key) != Some(&rule.id)
        });
        let replaced = new.iter().map(|rule| rule.key).filter(|key| !removed.contains(key));
        let mut gone: Vec<RuleKey> = removed.iter().copied().chain(replaced).collect();
        gone.retain(|key| self.rules.contains_key(key));
        let count = self.rules.len() - gone.len() + new.len();
        if count > MAX_RULES {
            return Err(Invalid::TooMany { what: "rules", count, max: MAX_RULES });
        }
        Ok(RuleChange { gone, new })
    }

    /// Takes what [`Self::plan`] made.
    pub fn accept(&mut self, plan: Plan) {
        let Plan { places, rules, access } = plan;
        if let Some(places) = places {
            self.places = places;
        }
        if let Some(access) = access {
            self.access = access;
        }
        for key in &rules.gone {
            self.rules.remove(key);
        }
        self.rules.extend(rules.new.iter().map(|rule| (rule.key, rule.id)));
    }

    /// Adds a piece of a snapshot. What only the whole can tell is checked by
    /// [`Self::plan_towards`] in the end.
    pub fn add_piece(&mut self, piece: &Update) -> Result<(), Invalid> {
        let again = piece.containers.iter().find(|c| self.places.containers.contains_key(&c.port));
        if let Some(container) = again {
            return Err(wrong_container(container, "its port occurs twice".into()));
        }
        let rules = self.plan_rules(piece)?;
        let places = self.places.after(piece)?;
        if places.peers.len() > MAX_PEERS {
            let count = places.peers.len();
            return Err(Invalid::TooMany { what: "peers", count, max: MAX_PEERS });
        }
        let touches_access = self.access.is_touched_by(piece);
        let access = touches_access.then(|| self.access.clone().after(piece)).transpose()?;
        self.accept(Plan { places: Some(places), rules, access });
        Ok(())
    }

    /// What must be done to the rules to come from here to `wanted`.
    fn rules_towards(&self, wanted: &Self) -> RuleChange {
        let differs = |a: &HashMap<_, _>, key: &RuleKey, id: &RuleId| a.get(key) != Some(id);
        RuleChange {
            gone: (self.rules.iter())
                .filter(|(key, id)| differs(&wanted.rules, key, id))
                .map(|(&key, _)| key)
                .collect(),
            new: (wanted.rules.iter())
                .filter(|(key, id)| differs(&self.rules, key, id))
                .map(|(&key, &id)| Rule { id, key })
                .collect(),
        }
    }
}

#[cfg(test)]
pub(crate) mod fixtures;
#[cfg(test)]
mod tests;
