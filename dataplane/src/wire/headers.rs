//! What the pipeline and the links both do to IPv4 and TCP headers in place.
//!
//! The functions that read check every length they rely on, because a packet's head may hold less
//! than its total length says (the rest lies in further pieces) or less than its headers say
//! (somebody lies). Those that write are for headers that were checked.
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;

use smoltcp::wire::{Ipv4Packet, TcpPacket};

use super::Error;
use super::checksum::{self, Sum};

/// Length of an IPv4 header without options, in bytes.
pub const IPV4_HEADER_LEN: usize = 20;

/// Length of a TCP header without options, in bytes.
pub const TCP_HEADER_LEN: usize = 20;

/// Length of a UDP header, in bytes.
pub const UDP_HEADER_LEN: usize = 8;

/// Length of the IPv4 header at the beginning of `head`, in bytes. An error when it is not IPv4,
/// when the header is longer than `head`, or when the total length is shorter than the header.
#[inline]
pub fn ipv4_header_len(head: &[u8]) -> Result<usize, Error> {
    if head.len() < IPV4_HEADER_LEN {
        return Err(Error);
    }
    let packet = Ipv4Packet::new_unchecked(head);
    let len = usize::from(packet.header_len());
    if packet.version() != 4
        || len < IPV4_HEADER_LEN
        || len > head.len()
        || len > usize::from(packet.total_len())
    {
        return Err(Error);
    }
    Ok(len)
}

/// Length of the TCP header at the beginning of `transport`, in bytes. An error when it is longer
/// than `transport` or shorter than a header can be.
#[inline]
pub fn tcp_header_len(transport: &[u8]) -> Result<usize, Error> {
    if transport.len() < TCP_HEADER_LEN {
        return Err(Error);
    }
    let len = usize::from(TcpPacket::new_unchecked(transport).header_len());
    if len < TCP_HEADER_LEN || len > transport.len() { Err(Error) } else { Ok(len) }
}

/// Whether the checksum of a checked IPv4 header is right.
#[inline]
pub fn ipv4_checksum_ok(header: &[u8]) -> bool {
    checksum::sum(header).fold() == 0xffff
}

/// Sum of the pseudo-header of a checked IPv4 packet for `length` bytes of transport header and
/// payload.
#[inline]
pub fn pseudo_header_of(head: &[u8], length: u32) -> Sum {
    let packet = Ipv4Packet::new_unchecked(head);
    let (source, destination): (Ipv4Addr, Ipv4Addr) = (packet.src_addr(), packet.dst_addr());
    checksum::pseudo_header(source, destination, u8::from(packet.next_header()), length)
}

/// Sets the total length of a checked IPv4 packet, in bytes, and corrects the header checksum.
#[inline]
pub fn set_total_len(head: &mut [u8], len: u16) {
    let mut packet = Ipv4Packet::new_unchecked(head);
    let check = checksum::update_u16(packet.checksum(), packet.total_len(), len);
    packet.set_total_len(len);
    packet.set_checksum(check);
}

/// Sets the identification of a checked IPv4 packet and corrects the header checksum.
#[inline]
pub fn set_ident(head: &mut [u8], ident: u16) {
    let mut packet = Ipv4Packet::new_unchecked(head);
    let check = checksum::update_u16(packet.checksum(), packet.ident(), ident);
    packet.set_ident(ident);
    packet.set_checksum(check);
}

/// Takes one from the time to live of a checked IPv4 packet and corrects the header checksum. The
/// caller has seen that it is not 0.
#[inline]
pub fn decrement_ttl(head: &mut [u8]) {
    let mut packet = Ipv4Packet::new_unchecked(head);
    let ttl = packet.hop_limit();
    debug_assert!(ttl > 0);
    // The word that TTL and protocol share; only its upper byte changes.
    let (old, new) = (u16::from(ttl) << 8, u16::from(ttl - 1) << 8);
    let check = checksum::update_u16(packet.checksum(), old, new);
    packet.set_hop_limit(ttl - 1);
    packet.set_checksum(check);
}
