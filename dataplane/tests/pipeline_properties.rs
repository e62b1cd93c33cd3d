//! Whatever comes in by whatever door: no panic, one outcome for each packet, and nothing leaves
//! with a source that is not its own. What is checked is in the fuzz target's entry; here it is
//! fed with packets that are nearly right, which random bytes hardly ever are.

use proptest::collection::vec;
use proptest::prelude::*;
use sarcenet_dataplane::packet::{Checksum, Offload, Segmentation};

use packet::Packet;
use world::{A, A2, B, C, End, HOST, REMOTE_A, REMOTE_B, THIRD_C, UNTAGGED, nobody};

#[path = "../../fuzz/entry/pipeline.rs"]
mod entry;
#[path = "packet_table/table/packet.rs"]
#[expect(dead_code, reason = "shared with tests that use more of it")]
mod packet;
#[path = "packet_table/table/world.rs"]
#[expect(dead_code, reason = "shared with tests that use more of it")]
mod world;

fn end() -> impl Strategy<Value = End> {
    prop::sample::select(vec![
        A,
        A2,
        B,
        C,
        UNTAGGED,
        HOST,
        REMOTE_A,
        REMOTE_B,
        THIRD_C,
        nobody([10, 255, 55, 99]),
        nobody([8, 8, 8, 8]),
        nobody([224, 0, 0, 1]),
    ])
}

/// One of few ports, so that conversations happen.
fn port() -> impl Strategy<Value = u16> {
    prop::sample::select(vec![53, 8080, packet::CLIENT_PORT])
}

fn packet() -> impl Strategy<Value = Packet> {
    let flags = prop::sample::select(vec![0x02, 0x12, 0x10, 0x11, 0x14, 0x04]);
    (end(), end(), port(), 0..6, flags, any::<bool>(), 0_usize..4000).prop_map(
        |(from, to, port, kind, flags, reply, size)| match (kind, reply) {
            (0, false) => packet::tcp(from, to, port, flags).payload(size),
            (0, true) => packet::tcp_reply(from, to, port, flags).payload(size),
            (1, false) => packet::udp(from, to, port).payload(size),
            (1, true) => packet::udp_reply(from, to, port).payload(size),
            (2, false) => packet::ping(from, to),
            (2, true) => packet::pong(from, to),
            (3, _) => packet::icmp_error(from, to, 3, 4, 1300, &packet::udp(to, from, port)),
            (4, _) => packet::tcp(from, to, port, 0x10).payload(size * 10).segments_of(1400),
            _ => packet::other(from, to, 17).payload(size).with(|p| p.frag_offset = 1424),
        },
    )
}

/// A packet with other fields than it should have, here and there.
fn twisted() -> impl Strategy<Value = Packet> {
    (packet(), end(), any::<[bool; 4]>(), 0_u8..4, vec(Just(1), 0..=10)).prop_map(
        |(mut packet, other, [spoofed, more, dont_frag, elsewhere], ttl, options)| {
            if spoofed && elsewhere {
                packet.source = other.address;
            }
            if elsewhere && more {
                packet.door = other.door;
            }
            packet.more_frags = more && (spoofed || packet.frag_offset != 0);
            packet.dont_frag = dont_frag;
            if ttl < 2 {
                packet.ttl = ttl;
            }
            if options.len() % 4 == 0 && packet.offload == Offload::default() {
                packet.options = options;
            }
            packet
        },
    )
}

/// In the form of the fuzz target's input.
fn encode(packet: &Packet, damage: Option<(prop::sample::Index, u8)>) -> Vec<u8> {
    let door = entry::DOORS.iter().position(|&door| door == packet.door).unwrap_or(0) as u8;
    let checksum = match packet.offload.checksum {
        Checksum::Unverified | Checksum::Verified => 0,
        Checksum::Partial { offset: 16, .. } => 2,
        Checksum::Partial { .. } => 3,
    };
    let (segmentation, size) = match packet.offload.segmentation {
        Segmentation::None => (0, 0),
        Segmentation::Tcp { size } => (2, size),
        Segmentation::Udp { size } => (3, size),
    };
    let mut bytes = packet.bytes();
    if let Some((at, value)) = damage
        && !bytes.is_empty()
    {
        let at = at.index(bytes.len().min(80));
        bytes[at] = value;
    }
    let mut input = vec![door, checksum | segmentation << 3];
    input.extend_from_slice(&size.to_be_bytes());
    input.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
    input.extend_from_slice(&bytes);
    input
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_bytes(data in vec(any::<u8>(), 0..2000)) {
        entry::run(&data);
    }

    #[test]
    fn any_conversations(packets in vec(twisted(), 1..60)) {
        let input: Vec<u8> = packets.iter().flat_map(|packet| encode(packet, None)).collect();
        entry::run(&input);
    }

    #[test]
    fn any_damage(
        packets in vec((twisted(), prop::option::of(any::<(prop::sample::Index, u8)>())), 1..60),
    ) {
        let input: Vec<u8> =
            packets.iter().flat_map(|(packet, damage)| encode(packet, *damage)).collect();
        entry::run(&input);
    }
}
