use super::*;
use proptest::prelude::*;

fn rule(id: u32, first: [u8; 4], last: [u8; 4], traffic: Traffic) -> EgressRule {
    EgressRule { id: RuleId(id), first: first.into(), last: last.into(), traffic, log: false }
}

fn ports(first: u16, last: u16) -> PortRange {
    PortRange { first, last }
}

fn ask(table: &EgressTable, destination: [u8; 4], protocol: u8, port: u16) -> Option<u32> {
    let question = Question { destination: destination.into(), protocol, selector: port };
    table.decide(&question).map(|matched| matched.rule.0)
}

const ANY_FIRST: [u8; 4] = [0; 4];
const ANY_LAST: [u8; 4] = [255; 4];

#[test]
fn nothing_matches_no_rules() {
    let table = EgressTable::compile(&[]);
    assert!(table.is_empty());
    for protocol in 0..=255 {
        assert_eq!(ask(&table, [0, 0, 0, 0], protocol, 0), None);
        assert_eq!(ask(&table, [255, 255, 255, 255], protocol, 65535), None);
    }
}

#[test]
fn every_part_of_the_rule_counts() {
    let table = EgressTable::compile(&[
        rule(1, [10, 0, 0, 1], [10, 0, 0, 9], Traffic::Tcp(ports(80, 81))),
        rule(2, [10, 0, 0, 5], [10, 0, 0, 5], Traffic::Udp(ports(53, 53))),
    ]);
    let cases = [
        ([10, 0, 0, 1], TCP, 80, Some(1)),
        ([10, 0, 0, 9], TCP, 81, Some(1)),
        ([10, 0, 0, 0], TCP, 80, None),
        ([10, 0, 0, 10], TCP, 80, None),
        ([10, 0, 0, 5], TCP, 79, None),
        ([10, 0, 0, 5], TCP, 82, None),
        ([10, 0, 0, 5], TCP, 53, None),
        ([10, 0, 0, 5], UDP, 53, Some(2)),
        ([10, 0, 0, 5], UDP, 80, None),
        ([10, 0, 0, 4], UDP, 53, None),
        ([10, 0, 0, 5], ICMP, 80, None),
        ([10, 0, 0, 5], 47, 80, None),
    ];
    for (destination, protocol, port, expected) in cases {
        assert_eq!(ask(&table, destination, protocol, port), expected, "{destination:?} {port}");
    }
}

#[test]
fn the_last_rule_counts() {
    let mut rules = vec![
        rule(1, ANY_FIRST, ANY_LAST, Traffic::Tcp(ports(443, 443))),
        rule(2, [10, 0, 0, 0], [10, 0, 0, 255], Traffic::Tcp(ports(1, 65535))),
        rule(3, [10, 0, 0, 7], [10, 0, 0, 7], Traffic::All),
    ];
    rules[1].log = true;
    let table = EgressTable::compile(&rules);
    assert_eq!(ask(&table, [10, 0, 0, 7], TCP, 443), Some(3));
    assert_eq!(ask(&table, [10, 0, 0, 8], TCP, 443), Some(2));
    assert_eq!(ask(&table, [10, 0, 1, 8], TCP, 443), Some(1));
    let question = Question { destination: [10, 0, 0, 8].into(), protocol: TCP, selector: 443 };
    assert!(table.decide(&question).is_some_and(|matched| matched.log));
    rules.reverse();
    let table = EgressTable::compile(&rules);
    assert_eq!(ask(&table, [10, 0, 0, 7], TCP, 443), Some(1));
    assert_eq!(ask(&table, [10, 0, 0, 7], TCP, 80), Some(2));
    assert_eq!(ask(&table, [10, 0, 0, 7], UDP, 80), Some(3));
}

#[test]
fn all_is_every_protocol() {
    let table = EgressTable::compile(&[rule(5, ANY_FIRST, ANY_LAST, Traffic::All)]);
    for protocol in 0..=255 {
        assert_eq!(ask(&table, [0, 0, 0, 0], protocol, 0), Some(5));
        assert_eq!(ask(&table, [255, 255, 255, 255], protocol, 65535), Some(5));
    }
}

