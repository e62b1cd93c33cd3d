//! What containers may do beyond app-to-app rules: sets of egress rules, and settings that name
//! them.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use sarcenet_dataplane_api::{
    Cell, EgressRule, EgressSet, MAX_EGRESS_RULES, MAX_LISTED, MAX_MAPPINGS, Mapping, Outside,
    PortId, PortRange, Protocol, SetId, Settings, Traffic, Update,
};

use super::{Invalid, Places, has_host_bits, is_host};

/// Most egress rules of all sets together; keeps a controller's mistake from filling the memory.
pub const MAX_EGRESS_TOTAL: usize = 1 << 22;

/// Most sets: two for each port that a cell can have.
pub const MAX_SETS: usize = 1 << 17;

/// What containers may do beyond app-to-app rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// Sets of egress rules, whether settings name them or not.
    pub sets: HashMap<SetId, Arc<Vec<EgressRule>>>,
    /// Settings of containers.
    pub settings: BTreeMap<PortId, Settings>,
}

/// What differs between two [`Access`]es. A set counts from the moment when settings name it, which
/// is when it has all its rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccessChange {
    /// Sets that settings name and did not name before, and those whose rules are others now.
    pub sets_new: Vec<(SetId, Arc<Vec<EgressRule>>)>,
    /// Sets that settings do not name any more.
    pub sets_gone: Vec<SetId>,
    /// Settings that are new or changed.
    pub settings_new: Vec<Settings>,
    /// Containers that have no settings any more.
    pub settings_gone: Vec<PortId>,
}

impl Access {
    /// Whether `update` changes any of it.
    pub(super) fn is_touched_by(&self, update: &Update) -> bool {
        let gone = |port| self.settings.contains_key(port);
        !(update.egress.is_empty() && update.egress_gone.is_empty() && update.settings.is_empty())
            || update.containers_gone.iter().any(gone)
    }

    /// This after `update`. What only the whole can tell is checked by [`Self::check`].
    pub(super) fn after(mut self, update: &Update) -> Result<Self, Invalid> {
        let access = &mut self;
        for port in &update.containers_gone {
            access.settings.remove(port);
        }
        for set in &update.egress_gone {
            access.sets.remove(set);
        }
        for piece in &update.egress {
            if update.egress_gone.contains(&piece.id) {
                let what = "it is both new and gone; give a set of other rules another name";
                return Err(Invalid::Set { set: piece.id, what: what.into() });
            }
            access.add_set(piece)?;
        }
        if access.sets.len() > MAX_SETS {
            let count = access.sets.len();
            return Err(Invalid::TooMany { what: "sets of egress rules", count, max: MAX_SETS });
        }
        let count = access.sets.values().map(|rules| rules.len()).sum();
        if count > MAX_EGRESS_TOTAL {
            return Err(Invalid::TooMany { what: "egress rules", count, max: MAX_EGRESS_TOTAL });
        }
        let mut ports = HashSet::new();
        for settings in &update.settings {
            if !ports.insert(settings.port) {
                return Err(wrong(None, settings, "they occur twice".into()));
            }
            check_settings(settings).map_err(|what| wrong(None, settings, what))?;
            access.settings.insert(settings.port, settings.clone());
        }
        Ok(self)
    }

    /// Adds a piece of a set.
    fn add_set(&mut self, piece: &EgressSet) -> Result<(), Invalid> {
        let refuse = |what| Err(Invalid::Set { set: piece.id, what });
        let mut indices = piece.from..;
        for (rule, index) in piece.rules.iter().zip(&mut indices) {
            if let Some(what) = mistake_in(rule) {
                return Err(Invalid::Egress { set: piece.id, index, rule: *rule, what });
            }
        }
        let known = self.sets.get(&piece.id).map_or(0, |rules| rules.len());
        if piece.from as usize != known {
            return refuse(format!(
                "a piece begins with rule {}, but {known} rules are known; pieces must come in \
                 order, without gaps, and once",
                piece.from
            ));
        }
        if known > 0 && self.is_named(piece.id) {
            return refuse("it is in use and cannot grow; send the rules under a new name".into());
        }
        let count = known + piece.rules.len();
        if count > MAX_EGRESS_RULES {
            return refuse(format!("{count} rules, at most {MAX_EGRESS_RULES} are possible"));
        }
        Arc::make_mut(self.sets.entry(piece.id).or_default()).extend(&piece.rules);
        Ok(())
    }

