//! The headers around a tunnel datagram on the wire: Ethernet, IPv4 and UDP (RFC 7348 section 5).
//!
//! The outer UDP checksum is always sent: without it, receivers do not coalesce
//! (`udp_gro_receive` of the Linux kernel). It costs next to nothing, because of what the kernel
//! calls local checksum offload (`Documentation/networking/checksum-offloads.rst`): where the
//! checksum inside is right, the bytes that it covers sum up to the complement of their
//! pseudo-header's sum, so that only headers are left to be added. The same arithmetic tells on
//! receive, from headers alone, that outer and inner checksum agree; whoever checks the inner one
//! has then checked both.
#![forbid(unsafe_code)]

use std::net::{Ipv4Addr, SocketAddrV4};

use sarcenet_dataplane_api::DropReason;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, UdpPacket,
};

use crate::link::virtio::{TCP, UDP};
use crate::wire::checksum::{self, Sum};
use crate::wire::headers::{
    IPV4_HEADER_LEN, UDP_HEADER_LEN, ipv4_checksum_ok, ipv4_header_len, pseudo_header_of,
    tcp_header_len,
};
use crate::wire::tunnel::{ETHERNET_HEADER_LEN, TUNNEL_HEADER_LEN};

/// Length of the outer headers, in bytes.
pub const OUTER_LEN: usize = ETHERNET_HEADER_LEN + IPV4_HEADER_LEN + UDP_HEADER_LEN;

const IP: usize = ETHERNET_HEADER_LEN;
const TRANSPORT: usize = IP + IPV4_HEADER_LEN;

/// Time to live of outer packets, that of Linux's tunnels and sockets.
const TTL: u8 = 64;

/// First source port: RFC 7348 section 5 recommends the dynamic range of RFC 6335.
const FIRST_SOURCE_PORT: u16 = 49_152;

/// Source port of a flow's datagrams: always the same for one flow, spread over the dynamic range
/// for many, so that switches and receiving cards spread them too.
pub fn source_port(flow_hash: u32) -> u16 {
    let mixed = (flow_hash ^ (flow_hash >> 16)) as u16;
    FIRST_SOURCE_PORT | (mixed & !FIRST_SOURCE_PORT)
}

/// Where a frame goes on this link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    /// MAC of the uplink.
    pub source: [u8; 6],
    /// MAC of the next hop.
    pub destination: [u8; 6],
}

/// Outer headers that are to be written.
#[derive(Debug, Clone, Copy)]
pub struct Outer {
    /// MACs.
    pub hop: Hop,
    /// Address of this cell.
    pub source: Ipv4Addr,
    /// Address of the other cell.
    pub destination: Ipv4Addr,
    /// By [`source_port`].
    pub source_port: u16,
    /// The tunnel's port.
    pub port: u16,
}

impl Outer {
    /// Writes the headers in front of a datagram of `len` bytes, which sum up to `sum`.
    pub fn emit(&self, len: usize, sum: Sum, out: &mut [u8; OUTER_LEN]) {
        let mut ethernet = EthernetFrame::new_unchecked(&mut out[..]);
        ethernet.set_dst_addr(EthernetAddress(self.hop.destination));
        ethernet.set_src_addr(EthernetAddress(self.hop.source));
        ethernet.set_ethertype(EthernetProtocol::Ipv4);

        let udp_len = UDP_HEADER_LEN + len;
        let mut ip = Ipv4Packet::new_unchecked(&mut out[IP..TRANSPORT]);
        ip.set_version(4);
        ip.set_header_len(IPV4_HEADER_LEN as u8);
        ip.set_dscp(0);
        ip.set_ecn(0);
        ip.set_total_len((IPV4_HEADER_LEN + udp_len) as u16);
        // A packet that is never fragmented needs none (RFC 6864 section 4.1).
        ip.set_ident(0);
        ip.clear_flags();
        ip.set_dont_frag(true);
        ip.set_frag_offset(0);
        ip.set_hop_limit(TTL);
        ip.set_next_header(IpProtocol::Udp);
        ip.set_src_addr(self.source);
        ip.set_dst_addr(self.destination);
        ip.set_checksum(0);
        let check = checksum::sum(&out[IP..TRANSPORT]).checksum();
        Ipv4Packet::new_unchecked(&mut out[IP..TRANSPORT]).set_checksum(check);

        let pseudo = checksum::pseudo_header(self.source, self.destination, UDP, udp_len as u32);
        let mut udp = UdpPacket::new_unchecked(&mut out[TRANSPORT..]);
        udp.set_src_port(self.source_port);
        udp.set_dst_port(self.port);
        udp.set_len(udp_len as u16);
        udp.set_checksum(0);
        let header = checksum::sum(&out[TRANSPORT..]).fold();
        let check = pseudo.add_u16(header).add_u16(sum.fold()).udp_checksum();
        UdpPacket::new_unchecked(&mut out[TRANSPORT..]).set_checksum(check);
    }
}

