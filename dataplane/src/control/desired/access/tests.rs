use proptest::prelude::*;
use sarcenet_dataplane_api::{ConnectionLimit, HostService, Rate, RuleId};

use super::super::{
    Desired,
    fixtures::{cell, container},
};
use super::*;

fn range(first: u16, last: u16) -> PortRange {
    PortRange { first, last }
}

fn rule(traffic: Traffic) -> EgressRule {
    EgressRule {
        id: RuleId(1),
        first: [192, 0, 2, 0].into(),
        last: [192, 0, 2, 255].into(),
        traffic,
        log: false,
    }
}

fn set(id: u32, from: u32, rules: usize) -> EgressSet {
    EgressSet { id: SetId(id), from, rules: vec![rule(Traffic::Tcp(range(80, 443))); rules] }
}

fn mapping(first: u16, last: u16, container: u16) -> Mapping {
    Mapping { protocol: Protocol::Tcp, cell: range(first, last), container }
}

fn settings(port: u16) -> Settings {
    Settings {
        port: PortId(port),
        denied: None,
        allowed: Some(SetId(1)),
        mappings: Vec::new(),
        send: Some(Rate { bits_per_second: 1_000, burst_bits: 12_000 }),
        receive: None,
        connections: Some(ConnectionLimit {
            per_second: 100,
            burst: 1000,
            dry_run: false,
            log: true,
        }),
    }
}

fn outside() -> Outside {
    Outside { snat_ports: Some(range(16_384, 32_767)), ..Outside::default() }
}

/// Two containers, of which the first has settings, and one set that they name.
fn state() -> Desired {
    let update = Update {
        cell: Some(Cell { outside: Some(outside()), ..cell() }),
        containers: vec![container(1, 2), container(2, 3)],
        egress: vec![set(1, 0, 3)],
        settings: vec![Settings { mappings: vec![mapping(61_000, 61_009, 8080)], ..settings(1) }],
        ..Update::default()
    };
    let mut desired = Desired::default();
    let plan = desired.plan(&update).unwrap();
    desired.accept(plan);
    desired
}

fn with_settings(change: impl FnOnce(&mut Settings)) -> Update {
    let mut settings = settings(2);
    change(&mut settings);
    Update { settings: vec![settings], ..Update::default() }
}

fn with_mapping(mapping: Mapping) -> Update {
    with_settings(|settings| settings.mappings.push(mapping))
}

fn with_outside(change: impl FnOnce(&mut Outside)) -> Update {
    let mut outside = outside();
    change(&mut outside);
    Update { cell: Some(Cell { outside: Some(outside), ..cell() }), ..Update::default() }
}

fn with_rule(wrong: EgressRule) -> Update {
    let mut set = set(7, 0, 2);
    set.rules.push(wrong);
    Update { egress: vec![set], ..Update::default() }
}

/// Each update, and what is said of it.
fn refused(table: Vec<(Update, &str)>) {
    let state = state();
    for (update, words) in table {
        let before = state.clone();
        let message = state.plan(&update).expect_err(words).to_string();
        assert!(message.contains(words), "{words:?} not in {message:?}");
        assert_eq!(state, before);
    }
}

#[test]
fn rules_that_cannot_be_are_refused_with_set_and_index() {
    let backwards = EgressRule { first: [192, 0, 3, 0].into(), ..rule(Traffic::All) };
    let say_of = |rule| state().plan(&with_rule(rule)).unwrap_err().to_string();
    assert_eq!(
        say_of(backwards),
        "egress set 7, rule 2 (192.0.3.0-192.0.2.255, All): its first address lies behind its \
         last one"
    );
    refused(vec![
        (with_rule(rule(Traffic::Tcp(range(2, 1)))), "rule 2 (192.0.2.0-192.0.2.255, Tcp"),
        (with_rule(rule(Traffic::Udp(range(2, 1)))), "its first port lies behind its last one"),
        (with_rule(rule(Traffic::Udp(range(0, 9)))), "0 is not a port"),
    ]);
    // The index is that in the whole set, not in the piece.
    let mut piece = set(1, 3, 1);
    piece.rules.push(backwards);
    let update = Update { egress: vec![piece], ..Update::default() };
    let message = state().plan(&update).unwrap_err().to_string();
    assert!(message.starts_with("egress set 1, rule 4 "), "{message}");
}

