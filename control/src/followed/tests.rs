use proptest::prelude::*;
use sarcenet_server::leases::pool::hardware_address;
use sarcenet_server::policy::{Policy, Protocol, TagNumber, TaggedPolicy};

use super::*;
use crate::config::{DenyNetworks, OutsideSpec};
use crate::follow::policies::List;

const FILE: &str = "\
overlay: 10.255.0.0/16
control: {underlay: 10.77.0.11, security_groups: {}}
";

fn base() -> Network {
    Network::parse(FILE).unwrap()
}

fn lease(underlay: &str, subnet: &str) -> Lease {
    let subnet: Ipv4Net = subnet.parse().unwrap();
    Lease { underlay: underlay.parse().unwrap(), subnet, mac: hardware_address(subnet) }
}

fn own() -> Lease {
    lease("10.77.0.11", "10.255.55.0/24")
}

#[test]
fn leases_that_cannot_be_used_are_left_out() {
    // Of another cell, and whether packets can be sent there.
    let table = [
        ("10.77.0.12", "10.255.62.0/24", true),
        ("10.77.0.12", "10.255.0.9/32", true),
        ("10.77.0.12", "10.255.55.0/24", false),
        ("10.77.0.12", "10.255.55.128/25", false),
        ("10.77.0.12", "10.255.54.0/23", false),
        ("10.77.0.12", "10.255.0.0/16", false),
        ("10.77.0.12", "0.0.0.0/0", false),
        ("10.77.0.12", "10.254.62.0/24", false),
        ("10.77.0.12", "10.255.62.7/24", false),
        ("10.255.62.3", "10.255.62.0/24", false),
        ("224.0.0.1", "10.255.62.0/24", false),
        ("0.0.0.0", "10.255.62.0/24", false),
    ];
    for (underlay, subnet, good) in table {
        let cells = vec![own(), lease(underlay, subnet)];
        let followed = Followed { lease: Some(own()), cells, ..Followed::default() };
        let network = followed.network(&base(), "cell1");
        let expected = if good { vec!["cell1", underlay] } else { vec!["cell1"] };
        let names: Vec<_> = network.cells.iter().map(|cell| cell.name.as_str()).collect();
        assert_eq!(names, expected, "{underlay} {subnet}");
        assert_eq!(followed.unroutable(network.overlay), usize::from(!good), "{underlay} {subnet}");
    }
}

#[test]
fn of_leases_that_overlap_one_is_used() {
    let cells = ["10.255.62.0/24", "10.255.62.0/23", "10.255.63.0/24", "10.255.64.0/24"];
    let mut cells: Vec<_> = cells
        .iter()
        .zip(12..)
        .map(|(subnet, last)| lease(&format!("10.77.0.{last}"), subnet))
        .collect();
    cells.push(lease("10.77.0.16", "10.255.64.0/24"));
    let followed = Followed { lease: Some(own()), cells, ..Followed::default() };
    let network = followed.network(&base(), "cell1");
    let subnets: Vec<_> = network.cells[1..].iter().map(|cell| cell.subnet.to_string()).collect();
    assert_eq!(subnets, ["10.255.62.0/23", "10.255.64.0/24"]);
    assert_eq!(followed.unroutable(network.overlay), 3);
}

#[test]
fn what_was_never_said_allows_nothing() {
    let followed = Followed { lease: Some(own()), ..Followed::default() };
    let network = followed.network(&base(), "cell1");
    assert!(network.policies.is_empty() && network.apps.is_empty());
    assert_eq!(network.security_groups, Some(Arc::default()));
    let groups = Some(Arc::new(vec![SecurityGroup::default()]));
    let network = Followed { groups, ..followed }.network(&base(), "cell1");
    assert_eq!(network.security_groups.map(|groups| groups.len()), Some(1));
}

#[test]
fn what_a_program_beside_the_agent_says_of_the_outside() {
    let denied = DenyNetworks { always: vec![own().subnet], ..DenyNetworks::default() };
    let told = |security_groups| {
        let deny_networks = denied.clone();
        Some(Arc::new(OutsideTerms { deny_networks, security_groups, ..OutsideTerms::default() }))
    };
    let groups = Some(Arc::new(vec![SecurityGroup::default()]));
    // What was said, how many groups there are then, and whether what is denied is.
    for (outside, groups_then, holds) in
        [(None, Some(1), false), (told(true), Some(1), true), (told(false), None, true)]
    {
        let followed = Followed {
            lease: Some(own()),
            groups: groups.clone(),
            outside: outside.clone(),
            ..Followed::default()
        };
        let mut base = Network { outside: Some(OutsideSpec::default()), ..base() };
        // An agent that asks the server itself has its own file for that.
        let own_file = followed.network(&base, "cell1");
        assert_eq!(own_file.outside, base.outside);
        assert_eq!(own_file.security_groups.map(|groups| groups.len()), Some(1));
        base.control.as_mut().unwrap().policy_server = None;
        let network = followed.network(&base, "cell1");
        assert_eq!(network.security_groups.map(|groups| groups.len()), groups_then);
        assert_eq!(network.outside.unwrap().deny_networks == denied, holds, "{outside:?}");
        let silent = Followed { groups: None, ..followed }.network(&base, "cell1");
        let closed = groups_then.map(|_| 0);
        assert_eq!(silent.security_groups.map(|groups| groups.len()), closed);
    }
}

