//! The iptables rules of a kernel cell, in the form that `iptables-restore` reads.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::Ipv4Addr;

use super::PortMapping;
use sarcenet_agent_api::Policy;

use crate::plan::{AppTag, OVERLAY};

/// Link-local DNS server that containers may ask on their cell.
const DNS_SERVER: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 2);
/// iptables cuts chain names here.
const CHAIN_NAME_MAX: usize = 28;
/// Longest log prefix before the blank that ends it.
const LOG_PREFIX_MAX: usize = 28;

/// The chains of one container, created when it is attached.
pub(super) struct ContainerChains<'a> {
    /// Garden handle.
    pub(super) handle: &'a str,
    /// Overlay address.
    pub(super) address: Ipv4Addr,
    /// The cell's address on the underlay.
    pub(super) underlay: Ipv4Addr,
    /// Host ports that lead to it.
    pub(super) mappings: &'a [PortMapping],
}

impl ContainerChains<'_> {
    fn chain(&self, prefix: &str) -> String {
        cut(&format!("{prefix}{}", self.handle), CHAIN_NAME_MAX)
    }

    /// All rules that attaching it makes: port mappings, masquerading, its input, egress and
    /// overlay chains. No security group is bound, so egress is closed.
    pub(super) fn restore_text(&self) -> String {
        let Self { address: ip, underlay, .. } = *self;
        let netin = self.chain("netin--");
        let netout = self.chain("netout--");
        let netout_log = format!("{}--log", cut(&netout, 23));
        let input = self.chain("input--");
        let overlay = self.chain("overlay--");
        let asg = format!("asg-{}", cut(&self.handle.replace('-', ""), 20));
        let log_prefix = cut(&format!("OK_{}", self.handle), LOG_PREFIX_MAX);
        let reject = "REJECT --reject-with icmp-port-unreachable";

        let mut marks = String::new();
        let mut translations = String::new();
        for PortMapping { host, container } in self.mappings {
            let matches = format!("-p tcp -m tcp --dport {host}");
            let _ = writeln!(
                marks,
                "-A {netin} -d {underlay}/32 -i eth0 {matches} -j MARK --set-xmark 0xffff0000/0xffffffff"
            );
            let _ = writeln!(
                translations,
                "-A {netin} -d {underlay}/32 {matches} -j DNAT --to-destination {ip}:{container}"
            );
        }
        format!(
            "\
*mangle
:{netin} - [0:0]
-A PREROUTING -j {netin}
{marks}COMMIT
*nat
:{netin} - [0:0]
-A PREROUTING -j {netin}
-A POSTROUTING -s {ip}/32 ! -d {OVERLAY} ! -o silk-vtep -j MASQUERADE
{translations}COMMIT
*filter
:{asg} - [0:0]
:{input} - [0:0]
:{netout_log} - [0:0]
:{netout} - [0:0]
:{overlay} - [0:0]
-A INPUT -s {ip}/32 -j {input}
-A FORWARD -s {ip}/32 -o eth0 -j {netout}
-A FORWARD -j {overlay}
-A {asg} -m state --state RELATED,ESTABLISHED -j ACCEPT
-A {asg} -p tcp -m state --state INVALID -j DROP
-A {asg} -j {reject}
-A {input} -m state --state RELATED,ESTABLISHED -j ACCEPT
-A {input} -d {DNS_SERVER}/32 -p tcp -m tcp --dport 53 -j ACCEPT
-A {input} -d {DNS_SERVER}/32 -p udp -m udp --dport 53 -j ACCEPT
-A {input} -j {reject}
-A {netout_log} ! -p udp -m conntrack --ctstate INVALID,NEW,UNTRACKED -j LOG --log-prefix \"{log_prefix} \"
-A {netout_log} -p udp -m limit --limit 100/sec --limit-burst 100 -j LOG --log-prefix \"{log_prefix} \"
-A {netout_log} -j ACCEPT
-A {netout} -j {asg}
-A {netout} -j {reject}
-A {overlay} -s {ip}/32 -o silk-vtep -m mark ! --mark 0x0 -j ACCEPT
-A {overlay} -d {ip}/32 -m state --state RELATED,ESTABLISHED -j ACCEPT
-A {overlay} -d {ip}/32 -m mark --mark 0xffff0000 -j ACCEPT
-A {overlay} -d {ip}/32 -j {reject}
COMMIT
"
        )
    }
}

/// Replaces the policy chain: packets of apps that are the source of a policy are marked with
/// their tag; marked packets that a policy admits are accepted.
pub(super) fn policy_text(
    old: Option<&str>,
    new: &str,
    containers: &BTreeMap<Ipv4Addr, String>,
    apps: &[AppTag],
    policies: &[Policy],
) -> String {
    let tags: BTreeMap<&str, u16> = apps.iter().map(|app| (app.id.as_str(), app.tag)).collect();
    let mut text = format!("*filter\n:{new} - [0:0]\n-I FORWARD 1 -j {new}\n");
    for (ip, app) in containers {
        if let Some(tag) = tags.get(app.as_str())
            && policies.iter().any(|policy| policy.from == *app)
        {
            let _ = writeln!(
                text,
                "-A {new} -s {ip}/32 -m comment --comment \"src:{app}\" -j MARK --set-xmark {tag:#x}/0xffffffff"
            );
        }
    }
    for (ip, app) in containers {
        for policy in policies.iter().filter(|policy| policy.to == *app) {
            let Some(&tag) = tags.get(policy.from.as_str()) else { continue };
            let _ = writeln!(text, "{}", accept_rule(new, *ip, tag, policy));
        }
    }
    if let Some(old) = old {
        let _ = writeln!(text, "-D FORWARD -j {old}\n-F {old}\n-X {old}");
    }
    text.push_str("COMMIT\n");
    text
}

