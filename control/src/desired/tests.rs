use std::fs::File;

use sarcenet_agent_api::{Bandwidth, Metadata, PortMapping};
use sarcenet_dataplane_api::Protocol::{Tcp, Udp};
use sarcenet_dataplane_api::{HostService, Mapping, PortRange, Rate};

use super::*;

const FILE: &str = "\
overlay: 10.255.0.0/16
cells:
  - {name: cell1, underlay: 10.77.0.11, subnet: 10.255.55.0/24}
  - {name: cell2, underlay: 10.77.0.12, subnet: 10.255.62.0/24}
apps:
  - {id: app-a, tag: 1}
  - {id: app-b, tag: 2}
policies:
  - {from: app-a, to: app-b, protocol: tcp, ports: 8080}
  - {from: app-b, to: app-a, protocol: udp, ports: 53}
";

/// Loopback's, the underlay's, another, the overlay's.
const ADDRESSES: [[u8; 4]; 4] = [[127, 0, 0, 1], [10, 77, 0, 11], [192, 0, 2, 1], [10, 255, 55, 0]];

fn queue() -> Arc<OwnedFd> {
    Arc::new(File::open("/dev/null").unwrap().into())
}

fn container(name: &str, last: u8, app: Option<&str>) -> Attached {
    Attached {
        id: AttachmentId { container: name.into(), ifname: "eth0".into() },
        address: [10, 255, 55, last].into(),
        app: app.map(Into::into),
        attach: Attach::Tun,
        terms: Arc::default(),
        queue: queue(),
    }
}

fn desired(text: &str, host: Option<&Arc<OwnedFd>>, containers: &[Attached]) -> Desired {
    let network = Network::parse(text).unwrap();
    let cell = network.cell("cell1").unwrap().clone();
    let addresses = ADDRESSES.map(Ipv4Addr::from);
    let here = Here { network: &network, cell: &cell, mtu: 1450, host, addresses: &addresses };
    let (mut names, mut book) = (RuleNames::default(), EgressBook::default());
    Desired::new(here, containers, &mut names, &mut book)
}

#[test]
fn rules_are_those_of_local_receivers() {
    let containers = [
        container("a1", 2, Some("app-a")),
        container("b1", 3, Some("app-b")),
        container("b2", 4, Some("app-b")),
        container("stranger", 5, Some("app-x")),
        container("nobody", 6, None),
    ];
    let desired = desired(FILE, None, &containers);
    let rules: Vec<_> = desired
        .rules
        .keys()
        .map(|key| (key.source, key.destination.octets()[3], key.protocol, key.ports.first))
        .collect();
    assert_eq!(rules, [(1, 3, Tcp, 8080), (1, 4, Tcp, 8080), (2, 2, Udp, 53)]);
    let tags: Vec<_> = desired.containers.values().map(|(one, _)| (one.port.0, one.tag)).collect();
    assert_eq!(tags, [(2, 1), (3, 2), (4, 2), (5, 0), (6, 0)]);
    // Both receivers of one policy carry its name.
    let names: std::collections::BTreeSet<_> = desired.rules.values().collect();
    assert_eq!(names.len(), 2);
}

#[test]
fn ports_that_apps_name_are_open_to_routers() {
    let listening = |name, last, app: Option<&str>, ports: &str| {
        let metadata = Metadata { ports: Some(ports.into()), ..Metadata::default() };
        let terms = Arc::new(Terms { metadata, ..Terms::default() });
        Attached { terms, ..container(name, last, app) }
    };
    let containers = [
        listening("b1", 3, Some("app-b"), "8080,9090,x"),
        listening("x1", 4, Some("app-x"), "8080"),
        listening("nobody", 5, None, "8080"),
        container("b2", 6, Some("app-b")),
    ];
    let mut network = Network::parse(FILE).unwrap();
    let mut names = RuleNames::default();
    let mut rules = |router_tag| {
        network.router_tag = router_tag;
        let cell = network.cell("cell1").unwrap();
        let here = Here { network: &network, cell, mtu: 1450, host: None, addresses: &[] };
        let mut book = EgressBook::default();
        let desired = Desired::new(here, &containers, &mut names, &mut book);
        let rule = |(key, id): (&RuleKey, &RuleId)| {
            let meaning = names.meaning(*id).unwrap().to_string();
            (key.source, key.destination.octets()[3], key.protocol, key.ports.first, meaning)
        };
        desired.rules.iter().map(rule).collect::<Vec<_>>()
    };
    let policy = |last| (1, last, Tcp, 8080, "app-a to app-b tcp 8080".to_owned());
    let routers = |last, port| (6, last, Tcp, port, format!("routers to tcp {port}"));
    assert_eq!(rules(None), [policy(3), policy(6)]);
    let all = [policy(3), policy(6), routers(3, 8080), routers(3, 9090), routers(4, 8080)];
    assert_eq!(rules(Some(6)), all);
    // What a policy says already keeps the policy's name.
    let routers = |last, port| (1, last, Tcp, port, format!("routers to tcp {port}"));
    assert_eq!(rules(Some(1)), [policy(3), routers(3, 9090), routers(4, 8080), policy(6)]);
}

