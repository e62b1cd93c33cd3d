use std::fs::File;

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
    use sarcenet_dataplane_api::Protocol::{Tcp, Udp};
    assert_eq!(rules, [(1, 3, Tcp, 8080), (1, 4, Tcp, 8080), (2, 2, Udp, 53)]);
    let tags: Vec<_> = desired.containers.values().map(|(one, _)| (one.port.0, one.tag)).collect();
    assert_eq!(tags, [(2, 1), (3, 2), (4, 2), (5, 0), (6, 0)]);
    // Both receivers of one policy carry its name.
    let names: std::collections::BTreeSet<_> = desired.rules.values().collect();
    assert_eq!(names.len(), 2);
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
