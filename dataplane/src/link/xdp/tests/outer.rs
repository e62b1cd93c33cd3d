//! Outer headers, without any device.

use std::net::SocketAddrV4;

use proptest::prelude::*;
use smoltcp::wire::{EthernetFrame, IpAddress, Ipv4Packet, UdpPacket};

use super::*;
use crate::link::testing::make_partial;
use crate::link::xdp::outer::{Hop, OUTER_LEN, Outer, Received, source_port, sum_by_headers};
use crate::wire::checksum;

const HOP: Hop = Hop { source: [2, 0, 0, 0, 0, 1], destination: [2, 0, 0, 0, 0, 2] };

fn outer() -> Outer {
    Outer { hop: HOP, source: CELLS[0], destination: CELLS[1], source_port: 50_000, port: PORT }
}

/// A frame as the card sends it.
fn frame(datagram: &[u8]) -> Vec<u8> {
    let mut front = [0xa5; OUTER_LEN];
    outer().emit(datagram.len(), checksum::sum(datagram), &mut front);
    [&front, datagram].concat()
}

fn parse(frame: &[u8]) -> Result<Received, DropReason> {
    Received::parse(frame, CELLS[1], PORT)
}

fn inner(tcp: bool, payload: &[u8]) -> Vec<u8> {
    if tcp { tcp_packet(payload, 1) } else { udp_packet(payload) }
}

proptest! {
    #[test]
    fn headers_are_what_others_read(payload in prop::collection::vec(any::<u8>(), 0..1400), tcp: bool) {
        let datagram = datagram(&inner(tcp, &payload));
        let frame = frame(&datagram);
        let ethernet = EthernetFrame::new_checked(&frame[..]).unwrap();
        prop_assert_eq!(ethernet.src_addr().0, HOP.source);
        prop_assert_eq!(ethernet.dst_addr().0, HOP.destination);
        let ip = Ipv4Packet::new_checked(ethernet.payload()).unwrap();
        prop_assert!(ip.verify_checksum() && ip.dont_frag());
        prop_assert_eq!(ip.hop_limit(), 64);
        let udp = UdpPacket::new_checked(ip.payload()).unwrap();
        let (source, destination) = (IpAddress::Ipv4(CELLS[0]), IpAddress::Ipv4(CELLS[1]));
        prop_assert!(udp.checksum() != 0 && udp.verify_checksum(&source, &destination));
        prop_assert_eq!(udp.payload(), &datagram[..]);

        let received = parse(&frame).unwrap();
        prop_assert_eq!(received.source, SocketAddrV4::new(CELLS[0], 50_000));
        prop_assert_eq!(received.len, datagram.len());
        prop_assert!(received.agrees(&datagram));
    }

    #[test]
    fn headers_alone_give_the_sum(payload in prop::collection::vec(any::<u8>(), 0..3000), tcp: bool) {
        let datagram = datagram(&inner(tcp, &payload));
        let sum = sum_by_headers(&datagram, datagram.len()).unwrap();
        // 0 and 0xffff are one number in this arithmetic.
        prop_assert_eq!(sum.fold() % 0xffff, checksum::sum(&datagram).fold() % 0xffff);
    }

    #[test]
    fn a_changed_header_is_noticed(at in 0_usize..42 + 42, bit in 0_u8..8) {
        let datagram = datagram(&udp_packet(b"payload"));
        let mut frame = frame(&datagram);
        frame[at] ^= 1 << bit;
        let intact = parse(&frame).is_ok_and(|received| {
            received.len == datagram.len() && received.agrees(&frame[OUTER_LEN..])
        });
        // MACs are not covered by anything but the card.
        prop_assert_eq!(intact, at < 12);
    }

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(received) = parse(&bytes) {
            received.agrees(&bytes[OUTER_LEN.min(bytes.len())..]);
        }
        sum_by_headers(&bytes, bytes.len());
    }

    #[test]
    fn flows_have_ports_of_the_dynamic_range(hash: u32) {
        prop_assert!(source_port(hash) >= 49_152);
        prop_assert_eq!(source_port(hash), source_port(hash));
    }
}

