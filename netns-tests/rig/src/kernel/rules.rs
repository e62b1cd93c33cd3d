//! The iptables rules of a kernel cell, in the form that `iptables-restore` reads.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::Ipv4Addr;

use sarcenet_agent_api::Policy;

use super::egress::conversion;
use crate::outside::{
    ConnectionLimit, ContainerSpec, DNS_SERVER, HOST_SERVICE, NO_MASQUERADE, OutsidePlan,
    PortMapping, SecurityGroup,
};
use crate::plan::{AppTag, OVERLAY};

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
    /// Its description.
    pub(super) spec: &'a ContainerSpec,
    /// How it may reach the outside, if there is one.
    pub(super) outside: Option<&'a OutsidePlan>,
}

const REJECT: &str = "REJECT --reject-with icmp-port-unreachable";

impl ContainerChains<'_> {
    fn chain(&self, prefix: &str) -> String {
        cut(&format!("{prefix}{}", self.handle), CHAIN_NAME_MAX)
    }

    fn asg(&self) -> String {
        format!("asg-{}", cut(&self.handle.replace('-', ""), 20))
    }

    fn log_chain(&self) -> String {
        format!("{}--log", cut(&self.chain("netout--"), 23))
    }

    fn rate_log_chain(&self) -> String {
        format!("{}--rl-log", cut(&self.chain("netout--"), 20))
    }

    fn log(&self, event: &str) -> String {
        let prefix = cut(&format!("{event}_{}", self.handle), LOG_PREFIX_MAX);
        format!("LOG --log-prefix \"{prefix} \"")
    }

    /// A refusal that is recorded once a second.
    fn denied_log(&self, event: &str) -> String {
        format!("-m limit --limit 1/sec --limit-burst 1 -j {}", self.log(event))
    }

    fn logging(&self) -> bool {
        self.outside.is_some_and(|outside| outside.logging)
    }

    /// All rules that attaching it makes: port mappings, masquerading, its input, egress and
    /// overlay chains.
    pub(super) fn restore_text(&self, groups: &[SecurityGroup]) -> String {
        let Self { address: ip, underlay, .. } = *self;
        let netin = self.chain("netin--");
        let netout = self.chain("netout--");
        let (netout_log, rate_log) = (self.log_chain(), self.rate_log_chain());
        let input = self.chain("input--");
        let overlay = self.chain("overlay--");
        let asg = self.asg();
        let ok = self.log("OK");

        let mut marks = String::new();
        let mut translations = String::new();
        for PortMapping { host, container } in &self.spec.mappings {
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
        let no_masquerade = if self.outside.is_some() { NO_MASQUERADE } else { OVERLAY };
        let mut services = String::new();
        if self.outside.is_some() {
            let (address, port) = (HOST_SERVICE.ip(), HOST_SERVICE.port());
            for protocol in ["tcp", "udp"] {
                let _ = writeln!(
                    services,
                    "-A {input} -d {address}/32 -p {protocol} -m {protocol} --dport {port} -j ACCEPT"
                );
            }
        }
        let mut rate_limited = String::new();
        if let Some(limit) = self.outside.and_then(|outside| outside.connections) {
            if limit.logging || limit.dry_run {
                let log = self.denied_log("DENY_ORL");
                let _ = writeln!(rate_limited, ":{rate_log} - [0:0]\n-A {rate_log} {log}");
            }
            if limit.logging && !limit.dry_run {
                let _ = writeln!(rate_limited, "-A {rate_log} -j {REJECT}");
            }
        }
        let mut refused_overlay = String::new();
        if self.logging() {
            let log = self.denied_log("DENY_C2C");
            let _ = writeln!(refused_overlay, "-A {overlay} -d {ip}/32 {log}");
        }
        let mut text = format!(
            "\
*mangle
:{netin} - [0:0]
-A PREROUTING -j {netin}
{marks}COMMIT
*nat
:{netin} - [0:0]
-A PREROUTING -j {netin}
-A POSTROUTING -s {ip}/32 ! -d {no_masquerade} ! -o silk-vtep -j MASQUERADE
{translations}COMMIT
*filter
:{input} - [0:0]
:{netout_log} - [0:0]
:{netout} - [0:0]
:{overlay} - [0:0]
{rate_limited}"
        );
        self.asg_text(groups, &mut text);
        let _ = write!(
            text,
            "\
-A INPUT -s {ip}/32 -j {input}
-A FORWARD -s {ip}/32 -o eth0 -j {netout}
-A FORWARD -j {overlay}
-A {input} -m state --state RELATED,ESTABLISHED -j ACCEPT
-A {input} -d {DNS_SERVER}/32 -p tcp -m tcp --dport 53 -j ACCEPT
-A {input} -d {DNS_SERVER}/32 -p udp -m udp --dport 53 -j ACCEPT
{services}-A {input} -j {REJECT}
-A {netout_log} ! -p udp -m conntrack --ctstate INVALID,NEW,UNTRACKED -j {ok}
-A {netout_log} -p udp -m limit --limit 100/sec --limit-burst 100 -j {ok}
-A {netout_log} -j ACCEPT
-A {netout} -j {asg}
-A {netout} -j {REJECT}
-A {overlay} -s {ip}/32 -o silk-vtep -m mark ! --mark 0x0 -j ACCEPT
-A {overlay} -d {ip}/32 -m state --state RELATED,ESTABLISHED -j ACCEPT
-A {overlay} -d {ip}/32 -m mark --mark 0xffff0000 -j ACCEPT
{refused_overlay}-A {overlay} -d {ip}/32 -j {REJECT}
COMMIT
"
        );
        text
    }

    /// Appends the whole chain of its security groups, which replaces the one before: established
    /// conversations, the limit on new ones, denied networks, rules last to first, refusal.
    pub(super) fn asg_text(&self, groups: &[SecurityGroup], text: &mut String) {
        let asg = self.asg();
        let _ = writeln!(text, ":{asg} - [0:0]");
        let mut rule = |rule: &str| {
            let _ = writeln!(text, "-A {asg} {rule}");
        };
        rule("-m state --state RELATED,ESTABLISHED -j ACCEPT");
        rule("-p tcp -m state --state INVALID -j DROP");
        if let Some(limit) = self.outside.and_then(|outside| outside.connections) {
            let ConnectionLimit { burst, per_second, logging, dry_run } = limit;
            let target =
                if logging || dry_run { self.rate_log_chain() } else { "REJECT".to_owned() };
            let expire = u64::from(burst.div_ceil(per_second)) * 1000;
            rule(&format!(
                "-p tcp -m conntrack --ctstate NEW -m hashlimit --hashlimit-above {per_second}/sec --hashlimit-burst {burst} --hashlimit-mode dstip,dstport --hashlimit-name {} --hashlimit-htable-expire {expire} -j {target}",
                self.handle
            ));
        }
        if self.outside.is_some() {
            for network in OutsidePlan::denied(self.spec.workload) {
                rule(&format!("-d {network} -j {REJECT}"));
            }
        }
        let applying = groups.iter().filter(|group| group.applies(self.spec));
        let rules = conversion(applying.flat_map(|group| &group.rules));
        for (matches, logged) in rules.iter().rev() {
            if *logged || self.logging() {
                rule(&format!("{matches} -g {}", self.log_chain()));
            } else {
                rule(&format!("{matches} -j ACCEPT"));
            }
        }
        if self.logging() {
            rule(&self.denied_log("DENY"));
        }
        rule(&format!("-j {REJECT}"));
    }
}

