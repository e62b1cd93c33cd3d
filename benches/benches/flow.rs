//! The flow table and the policy table: look-ups, changes, expiry.

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use sarcenet_dataplane::flow::{FlowKey, FlowTable, NewFlow};
use sarcenet_dataplane::nat::{Nat, Side, Translation, rewrite};
use sarcenet_dataplane::packet::{Checksum, Via};
use sarcenet_dataplane::policy::PolicyTable;
use sarcenet_dataplane_api::{PortId, PortRange, Protocol, Rule, RuleId, RuleKey};

/// Flows in the table: in the second-level cache, beside the last-level cache, in memory.
const SIZES: [(&str, u32); 3] = [("16K", 16 << 10), ("256K", 256 << 10), ("4M", 4 << 20)];
const BATCH: usize = 32;
const RULES: u32 = 50_000;

fn key(n: u32) -> FlowKey {
    FlowKey {
        source: Ipv4Addr::from(0x0aff_0000 + (n >> 8)),
        destination: Ipv4Addr::from(0x0aff_c800 + (n & 0x3f)),
        source_port: (n & 0xff) as u16 + 32_768,
        destination_port: 8080,
        protocol: 17,
    }
}

fn new_flow(n: u32) -> NewFlow {
    NewFlow {
        key: key(n),
        from: Via::Tunnel(Ipv4Addr::new(10, 77, 0, 12)),
        to: Via::Container(PortId(3)),
        tag: 1,
        rule: Some(RuleId(7)),
        generation: 1,
        nat: Nat::None,
    }
}

/// A table with `count` flows and room for as many.
fn table(count: u32) -> FlowTable {
    let table = FlowTable::new(count as usize).expect("memory for the table");
    for n in 0..count {
        table.insert(&new_flow(n), 0, &table.pin()).expect("room for every flow");
    }
    table
}

/// Keys in an order that no cache can foresee, half of them from the other side.
fn shuffled(count: u32) -> Vec<FlowKey> {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    (0..count.min(1 << 20))
        .map(|_| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let key = key(((u128::from(random) * u128::from(count)) >> 64) as u32);
            if random & 1 == 0 { key } else { key.reversed() }
        })
        .collect()
}

fn lookup(c: &mut Criterion) {
    let mut group = c.benchmark_group("flow/lookup");
    for (name, count) in SIZES {
        let table = table(count);
        let keys = shuffled(count);
        group.throughput(Throughput::Elements(BATCH as u64));
        let mut batches = keys.chunks_exact(BATCH).cycle();
        group.bench_function(BenchmarkId::new("single", name), |b| {
            b.iter(|| {
                let guard = table.pin();
                for key in batches.next().into_iter().flatten() {
                    let hit = table.lookup(key, &guard);
                    black_box(hit.map(|hit| hit.flow.generation()));
                }
            });
        });
        let mut batches = keys.chunks_exact(BATCH).cycle();
        group.bench_function(BenchmarkId::new("batched", name), |b| {
            b.iter(|| {
                let guard = table.pin();
                let mut hits = [None; BATCH];
                table.lookup_batch(batches.next().unwrap_or_default(), &mut hits, &guard);
                for hit in hits {
                    black_box(hit.map(|hit| hit.flow.generation()));
                }
            });
        });
        group.bench_function(BenchmarkId::new("missing", name), |b| {
            let missing: Vec<FlowKey> =
                keys.iter().map(|key| FlowKey { protocol: 6, ..*key }).collect();
            let mut batches = missing.chunks_exact(BATCH).cycle();
            b.iter(|| {
                let guard = table.pin();
                let mut hits = [None; BATCH];
                table.lookup_batch(batches.next().unwrap_or_default(), &mut hits, &guard);
                black_box(hits.iter().flatten().count())
            });
        });
    }
}