#[test]
fn the_cells_own_tag_and_whether_it_is_open() {
    let mut network = Network::parse(&format!("{FILE}open_overlay: true\n")).unwrap();
    for own_tag in [None, Some(6)] {
        network.own_tag = own_tag;
        let cell = network.cell("cell1").unwrap();
        let here = Here { network: &network, cell, mtu: 1450, host: None, addresses: &[] };
        let (mut names, mut book) = (RuleNames::default(), EgressBook::default());
        let desired = Desired::new(here, &[], &mut names, &mut book);
        assert_eq!((desired.cell.tag, desired.cell.open), (own_tag.unwrap_or(0), true));
    }
}

#[test]
fn peers_are_the_other_cells() {
    let desired = desired(FILE, None, &[]);
    let peer = Peer {
        subnet: "10.255.62.0/24".parse().unwrap(),
        underlay: [10, 77, 0, 12].into(),
        mac: [0xee, 0xee, 10, 255, 62, 0],
    };
    assert_eq!(desired.peers.values().collect::<Vec<_>>(), [&peer]);
    assert_eq!(desired.cell.subnet.to_string(), "10.255.55.0/24");
}

#[test]
fn nothing_changed_is_an_empty_change() {
    let (host, containers) = (queue(), [container("a1", 2, Some("app-a"))]);
    let before = desired(FILE, Some(&host), &containers);
    assert!(desired(FILE, Some(&host), &containers).since(&before).is_empty());
}

#[test]
fn one_policy_is_one_rule() {
    let containers = [container("a1", 2, Some("app-a")), container("b1", 3, Some("app-b"))];
    let before = desired(FILE, None, &containers);
    let text = FILE.replace("ports: 53", "ports: 53-54");
    let change = desired(&text, None, &containers).since(&before);
    assert_eq!((change.update.rules.len(), change.update.rules_gone.len()), (1, 1));
    assert_eq!(change.update.rules_gone[0].ports.last, 53);
    assert_eq!(change.update.rules[0].key.ports.last, 54);
    assert!(change.fds().is_empty());
}

#[test]
fn another_queue_is_another_container() {
    let host = queue();
    let mut containers = [container("a1", 2, Some("app-a")), container("b1", 3, Some("app-b"))];
    let before = desired(FILE, Some(&host), &containers);
    containers[1].queue = queue();
    let change = desired(FILE, Some(&host), &containers).since(&before);
    assert_eq!(change.update.containers.len(), 1);
    assert_eq!((change.update.containers[0].port, change.fds().len()), (PortId(3), 1));
    assert_eq!((change.update.cell, change.update.containers_gone), (None, vec![]));
}

#[test]
fn the_hosts_descriptor_comes_first() {
    let containers = [container("a1", 2, None)];
    let before = desired(FILE, None, &[]);
    let host = queue();
    let change = desired(FILE, Some(&host), &containers).since(&before);
    assert!(change.update.cell.as_ref().is_some_and(|cell| cell.host));
    let fds: Vec<_> = change.fds.iter().map(Arc::as_ptr).collect();
    assert_eq!(fds, [Arc::as_ptr(&host), Arc::as_ptr(&containers[0].queue)]);
}

#[test]
fn an_app_named_later_gets_its_tag_and_rules() {
    let containers = [container("x1", 2, Some("app-x"))];
    let before = desired(FILE, None, &containers);
    let text = FILE.replace("policies:\n", "  - {id: app-x, tag: 9}\npolicies:\n")
        + "  - {from: app-a, to: app-x, protocol: tcp, ports: 1}\n";
    let change = desired(&text, None, &containers).since(&before);
    assert_eq!(change.update.containers[0].tag, 9);
    assert_eq!(change.update.rules.len(), 1);
}

const OUTSIDE: &str = "\
outside:
  no_masquerade: [10.9.0.0/16]
  max_connections_per_container: 1000
  dns_servers: [169.254.0.2, 8.8.8.8]
  host_services: {tcp: ['192.0.2.1:9000']}
  outbound_connections: {limit: true}
  bandwidth: {rate_kbps: 10, burst_kb: 20}
  logging: {asg: true}
security_groups:
  - {name: all, rules: [{protocol: all, destination: 0.0.0.0/0}], running_default: true}
  - {name: s, rules: [{protocol: all, destination: 10.0.0.1}], spaces: [s]}
";

fn with_terms(name: &str, last: u8, terms: Terms) -> Attached {
    Attached { terms: Arc::new(terms), ..container(name, last, None) }
}

fn in_space(space: &str) -> Terms {
    let metadata = Metadata { space_id: Some(space.into()), ..Metadata::default() };
    Terms { metadata, ..Terms::default() }
}

