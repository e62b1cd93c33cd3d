//! Random rules: security groups, policies, mappings.

use std::net::Ipv4Addr;

use sarcenet_rig::outside::network;
use sarcenet_rig::{ContainerSpec, GroupRule, Policy, Workload, tcp, udp};

use crate::random::Random;

/// Containers of each cell.
pub(crate) const CONTAINERS: usize = 3;
/// First of the host ports that mappings are made of.
pub(crate) const HOST_PORTS: u16 = 61_000;
/// Ports on which something listens, on the outside host and in containers.
pub(crate) const SERVED: [u16; 3] = [80, 443, 8080];

/// Ports that rules and probes meet at.
const PORTS: [u16; 12] = [1, 22, 53, 80, 443, 1024, 4789, 8000, 8080, 9000, 50_000, 65_535];

/// Random rules and what is at their edges.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rules {
    /// For each space, its security group.
    pub(crate) groups: [Vec<GroupRule>; 2],
    pub(crate) policies: Vec<Policy>,
    /// Ends of ranges of addresses.
    pub(crate) addresses: Vec<Ipv4Addr>,
    /// Ends of ranges of ports.
    pub(crate) ports: Vec<u16>,
}

impl Rules {
    pub(crate) fn random(random: &mut Random, apps: &[String]) -> Self {
        let mut rules = Self::default();
        for space in 0..2 {
            for _ in 0..random.below(12) {
                let rule = rules.rule(random);
                rules.groups[space].push(rule);
            }
        }
        for _ in 0..random.between(2, 9) {
            let (from, to) = (random.pick(apps).clone(), random.pick(apps).clone());
            let (first, last) = rules.port_range(random);
            let make = if random.chance(60) { tcp } else { udp };
            let policy = make(&from, &to, first..=last);
            if !rules.policies.contains(&policy) {
                rules.policies.push(policy);
            }
        }
        rules
    }

    fn rule(&mut self, random: &mut Random) -> GroupRule {
        let parts = if random.chance(25) { random.between(2, 4) } else { 1 };
        let destination =
            (0..parts).map(|_| self.destination(random)).collect::<Vec<_>>().join(",");
        let rule = match random.below(10) {
            0..=4 => GroupRule::tcp(destination, &self.port_list(random)),
            5..=7 => GroupRule::udp(destination, &self.port_list(random)),
            8 => {
                let (kind, code) =
                    *random.pick(&[(8, 0), (-1, -1), (0, 0), (13, 0), (8, 1), (3, 1)]);
                GroupRule::icmp(destination, kind, code)
            }
            _ => GroupRule::all(destination),
        };
        if random.chance(10) { rule.logged() } else { rule }
    }

    fn destination(&mut self, random: &mut Random) -> String {
        let address = outside_address(random);
        match random.below(12) {
            0..=2 => {
                self.addresses.push(address);
                address.to_string()
            }
            3..=5 => {
                let length = random.between(24, 32);
                let mask = u32::MAX << (32 - length);
                let first = u32::from(address) & mask;
                self.addresses.extend([first, first | !mask].map(Ipv4Addr::from));
                format!("{}/{length}", Ipv4Addr::from(first))
            }
            6..=8 => {
                let other = Ipv4Addr::from(u32::from(address).saturating_add(random.below(100)));
                self.addresses.extend([address, other]);
                format!("{address}-{other}")
            }
            _ => random.pick(&["0.0.0.0/0", "203.0.113.0/24", "10.77.0.0/24"]).to_string(),
        }
    }

    fn port_list(&mut self, random: &mut Random) -> String {
        let parts = random.between(1, 3);
        let part = |rules: &mut Self, random: &mut Random| match rules.port_range(random) {
            (first, last) if first == last => first.to_string(),
            (first, last) => format!("{first}-{last}"),
        };
        (0..parts).map(|_| part(self, random)).collect::<Vec<_>>().join(",")
    }

    fn port_range(&mut self, random: &mut Random) -> (u16, u16) {
        let first = *random.pick(&PORTS);
        let length = match random.below(20) {
            0..=8 => 0,
            9..=17 => random.below(2000) as u16,
            _ => u16::MAX,
        };
        let last = first.saturating_add(length);
        self.ports.extend([first, last]);
        (first, last)
    }

    /// A port at an edge of a rule, beside one, or anywhere.
    pub(crate) fn near_port(&self, random: &mut Random) -> u16 {
        let edge = match self.ports.as_slice() {
            edges if !edges.is_empty() && random.chance(70) => *random.pick(edges),
            _ => *random.pick(&PORTS),
        };
        let moved = i32::from(edge) + i32::try_from(random.below(3)).unwrap_or_default() - 1;
        u16::try_from(moved).unwrap_or(edge).max(1)
    }

    /// An outside address at an edge of a rule, beside one, or anywhere.
    pub(crate) fn near_address(&self, random: &mut Random) -> Ipv4Addr {
        if self.addresses.is_empty() || random.chance(30) {
            return outside_address(random);
        }
        let edge = u32::from(*random.pick(&self.addresses));
        let moved = Ipv4Addr::from(edge + random.below(3) - 1);
        let known = [network::ROUTED, network::NARROW, network::OWN_ADDRESS];
        if known.iter().any(|network| network.contains(&moved)) { moved } else { edge.into() }
    }
}

/// An address of the outside host.
fn outside_address(random: &mut Random) -> Ipv4Addr {
    let networks = [network::ROUTED, network::ROUTED, network::NARROW, network::OWN_ADDRESS];
    let network = u32::from(random.pick(&networks).network());
    // Few addresses, so that rules and probes meet.
    Ipv4Addr::from(network + random.below(32) * 8 + random.below(2))
}

/// Containers with random mappings, the same for each cell. `last_port` is the last port that has
/// been mapped on the cells: those before are still there, and have theirs.
pub(crate) fn containers(
    random: &mut Random,
    last_port: &mut u16,
    apps: &[String],
    spaces: &[String; 2],
) -> Vec<ContainerSpec> {
    (0..CONTAINERS)
        .map(|number| {
            let workload = *random.pick(&[Workload::App, Workload::App, Workload::Task]);
            let mut spec =
                ContainerSpec::app(&apps[number]).space(&spaces[number % 2]).workload(workload);
            for _ in 0..random.between(1, 4) {
                *last_port += random.between(1, 3) as u16;
                spec = spec.mapping(*last_port, *random.pick(&[80, 443, 8080, 8080, 2222]));
            }
            spec
        })
        .collect()
}
