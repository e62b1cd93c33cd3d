//! Packets for the tests of links.
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;

use smoltcp::wire::{IpAddress, Ipv4Packet, TcpPacket, UdpPacket};

use super::virtio::{TCP, UDP};
use crate::packet::{Batch, Checksum, Offload, Piece, Segmentation, Via};
use crate::wire::headers::pseudo_header_of;

pub(crate) const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 255, 55, 2);
pub(crate) const DESTINATION: Ipv4Addr = Ipv4Addr::new(10, 255, 62, 3);
pub(crate) const CELL: Via = Via::Tunnel(Ipv4Addr::new(10, 77, 0, 11));

/// Flags of the TCP packets below, unless a test changes them: ACK.
pub(crate) const TCP_FLAGS: u8 = 0x10;

/// Length of the TCP header below: with a timestamp option, as almost every real one.
pub(crate) const TCP_LEN: usize = 32;

fn ipv4(protocol: u8, transport: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 20];
    bytes.extend_from_slice(transport);
    let len = bytes.len() as u16;
    let mut ip = Ipv4Packet::new_unchecked(&mut bytes);
    ip.set_version(4);
    ip.set_header_len(20);
    ip.set_total_len(len);
    ip.set_ident(0xfffe);
    ip.set_dont_frag(true);
    ip.set_hop_limit(64);
    ip.set_next_header(protocol.into());
    ip.set_src_addr(SOURCE);
    ip.set_dst_addr(DESTINATION);
    ip.fill_checksum();
    bytes
}

/// A TCP packet with a right checksum.
pub(crate) fn tcp_packet(payload: &[u8], sequence: u32) -> Vec<u8> {
    let mut transport = vec![0; TCP_LEN];
    transport[..2].copy_from_slice(&40_000_u16.to_be_bytes());
    transport[2..4].copy_from_slice(&8080_u16.to_be_bytes());
    transport[4..8].copy_from_slice(&sequence.to_be_bytes());
    transport[8..12].copy_from_slice(&7_u32.to_be_bytes());
    transport[12] = (TCP_LEN as u8 / 4) << 4;
    transport[13] = TCP_FLAGS;
    transport[14..16].copy_from_slice(&502_u16.to_be_bytes());
    transport[20..24].copy_from_slice(&[1, 1, 8, 10]);
    transport[24..32].copy_from_slice(&[0, 0, 1, 2, 0, 0, 3, 4]);
    transport.extend_from_slice(payload);
    let mut bytes = ipv4(TCP, &transport);
    fill_checksum(&mut bytes);
    bytes
}

/// A UDP packet with a right checksum.
pub(crate) fn udp_packet(payload: &[u8]) -> Vec<u8> {
    let mut transport = vec![0; 8];
    transport[..2].copy_from_slice(&40_000_u16.to_be_bytes());
    transport[2..4].copy_from_slice(&53_u16.to_be_bytes());
    transport[4..6].copy_from_slice(&(8 + payload.len() as u16).to_be_bytes());
    transport.extend_from_slice(payload);
    let mut bytes = ipv4(UDP, &transport);
    fill_checksum(&mut bytes);
    bytes
}

/// Computes the transport checksum of a packet without options anew, byte by byte.
pub(crate) fn fill_checksum(packet: &mut [u8]) {
    let (source, destination) = (IpAddress::Ipv4(SOURCE), IpAddress::Ipv4(DESTINATION));
    match packet[9] {
        TCP => TcpPacket::new_unchecked(&mut packet[20..]).fill_checksum(&source, &destination),
        _ => UdpPacket::new_unchecked(&mut packet[20..]).fill_checksum(&source, &destination),
    }
}

/// Puts the folded sum of the pseudo-header where the transport checksum is.
pub(crate) fn make_partial(packet: &mut [u8]) -> Checksum {
    let pseudo = pseudo_header_of(packet, packet.len() as u32 - 20).fold().to_be_bytes();
    let offset = if packet[9] == TCP { 16 } else { 6 };
    packet[20 + offset..][..2].copy_from_slice(&pseudo);
    Checksum::Partial { start: 20, offset: offset as u16 }
}

/// What `packet` needs as a super-packet of `size` payload bytes a segment; its checksum becomes
/// partial.
pub(crate) fn make_super(packet: &mut [u8], size: u16) -> Offload {
    let segmentation =
        if packet[9] == TCP { Segmentation::Tcp { size } } else { Segmentation::Udp { size } };
    Offload { checksum: make_partial(packet), segmentation }
}

/// Asserts that a packet without options is right in lengths and checksums.
pub(crate) fn assert_right(packet: &[u8]) {
    let ip = Ipv4Packet::new_checked(packet).expect("an IPv4 packet");
    assert_eq!(usize::from(ip.total_len()), packet.len());
    assert!(ip.verify_checksum());
    let (source, destination) = (IpAddress::Ipv4(ip.src_addr()), IpAddress::Ipv4(ip.dst_addr()));
    let right = if packet[9] == TCP {
        TcpPacket::new_checked(&packet[20..]).unwrap().verify_checksum(&source, &destination)
    } else {
        let udp = UdpPacket::new_checked(&packet[20..]).unwrap();
        assert_eq!(usize::from(udp.len()), packet.len() - 20);
        udp.verify_checksum(&source, &destination)
    };
    assert!(right, "transport checksum");
}

/// Copies bytes into a buffer of the batch.
pub(crate) fn place(batch: &mut Batch, bytes: &[u8]) -> Piece {
    let buffer = batch.take_buffer().expect("a free buffer");
    let piece = Piece { len: bytes.len() as u32, ..buffer };
    batch.bytes_mut(piece).copy_from_slice(bytes);
    piece
}

/// Adds a packet to the batch in pieces that begin at the given places.
pub(crate) fn push_cut(batch: &mut Batch, bytes: &[u8], cuts: &[usize], offload: Offload) -> usize {
    let mut cuts = cuts.to_vec();
    cuts.push(bytes.len());
    cuts.sort_unstable();
    let mut start = 0;
    let mut pieces = Vec::new();
    for cut in cuts {
        pieces.push(place(batch, &bytes[start..cut]));
        start = cut;
    }
    batch.push_scattered(pieces[0], &pieces[1..], offload, CELL).expect("room for a packet")
}
