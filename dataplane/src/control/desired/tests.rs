use proptest::prelude::*;

use super::fixtures::{cell, container, peer, rule};
use super::*;

/// A state with a bit of everything.
fn state() -> Desired {
    let update = Update {
        cell: Some(cell()),
        peers: vec![peer("10.255.62.0/24"), peer("10.255.3.0/24")],
        containers: vec![container(1, 2), container(2, 3)],
        rules: vec![rule(1, 5, 2, 80, 80), rule(2, 5, 3, 7000, 8000)],
        ..Update::default()
    };
    let mut desired = Desired::default();
    let plan = desired.plan(&update).unwrap();
    desired.accept(plan);
    desired
}

fn refused(update: &Update) -> String {
    state().plan(update).expect_err("this update must be refused").to_string()
}

#[test]
fn contradictions_are_refused_and_name_their_object() {
    let with_cell = |change: &dyn Fn(&mut Cell)| {
        let mut cell = cell();
        change(&mut cell);
        Update { cell: Some(cell), ..Update::default() }
    };
    let with_peer = |peer| Update { peers: vec![peer], ..Update::default() };
    let with_containers = |containers| Update { containers, ..Update::default() };
    let with_rule = |rule| Update { rules: vec![rule], ..Update::default() };
    let foreign = Container { address: [10, 255, 62, 9].into(), ..container(9, 9) };
    let long = Container { name: "x".repeat(MAX_NAME + 1), ..container(9, 9) };
    let multicast = {
        let mut rule = rule(9, 5, 9, 1, 1);
        rule.key.destination = [224, 0, 0, 1].into();
        rule
    };
    for (update, words) in [
        (with_cell(&|c| c.subnet = "10.255.55.7/24".parse().unwrap()), "host bits"),
        (with_cell(&|c| c.subnet = "10.254.55.0/24".parse().unwrap()), "outside the overlay"),
        (with_cell(&|c| c.subnet = "10.255.77.0/24".parse().unwrap()), "outside the cell's subnet"),
        (with_cell(&|c| c.subnet = "10.255.62.0/24".parse().unwrap()), "overlaps this cell"),
        (with_cell(&|c| c.underlay = [0, 0, 0, 0].into()), "not the address of a host"),
        (with_cell(&|c| c.underlay = [10, 255, 9, 9].into()), "inside the overlay"),
        (with_cell(&|c| c.underlay = [192, 0, 2, 62].into()), "not that of another host"),
        (with_cell(&|c| c.vni = 1 << 24), "24 bits"),
        (with_cell(&|c| c.tunnel_port = 0), "tunnel port 0"),
        (with_cell(&|c| c.mtu = 575), "MTU 575"),
        (with_cell(&|c| c.tracking.timeouts.icmp = 0), "timeout icmp of 0 s"),
        (with_cell(&|c| c.tracking.half_open_percent = 101), "half_open_percent 101"),
        (with_peer(peer("10.255.62.0/25")), "overlaps the peer subnet 10.255.62.0/24"),
        (with_peer(peer("10.255.2.0/23")), "peer 10.255.3.0/24"),
        (with_peer(peer("10.255.55.128/25")), "overlaps this cell"),
        (with_peer(peer("10.255.62.1/24")), "host bits"),
        (with_peer(peer("172.16.0.0/24")), "outside the overlay"),
        (with_containers(vec![container(9, 2)]), "that of container c1-2 (port 1) too"),
        (with_containers(vec![container(9, 7), container(9, 8)]), "its port occurs twice"),
        (with_containers(vec![container(9, 0)]), "the cell's own"),
        (with_containers(vec![foreign]), "outside the cell's subnet"),
        (with_containers(vec![long]), "longer than 256 bytes"),
        (with_rule(rule(0, 5, 9, 1, 1)), "0 is not the name"),
        (with_rule(rule(9, 0, 9, 1, 1)), "tag 0"),
        (with_rule(rule(9, 5, 9, 2, 1)), "9: tag 5 to 10.255.55.9 tcp 2-1: its first port"),
        (with_rule(multicast), "not the address of a host"),
    ] {
        let message = refused(&update);
        assert!(message.contains(words), "{words:?} not in {message:?}");
    }
}

