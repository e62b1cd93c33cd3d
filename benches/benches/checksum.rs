//! The Internet checksum: every implementation this machine can run, from a small packet to a
//! super-packet.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use sarcenet_dataplane::wire::checksum::{self, Implementation};

/// An IPv4 header, a small packet, a full segment, a super-packet; in bytes.
const LENGTHS: [usize; 4] = [20, 64, 1_448, 65_536];

fn sums(criterion: &mut Criterion) {
    let data: Vec<u8> = (0..65_536).map(|i| (i * 31) as u8).collect();
    let mut group = criterion.benchmark_group("checksum");
    for len in LENGTHS {
        group.throughput(Throughput::Bytes(len as u64));
        for implementation in Implementation::available() {
            group.bench_function(BenchmarkId::new(implementation.name(), len), |bencher| {
                bencher.iter(|| implementation.sum(black_box(&data[..len])).fold());
            });
        }
        group.bench_function(BenchmarkId::new("dispatched", len), |bencher| {
            bencher.iter(|| checksum::sum(black_box(&data[..len])).fold());
        });
    }
    group.finish();
}

fn updates(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("checksum-update");
    group.bench_function("u16", |bencher| {
        bencher.iter(|| checksum::update_u16(black_box(0x8694), black_box(0x3f06), 0x3e06));
    });
    group.bench_function("u32", |bencher| {
        bencher
            .iter(|| checksum::update_u32(black_box(0x8694), black_box(0x0aff_3702), 0x0a4d_000b));
    });
    group.finish();
}

criterion_group!(benches, sums, updates);
criterion_main!(benches);