/// The chain that all policies of a cell are in.
pub(super) struct PolicyChain<'a> {
    /// Containers with an app, by address.
    pub(super) containers: &'a BTreeMap<Ipv4Addr, String>,
    /// All apps.
    pub(super) apps: &'a [AppTag],
    /// All policies.
    pub(super) policies: &'a [Policy],
    /// Whether admitted connections are recorded.
    pub(super) logged: bool,
}

impl PolicyChain<'_> {
    /// Replaces the chain: packets of apps that are the source of a policy are marked with their
    /// tag; marked packets that a policy admits are accepted.
    pub(super) fn restore_text(&self, old: Option<&str>, new: &str) -> String {
        let Self { containers, apps, policies, logged } = *self;
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
                if logged {
                    let prefix = cut(&format!("OK_{tag:04X}_{app}"), LOG_PREFIX_MAX);
                    let _ = writeln!(
                        text,
                        "{} -m conntrack --ctstate INVALID,NEW,UNTRACKED -j LOG --log-prefix \"{prefix} \"",
                        accept_match(new, *ip, tag, policy)
                    );
                }
                let _ = writeln!(text, "{}", accept_rule(new, *ip, tag, policy));
            }
        }
        if let Some(old) = old {
            let _ = writeln!(text, "-D FORWARD -j {old}\n-F {old}\n-X {old}");
        }
        text.push_str("COMMIT\n");
        text
    }
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
    let (rule, Policy { from, to, .. }) = (accept_match(chain, ip, tag, policy), policy);
    format!("{rule} -m comment --comment src:{from}_dst:{to} -j ACCEPT")
}

