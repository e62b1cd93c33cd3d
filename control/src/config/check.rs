//! Contradictions between parts of a network file that are each well-formed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::Ipv4Addr;

use sarcenet_dataplane_api::MAX_EGRESS_RULES;
use sarcenet_server::lease::Pools;

use super::follow::FollowParts;
use super::groups::GroupParts;
use super::mistake::{Mistake, suggestion};
use super::read::Parts;
use super::tree::{At, Place};
use super::{DEFAULT_PORT, OutsideSpec};

/// Longest prefix of a cell's subnet: it must hold its base (the cell itself), one reserved
/// address, one container and its broadcast address.
const LONGEST_SUBNET: u8 = 30;

/// Shortest prefix: ports of the dataplane are the 16 host bits.
const SHORTEST_SUBNET: u8 = 16;

pub(super) fn contradictions(parts: &Parts, mistakes: &mut Vec<Mistake>) {
    cells(parts, mistakes);
    apps(parts, mistakes);
    policies(parts, mistakes);
    outside(parts, mistakes);
    if let Some(groups) = &parts.security_groups {
        security_groups(groups, mistakes);
    }
    control(parts, mistakes);
}

/// Remembers where something was first; complains when it comes again.
struct Once<K> {
    seen: HashMap<K, u32>,
}

impl<K: std::hash::Hash + Eq> Once<K> {
    fn new() -> Self {
        Self { seen: HashMap::new() }
    }

    /// The line of the first one, when this is not the first.
    fn again(&mut self, key: K, place: Place) -> Option<u32> {
        match self.seen.entry(key) {
            std::collections::hash_map::Entry::Occupied(first) => Some(*first.get()),
            std::collections::hash_map::Entry::Vacant(slot) => {
                slot.insert(place.line);
                None
            }
        }
    }
}

fn cells(parts: &Parts, mistakes: &mut Vec<Mistake>) {
    let mut names = Once::new();
    let mut underlays = Once::new();
    // By base address; disjoint as far as accepted, so an overlap is with a neighbour.
    let mut subnets = BTreeMap::new();
    for cell in &parts.cells {
        if let Some(name) = &cell.value.name
            && let Some(line) = names.again(&name.value, name.place)
        {
            let message =
                format!("cell `{}` is already in line {line}; give it another name", name.value);
            mistakes.push(Mistake::at(name.place, message));
        }
        if let Some(At { place, value }) = cell.value.underlay {
            if let Some(line) = underlays.again(value, place) {
                let message = format!(
                    "underlay {value} already belongs to the cell in line {line}; every cell needs its own"
                );
                mistakes.push(Mistake::at(place, message));
            }
            outside_of_overlay(parts, &At { place, value }, mistakes);
        }
        if let Some(subnet) = &cell.value.subnet {
            subnet_alone(parts, subnet, mistakes);
            let (first, last) = (subnet.value.network(), subnet.value.broadcast());
            let neighbour = subnets.range(..=last).next_back();
            match neighbour {
                Some((_, &(other_last, other, line))) if first <= other_last => {
                    let message = format!(
                        "subnet {} overlaps {other} of line {line}; subnets of cells must be disjoint",
                        subnet.value
                    );
                    mistakes.push(Mistake::at(subnet.place, message));
                }
                _ => {
                    subnets.insert(first, (last, subnet.value, subnet.place.line));
                }
            }
        }
    }
}

fn outside_of_overlay(
    parts: &Parts,
    &At { place, value }: &At<Ipv4Addr>,
    mistakes: &mut Vec<Mistake>,
) {
    if let Some(overlay) = &parts.overlay
        && overlay.value.contains(&value)
    {
        let message = format!(
            "underlay {value} lies inside the overlay {}; tunnel packets would be routed into the \
             tunnel; use the cell's address on the physical network",
            overlay.value
        );
        mistakes.push(Mistake::at(place, message));
    }
}

fn subnet_alone(parts: &Parts, subnet: &At<ipnet::Ipv4Net>, mistakes: &mut Vec<Mistake>) {
    let (place, net) = (subnet.place, subnet.value);
    if net.prefix_len() > LONGEST_SUBNET {
        let message = format!(
            "subnet {net} has no room for containers; use /{LONGEST_SUBNET} or shorter, normally /24"
        );
        mistakes.push(Mistake::at(place, message));
    }
    if net.prefix_len() < SHORTEST_SUBNET {
        let message = format!(
            "subnet {net} is larger than a cell can use; use /{SHORTEST_SUBNET} or longer, normally /24"
        );
        mistakes.push(Mistake::at(place, message));
    }
    let Some(At { value: overlay, .. }) = parts.overlay else { return };
    let message = if !overlay.contains(&net) || overlay.prefix_len() >= net.prefix_len() {
        format!("subnet {net} is not a part of the overlay {overlay}; choose one inside it")
    } else if net.network() == overlay.network() {
        // Its base, the cell's own overlay address, would be the overlay's network address.
        format!(
            "subnet {net} is the first block of the overlay {overlay}, whose base address no cell \
             can carry; choose the next one"
        )
    } else {
        return;
    };
    mistakes.push(Mistake::at(place, message));
}