#[test]
fn sets_come_in_order_and_whole() {
    let of = |sets| Update { egress: sets, ..Update::default() };
    let many = set(7, 0, MAX_EGRESS_RULES);
    refused(vec![
        (of(vec![set(7, 1, 1)]), "begins with rule 1, but 0 rules are known"),
        (of(vec![set(7, 0, 2), set(7, 3, 1)]), "begins with rule 3, but 2 rules are known"),
        (of(vec![set(1, 0, 3)]), "begins with rule 0, but 3 rules are known"),
        (of(vec![set(1, 3, 1)]), "egress set 1: it is in use and cannot grow"),
        (of(vec![many.clone(), set(7, 100_000, 1)]), "100001 rules, at most 100000"),
        (
            Update { egress_gone: vec![SetId(1)], ..of(vec![set(1, 0, 1)]) },
            "it is both new and gone",
        ),
        (
            Update { egress_gone: vec![SetId(1)], ..Update::default() },
            "settings of container c1-2 (port 1): they name the set 1 for what is allowed",
        ),
    ]);
    // In several updates, used at last.
    let mut desired = state();
    for update in [of(vec![set(7, 0, 2)]), of(vec![set(7, 2, 0), set(7, 2, 4)]), of(vec![many])] {
        if let Ok(plan) = desired.plan(&update) {
            let access = plan.access.as_ref().unwrap();
            assert_eq!(desired.access.towards(access), AccessChange::default());
            desired.accept(plan);
        }
    }
    let plan = desired.plan(&with_settings(|s| s.denied = Some(SetId(7)))).unwrap();
    let change = desired.access.towards(plan.access.as_ref().unwrap());
    let [(SetId(7), rules)] = change.sets_new.as_slice() else { panic!("{change:?}") };
    assert_eq!(rules.len(), 6);
    assert_eq!((change.settings_new.len(), change.settings_new[0].port), (1, PortId(2)));
}

#[test]
fn settings_that_cannot_be_are_refused() {
    let rate = |bits_per_second, burst_bits| Some(Rate { bits_per_second, burst_bits });
    let limit =
        |per_second, burst| Some(ConnectionLimit { per_second, burst, dry_run: true, log: false });
    let udp = Mapping { protocol: Protocol::Udp, ..mapping(4_780, 4_790, 53) };
    let double = with_settings(|s| s.mappings = vec![mapping(80, 90, 80), mapping(85, 85, 1)]);
    refused(vec![
        (with_settings(|s| s.port = PortId(9)), "container ? (port 9): there is no such"),
        (with_settings(|s| s.denied = Some(SetId(8))), "set 8 for what is denied, which does not"),
        (with_settings(|s| s.send = rate(0, 1)), "it sends is 0 bits per second"),
        (with_settings(|s| s.receive = rate(1, 0)), "it is sent has a burst of 0 bits"),
        (with_settings(|s| s.connections = limit(0, 1)), "the rate 0 and the burst 1"),
        (with_settings(|s| s.connections = limit(1, 0)), "neither can be 0"),
        (with_mapping(mapping(9, 8, 1)), "mapping tcp 9-8 to 1: its first port"),
        (with_mapping(mapping(0, 8, 1)), "0 is not a port"),
        (with_mapping(mapping(8, 8, 0)), "0 is not a port"),
        (with_mapping(mapping(1, 3, 65_534)), "would go beyond 65535"),
        (
            with_mapping(mapping(61_005, 61_020, 80)),
            "settings of container c2-3 (port 2): mapping tcp 61005-61020 to 80: tcp port 61005 of \
             the cell is mapped to container c1-2 already",
        ),
        (with_mapping(mapping(60_000, 61_000, 80)), "tcp port 61000 of the cell"),
        (double, "tcp port 85 of the cell is mapped to container c2-3 already"),
        (with_mapping(mapping(32_767, 32_800, 80)), "the ports of source NAT, 16384-32767"),
        (with_mapping(udp), "UDP port 4789 is that of the tunnel"),
        (
            with_settings(|s| s.mappings = vec![mapping(1, 1, 1); MAX_MAPPINGS + 1]),
            "4097 mappings, at most 4096",
        ),
        (
            Update { settings: vec![settings(2), settings(2)], ..Update::default() },
            "they occur twice",
        ),
    ]);
    // The same port numbers of the other protocol are others.
    let udp = Mapping { protocol: Protocol::Udp, ..mapping(61_000, 61_009, 8080) };
    state().plan(&with_mapping(udp)).unwrap();
    state().plan(&with_mapping(mapping(61_010, 61_010, 65_535))).unwrap();
}

