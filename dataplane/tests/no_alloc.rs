//! No packet costs an allocation, once a worker is warm.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::Ipv4Addr;
use std::sync::Arc;

use sarcenet_dataplane::flow::FlowTable;
use sarcenet_dataplane::packet::{Batch, Checksum, Offload, Piece, Segmentation, Verdict, Via};
use sarcenet_dataplane::pipeline::{Counters, Pipeline, Shared};
use smoltcp::wire::{IpProtocol, Ipv4Packet, TcpPacket};
use world::{A, B, REMOTE_B, World};

#[path = "packet_table/table/world.rs"]
#[expect(dead_code, reason = "shared with tests that use more of it")]
mod world;

/// The system's allocator, counting per thread: the test harness allocates whenever it likes.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call goes on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps the contract of `alloc`, which is the same there.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: `memory` came from `alloc` above, that is from the system's allocator.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn pipeline() -> Pipeline {
    let shared = Arc::new(Shared::new(FlowTable::new(4096).unwrap()));
    shared.publish(World::default().topology(1));
    Pipeline::new(shared, 0, Arc::new(Counters::new()))
}

/// A TCP SYN that fills `bytes`.
fn write_packet(bytes: &mut [u8], destination: Ipv4Addr, source_port: u16) {
    let len = bytes.len() as u16;
    bytes[..40].fill(0);
    let mut ip = Ipv4Packet::new_unchecked(&mut *bytes);
    ip.set_version(4);
    ip.set_header_len(20);
    ip.set_total_len(len);
    ip.set_hop_limit(64);
    ip.set_next_header(IpProtocol::Tcp);
    ip.set_src_addr(A.address);
    ip.set_dst_addr(destination);
    ip.set_dont_frag(true);
    ip.fill_checksum();
    let mut tcp = TcpPacket::new_unchecked(ip.payload_mut());
    tcp.set_src_port(source_port);
    tcp.set_dst_port(8080);
    tcp.set_header_len(20);
    tcp.set_syn(true);
}

/// Carries `batches` batches of 64 packets of `len` bytes and returns the allocations made.
fn allocations(
    pipeline: &mut Pipeline,
    batch: &mut Batch,
    batches: u32,
    len: u32,
    destination: Ipv4Addr,
    expected: fn(Verdict) -> bool,
) -> u64 {
    let segmentation =
        if len > 1450 { Segmentation::Tcp { size: 1410 } } else { Segmentation::None };
    let checksum = Checksum::Partial { start: 20, offset: 16 };
    let before = ALLOCATIONS.get();
    for n in 0..batches {
        batch.clear();
        for i in 0..64 {
            let piece = Piece { len, ..batch.take_buffer().unwrap() };
            write_packet(batch.bytes_mut(piece), destination, 1024 + i * 8 + (n % 8) as u16);
            batch.push(piece, Offload { checksum, segmentation }, A.door);
        }
        pipeline.process(batch, u64::from(n) * 1_000_000);
        assert!(batch.packets()[..64].iter().all(|packet| expected(packet.verdict)));
    }
    ALLOCATIONS.get() - before
}

#[test]
fn carrying_packets_allocates_nothing() {
    let (mut pipeline, mut batch) = (pipeline(), Batch::new());
    let passes: fn(Verdict) -> bool = |verdict| matches!(verdict, Verdict::Forward(Via::Tunnel(_)));
    let refused: fn(Verdict) -> bool = |verdict| matches!(verdict, Verdict::Drop(_));
    for (what, len, destination, expected) in [
        ("small packets", 64, REMOTE_B.address, passes),
        ("super-packets", 61_000, REMOTE_B.address, passes),
        ("refused packets, answered", 64, B.address, refused),
    ] {
        let mut carry =
            |batches| allocations(&mut pipeline, &mut batch, batches, len, destination, expected);
        carry(100);
        assert_eq!(carry(1000), 0, "allocations for 64,000 {what}");
    }
}