    /// Sets that settings name.
    fn named(&self) -> HashSet<SetId> {
        self.settings
            .values()
            .flat_map(|settings| [settings.denied, settings.allowed])
            .flatten()
            .collect()
    }

    fn is_named(&self, set: SetId) -> bool {
        let names =
            |settings: &Settings| settings.denied == Some(set) || settings.allowed == Some(set);
        self.settings.values().any(names)
    }

    /// Whether all this can be true at once, and beside `places`.
    pub(super) fn check(&self, places: &Places) -> Result<(), Invalid> {
        let mut taken = Taken::default();
        for settings in self.settings.values() {
            let container = places.containers.get(&settings.port);
            let name = container.map(|container| container.name.as_str());
            let refuse = |what| Err(wrong(name, settings, what));
            if container.is_none() {
                return refuse("there is no such container".into());
            }
            for (set, role) in [(settings.denied, "denied"), (settings.allowed, "allowed")] {
                if let Some(set) = set.filter(|set| !self.sets.contains_key(set)) {
                    return refuse(format!(
                        "they name the set {} for what is {role}, which does not exist",
                        set.0
                    ));
                }
            }
            for mapping in &settings.mappings {
                if let Some(what) = places.cell.as_ref().and_then(|cell| collision(cell, *mapping))
                {
                    return refuse(format!("mapping {}: {what}", text(*mapping)));
                }
                if let Some((port, owner)) = taken.take(*mapping, settings.port) {
                    let owner = places.containers.get(&owner).map_or("?", |other| &other.name);
                    return refuse(format!(
                        "mapping {}: {} port {port} of the cell is mapped to container {owner} \
                         already",
                        text(*mapping),
                        mapping.protocol
                    ));
                }
            }
        }
        Ok(())
    }

    /// What leads from here to `wanted`.
    pub fn towards(&self, wanted: &Self) -> AccessChange {
        let (before, after) = (self.named(), wanted.named());
        let mut sets_new: Vec<_> = after
            .iter()
            .filter(|set| !before.contains(set) || self.sets.get(set) != wanted.sets.get(set))
            .filter_map(|set| Some((*set, Arc::clone(wanted.sets.get(set)?))))
            .collect();
        sets_new.sort_by_key(|(set, _)| *set);
        let mut sets_gone: Vec<_> = before.difference(&after).copied().collect();
        sets_gone.sort();
        AccessChange {
            sets_new,
            sets_gone,
            settings_new: (wanted.settings.iter())
                .filter(|(port, settings)| self.settings.get(port) != Some(settings))
                .map(|(_, settings)| settings.clone())
                .collect(),
            settings_gone: (self.settings.keys())
                .filter(|port| !wanted.settings.contains_key(port))
                .copied()
                .collect(),
        }
    }
}

/// Whose ports of the cell are whose, as ranges without overlap by their first port.
#[derive(Default)]
struct Taken {
    tcp: BTreeMap<u16, (u16, PortId)>,
    udp: BTreeMap<u16, (u16, PortId)>,
}

impl Taken {
    /// Takes the cell's ports of `mapping`, or says which one somebody has already.
    fn take(&mut self, mapping: Mapping, owner: PortId) -> Option<(u16, PortId)> {
        let ranges = match mapping.protocol {
            Protocol::Tcp => &mut self.tcp,
            Protocol::Udp => &mut self.udp,
        };
        let PortRange { first, last } = mapping.cell;
        // The nearest range that does not begin behind this one reaches farthest.
        match ranges.range(..=last).next_back() {
            Some((&other, &(end, owner))) if first <= end => Some((first.max(other), owner)),
            _ => {
                ranges.insert(first, (last, owner));
                None
            }
        }
    }
}

fn wrong(name: Option<&str>, settings: &Settings, what: String) -> Invalid {
    Invalid::Settings { port: settings.port, name: name.map(Into::into), what }
}

fn text(mapping: Mapping) -> String {
    format!("{} {} to {}", mapping.protocol, mapping.cell, mapping.container)
}

