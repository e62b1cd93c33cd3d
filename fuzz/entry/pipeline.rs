//! Any packets by any door through a whole pipeline.
//!
//! An input is a sequence of packets: door (1 byte), offload (1 byte), segment size (2 bytes),
//! length (2 bytes), then so many bytes of the packet, from the VXLAN header on for the tunnel.

use std::net::Ipv4Addr;
use std::sync::Arc;

use sarcenet_dataplane::flow::FlowTable;
use sarcenet_dataplane::packet::{
    Batch, Checksum, Offload, Packet, Piece, Segmentation, Verdict, Via,
};
use sarcenet_dataplane::pipeline::{Counters, Pipeline, Shared, Totals};
use sarcenet_dataplane::topology::Topology;
use sarcenet_dataplane::wire::headers::{ipv4_checksum_ok, ipv4_header_len};
use sarcenet_dataplane::wire::tunnel::TUNNEL_HEADER_LEN;
use sarcenet_dataplane::wire::vxlan;

use super::world::{A, B, C, HOST, MTU, REMOTE_A, THIRD_C, UNTAGGED, World, tcp_rule, udp_rule};

/// Doors by number, modulo their count. The last one is an underlay address that no peer has.
pub(crate) const DOORS: [Via; 8] = [
    A.door,
    B.door,
    C.door,
    UNTAGGED.door,
    HOST.door,
    REMOTE_A.door,
    THIRD_C.door,
    Via::Tunnel(Ipv4Addr::new(10, 77, 0, 99)),
];

/// Most packets of one input.
const MAX_PACKETS: usize = 64;

/// # Panics
/// When something is not as it should be.
pub(crate) fn run(mut data: &[u8]) {
    let world = World { rules: vec![tcp_rule(A, B, 8080), udp_rule(A, C, 53)], ..World::default() };
    let shared = Arc::new(Shared::new(FlowTable::new(256).expect("memory for 256 flows")));
    shared.policy.replace(&world.rules);
    shared.publish(world.topology(1));
    let topology = shared.topology();
    let counters = Arc::new(Counters::new());
    let mut pipeline = Pipeline::new(shared, 0, Arc::clone(&counters));
    let mut batch = Batch::new();

    for _ in 0..MAX_PACKETS {
        let Some((header, rest)) = data.split_first_chunk::<6>() else { break };
        let len = usize::from(u16::from_be_bytes([header[4], header[5]])).min(rest.len());
        let (bytes, rest) = rest.split_at(len);
        data = rest;
        let buffer = batch.take_buffer().expect("a batch has more buffers than that");
        let piece = Piece { len: len as u32, ..buffer };
        batch.bytes_mut(piece).copy_from_slice(bytes);
        let door = DOORS[usize::from(header[0]) % DOORS.len()];
        batch.push(piece, offload(*header), door).expect("a batch holds more packets than that");
    }
    let received = batch.len();
    pipeline.process(&mut batch, 1);

    for (i, packet) in batch.packets().iter().enumerate() {
        match packet.verdict {
            Verdict::Forward(to) => {
                let bytes = batch.copy_out(i);
                leaves_as_it_should(&topology, packet, to, &bytes, i >= received);
            }
            Verdict::Drop(_) => assert!(i < received, "nothing is made only to be dropped"),
            Verdict::Pending => panic!("packet {i} was not decided"),
        }
    }
    let totals = Totals::of([&*counters]);
    let dropped: u64 = totals.drops.iter().map(|drops| drops.packets).sum();
    assert_eq!(totals.transmitted + dropped, received as u64, "each packet has one outcome");
}

fn offload(header: [u8; 6]) -> Offload {
    let size = u16::from_be_bytes([header[2], header[3]]);
    let checksum = match header[1] & 7 {
        0 => Checksum::Unverified,
        1 => Checksum::Verified,
        2 => Checksum::Partial { start: 20, offset: 16 },
        3 => Checksum::Partial { start: 20, offset: 6 },
        _ => Checksum::Partial { start: size, offset: u16::from(header[1]) },
    };
    let segmentation = match header[1] >> 3 & 3 {
        0 | 1 => Segmentation::None,
        2 => Segmentation::Tcp { size },
        _ => Segmentation::Udp { size },
    };
    Offload { checksum, segmentation }
}

/// Whatever leaves is a sound IPv4 packet of a size that fits, behind a tunnel header if it goes
/// there, with a source that belongs where it came from.
fn leaves_as_it_should(topology: &Topology, packet: &Packet, to: Via, bytes: &[u8], made: bool) {
    let ip = if let Via::Tunnel(underlay) = to {
        assert!(topology.peer_at(underlay).is_some(), "to a peer");
        let (tunnel, ip) = bytes.split_at(TUNNEL_HEADER_LEN);
        let header = vxlan::Repr::parse(&vxlan::Packet::new_unchecked(tunnel));
        let header = header.expect("a sound VXLAN header");
        assert!(!header.dont_learn && !header.policy_applied && header.group != Some(0));
        ip
    } else {
        bytes
    };
    let header_len = ipv4_header_len(ip).expect("a sound IPv4 header");
    assert!(ipv4_checksum_ok(&ip[..header_len]));
    assert_eq!(usize::from(u16::from_be_bytes([ip[2], ip[3]])), ip.len());
    if packet.offload.segmentation == Segmentation::None && to != Via::Host {
        assert!(ip.len() <= usize::from(MTU));
    }
    let source = Ipv4Addr::new(ip[12], ip[13], ip[14], ip[15]);
    let is_answer = made && source == HOST.address;
    if !is_answer {
        assert_eq!(topology.door_of(source), Some(packet.from), "a source of its own");
    }
    if matches!(packet.from, Via::Tunnel(_)) {
        assert!(!matches!(to, Via::Tunnel(_)), "nothing goes from peer to peer");
    }
}