#[test]
fn without_a_way_out_there_are_no_settings() {
    let mapping = PortMapping { protocol: Tcp, host_port: 61_000, container_port: 80 };
    let limited = Rate { bits_per_second: 1, burst_bits: 2 };
    let bandwidth = Bandwidth { send: Some(limited), receive: None };
    let containers = [
        with_terms("one", 2, Terms { mappings: vec![mapping], ..Terms::default() }),
        with_terms("two", 3, Terms { bandwidth, ..Terms::default() }),
    ];
    let desired = desired(FILE, None, &containers);
    assert_eq!((desired.cell.outside, desired.egress.len()), (None, 0));
    // A limit is one without it, too.
    let expected = Settings { send: Some(limited), ..bare_settings(PortId(3)) };
    assert_eq!(desired.settings.into_values().collect::<Vec<_>>(), [expected]);
}

#[test]
fn the_way_out_is_that_of_the_file_and_this_cell() {
    let desired = desired(&format!("{FILE}{OUTSIDE}timeouts: {{icmp: 7}}\n"), None, &[]);
    assert_eq!(desired.cell.tracking.timeouts.icmp, 7);
    let service =
        |address: [u8; 4], protocol, port| HostService { address: address.into(), protocol, port };
    let expected = Outside {
        snat_ports: Some(PortRange { first: 16_384, last: 32_767 }),
        snat_per_container: 1000,
        not_masqueraded: vec!["10.9.0.0/16".parse().unwrap()],
        local: vec![[192, 0, 2, 1].into()],
        services: vec![
            service([169, 254, 0, 2], Tcp, 53),
            service([169, 254, 0, 2], Udp, 53),
            service([192, 0, 2, 1], Tcp, 9000),
        ],
    };
    assert_eq!(desired.cell.outside, Some(expected));
    assert!(desired.cell.logging.egress && !desired.cell.logging.overlay);
}

#[test]
fn settings_come_from_file_and_runtime() {
    let mapping =
        |host_port, container_port| PortMapping { protocol: Tcp, host_port, container_port };
    let receive = Some(Rate { bits_per_second: 1, burst_bits: 2 });
    let terms = Terms {
        mappings: vec![mapping(61_001, 8081), mapping(61_000, 8080)],
        bandwidth: Bandwidth { send: None, receive },
        ..in_space("s")
    };
    let desired = desired(&format!("{FILE}{OUTSIDE}"), None, &[with_terms("one", 2, terms)]);
    let settings = &desired.settings[&PortId(2)];
    let cell = PortRange { first: 61_000, last: 61_001 };
    assert_eq!(settings.mappings, [Mapping { protocol: Tcp, cell, container: 8080 }]);
    let send = Some(Rate { bits_per_second: 10 * 1024, burst_bits: 20 * 1024 });
    assert_eq!((settings.send, settings.receive), (send, receive));
    assert_eq!(
        settings.connections.map(|limit| (limit.burst, limit.per_second)),
        Some((1000, 100))
    );
    assert_eq!(settings.denied, None);
    assert_eq!(desired.egress[&settings.allowed.unwrap()].len(), 2);
}

#[test]
fn sets_are_shared_and_sent_once() {
    let text = format!("{FILE}{OUTSIDE}");
    let network = Network::parse(&text).unwrap();
    let (mut names, mut book) = (RuleNames::default(), EgressBook::default());
    let mut desired = |containers: &[Attached]| {
        let cell = network.cell("cell1").unwrap();
        let here = Here { network: &network, cell, mtu: 1450, host: None, addresses: &[] };
        Desired::new(here, containers, &mut names, &mut book)
    };
    let of = |name, last, space| with_terms(name, last, in_space(space));
    let [a, b, c] = [of("a", 2, "s"), of("b", 3, "t"), of("c", 4, "s")];
    let (none, two) = (desired(&[]), desired(&[a.clone(), b.clone()]));
    assert_eq!(two.snapshot().egress.len(), 2);
    let first = two.since(&none).update;
    assert_eq!((first.egress.len(), first.settings.len(), first.egress_gone.len()), (2, 2, 0));
    let more = desired(&[a.clone(), b.clone(), c.clone()]).since(&two).update;
    assert_eq!((more.egress.len(), more.settings.len()), (0, 1));
    // The last user of a set takes it along.
    let less = desired(std::slice::from_ref(&b)).since(&two).update;
    assert_eq!((less.egress_gone.len(), less.containers_gone), (1, vec![PortId(2)]));
    assert_eq!(less.settings, []);
}

#[test]
fn settings_that_end_before_their_container_are_emptied() {
    let containers = [container("one", 2, None)];
    let before = desired(&format!("{FILE}{OUTSIDE}"), None, &containers);
    let change = desired(FILE, None, &containers).since(&before).update;
    assert_eq!(change.settings, [bare_settings(PortId(2))]);
    assert_eq!((change.egress_gone.len(), change.cell.unwrap().outside), (1, None));
}