#[test]
fn a_wrong_payload_is_noticed_where_nothing_inside_would() {
    // An inner UDP packet without a checksum: the outer one is all there is.
    let mut inner = udp_packet(b"payload");
    inner[26..28].fill(0);
    let datagram = datagram(&inner);
    let frame = frame(&datagram);
    let received = parse(&frame).unwrap();
    assert!(received.agrees(&datagram));
    let mut changed = datagram;
    *changed.last_mut().unwrap() ^= 1;
    assert!(!received.agrees(&changed));
}

#[test]
fn checksums_that_a_neighbour_on_this_machine_leaves() {
    let complete = datagram(&tcp_packet(b"payload", 1));
    let mut frame = frame(&complete);
    // The inner one is partial, the outer one complete as if the inner were: what the kernel's
    // vxlan device sends through a veth.
    let mut partial = tcp_packet(b"payload", 1);
    make_partial(&mut partial);
    let partial = datagram(&partial);
    assert!(parse(&frame).unwrap().agrees(&partial));
    // The outer one is partial: the same for a super-packet.
    let pseudo = checksum::pseudo_header(CELLS[0], CELLS[1], 17, 8 + partial.len() as u32).fold();
    frame[40..42].copy_from_slice(&pseudo.to_be_bytes());
    assert!(parse(&frame).unwrap().agrees(&partial));
    // None at all.
    frame[40..42].fill(0);
    assert!(parse(&frame).unwrap().agrees(&partial));
}

#[test]
fn what_is_not_the_tunnels() {
    let good = frame(&datagram(&udp_packet(b"payload")));
    assert!(parse(&good).is_ok());
    for len in 0..OUTER_LEN {
        assert_eq!(parse(&good[..len]).unwrap_err(), DropReason::Malformed, "{len} bytes");
    }
    let with = |changes: &[(usize, u8)]| {
        let mut frame = good.clone();
        for &(at, value) in changes {
            frame[at] = value;
        }
        frame[24..26].fill(0);
        let check = checksum::sum(&frame[14..34]).checksum();
        frame[24..26].copy_from_slice(&check.to_be_bytes());
        parse(&frame)
    };
    let refused = |changes: &[(usize, u8)]| with(changes).unwrap_err();
    assert_eq!(refused(&[(12, 0x86), (13, 0xdd)]), DropReason::Malformed, "IPv6");
    assert_eq!(refused(&[(14, 0x46)]), DropReason::Malformed, "options");
    assert_eq!(refused(&[(20, 0x20)]), DropReason::Malformed, "first fragment");
    assert_eq!(refused(&[(21, 1)]), DropReason::Malformed, "later fragment");
    assert_eq!(refused(&[(23, 47)]), DropReason::Untracked, "GRE");
    assert_eq!(refused(&[(33, 99)]), DropReason::Untracked, "another address");
    assert_eq!(refused(&[(38, 0), (39, 8)]), DropReason::Malformed, "nothing in it");
    assert_eq!(refused(&[(38, 0xff)]), DropReason::Malformed, "longer than the packet");
    // The cell's own, if its port was taken: the whole packet without the Ethernet header.
    for (what, changes) in [("TCP", (23, 6)), ("another port", (37, 0))] {
        let received = with(&[changes]).unwrap();
        assert!(!received.is_tunnel(), "{what}");
        assert_eq!((received.skip(), received.len), (14, good.len() - 14), "{what}");
    }
    assert_eq!(refused(&[(23, 6), (17, 27)]), DropReason::Malformed, "shorter than its headers");
    let mut wrong = good.clone();
    wrong[24] ^= 1;
    assert_eq!(parse(&wrong).unwrap_err(), DropReason::BadHeaderChecksum);
}
