//! What lies on the cells beside the traffic that is measured.

use std::net::Ipv4Addr;

use sarcenet_rig::outside::network;
use sarcenet_rig::{GroupRule, Policy, SecurityGroup, tcp, udp};

/// Apps that nobody's containers run; they only stand in rules.
const STRANGERS: u16 = 50;
/// First port that strangers are admitted to.
const STRANGERS_PORT: u16 = 10_000;
/// Ports that the generators use.
const PORTS: std::ops::RangeInclusive<u16> = 1024..=u16::MAX;
/// Space of the containers that reach the outside.
pub(crate) const SPACE: &str = "perf";
/// Rules of a security group where their number is not what is measured.
const GROUP_RULES: u32 = 10;
/// First of the addresses that rules of a security group name and nothing is sent to (RFC 2544).
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);

/// Rules and containers of a world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Loading {
    /// Rules on the cell that receives.
    pub(crate) rules: u32,
    /// Containers on the cell that receives.
    pub(crate) containers: u16,
    /// Rules of the security group by which containers reach the outside; none for a world without
    /// one.
    pub(crate) outside: Option<u32>,
    pub(crate) world: Shared,
}

/// Who else is measured in a world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Shared {
    /// All that leave it as they found it.
    All,
    /// Those that change or fill its programs.
    Changes,
    /// Those that leave it full of conversations.
    Flows,
}

impl Loading {
    /// What `K` was when the bars were set: ten rules.
    pub(crate) const BASE: Self =
        Self { rules: 10, containers: 1, outside: None, world: Shared::All };

    /// The same with an outside that a short security group admits to.
    pub(crate) const OUTSIDE: Self = Self::group(GROUP_RULES);

    /// The same with a security group of so many rules.
    pub(crate) const fn group(rules: u32) -> Self {
        Self { outside: Some(rules), ..Self::BASE }
    }

    /// The same in a world that is left full of conversations.
    pub(crate) const fn full(self) -> Self {
        Self { world: Shared::Flows, ..self }
    }

    /// The same in a world whose programs are changed.
    pub(crate) const fn changed(self) -> Self {
        Self { world: Shared::Changes, ..self }
    }

    /// The same with so many rules.
    pub(crate) const fn rules(rules: u32) -> Self {
        Self { rules, ..Self::BASE }
    }

    /// So many rules, in a world that is left full of conversations.
    pub(crate) const fn flows(rules: u32) -> Self {
        Self::rules(rules).full()
    }

    /// 2,000 rules for so many containers.
    pub(crate) const fn containers(containers: u16) -> Self {
        Self { rules: 2_000, containers, ..Self::BASE }
    }

    /// All apps and their tags.
    pub(crate) fn apps() -> Vec<(String, u16)> {
        let strangers = (0..STRANGERS).map(|n| (stranger(n), 100 + n));
        let named = [("client", 1), ("server", 2), ("neighbour", 3)];
        named.into_iter().map(|(id, tag)| (id.to_owned(), tag)).chain(strangers).collect()
    }

    /// Policies that make these rules on the cell that receives: an equal share for each of its
    /// containers, the rest for the receiver. Those that admit the traffic stand in the middle of
    /// the receiver's, so that a list is walked half way through it.
    pub(crate) fn policies(self) -> Vec<Policy> {
        let neighbours = u32::from(self.containers) - 1;
        let share = self.rules / u32::from(self.containers);
        let receivers = self.rules - share * neighbours;
        let filling = receivers.saturating_sub(2);
        let mut policies: Vec<_> = (0..filling).map(|n| filler("server", n)).collect();
        let middle = policies.len() / 2;
        policies.splice(
            middle..middle,
            [tcp("client", "server", PORTS), udp("client", "server", PORTS)],
        );
        if neighbours > 0 {
            policies.extend((0..share).map(|n| filler("neighbour", n)));
        }
        policies
    }
}

/// A security group of so many rules. Only the one that a kernel cell comes to last admits to the
/// outside host: its chain has the rules last to first.
pub(crate) fn group(rules: u32) -> SecurityGroup {
    let elsewhere = (1..rules).map(|number| {
        let address = Ipv4Addr::from(ELSEWHERE.to_bits() + number);
        let protocol = if number.is_multiple_of(2) { GroupRule::tcp } else { GroupRule::udp };
        protocol(address, "443")
    });
    let rules: Vec<_> = std::iter::once(GroupRule::all(network::PLAIN)).chain(elsewhere).collect();
    SecurityGroup::running("perf", SPACE, &rules)
}

fn stranger(number: u16) -> String {
    format!("stranger-{number}")
}

/// The `number`th policy that no traffic of ours needs; each is another one.
pub(crate) fn filler(to: &str, number: u32) -> Policy {
    let from = stranger((number % u32::from(STRANGERS)) as u16);
    let turn = number / u32::from(STRANGERS);
    let port = STRANGERS_PORT + (turn / 2) as u16;
    if turn.is_multiple_of(2) { tcp(&from, to, port..=port) } else { udp(&from, to, port..=port) }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Rules on the receiving cell: a policy counts once for each container of its destination.
    fn rules(loading: Loading) -> usize {
        let policies = loading.policies();
        let of = |app| policies.iter().filter(|policy| policy.to == app).count();
        of("server") + of("neighbour") * (usize::from(loading.containers) - 1)
    }

    #[test]
    fn there_are_as_many_rules_as_said() {
        for count in [2, 10, 1_000, 50_000] {
            assert_eq!(rules(Loading::rules(count)), count as usize);
        }
        for count in [1, 10, 100, 250] {
            assert_eq!(rules(Loading::containers(count)), 2_000);
        }
    }

    #[test]
    fn groups_have_as_many_rules_as_said_and_the_first_admits() {
        for count in [1, GROUP_RULES, 10_000] {
            let SecurityGroup { rules, spaces, .. } = group(count);
            assert_eq!((rules.len(), spaces), (count as usize, vec![SPACE.to_owned()]));
            assert_eq!(rules[0].destination, network::PLAIN.to_string());
            let others: HashSet<_> = rules[1..].iter().map(|rule| &rule.destination).collect();
            assert_eq!(others.len(), rules.len() - 1, "the kernel's list leaves out what is twice");
        }
    }

    #[test]
    fn no_policy_comes_twice_and_all_apps_are_known() {
        let policies = Loading::rules(50_000).policies();
        assert_eq!(policies.iter().collect::<HashSet<_>>().len(), policies.len());
        let apps: HashSet<_> = Loading::apps().into_iter().map(|(id, _)| id).collect();
        assert!(policies.iter().all(|p| apps.contains(&p.from) && apps.contains(&p.to)));
    }
}
