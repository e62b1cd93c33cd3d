//! The whole pipeline in memory: parse, flow look-up, rewrite, encapsulate. Receiving and
//! transmitting are not in it: what is timed is what happens between a link that has filled a
//! batch and a link that will empty it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use sarcenet_dataplane::flow::FlowTable;
use sarcenet_dataplane::packet::{Batch, Piece, Verdict};
use sarcenet_dataplane::pipeline::{Counters, Pipeline, Shared};
use sarcenet_dataplane_api::Protocol;

use packet::{ACK, Packet, SYN, Transport, tcp, tcp_reply, udp};
use world::{A, B, End, REMOTE_A, REMOTE_B, World, rule};

#[path = "../../dataplane/tests/packet_table/table/packet.rs"]
#[expect(dead_code, reason = "shared with tests that use more of it")]
mod packet;
#[path = "../../dataplane/tests/packet_table/table/world.rs"]
#[expect(dead_code, reason = "shared with tests that use more of it")]
mod world;

/// Packets in a batch, as a busy worker gets them.
const BATCH: u64 = 64;

/// A pipeline, a packet, and as many flows as differ in that packet's ports.
struct Bench {
    pipeline: Pipeline,
    batch: Batch,
    packet: Packet,
    bytes: Vec<u8>,
    /// Where the ports are.
    ports_at: usize,
    /// Whether the packet runs towards the beginner of its flow.
    reverse: bool,
    /// Added to the packet's sequence number, if it is TCP.
    sequence: u32,
    flows: u32,
    /// Which flow is next, pseudo-random.
    state: u32,
    now_ns: u64,
}

impl Bench {
    fn new(packet: Packet, flows: u32) -> Self {
        let table = FlowTable::new(2 * flows.max(1024) as usize).expect("memory for the flows");
        let shared = Arc::new(Shared::new(table));
        let mut world = World::default();
        if let Some(cell) = &mut world.cell {
            // Most of what is measured is never answered.
            cell.tracking.half_open_percent = 100;
        }
        shared.policy.replace(&[
            rule(1, A, B, Protocol::Udp, 0, 65_535),
            rule(2, A, B, Protocol::Tcp, 0, 65_535),
        ]);
        shared.publish(world.topology(1));
        let pipeline = Pipeline::new(shared, 0, Arc::new(Counters::new()));
        let bytes = packet.bytes();
        let ports_at = bytes.len() - packet.ip_bytes().len() + 20;
        let mut bench = Self {
            pipeline,
            batch: Batch::new(),
            packet,
            bytes,
            ports_at,
            reverse: false,
            sequence: 0,
            flows,
            state: 1,
            now_ns: 0,
        };
        bench.carry_all();
        bench
    }

    /// A pipeline with established TCP connections, and a packet of `payload` bytes for them.
    fn established(from: End, to: End, payload: usize, flows: u32) -> Self {
        let mut bench = Self::new(tcp(from, to, 1, SYN), flows);
        bench.take(tcp_reply(to, from, 1, SYN | ACK).numbered(0, 1), true);
        bench.carry_all();
        bench.take(tcp(from, to, 1, ACK).numbered(1, 1).payload(payload), false);
        bench.carry_all();
        bench.take(tcp_reply(to, from, 1, ACK).numbered(1, 1), true);
        bench.carry_all();
        bench.take(tcp(from, to, 1, ACK).numbered(1, 1).payload(payload), false);
        bench
    }

    /// Goes on with another packet.
    fn take(&mut self, packet: Packet, reverse: bool) {
        self.bytes = packet.bytes();
        self.ports_at = self.bytes.len() - packet.ip_bytes().len() + 20;
        self.packet = packet;
        self.reverse = reverse;
    }

    /// A packet of each flow.
    fn carry_all(&mut self) {
        for flow in (0..self.flows).step_by(BATCH as usize) {
            self.carry(|n| flow + n);
        }
    }

    /// Fills a batch with a packet of each of the flows that `flow` names, and carries it.
    fn carry(&mut self, mut flow: impl FnMut(u32) -> u32) -> Duration {
        self.batch.clear();
        for n in 0..BATCH as u32 {
            let buffer = self.batch.take_buffer().expect("a buffer for each packet");
            let piece = Piece { len: self.bytes.len() as u32, ..buffer };
            let bytes = self.batch.bytes_mut(piece);
            if bytes.len() < 2048 || bytes[self.ports_at - 20] != 0x45 {
                bytes.copy_from_slice(&self.bytes);
            } else {
                // The payload of a super-packet is there from the last time.
                bytes[..128].copy_from_slice(&self.bytes[..128]);
            }
            let flow = flow(n);
            let ports = (flow % 512 + 1024) << 16 | (flow / 512 + 1);
            let ports = if self.reverse { ports.rotate_left(16) } else { ports };
            bytes[self.ports_at..self.ports_at + 4].copy_from_slice(&ports.to_be_bytes());
            if let Transport::Tcp { numbers, .. } = &self.packet.transport {
                let sequence = numbers.0.wrapping_add(self.sequence);
                let at = self.ports_at + 4;
                bytes[at..at + 4].copy_from_slice(&sequence.to_be_bytes());
            }
            self.batch.push(piece, self.packet.offload, self.packet.door);
        }
        self.now_ns += 10_000;
        let start = Instant::now();
        self.pipeline.process(&mut self.batch, self.now_ns);
        let time = start.elapsed();
        assert!(matches!(self.batch.packet(0).verdict, Verdict::Forward(_)));
        time
    }

    /// A batch of packets of flows picked at random.
    fn carry_random(&mut self) -> Duration {
        let (mut state, flows) = (self.state, self.flows);
        let time = self.carry(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) % flows
        });
        self.state = state;
        // Connections go on, each by no more than its window until it is met again.
        if matches!(self.packet.transport, Transport::Tcp { flags: ACK, .. }) {
            self.sequence = self.sequence.wrapping_add(1);
        }
        time
    }
}

fn pipeline(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pipeline");
    group.throughput(Throughput::Elements(BATCH));
    let small = |from: End, to: End| udp(from, to, 1).payload(36);
    let large = |from: End, to: End| tcp(from, to, 1, SYN).payload(61_000).segments_of(1410);
    for (name, from, to, flows) in [
        ("container-to-tunnel-tcp-76B", A, REMOTE_B, 16 * 1024),
        ("container-to-tunnel-tcp-76B", A, REMOTE_B, 256 * 1024),
        ("tunnel-to-container-tcp-76B", REMOTE_A, B, 256 * 1024),
    ] {
        let mut bench = Bench::established(from, to, 36, flows);
        group.bench_function(BenchmarkId::new(name, flows), |bencher| {
            bencher.iter_custom(|batches| (0..batches).map(|_| bench.carry_random()).sum());
        });
    }
    for (name, packet, flows) in [
        ("container-to-tunnel-64B", small(A, REMOTE_B), 16 * 1024),
        ("container-to-tunnel-64B", small(A, REMOTE_B), 256 * 1024),
        ("tunnel-to-container-64B", small(REMOTE_A, B), 256 * 1024),
        ("container-to-tunnel-61KB", large(A, REMOTE_B), 256),
        ("container-to-container-61KB", large(A, B), 256),
    ] {
        let mut bench = Bench::new(packet, flows);
        group.bench_function(BenchmarkId::new(name, flows), |bencher| {
            bencher.iter_custom(|batches| (0..batches).map(|_| bench.carry_random()).sum());
        });
    }
    group.finish();
}

criterion_group!(benches, pipeline);
criterion_main!(benches);
