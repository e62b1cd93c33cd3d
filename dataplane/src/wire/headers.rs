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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A SYN from a container, recorded inside the tunnel of a kernel cell.
    static SYN: [u8; 60] = [
        0x45, 0x00, 0x00, 0x3c, 0x2a, 0x25, 0x40, 0x00, 0x3f, 0x06, 0x86, 0x94, 0x0a, 0xff, 0x37,
        0x02, 0x0a, 0xff, 0x3e, 0x03, 0xa8, 0x8e, 0x1f, 0x90, 0x2f, 0x34, 0x36, 0x3e, 0x00, 0x00,
        0x00, 0x00, 0xa0, 0x02, 0xfd, 0x5c, 0x8b, 0x31, 0x00, 0x00, 0x02, 0x04, 0x05, 0x82, 0x04,
        0x02, 0x08, 0x0a, 0x62, 0xc8, 0x8e, 0x5f, 0x00, 0x00, 0x00, 0x00, 0x01, 0x03, 0x03, 0x0a,
    ];

    #[test]
    fn lengths_of_a_real_packet() {
        assert_eq!(ipv4_header_len(&SYN), Ok(20));
        assert!(ipv4_checksum_ok(&SYN[..20]));
        assert_eq!(tcp_header_len(&SYN[20..]), Ok(40));
    }

    /// The recording holds a partial checksum, as a container's packet does: the folded sum of
    /// the pseudo-header, and nothing else yet.
    #[test]
    fn pseudo_header_is_what_the_kernel_leaves_in_the_field() {
        assert_eq!(pseudo_header_of(&SYN, 40).fold(), 0x8b31);
    }

    #[test]
    fn a_head_may_hold_less_than_the_packet() {
        assert_eq!(ipv4_header_len(&SYN[..20]), Ok(20));
    }

    #[test]
    fn impossible_ipv4() {
        for len in 0..IPV4_HEADER_LEN {
            assert_eq!(ipv4_header_len(&SYN[..len]), Err(Error), "{len} bytes");
        }
        let with = |at: usize, value: u8| {
            let mut bytes = SYN;
            bytes[at] = value;
            ipv4_header_len(&bytes)
        };
        assert_eq!(with(0, 0x65), Err(Error), "version 6");
        assert_eq!(with(0, 0x44), Err(Error), "header of 16 bytes");
        assert_eq!(with(3, 19), Err(Error), "total length of 19 bytes");
        assert_eq!(with(0, 0x4f), Ok(60), "options");
        let mut options = SYN;
        options[0] = 0x4f;
        assert_eq!(ipv4_header_len(&options[..59]), Err(Error), "options beyond the head");
    }

    #[test]
    fn impossible_tcp() {
        let tcp = &SYN[20..];
        for len in 0..40 {
            assert_eq!(tcp_header_len(&tcp[..len]), Err(Error), "{len} bytes");
        }
        let mut short = [0; 40];
        short.copy_from_slice(tcp);
        short[12] = 0x40;
        assert_eq!(tcp_header_len(&short), Err(Error), "header of 16 bytes");
    }

    proptest! {
        #[test]
        fn changes_keep_the_checksum_right(len: u16, ident: u16, ttl in 1u8..) {
            let mut bytes = SYN;
            let mut packet = Ipv4Packet::new_unchecked(&mut bytes[..20]);
            packet.set_hop_limit(ttl);
            packet.fill_checksum();
            set_total_len(&mut bytes, len);
            set_ident(&mut bytes, ident);
            decrement_ttl(&mut bytes);
            let packet = Ipv4Packet::new_unchecked(&bytes[..20]);
            prop_assert_eq!(packet.total_len(), len);
            prop_assert_eq!(packet.ident(), ident);
            prop_assert_eq!(packet.hop_limit(), ttl - 1);
            let updated = packet.checksum();
            let mut afresh = Ipv4Packet::new_unchecked(&mut bytes[..20]);
            afresh.fill_checksum();
            prop_assert_eq!(updated, afresh.checksum());
        }

        #[test]
        fn any_bytes_do_no_harm(mut bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Some(first) = bytes.first_mut() {
                // Else nearly none is version 4.
                *first = 0x40 | *first & 0x0f;
            }
            if let Ok(len) = ipv4_header_len(&bytes) {
                prop_assert!((20..=60).contains(&len) && len <= bytes.len());
            }
            if let Ok(len) = tcp_header_len(&bytes) {
                prop_assert!((20..=60).contains(&len) && len <= bytes.len());
            }
        }
    }
}