fn change(c: &mut Criterion) {
    let mut group = c.benchmark_group("flow/change");
    group.throughput(Throughput::Elements(1));
    let capacity = 256 << 10;
    // Each inserted flow removes the one before it by hand, so the table never fills.
    let table = FlowTable::new(capacity).expect("memory for the table");
    let mut n = 0_u32;
    group.bench_function("insert and remove", |b| {
        b.iter(|| {
            let guard = table.pin();
            n = n.wrapping_add(1);
            if let Ok(hit) = table.insert(&new_flow(n), 0, &guard) {
                table.remove(hit.flow, &guard);
            }
        });
    });
    let translated = FlowTable::new(capacity).expect("memory for the table");
    let ports = PortRange { first: 32_768, last: 60_999 };
    translated.set_cell(Ipv4Addr::new(10, 77, 0, 11), Some(ports));
    // Half of the ports towards each remote end are in use.
    let with_nat = |n: u32| NewFlow {
        key: FlowKey { destination: Ipv4Addr::from(0xc633_6400 + n % 8), ..key(n) },
        from: Via::Container(PortId(3)),
        to: Via::Host,
        nat: Nat::Source,
        ..new_flow(n)
    };
    for n in 0..8 * 14_000 {
        let guard = translated.pin();
        let made = translated.insert(&with_nat(n), 0, &guard);
        made.map(drop).expect("a port for every flow");
    }
    group.bench_function("insert with source NAT and remove", |b| {
        b.iter(|| {
            let guard = translated.pin();
            n = n.wrapping_add(1);
            if let Ok(hit) = translated.insert(&with_nat(n | 1 << 24), 0, &guard) {
                translated.remove(hit.flow, &guard);
            }
        });
    });
    group.bench_function("insert", |b| {
        b.iter_custom(|iterations| {
            let mut spent = Duration::ZERO;
            let mut left = iterations;
            while left > 0 {
                let some = left.min(capacity as u64 / 2) as u32;
                let table = FlowTable::new(capacity).expect("memory for the table");
                let start = Instant::now();
                for batch in 0..some.div_ceil(BATCH as u32) {
                    let guard = table.pin();
                    let first = batch * BATCH as u32;
                    for n in first..some.min(first + BATCH as u32) {
                        black_box(table.insert(&new_flow(n), 0, &guard).is_ok());
                    }
                }
                spent += start.elapsed();
                left -= u64::from(some);
            }
            spent
        });
    });
    let full = self::table(16 << 10);
    let mut n = 16_u32 << 10;
    group.bench_function("insert into a full table", |b| {
        b.iter(|| {
            n = n.wrapping_add(1);
            black_box(full.insert(&new_flow(n), 1, &full.pin()).is_ok())
        });
    });
    let idle = self::table(256 << 10);
    group.throughput(Throughput::Elements(1024));
    group.bench_function("sweep 1024 places", |b| b.iter(|| idle.sweep(10, 1024)));
}

/// A translation written into a packet's headers.
fn rewriting(c: &mut Criterion) {
    let mut group = c.benchmark_group("nat");
    let mut packet = [0_u8; 60];
    packet[..10].copy_from_slice(&[0x45, 0, 0, 60, 0, 1, 0x40, 0, 64, 6]);
    packet[32] = 0xa0;
    let mut port = 0_u16;
    group.bench_function("rewrite TCP", |b| {
        b.iter(|| {
            port = port.wrapping_add(1);
            let address = Ipv4Addr::new(10, 77, 0, 11);
            let to = Translation { side: Side::Source, address, port };
            black_box(rewrite(black_box(&mut packet), Checksum::Verified, &to).is_ok())
        });
    });
}

/// 500 source tags to each of 100 containers.
fn rules(offset: u16) -> Vec<Rule> {
    (0..RULES)
        .map(|n| Rule {
            id: RuleId(n + 1),
            key: RuleKey {
                source: (n % 500) as u16 + 1,
                destination: Ipv4Addr::from(0x0aff_3702 + n / 500),
                protocol: Protocol::Tcp,
                ports: PortRange { first: 8080 + offset, last: 8080 + offset },
            },
        })
        .collect()
}

fn policy(c: &mut Criterion) {
    let mut group = c.benchmark_group("policy");
    let table = PolicyTable::new();
    let snapshots = [rules(0), rules(1)];
    table.replace(&snapshots[0]);
    let mut turn = 0_usize;
    group.bench_function("admit at 50K rules", |b| {
        b.iter_batched(
            || {
                turn = (turn + 7919) % RULES as usize;
                snapshots[0][turn].key
            },
            |key| {
                let guard = crossbeam_epoch::pin();
                table.admit(key.source, key.destination, 6, 8080, &guard)
            },
            BatchSize::SmallInput,
        );
    });
    let extra = Rule {
        id: RuleId(RULES + 1),
        key: RuleKey { ports: PortRange { first: 9000, last: 9100 }, ..snapshots[0][77].key },
    };
    group.bench_function("add one rule and remove it at 50K", |b| {
        b.iter(|| {
            table.apply(&[], &[extra]);
            table.apply(&[extra.key], &[]);
        });
    });
    group.sample_size(20);
    group.bench_function("replace 50K rules", |b| {
        b.iter(|| {
            turn += 1;
            table.replace(&snapshots[turn % 2]);
        });
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().measurement_time(Duration::from_secs(2));
    targets = lookup, change, rewriting, policy
}
criterion_main!(benches);