/// Sum of a tunnel datagram whose inner packet is TCP or UDP with a right checksum, from its
/// headers, which `head` holds. None when it is another packet.
pub fn sum_by_headers(head: &[u8], datagram_len: usize) -> Option<Sum> {
    let inner = head.get(TUNNEL_HEADER_LEN..)?;
    if head[TUNNEL_HEADER_LEN - 2..TUNNEL_HEADER_LEN] != [0x08, 0x00] {
        return None;
    }
    let header_len = ipv4_header_len(inner).ok()?;
    let ip = Ipv4Packet::new_unchecked(inner);
    let transport = &inner[header_len..];
    let transport_len = (datagram_len - TUNNEL_HEADER_LEN).checked_sub(header_len)?;
    let covered = match u8::from(ip.next_header()) {
        TCP => tcp_header_len(transport).is_ok(),
        UDP => {
            transport.len() >= UDP_HEADER_LEN
                && transport[6..8] != [0, 0]
                && usize::from(UdpPacket::new_unchecked(transport).len()) == transport_len
        }
        _ => false,
    };
    let whole = !ip.more_frags()
        && ip.frag_offset() == 0
        && usize::from(ip.total_len()) == header_len + transport_len;
    // Its own checksum must be looked at: addresses are in the header and taken off again with the
    // pseudo-header, so that the sum says nothing about them.
    if !covered || !whole || !ipv4_checksum_ok(&inner[..header_len]) {
        return None;
    }
    let pseudo = pseudo_header_of(inner, transport_len as u32);
    Some(checksum::sum(&head[..TUNNEL_HEADER_LEN + header_len]).add_u16(!pseudo.fold()))
}

/// What a frame carries, by headers that are plausible.
#[derive(Debug, Clone, Copy)]
pub struct Received {
    /// Who sent it: address and port.
    pub source: SocketAddrV4,
    /// Port it was sent to, and the protocol.
    to: (u16, u8),
    /// Bytes of the datagram behind the outer headers, or of the packet when it is not the
    /// tunnel's.
    pub len: usize,
    /// The outer UDP header, for a datagram of the tunnel.
    outer: Option<OuterSum>,
}

/// What is known about the outer UDP checksum before the datagram is read.
#[derive(Debug, Clone, Copy)]
struct OuterSum {
    checksum: u16,
    /// Sum of the pseudo-header.
    pseudo: Sum,
    /// Sum of the UDP header.
    header: u16,
}

impl Received {
    /// Reads the headers at the beginning of a frame for the cell at `local`, whose tunnel has
    /// `port`.
    ///
    /// # Errors
    /// [`DropReason::Untracked`] for a packet that the steering program would not have taken,
    /// [`DropReason::BadHeaderChecksum`], [`DropReason::Malformed`].
    pub fn parse(frame: &[u8], local: Ipv4Addr, port: u16) -> Result<Self, DropReason> {
        let malformed = DropReason::Malformed;
        let (Some(ip), Some(udp)) = (frame.get(IP..TRANSPORT), frame.get(TRANSPORT..OUTER_LEN))
        else {
            return Err(malformed);
        };
        let packet = Ipv4Packet::new_unchecked(ip);
        if frame[IP - 2..IP] != [0x08, 0x00]
            || ip[0] != 0x45
            || packet.more_frags()
            || packet.frag_offset() != 0
        {
            return Err(malformed);
        }
        if !ipv4_checksum_ok(ip) {
            return Err(DropReason::BadHeaderChecksum);
        }
        let protocol = u8::from(packet.next_header());
        if packet.dst_addr() != local || !matches!(protocol, TCP | UDP) {
            return Err(DropReason::Untracked);
        }
        // Ports stand at the same place in both.
        let datagram = UdpPacket::new_unchecked(udp);
        let source = SocketAddrV4::new(packet.src_addr(), datagram.src_port());
        let to = (datagram.dst_port(), protocol);
        let total_len = usize::from(packet.total_len());
        if to != (port, UDP) {
            let len = total_len;
            let whole = len >= IPV4_HEADER_LEN + UDP_HEADER_LEN;
            return if whole { Ok(Self { source, to, len, outer: None }) } else { Err(malformed) };
        }
        let udp_len = datagram.len();
        // Padding may follow, within the packet as behind it; an empty datagram is no packet.
        if usize::from(udp_len) <= UDP_HEADER_LEN
            || total_len < IPV4_HEADER_LEN + usize::from(udp_len)
        {
            return Err(malformed);
        }
        let pseudo = checksum::pseudo_header(*source.ip(), local, UDP, u32::from(udp_len));
        let header = checksum::sum(udp).fold();
        Ok(Self {
            source,
            to,
            len: usize::from(udp_len) - UDP_HEADER_LEN,
            outer: Some(OuterSum { checksum: datagram.checksum(), pseudo, header }),
        })
    }

    /// Whether it is the tunnel's.
    pub fn is_tunnel(&self) -> bool {
        self.outer.is_some()
    }

    /// Bytes of the frame in front of what it carries.
    pub fn skip(&self) -> usize {
        if self.is_tunnel() { OUTER_LEN } else { ETHERNET_HEADER_LEN }
    }

    /// Whether both belong to one conversation, in the same direction.
    pub fn is_like(&self, other: &Self) -> bool {
        (self.source, self.to) == (other.source, other.to)
    }

    /// Whether nothing speaks against the datagram, by its outer checksum: there is none (RFC 7348
    /// section 5); or it is partial still, as between interfaces of one machine; or it agrees with
    /// the inner one, which is checked by who gets the packet; or it is right. Of other packets
    /// nothing is known.
    pub fn agrees(&self, datagram: &[u8]) -> bool {
        let Some(OuterSum { checksum: found, pseudo, header }) = self.outer else { return true };
        if found == 0 || found == pseudo.fold() {
            return true;
        }
        let right = |sum: Sum| pseudo.add_u16(header).add_u16(sum.fold()).fold() == 0xffff;
        sum_by_headers(datagram, datagram.len()).is_some_and(right)
            || right(checksum::sum(datagram))
    }
}