#[test]
fn ways_out_that_cannot_be_are_refused() {
    let service = |address: [u8; 4], port| HostService {
        address: address.into(),
        protocol: Protocol::Tcp,
        port,
    };
    refused(vec![
        (with_outside(|o| o.snat_ports = Some(range(9, 8))), "NAT, 9-8, end before they begin"),
        (with_outside(|o| o.snat_ports = Some(range(0, 8))), "contain 0"),
        (with_outside(|o| o.snat_ports = Some(range(1, 5_000))), "contain the tunnel's, 4789"),
        (
            with_outside(|o| o.snat_ports = Some(range(61_009, 61_100))),
            "settings of container c1-2 (port 1): mapping tcp 61000-61009 to 8080: overlaps",
        ),
        (
            with_outside(|o| o.not_masqueraded = vec!["10.1.2.3/8".parse().unwrap()]),
            "the network is 10.0.0.0/8",
        ),
        (with_outside(|o| o.local = vec![[224, 0, 0, 1].into()]), "224.0.0.1 is not the address"),
        (with_outside(|o| o.services = vec![service([0; 4], 1)]), "0.0.0.0:1 cannot be a service"),
        (with_outside(|o| o.services = vec![service([192, 0, 2, 1], 0)]), "192.0.2.1:0 cannot"),
        (
            with_outside(|o| o.local = vec![[192, 0, 2, 1].into(); MAX_LISTED + 1]),
            "2049 addresses, at most 2048",
        ),
    ]);
}

#[test]
fn a_container_takes_its_settings_along_and_frees_its_ports() {
    let mut desired = state();
    let update = Update {
        containers_gone: vec![PortId(1)],
        settings: vec![Settings {
            mappings: vec![mapping(61_000, 61_000, 80)],
            allowed: None,
            ..settings(2)
        }],
        egress_gone: vec![SetId(1)],
        ..Update::default()
    };
    let plan = desired.plan(&update).unwrap();
    let change = desired.access.towards(plan.access.as_ref().unwrap());
    assert_eq!((change.sets_new.len(), change.sets_gone), (0, vec![SetId(1)]));
    assert_eq!(change.settings_gone, [PortId(1)]);
    assert_eq!(change.settings_new, update.settings);
    desired.accept(plan);
    assert!(desired.access.sets.is_empty());
}

#[test]
fn a_container_that_is_replaced_keeps_its_settings() {
    let desired = state();
    let update = Update { containers: vec![container(1, 9)], ..Update::default() };
    let plan = desired.plan(&update).unwrap();
    assert_eq!((plan.access, plan.places.is_some()), (None, true));
}

#[test]
fn a_snapshot_in_pieces_is_the_same_as_one() {
    let whole = state();
    let mut staged = Desired::default();
    let Desired { places, access, .. } = whole.clone();
    let pieces = [
        Update { settings: access.settings.into_values().collect(), ..Update::default() },
        Update { egress: vec![set(1, 0, 1)], ..Update::default() },
        Update { containers: places.containers.into_values().collect(), ..Update::default() },
        Update { cell: places.cell, ..Update::default() },
    ];
    for piece in &pieces {
        staged.add_piece(piece).unwrap();
    }
    // Settings may come before the sets that they name, but the sets must be whole by then.
    let more = Update { egress: vec![set(1, 1, 2)], ..Update::default() };
    assert!(staged.add_piece(&more).unwrap_err().to_string().contains("cannot grow"));
    let short = whole.plan_towards(staged).unwrap();
    let change = whole.access.towards(short.access.as_ref().unwrap());
    assert_eq!(change.sets_new.len(), 1, "the same name, other rules: made anew");
    assert_eq!((change.sets_gone, change.settings_new, change.settings_gone), Default::default());

    let homeless = Update { settings: vec![settings(4)], ..Update::default() };
    let mut staged = Desired::default();
    staged.add_piece(&homeless).unwrap();
    let message = whole.plan_towards(staged).unwrap_err().to_string();
    assert!(message.contains("there is no such container"), "{message}");
    let nothing = whole.plan_towards(Desired::default()).unwrap();
    let change = whole.access.towards(nothing.access.as_ref().unwrap());
    assert_eq!((change.sets_gone, change.settings_gone), (vec![SetId(1)], vec![PortId(1)]));
}

proptest! {
    /// Ports of the cell are given once: the answer is that of a table with a line for each port.
    #[test]
    fn no_port_is_given_twice(mappings in prop::collection::vec((1..40_u16, 0..6_u16, any::<bool>()), 0..12)) {
        let mut taken = Taken::default();
        let mut table = HashMap::new();
        for ((first, width, tcp), owner) in mappings.into_iter().zip(1_u16..) {
            let protocol = if tcp { Protocol::Tcp } else { Protocol::Udp };
            let mapping = Mapping { protocol, cell: range(first, first + width), container: 1 };
            let ports = || (first..=first + width).map(|port| (protocol, port));
            let expected = ports().any(|port| table.contains_key(&port));
            match taken.take(mapping, PortId(owner)) {
                Some((port, other)) => {
                    prop_assert!(mapping.cell.contains(port));
                    prop_assert_eq!(table.get(&(protocol, port)), Some(&other));
                }
                None => {
                    prop_assert!(!expected);
                    table.extend(ports().map(|port| (port, PortId(owner))));
                }
            }
        }
    }
}