fn apps(parts: &Parts, mistakes: &mut Vec<Mistake>) {
    let mut ids = Once::new();
    let mut tags = Once::new();
    for app in &parts.apps {
        if let Some(id) = &app.value.id
            && let Some(line) = ids.again(&id.value, id.place)
        {
            let message =
                format!("app `{}` is already in line {line}; remove one of them", id.value);
            mistakes.push(Mistake::at(id.place, message));
        }
        if let Some(tag) = &app.value.tag
            && let Some(line) = tags.again(tag.value, tag.place)
        {
            let message = format!(
                "tag {} already belongs to the app in line {line}; every app needs its own",
                tag.value
            );
            mistakes.push(Mistake::at(tag.place, message));
        }
    }
}

fn policies(parts: &Parts, mistakes: &mut Vec<Mistake>) {
    let known: HashSet<&str> = parts
        .apps
        .iter()
        .filter_map(|app| app.value.id.as_ref())
        .map(|id| id.value.as_str())
        .collect();
    let mut seen = Once::new();
    for policy in &parts.policies {
        for app in [&policy.value.from, &policy.value.to].into_iter().flatten() {
            if !known.contains(app.value.as_str()) {
                let hint = match suggestion(&app.value, known.iter().copied()) {
                    none if none.is_empty() => {
                        format!("; add `- {{id: {}, tag: ...}}` under `apps:`", app.value)
                    }
                    near => near,
                };
                let message = format!("no app is named `{}`{hint}", app.value);
                mistakes.push(Mistake::at(app.place, message));
            }
        }
        let whole = &policy.value;
        if let (Some(from), Some(to), Some(protocol), Some(ports)) =
            (&whole.from, &whole.to, whole.protocol, whole.ports)
            && let Some(line) = seen.again((&from.value, &to.value, protocol, ports), policy.place)
        {
            let message = format!("the same policy is already in line {line}; remove one of them");
            mistakes.push(Mistake::at(policy.place, message));
        }
    }
}

fn outside(parts: &Parts, mistakes: &mut Vec<Mistake>) {
    let Some(At { place, value: OutsideSpec { snat_ports, .. } }) = &parts.outside else { return };
    let tunnel = parts.port.unwrap_or(DEFAULT_PORT);
    if snat_ports.contains(tunnel) {
        let message = format!(
            "snat_ports {snat_ports} contains the tunnel's port {tunnel}; choose ports without it"
        );
        mistakes.push(Mistake::at(*place, message));
    }
}

/// Complains about groups that have one name, and about more rules than can be enforced.
pub(super) fn security_groups(groups: &[At<GroupParts>], mistakes: &mut Vec<Mistake>) {
    let mut names = Once::new();
    let mut rules = 0;
    for group in groups {
        if let Some(name) = &group.value.name
            && let Some(line) = names.again(&name.value, name.place)
        {
            let message = format!(
                "security group `{}` is already in line {line}; give it another name",
                name.value
            );
            mistakes.push(Mistake::at(name.place, message));
        }
        let before = rules;
        let specs = group.value.group.rules.iter();
        rules += specs.map(|spec| spec.destinations.len() * spec.traffic.len()).sum::<usize>();
        if before <= MAX_EGRESS_RULES && rules > MAX_EGRESS_RULES {
            let message = format!(
                "the security groups up to this one have {rules} rules, each destination with each \
                 range of ports counted; at most {MAX_EGRESS_RULES} are possible"
            );
            mistakes.push(Mistake::at(group.place, message));
        }
    }
}

fn control(parts: &Parts, mistakes: &mut Vec<Mistake>) {
    let Some(At { place, value: FollowParts { spec, underlay, block_prefix } }) = &parts.control
    else {
        return;
    };
    outside_of_overlay(parts, &At { place: *underlay, value: spec.underlay }, mistakes);
    let policy_server = spec.policy_server.as_ref();
    let asks = policy_server.is_some_and(|server| server.security_groups.is_some());
    if asks && parts.security_groups.is_some() {
        let message = "control asks the policy server for security_groups, and they are in the \
                       file too; remove one of them";
        mistakes.push(Mistake::at(*place, message));
    }
    let Some(At { place, value: overlay }) = &parts.overlay else { return };
    let prefix = spec.leases.block_prefix;
    if Pools::new(*overlay, prefix).is_err() {
        let message = format!(
            "block_prefix {prefix} leaves no block for a cell in the overlay {overlay}; write one \
             larger than {}",
            overlay.prefix_len()
        );
        mistakes.push(Mistake::at(block_prefix.unwrap_or(*place), message));
    }
    // Two of them on one port: the second could not listen.
    let force = policy_server.map(|server| ("force", server.force));
    let mut listeners = vec![("network_info", spec.network_info)];
    listeners.extend(force);
    listeners.push(("status", spec.status));
    for (index, (later, address)) in listeners.iter().enumerate() {
        let taken = listeners[..index].iter().find(|(_, other)| {
            address.port() != 0
                && other.port() == address.port()
                && (other.ip() == address.ip()
                    || other.ip().is_unspecified()
                    || address.ip().is_unspecified())
        });
        if let Some((earlier, _)) = taken {
            let message = format!(
                "{earlier} and {later} would both listen on port {}; give one of them another",
                address.port()
            );
            mistakes.push(Mistake::at(*underlay, message));
        }
    }
}