#[test]
fn icmp_types_and_codes() {
    let host = [192, 0, 2, 1];
    let icmp = |id, kind, code| rule(id, host, host, Traffic::Icmp { kind, code });
    let asked = |rules: &[EgressRule], kind, code| {
        let question = Question::icmp(host.into(), kind, code);
        EgressTable::compile(rules).decide(&question).map(|matched| matched.rule.0)
    };
    let echo = [icmp(1, Some(8), Some(0))];
    assert_eq!(asked(&echo, 8, 0), Some(1));
    assert_eq!(asked(&echo, 8, 1), None);
    assert_eq!(asked(&echo, 0, 0), None);
    let unreachable = [icmp(2, Some(3), None)];
    assert_eq!((asked(&unreachable, 3, 0), asked(&unreachable, 3, 255)), (Some(2), Some(2)));
    assert_eq!((asked(&unreachable, 2, 255), asked(&unreachable, 4, 0)), (None, None));
    let code = [icmp(3, None, Some(7))];
    assert_eq!((asked(&code, 0, 7), asked(&code, 255, 7)), (Some(3), Some(3)));
    assert_eq!((asked(&code, 7, 0), asked(&code, 0, 8)), (None, None));
    let any = [icmp(4, None, None)];
    assert_eq!((asked(&any, 0, 0), asked(&any, 255, 255)), (Some(4), Some(4)));
    let [a, b, c, d] = [any[0], unreachable[0], code[0], echo[0]];
    let mixed = [a, b, c, d];
    assert_eq!(asked(&mixed, 3, 7), Some(3));
    assert_eq!(asked(&mixed, 3, 6), Some(2));
    assert_eq!(asked(&mixed, 8, 0), Some(1));
    assert_eq!(asked(&mixed, 9, 0), Some(4));
    assert_eq!(asked(&[c, b], 3, 7), Some(2), "whichever of the two comes last");
    assert_eq!(ask(&EgressTable::compile(&mixed), host, TCP, 8 << 8), None);
}

#[test]
fn impossible_rules_match_nothing() {
    let table = EgressTable::compile(&[
        rule(1, ANY_FIRST, ANY_LAST, Traffic::Tcp(ports(7, 7))),
        rule(2, [10, 0, 0, 2], [10, 0, 0, 1], Traffic::All),
        rule(3, ANY_FIRST, ANY_LAST, Traffic::Tcp(ports(9, 8))),
    ]);
    assert_eq!(table.len(), 3);
    assert_eq!(ask(&table, [10, 0, 0, 1], TCP, 7), Some(1), "the others keep their places");
    assert_eq!(ask(&table, [10, 0, 0, 2], TCP, 8), None);
    assert_eq!(ask(&table, [10, 0, 0, 2], UDP, 8), None);
}

/// Lists that are hard on the tree: 10,000 rules each.
fn nasty() -> Vec<(&'static str, Vec<EgressRule>)> {
    const COUNT: u32 = 10_000;
    let list = |make: &dyn Fn(u32) -> (u32, u32, Traffic)| -> Vec<EgressRule> {
        let rules = (0..COUNT).map(|i| {
            let (first, last, traffic) = make(i);
            let (first, last) = (first.into(), last.into());
            EgressRule { id: RuleId(i + 1), first, last, traffic, log: false }
        });
        rules.collect()
    };
    let port = |i: u32| ports(i as u16, i as u16);
    vec![
        ("nested", list(&|i| (i, u32::MAX - i, Traffic::Tcp(port(i * 6))))),
        ("staircase", list(&|i| (i, i + COUNT, Traffic::Tcp(ports(i as u16, (i + COUNT) as u16))))),
        ("one network", list(&|i| (0, u32::MAX, Traffic::Udp(port(i * 6))))),
        ("hosts", list(&|i| (i << 16, i << 16, Traffic::Tcp(ports(443, 443))))),
        ("all", list(&|i| (i, u32::MAX - i, Traffic::All))),
        ("codes", list(&|i| (i, u32::MAX - i, Traffic::Icmp { kind: None, code: Some(i as u8) }))),
    ]
}

/// Segments that a list may take in one plane: each rule lies at two nodes on each level at most,
/// and cuts at most two segments out of each.
fn most_segments(rules: usize) -> usize {
    let levels = (2 * rules + 1).next_power_of_two().ilog2() as usize + 1;
    2 * 2 * levels * rules
}

#[test]
fn memory_is_bounded() {
    for (name, rules) in nasty() {
        let table = EgressTable::compile(&rules);
        let (leaves, nodes) = (2 * rules.len() + 1, 2 * (2 * rules.len() + 1));
        let plane = 4 * leaves + 16 * nodes + 8 * most_segments(rules.len());
        assert!(table.memory() < 4 * plane, "{name}: {} bytes", table.memory());
        assert!(table.memory() < 8 << 20, "{name}: {} bytes", table.memory());
    }
}

#[test]
fn answers_as_a_list_would_about_nasty_lists() {
    for (name, rules) in nasty() {
        let table = EgressTable::compile(&rules);
        let mut random = 1_u64;
        for _ in 0..300 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let near = rules[(random >> 40) as usize % rules.len()];
            let destination =
                u32::from(near.first).wrapping_add((random >> 33) as u32 % 3).wrapping_sub(1);
            let (protocol, selector) = match near.traffic {
                Traffic::Tcp(ports) => (TCP, ports.first),
                Traffic::Udp(ports) => (UDP, ports.last),
                Traffic::Icmp { code, .. } => (ICMP, u16::from(code.unwrap_or(0))),
                Traffic::All => (47, 0),
            };
            let question = Question { destination: destination.into(), protocol, selector };
            assert_eq!(table.decide(&question), linear(&rules, &question), "{name}: {question:?}");
        }
    }
}