/// What a policy adds to the policy chain: a rule for each container of its destination.
pub(super) fn accept_rules(
    chain: &str,
    containers: &BTreeMap<Ipv4Addr, String>,
    apps: &[AppTag],
    policy: &Policy,
) -> Vec<String> {
    let Some(source) = apps.iter().find(|app| app.id == policy.from) else { return Vec::new() };
    containers
        .iter()
        .filter(|(_, app)| **app == policy.to)
        .map(|(ip, _)| accept_rule(chain, *ip, source.tag, policy))
        .collect()
}

fn accept_rule(chain: &str, ip: Ipv4Addr, tag: u16, policy: &Policy) -> String {
    let Policy { from, to, protocol, ports } = policy;
    let (first, last) = (ports.first, ports.last);
    let range = if first == last { first.to_string() } else { format!("{first}:{last}") };
    format!(
        "-A {chain} -d {ip}/32 -p {protocol} -m {protocol} --dport {range} -m mark --mark {tag:#x} -m comment --comment src:{from}_dst:{to} -j ACCEPT"
    )
}

/// The first `length` characters; all of these texts are ASCII.
fn cut(text: &str, length: usize) -> String {
    text.chars().take(length).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{tcp, udp};

    /// The container rules of contract section 10, less its one security group rule.
    #[test]
    fn container_rules_are_those_of_the_listing() {
        let text = ContainerChains {
            handle: "6de68121-5eb5-47f6-4c1e-6884",
            address: Ipv4Addr::new(10, 255, 73, 3),
            underlay: Ipv4Addr::new(10, 0, 16, 15),
            mappings: &[PortMapping { host: 61012, container: 8080 }],
        }
        .restore_text();
        for line in [
            ":netin--6de68121-5eb5-47f6-4c - [0:0]",
            "-A netin--6de68121-5eb5-47f6-4c -d 10.0.16.15/32 -i eth0 -p tcp -m tcp --dport 61012 -j MARK --set-xmark 0xffff0000/0xffffffff",
            "-A netin--6de68121-5eb5-47f6-4c -d 10.0.16.15/32 -p tcp -m tcp --dport 61012 -j DNAT --to-destination 10.255.73.3:8080",
            "-A POSTROUTING -s 10.255.73.3/32 ! -d 10.255.0.0/16 ! -o silk-vtep -j MASQUERADE",
            ":asg-6de681215eb547f64c1e - [0:0]",
            ":netout--6de68121-5eb5-4--log - [0:0]",
            "-A FORWARD -s 10.255.73.3/32 -o eth0 -j netout--6de68121-5eb5-47f6-4",
            "-A FORWARD -j overlay--6de68121-5eb5-47f6-",
            "-A netout--6de68121-5eb5-4--log -p udp -m limit --limit 100/sec --limit-burst 100 -j LOG --log-prefix \"OK_6de68121-5eb5-47f6-4c1e-6 \"",
            "-A overlay--6de68121-5eb5-47f6- -d 10.255.73.3/32 -j REJECT --reject-with icmp-port-unreachable",
        ] {
            assert!(text.lines().any(|have| have == line), "missing: {line}\nin:\n{text}");
        }
    }

    #[test]
    fn policy_chain_marks_sources_and_accepts_at_destinations() {
        let containers = BTreeMap::from([
            (Ipv4Addr::new(10, 255, 62, 2), "app-a".to_owned()),
            (Ipv4Addr::new(10, 255, 62, 3), "app-b".to_owned()),
        ]);
        let apps =
            [AppTag { id: "app-a".to_owned(), tag: 1 }, AppTag { id: "app-b".to_owned(), tag: 2 }];
        let policies = [tcp("app-a", "app-b", 8080..=8080), udp("app-a", "app-b", 7..=9)];
        let text = policy_text(Some("vpa--1"), "vpa--2", &containers, &apps, &policies);
        assert_eq!(
            text,
            "\
*filter
:vpa--2 - [0:0]
-I FORWARD 1 -j vpa--2
-A vpa--2 -s 10.255.62.2/32 -m comment --comment \"src:app-a\" -j MARK --set-xmark 0x1/0xffffffff
-A vpa--2 -d 10.255.62.3/32 -p tcp -m tcp --dport 8080 -m mark --mark 0x1 -m comment --comment src:app-a_dst:app-b -j ACCEPT
-A vpa--2 -d 10.255.62.3/32 -p udp -m udp --dport 7:9 -m mark --mark 0x1 -m comment --comment src:app-a_dst:app-b -j ACCEPT
-D FORWARD -j vpa--1
-F vpa--1
-X vpa--1
COMMIT
"
        );
    }
}