/// What is wrong with a rule by itself.
fn mistake_in(rule: &EgressRule) -> Option<&'static str> {
    if rule.first > rule.last {
        return Some("its first address lies behind its last one");
    }
    match rule.traffic {
        Traffic::Tcp(ports) | Traffic::Udp(ports) if ports.first > ports.last => {
            Some("its first port lies behind its last one")
        }
        Traffic::Tcp(ports) | Traffic::Udp(ports) if ports.first == 0 => {
            Some("0 is not a port; use 1 to 65535")
        }
        _ => None,
    }
}

/// What is wrong with settings by themselves.
fn check_settings(settings: &Settings) -> Result<(), String> {
    let count = settings.mappings.len();
    if count > MAX_MAPPINGS {
        return Err(format!("{count} mappings, at most {MAX_MAPPINGS} are possible"));
    }
    for &mapping in &settings.mappings {
        let PortRange { first, last } = mapping.cell;
        let what = if first > last {
            "its first port lies behind its last one"
        } else if first == 0 || mapping.container == 0 {
            "0 is not a port; use 1 to 65535"
        } else if mapping.container.checked_add(last - first).is_none() {
            "the container's ports would go beyond 65535"
        } else {
            continue;
        };
        return Err(format!("mapping {}: {what}", text(mapping)));
    }
    for (rate, direction) in [(settings.send, "sends"), (settings.receive, "is sent")] {
        match rate {
            Some(rate) if rate.bits_per_second == 0 => {
                return Err(format!("the limit on what it {direction} is 0 bits per second"));
            }
            Some(rate) if rate.burst_bits == 0 => {
                return Err(format!(
                    "the limit on what it {direction} has a burst of 0 bits: nothing would pass"
                ));
            }
            _ => {}
        }
    }
    match settings.connections {
        Some(limit) if limit.per_second == 0 || limit.burst == 0 => Err(format!(
            "the limit on connections has the rate {} and the burst {}; neither can be 0",
            limit.per_second, limit.burst
        )),
        _ => Ok(()),
    }
}

/// Why the cell cannot give away the ports of a mapping.
fn collision(cell: &Cell, mapping: Mapping) -> Option<String> {
    let ports = mapping.cell;
    if mapping.protocol == Protocol::Udp && ports.contains(cell.tunnel_port) {
        return Some(format!("UDP port {} is that of the tunnel", cell.tunnel_port));
    }
    let snat = cell.outside.as_ref()?.snat_ports?;
    let overlaps = ports.first <= snat.last && snat.first <= ports.last;
    overlaps.then(|| format!("overlaps the ports of source NAT, {snat}"))
}

/// What is wrong with a cell's way to the outside.
pub(super) fn mistake_in_outside(cell: &Cell, outside: &Outside) -> Option<String> {
    let Outside { snat_ports, not_masqueraded, local, services, .. } = outside;
    for (count, what) in [
        (not_masqueraded.len(), "networks that are not masqueraded"),
        (local.len(), "addresses"),
        (services.len(), "services"),
    ] {
        if count > MAX_LISTED {
            return Some(format!("{count} {what}, at most {MAX_LISTED} are possible"));
        }
    }
    match snat_ports {
        Some(PortRange { first, last }) if first > last => {
            return Some(format!("the ports of source NAT, {first}-{last}, end before they begin"));
        }
        Some(ports) if ports.first == 0 => {
            return Some(format!("the ports of source NAT, {ports}, contain 0, which is no port"));
        }
        Some(ports) if ports.contains(cell.tunnel_port) => {
            let tunnel = cell.tunnel_port;
            return Some(format!(
                "the ports of source NAT, {ports}, contain the tunnel's, {tunnel}"
            ));
        }
        _ => {}
    }
    if let Some(net) = not_masqueraded.iter().find(|net| has_host_bits(**net)) {
        return Some(format!(
            "host bits set in {net}, which is not masqueraded; the network is {}",
            net.trunc()
        ));
    }
    if let Some(address) = local.iter().find(|address| !is_host(**address)) {
        return Some(format!("{address} is not the address of a host, so not one of the cell"));
    }
    let wrong = services.iter().find(|service| service.port == 0 || !is_host(service.address));
    wrong.map(|service| {
        format!("{}:{} cannot be a service of the cell", service.address, service.port)
    })
}

#[cfg(test)]
mod tests;