/// What the list says, read from its end.
fn linear(rules: &[EgressRule], question: &Question) -> Option<Matched> {
    let [kind_asked, code_asked] = question.selector.to_be_bytes();
    let matches = |rule: &&EgressRule| {
        (rule.first..=rule.last).contains(&question.destination)
            && match rule.traffic {
                Traffic::All => true,
                Traffic::Tcp(ports) => question.protocol == 6 && ports.contains(question.selector),
                Traffic::Udp(ports) => question.protocol == 17 && ports.contains(question.selector),
                Traffic::Icmp { kind, code } => {
                    question.protocol == 1
                        && kind.is_none_or(|kind| kind == kind_asked)
                        && code.is_none_or(|code| code == code_asked)
                }
            }
    };
    let found = rules.iter().rev().find(matches)?;
    Some(Matched { rule: found.id, log: found.log })
}

/// Numbers near each other and at both ends, so that edges meet.
fn edgy<T: Copy + std::fmt::Debug>(values: &'static [T]) -> impl Strategy<Value = T> {
    prop::sample::select(values)
}

fn any_address() -> impl Strategy<Value = u32> {
    prop_oneof![
        edgy(&[0, 1, 2, 0x0a00_0000, 0x0aff_ffff, u32::MAX - 1, u32::MAX]),
        100_u32..116,
        any::<u32>(),
    ]
}

fn any_selector() -> impl Strategy<Value = u16> {
    prop_oneof![edgy(&[0, 1, 0x07ff, 0x0800, 0x0801, 65534, 65535]), 0_u16..8, any::<u16>()]
}

prop_compose! {
    fn any_ports()(a in any_selector(), b in any_selector(), whole in prop::bool::weighted(0.1))
        -> PortRange {
        if whole { ALL } else { ports(a.min(b), a.max(b)) }
    }
}

fn any_traffic() -> impl Strategy<Value = Traffic> {
    let byte = || prop::option::of(prop_oneof![edgy(&[0_u8, 255]), 0_u8..4, 7_u8..9]);
    prop_oneof![
        1 => Just(Traffic::All),
        3 => any_ports().prop_map(Traffic::Tcp),
        2 => any_ports().prop_map(Traffic::Udp),
        2 => (byte(), byte()).prop_map(|(kind, code)| Traffic::Icmp { kind, code }),
    ]
}

prop_compose! {
    fn any_rule()(
        id in 0_u32..1000,
        a in any_address(),
        b in any_address(),
        one in prop::bool::weighted(0.2),
        inverted in prop::bool::weighted(0.02),
        traffic in any_traffic(),
        log: bool,
    ) -> EgressRule {
        let (first, last) = if one { (a, a) } else { (a.min(b), a.max(b)) };
        let (first, last) = if inverted { (last, first) } else { (first, last) };
        EgressRule { id: RuleId(id), first: first.into(), last: last.into(), traffic, log }
    }
}

proptest! {
    #[test]
    fn answers_as_a_list_would(
        rules in prop::collection::vec(any_rule(), 0..60),
        asked in prop::collection::vec(
            (any_address(), edgy(&[6_u8, 17, 1, 47, 0, 255]), any_selector()),
            20,
        ),
    ) {
        let table = EgressTable::compile(&rules);
        let near = rules.iter().flat_map(|rule| {
            let (first, last) = (u32::from(rule.first), u32::from(rule.last));
            let (protocol, selectors) = match rule.traffic {
                Traffic::All => (47, [0, 0, 0, 0]),
                Traffic::Tcp(p) => (6, around(p)),
                Traffic::Udp(p) => (17, around(p)),
                Traffic::Icmp { kind, code } => {
                    let first = u16::from_be_bytes([kind.unwrap_or(0), code.unwrap_or(0)]);
                    let last = u16::from_be_bytes([kind.unwrap_or(255), code.unwrap_or(255)]);
                    (1, around(ports(first, last)))
                }
            };
            [first.wrapping_sub(1), first, last, last.wrapping_add(1)]
                .into_iter()
                .flat_map(move |address| selectors.map(|selector| (address, protocol, selector)))
        });
        for (destination, protocol, selector) in near.chain(asked) {
            let question = Question { destination: destination.into(), protocol, selector };
            prop_assert_eq!(table.decide(&question), linear(&rules, &question), "{:?}", question);
        }
    }
}

fn around(ports: PortRange) -> [u16; 4] {
    let PortRange { first, last } = ports;
    [first.wrapping_sub(1), first, last, last.wrapping_add(1)]
}