#[test]
fn routers_have_a_meaning_where_they_are_wanted() {
    let single = |base: &mut Network| base.control.as_mut().unwrap().leases.single_ip = true;
    let server = |base: &mut Network, routers| {
        base.control.as_mut().unwrap().policy_server.as_mut().unwrap().routers = routers;
    };
    let told = |base: &mut Network| base.control.as_mut().unwrap().policy_server = None;
    let ingress = Some(OverlayTerms { ingress: true, open: false });
    /// What is different about the cell, what a program beside the agent says, and the tags then.
    type Case<'a> = (&'a dyn Fn(&mut Network), Option<OverlayTerms>, Option<u16>, Option<u16>);
    let table: [Case<'_>; 6] = [
        (&|base| server(base, false), None, None, None),
        (&|base| server(base, true), None, Some(6), None),
        // An agent that asks the server itself has its own file for that.
        (&|base| server(base, false), ingress, None, None),
        (&|base| told(base), ingress, Some(6), None),
        (&|base| told(base), Some(OverlayTerms::default()), None, None),
        (&|base| (told(base), single(base)).0, None, Some(6), Some(6)),
    ];
    for (index, (change, overlay, router_tag, own_tag)) in table.into_iter().enumerate() {
        let mut base = base();
        change(&mut base);
        let silent = Followed { lease: Some(own()), overlay, ..Followed::default() };
        let network = silent.network(&base, "cell1");
        assert_eq!((network.router_tag, network.own_tag), (None, None), "{index}");
        let problem = silent.problem(&network);
        assert_eq!(problem.is_some(), router_tag.is_some(), "{index}: {problem:?}");
        let followed = Followed { router_tag: Some(6), ..silent };
        let network = followed.network(&base, "cell1");
        assert_eq!((network.router_tag, network.own_tag), (router_tag, own_tag), "{index}");
        assert_eq!(followed.problem(&network), None, "{index}");
    }
}

#[test]
fn an_app_with_the_tag_of_routers_gets_nothing_of_theirs() {
    let policies = |from: &str| {
        let policy = Policy {
            source: from.into(),
            destination: "app-b".into(),
            protocol: Protocol::Tcp,
            first_port: 80,
            last_port: 80,
        };
        let (source_tag, destination_tag) = (TagNumber(6), TagNumber(2));
        let policies = vec![TaggedPolicy { policy, source_tag, destination_tag }];
        Some(Arc::new(Policies::new(List { policies, left_out: 0 }).unwrap()))
    };
    let mut base = base();
    base.control.as_mut().unwrap().policy_server.as_mut().unwrap().routers = true;
    for (from, tag) in [("app-a", None), (ROUTERS, Some(6))] {
        let followed = Followed {
            lease: Some(own()),
            policies: policies(from),
            router_tag: Some(6),
            ..Followed::default()
        };
        let network = followed.network(&base, "cell1");
        assert_eq!(network.router_tag, tag, "{from}");
        let said = followed.problem(&network).unwrap_or_default();
        assert_eq!(said.contains("0006, which belongs to app app-a"), tag.is_none(), "{said}");
    }
}

#[test]
fn an_overlay_is_open_where_a_program_beside_the_agent_says_so() {
    let overlay = Some(OverlayTerms { ingress: false, open: true });
    let followed = Followed { lease: Some(own()), overlay, ..Followed::default() };
    assert!(!followed.network(&base(), "cell1").open_overlay, "its own file says so or not");
    let mut told = base();
    told.control.as_mut().unwrap().policy_server = None;
    assert!(followed.network(&told, "cell1").open_overlay);
    let closed = Followed { overlay: Some(OverlayTerms::default()), ..followed };
    assert!(!closed.network(&told, "cell1").open_overlay);
}

#[test]
fn a_file_without_servers_stays_as_it_is() {
    let text = "{overlay: 10.255.0.0/16, cells: [{name: cell1, underlay: 10.77.0.11, subnet: \
                10.255.55.0/24}]}";
    let base = Network::parse(text).unwrap();
    let followed = Followed { cells: vec![own()], ..Followed::default() };
    assert_eq!(followed.network(&base, "cell1"), base);
}

proptest! {
    /// The dataplane refuses peers that overlap, all of them at once.
    #[test]
    fn whatever_is_listed_the_cells_are_disjoint(
        listed in proptest::collection::vec((0_u32..64, 0_u32..1 << 12, 18_u8..=32), 0..40),
    ) {
        let cells = listed.into_iter().map(|(underlay, base, prefix)| {
            let address = 0x0aff_0000 | base << 4;
            let subnet = Ipv4Net::new(address.into(), prefix).unwrap().trunc();
            Lease { underlay: (0x0a4d_0000 + underlay).into(), subnet, mac: [0; 6] }
        });
        let followed =
            Followed { lease: Some(own()), cells: cells.collect(), ..Followed::default() };
        let network = followed.network(&base(), "cell1");
        for (index, one) in network.cells.iter().enumerate() {
            for other in &network.cells[index + 1..] {
                prop_assert!(!one.subnet.contains(&other.subnet));
                prop_assert!(!other.subnet.contains(&one.subnet));
            }
        }
    }
}
