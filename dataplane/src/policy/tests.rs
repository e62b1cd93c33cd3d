use super::*;
use crossbeam_epoch as epoch;
use proptest::prelude::*;
use sarcenet_dataplane_api::Protocol;

const B: Ipv4Addr = Ipv4Addr::new(10, 255, 55, 3);

fn rule(id: u32, source: u16, protocol: Protocol, first: u16, last: u16) -> Rule {
    let ports = PortRange { first, last };
    Rule { id: RuleId(id), key: RuleKey { source, destination: B, protocol, ports } }
}

fn admit(table: &PolicyTable, tag: u16, protocol: u8, port: u16) -> Option<u32> {
    table.admit(tag, B, protocol, port, &epoch::pin()).map(|rule| rule.0)
}

#[test]
fn every_part_of_the_rule_counts() {
    let table = PolicyTable::new();
    table.apply(&[], &[rule(7, 1, Protocol::Tcp, 8080, 8081)]);
    assert_eq!(admit(&table, 1, 6, 8080), Some(7));
    assert_eq!(admit(&table, 1, 6, 8081), Some(7));
    assert_eq!(admit(&table, 1, 6, 8079), None);
    assert_eq!(admit(&table, 1, 6, 8082), None);
    assert_eq!(admit(&table, 1, 17, 8080), None);
    assert_eq!(admit(&table, 1, 1, 8080), None);
    assert_eq!(admit(&table, 2, 6, 8080), None);
    assert_eq!(admit(&table, 0x0101, 6, 8080), None, "all 16 bits of the tag are compared");
    let elsewhere = Ipv4Addr::new(10, 255, 55, 4);
    assert_eq!(table.admit(1, elsewhere, 6, 8080, &epoch::pin()), None);
}

#[test]
fn tag_zero_is_nobody() {
    let table = PolicyTable::new();
    table.apply(&[], &[rule(7, 0, Protocol::Tcp, 0, 65535)]);
    table.replace(&[rule(7, 0, Protocol::Tcp, 0, 65535), rule(8, 1, Protocol::Tcp, 9, 8)]);
    assert_eq!(admit(&table, 0, 6, 8080), None);
    assert!(table.is_empty());
}

#[test]
fn a_rule_with_a_new_name_replaces_the_old_one() {
    let table = PolicyTable::new();
    let old = rule(7, 1, Protocol::Udp, 53, 53);
    table.apply(&[], &[old]);
    table.apply(&[], &[rule(8, 1, Protocol::Udp, 53, 53)]);
    assert_eq!((admit(&table, 1, 17, 53), table.len()), (Some(8), 1));
    table.apply(&[old.key], &[]);
    assert_eq!((admit(&table, 1, 17, 53), table.len()), (None, 0));
    table.apply(&[old.key], &[]);
    assert_eq!(table.len(), 0, "removing what is not there changes nothing");
}

#[test]
fn an_exchange_in_one_step_never_refuses() {
    let table = PolicyTable::new();
    let wide = rule(1, 1, Protocol::Tcp, 8000, 9000);
    let narrow = rule(2, 1, Protocol::Tcp, 8080, 8080);
    table.apply(&[], &[wide]);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for _ in 0..2_000 {
                table.apply(&[wide.key], &[narrow]);
                table.apply(&[narrow.key], &[wide]);
                table.replace(&[wide]);
            }
        });
        while !writer.is_finished() {
            assert!(matches!(admit(&table, 1, 6, 8080), Some(1 | 2)));
        }
    });
    assert_eq!(table.len(), 1);
}

#[test]
fn fifty_thousand_rules() {
    let rules: Vec<Rule> = (0..50_000_u32)
        .map(|i| Rule {
            id: RuleId(i + 1),
            key: RuleKey {
                source: (i % 500 + 1) as u16,
                destination: Ipv4Addr::from(0x0aff_3702 + i / 500),
                protocol: Protocol::Tcp,
                ports: PortRange { first: 8080, last: 8080 },
            },
        })
        .collect();
    let (snapshot, deltas) = (PolicyTable::new(), PolicyTable::new());
    snapshot.replace(&rules);
    for some in rules.chunks(1000) {
        deltas.apply(&[], some);
    }
    let guard = epoch::pin();
    for table in [&snapshot, &deltas] {
        assert_eq!(table.len(), 50_000);
        for rule in &rules {
            let RuleKey { source, destination, .. } = rule.key;
            assert_eq!(table.admit(source, destination, 6, 8080, &guard), Some(rule.id));
            assert_eq!(table.admit(source + 500, destination, 6, 8080, &guard), None);
        }
    }
}

prop_compose! {
    fn any_rule()(
        id in 1_u32..40,
        source in 1_u16..4,
        host in 0_u32..3,
        tcp: bool,
        first in 0_u16..30,
        width in 0_u16..20,
    ) -> Rule {
        Rule {
            id: RuleId(id),
            key: RuleKey {
                source,
                destination: Ipv4Addr::from(0x0aff_3702 + host),
                protocol: if tcp { Protocol::Tcp } else { Protocol::Udp },
                ports: PortRange { first, last: first + width },
            },
        }
    }
}

proptest! {
    #[test]
    fn answers_as_a_list_would(
        updates in prop::collection::vec(
            (
                prop::collection::vec(any_rule(), 0..8),
                prop::collection::vec(any_rule(), 0..8),
                prop::bool::weighted(0.1),
            ),
            1..20,
        ),
    ) {
        let table = PolicyTable::new();
        let mut list: BTreeMap<RuleKey, RuleId> = BTreeMap::new();
        for (gone, new, snapshot) in updates {
            if snapshot {
                list.clear();
                table.replace(&new);
            } else {
                let gone: Vec<RuleKey> = gone.iter().map(|rule| rule.key).collect();
                list.retain(|key, _| !gone.contains(key));
                table.apply(&gone, &new);
            }
            list.extend(new.iter().map(|rule| (rule.key, rule.id)));
            prop_assert_eq!(table.len(), list.len());
        }
        let guard = epoch::pin();
        for source in 0..5 {
            for host in 0..4 {
                for (protocol, number) in [(Protocol::Tcp, 6), (Protocol::Udp, 17)] {
                    for port in 0..52 {
                        let destination = Ipv4Addr::from(0x0aff_3702 + host);
                        let expected = list
                            .iter()
                            .filter(|(key, _)| {
                                key.source == source
                                    && key.destination == destination
                                    && key.protocol == protocol
                                    && key.ports.contains(port)
                            })
                            .map(|(_, &id)| id)
                            .min();
                        let found = table.admit(source, destination, number, port, &guard);
                        prop_assert_eq!(found, expected);
                    }
                }
            }
        }
    }
}