fn accept_match(chain: &str, ip: Ipv4Addr, tag: u16, policy: &Policy) -> String {
    let Policy { protocol, ports, .. } = policy;
    let (first, last) = (ports.first, ports.last);
    let range = if first == last { first.to_string() } else { format!("{first}:{last}") };
    format!(
        "-A {chain} -d {ip}/32 -p {protocol} -m {protocol} --dport {range} -m mark --mark {tag:#x}"
    )
}

/// The first `length` characters; all of these texts are ASCII.
fn cut(text: &str, length: usize) -> String {
    text.chars().take(length).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outside::GroupRule;
    use crate::plan::{tcp, udp};

    /// The container rules of contract section 10, less its one security group rule.
    #[test]
    fn container_rules_are_those_of_the_listing() {
        let text = ContainerChains {
            handle: "6de68121-5eb5-47f6-4c1e-6884",
            address: Ipv4Addr::new(10, 255, 73, 3),
            underlay: Ipv4Addr::new(10, 0, 16, 15),
            spec: &ContainerSpec::default().mapping(61012, 8080),
            outside: None,
        }
        .restore_text(&[]);
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

    /// Effective order: established, limit, denied networks, rules last to first, refusal
    /// (contract section 7.6), with all that is recorded.
    #[test]
    fn security_groups_are_in_force_last_to_first() {
        let connections =
            ConnectionLimit { burst: 1000, per_second: 100, logging: true, dry_run: false };
        let outside =
            OutsidePlan { connections: Some(connections), logging: true, ..OutsidePlan::default() };
        let spec = ContainerSpec::default().space("s");
        let chains = ContainerChains {
            handle: "6de68121-5eb5-47f6-4c1e-6884",
            address: Ipv4Addr::new(10, 255, 73, 3),
            underlay: Ipv4Addr::new(10, 0, 16, 15),
            spec: &spec,
            outside: Some(&outside),
        };
        let rules = [GroupRule::tcp("10.0.11.0/24", "80,443"), GroupRule::all("1.1.1.1")];
        let groups = [
            SecurityGroup::running("g", "s", &rules),
            SecurityGroup::running("h", "other", &rules),
        ];
        let mut text = String::new();
        chains.asg_text(&groups, &mut text);
        let expected = "\
:asg-6de681215eb547f64c1e - [0:0]
-m state --state RELATED,ESTABLISHED -j ACCEPT
-p tcp -m state --state INVALID -j DROP
-p tcp -m conntrack --ctstate NEW -m hashlimit --hashlimit-above 100/sec --hashlimit-burst 1000 --hashlimit-mode dstip,dstport --hashlimit-name 6de68121-5eb5-47f6-4c1e-6884 --hashlimit-htable-expire 10000 -j netout--6de68121-5eb--rl-log
-d 203.0.113.128/28 -j REJECT --reject-with icmp-port-unreachable
-d 203.0.113.144/28 -j REJECT --reject-with icmp-port-unreachable
-m iprange --dst-range 1.1.1.1-1.1.1.1 -g netout--6de68121-5eb5-4--log
-p tcp -m iprange --dst-range 10.0.11.0-10.0.11.255 -m tcp --dport 443 -g netout--6de68121-5eb5-4--log
-p tcp -m iprange --dst-range 10.0.11.0-10.0.11.255 -m tcp --dport 80 -g netout--6de68121-5eb5-4--log
-m limit --limit 1/sec --limit-burst 1 -j LOG --log-prefix \"DENY_6de68121-5eb5-47f6-4c1e \"
-j REJECT --reject-with icmp-port-unreachable
";
        assert_eq!(text.replace("-A asg-6de681215eb547f64c1e ", ""), expected);
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
        let (containers, policies) = (&containers, &policies);
        let chain = PolicyChain { containers, apps: &apps, policies, logged: false };
        let text = chain.restore_text(Some("vpa--1"), "vpa--2");
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
