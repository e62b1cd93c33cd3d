//! Egress rules: compiling a list, deciding a new conversation.

use std::hint::black_box;
use std::net::Ipv4Addr;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use sarcenet_dataplane::policy::egress::{EgressTable, Question};
use sarcenet_dataplane_api::{EgressRule, PortRange, RuleId, Traffic};

const SIZES: [u32; 3] = [10, 1_000, 10_000];
const TCP: u8 = 6;

/// The i-th of n rules: its addresses and its ports.
type Shape = fn(i: u32, n: u32) -> (u32, u32, PortRange);

const fn ports(first: u32, last: u32) -> PortRange {
    PortRange { first: first as u16, last: last as u16 }
}

/// What lists look like: two usual ones, and those that are hard on the tree.
const SHAPES: [(&str, Shape); 7] = [
    // Distinct addresses, one service each.
    ("hosts", |i, n| {
        let address = spread(i, n);
        (address, address, ports(443, 443))
    }),
    // Networks side by side, ports of each.
    ("networks", |i, n| {
        let first = spread(i, n) & !0xff;
        (first, first | 0xff, ports(i % 1000, i % 1000 + 1000))
    }),
    // Everywhere, a port each.
    ("ports", |i, _| (0, u32::MAX, ports(i * 6, i * 6))),
    // Each in the one before, a port each.
    ("nested", |i, n| {
        let margin = spread(i, n) / 2;
        (margin, u32::MAX - margin, ports(i * 6, i * 6))
    }),
    // Each overlaps half of the others in addresses and in ports.
    ("staircase", |i, n| {
        let first = spread(i, n) / 2;
        (first, first + u32::MAX / 2, ports(i * 3, i * 3 + 30_000))
    }),
    // An address and its surroundings, doubling, with as many rules at each size: every node on
    // the way to that address has its share of the ports.
    ("one path", |i, n| {
        let bits = i % 16 + 8;
        let centre = 0x5555_5555_u32 >> bits << bits;
        (centre, centre | ((1 << bits) - 1), ports(i * (65_535 / n), i * (65_535 / n)))
    }),
    // As nested, but the outer ones come last, and hide nothing.
    ("inside out", |i, n| {
        let margin = spread(n - i, n) / 2;
        (margin, u32::MAX - margin, ports(i * 6, i * 6))
    }),
];

/// The i-th of n equal steps through all addresses.
fn spread(i: u32, n: u32) -> u32 {
    (u64::from(i) * u64::from(u32::MAX) / u64::from(n + 1)) as u32
}

fn rules(shape: Shape, n: u32) -> Vec<EgressRule> {
    let make = |i| {
        let (first, last, ports) = shape(i, n);
        EgressRule {
            id: RuleId(i + 1),
            first: Ipv4Addr::from(first),
            last: Ipv4Addr::from(last),
            traffic: Traffic::Tcp(ports),
            log: false,
        }
    };
    (0..n).map(make).collect()
}

/// Conversations that a rule admits (`hit`) or none does, in an order that no cache can foresee.
fn questions(rules: &[EgressRule], table: &EgressTable, hit: bool) -> Vec<Question> {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let mut questions = Vec::new();
    while questions.len() < 4096 {
        let rule = rules[next() as usize % rules.len()];
        let Traffic::Tcp(ports) = rule.traffic else { unreachable!("the lists are about TCP") };
        let span = u64::from(u32::from(rule.last) - u32::from(rule.first)) + 1;
        let destination = Ipv4Addr::from(u32::from(rule.first) + (next() % span) as u32);
        // Ports next to the rule's, where every search goes as far down, and one that no rule has.
        let selector = match (hit, next() % 2) {
            (true, _) => ports.first,
            (false, 0) => ports.first.wrapping_sub(1),
            (false, _) => u16::MAX,
        };
        let question = Question { destination, protocol: TCP, selector };
        if table.decide(&question).is_some() == hit {
            questions.push(question);
        }
    }
    questions
}

fn decide(c: &mut Criterion) {
    for (name, hit) in [("egress/hit", true), ("egress/miss", false)] {
        let mut group = c.benchmark_group(name);
        for (shape_name, shape) in SHAPES {
            for n in SIZES {
                // Small staircases leave no gap next to a rule's ports.
                let rules = rules(shape, n);
                let table = EgressTable::compile(&rules);
                let questions = questions(&rules, &table, hit);
                let mut asked = questions.iter().cycle();
                group.bench_function(BenchmarkId::new(shape_name, n), |b| {
                    b.iter(|| asked.next().map(|question| table.decide(black_box(question))));
                });
            }
        }
    }
}

fn compile(c: &mut Criterion) {
    let mut group = c.benchmark_group("egress/compile");
    group.sample_size(20);
    for (shape_name, shape) in SHAPES {
        let n = 10_000;
        let rules = rules(shape, n);
        let table = EgressTable::compile(&rules);
        eprintln!("{shape_name}: {} KiB for {n} rules", table.memory() >> 10);
        group.bench_function(BenchmarkId::new(shape_name, n), |b| {
            b.iter(|| EgressTable::compile(black_box(&rules)));
        });
    }
}

criterion_group!(benches, decide, compile);
criterion_main!(benches);