#[test]
fn nobody_lives_without_a_cell() {
    let homeless = Update { containers: vec![container(1, 2)], ..Update::default() };
    assert_eq!(Desired::default().plan(&homeless).unwrap_err(), Invalid::NoCell);
    let rules = Update { rules: vec![rule(1, 5, 2, 80, 80)], ..Update::default() };
    assert!(Desired::default().plan(&rules).is_ok());
}

#[test]
fn removals_make_room_for_additions_of_the_same_update() {
    let mut desired = state();
    let update = Update {
        containers_gone: vec![PortId(1)],
        containers: vec![container(9, 2)],
        peers_gone: vec!["10.255.62.0/24".parse().unwrap()],
        peers: vec![peer("10.255.62.0/25"), peer("10.255.62.128/25")],
        rules_gone: vec![rule(1, 5, 2, 80, 80).key, rule(99, 9, 9, 9, 9).key],
        rules: vec![rule(3, 5, 2, 80, 80), rule(4, 6, 2, 1, 1), rule(5, 6, 2, 1, 1)],
        ..Update::default()
    };
    let plan = desired.plan(&update).unwrap();
    assert_eq!(plan.rules.gone, [rule(1, 5, 2, 80, 80).key]);
    assert_eq!(plan.rules.new, [rule(3, 5, 2, 80, 80), rule(5, 6, 2, 1, 1)]);
    desired.accept(plan);
    assert_eq!(desired.places.peers.len(), 3);
    assert_eq!(desired.places.containers[&PortId(9)], container(9, 2));
    assert_eq!(desired.rules[&rule(3, 5, 2, 80, 80).key], RuleId(3));
    assert_eq!(desired.rules.len(), 3);
}

#[test]
fn what_is_there_already_is_no_change() {
    let desired = state();
    let update = Update { rules: vec![rule(1, 5, 2, 80, 80)], ..Update::default() };
    assert_eq!(desired.plan(&update).unwrap(), Plan::default());
}

#[test]
fn a_snapshot_may_come_in_any_order_but_not_twice() {
    let mut staged = Desired::default();
    let containers = Update { containers: vec![container(1, 2)], ..Update::default() };
    staged.add_piece(&containers).unwrap();
    assert_eq!(staged.places.check().unwrap_err(), Invalid::NoCell);
    assert!(staged.add_piece(&containers).unwrap_err().to_string().contains("occurs twice"));
    staged.add_piece(&Update { cell: Some(cell()), ..Update::default() }).unwrap();
    staged.places.check().unwrap();
}

fn any_rule() -> impl Strategy<Value = Rule> {
    (1..4_u32, 1..3_u16, 1..3_u8, 1..3_u16)
        .prop_map(|(id, source, last, port)| rule(id, source, last, port, port))
}

proptest! {
    /// Two ways to the same rules: change by change in a plain map, and as planned.
    #[test]
    fn planned_changes_lead_where_they_should(
        updates in prop::collection::vec(
            (prop::collection::vec(any_rule(), 0..6), prop::collection::vec(any_rule(), 0..6)),
            0..6,
        ),
    ) {
        let (mut desired, mut table) = (Desired::default(), HashMap::new());
        let mut expected = HashMap::new();
        for (gone, new) in updates {
            let rules_gone: Vec<_> = gone.iter().map(|rule| rule.key).collect();
            for key in &rules_gone {
                expected.remove(key);
            }
            expected.extend(new.iter().map(|rule| (rule.key, rule.id)));
            let update = Update { rules: new, rules_gone, ..Update::default() };
            let plan = desired.plan(&update).unwrap();
            for key in &plan.rules.gone {
                prop_assert!(table.remove(key).is_some(), "removes a rule that is not there");
            }
            for rule in &plan.rules.new {
                prop_assert!(table.insert(rule.key, rule.id).is_none(), "adds a rule twice");
            }
            desired.accept(plan);
            prop_assert_eq!(&table, &expected);
            prop_assert_eq!(&desired.rules, &expected);
        }
        let empty = Desired::default();
        prop_assert_eq!(empty.rules_towards(&desired).new.len(), expected.len());
        prop_assert_eq!(desired.rules_towards(&empty).gone.len(), expected.len());
        prop_assert_eq!(desired.rules_towards(&desired), RuleChange::default());
    }
}
