//! First stage: the tunnel header comes off, headers are understood, and whatever contradicts
//! itself ends here.

use std::net::{Ipv4Addr, SocketAddrV4};

use sarcenet_dataplane_api::{DropReason, PortId, TraceStep};
use smoltcp::wire::{
    EthernetFrame, EthernetProtocol, Icmpv4Packet, IpProtocol, Ipv4Packet, UdpPacket,
};

use super::{Run, offload};
use crate::flow::FlowKey;
use crate::packet::{Batch, Via};
use crate::wire::headers::{
    TCP_HEADER_LEN, UDP_HEADER_LEN, ipv4_checksum_ok, ipv4_header_len, tcp_header_len,
};
use crate::wire::tunnel::TUNNEL_HEADER_LEN;
use crate::wire::vxlan;

/// Length of the fixed part of every ICMP message, in bytes (RFC 792).
pub(super) const ICMP_HEADER_LEN: usize = 8;

/// What a packet is, as far as conversations are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// TCP with these flags.
    Tcp(u8),
    /// UDP.
    Udp,
    /// ICMP echo request.
    EchoRequest,
    /// ICMP echo reply.
    EchoReply,
    /// ICMP error about another packet, which it quotes.
    IcmpError,
    /// ICMP message that belongs to no conversation and, when it says so, reports an error
    /// (source quench, redirect).
    IcmpOther {
        /// Whether no ICMP error may be sent about it (RFC 1122 section 3.2.2).
        error: bool,
    },
    /// Another protocol.
    Other,
    /// A later fragment: no transport header.
    LaterFragment,
}

/// What the further stages need of a packet's headers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Headers {
    /// Addresses and ports.
    pub key: FlowKey,
    /// What it is.
    pub kind: Kind,
    /// The tag it came with: the container's, the cell's own, or the tunnel header's. 0 when there
    /// was none, or when bits came with it that make it match no policy.
    pub tag: u16,
    /// Length of the IPv4 header, in bytes.
    pub header_len: u16,
    /// Length of the whole packet, from the IPv4 header on, in bytes.
    pub total_len: u16,
    /// Length of the longest packet that is in it, from the IPv4 header on, in bytes.
    pub largest: u16,
    /// Ordinary packets that are in it.
    pub segments: u16,
    /// Whether it is a first fragment with others to come.
    pub first_fragment: bool,
}

impl Headers {
    /// Of nothing yet.
    pub(super) const NONE: Self = Self {
        key: FlowKey {
            source: Ipv4Addr::UNSPECIFIED,
            destination: Ipv4Addr::UNSPECIFIED,
            source_port: 0,
            destination_port: 0,
            protocol: 0,
        },
        kind: Kind::Other,
        tag: 0,
        header_len: 0,
        total_len: 0,
        largest: 0,
        segments: 0,
        first_fragment: false,
    };

    /// TCP flags, for connection tracking.
    #[inline]
    pub(super) fn tcp_flags(&self) -> Option<u8> {
        match self.kind {
            Kind::Tcp(flags) => Some(flags),
            _ => None,
        }
    }
}

impl Run<'_> {
    /// Parses packet `i` into `headers`. Afterwards its head begins with the inner IPv4 header and
    /// it ends where that header says. Returns the flow key once more: reading it back from
    /// `headers`, just written field by field, would wait for those writes.
    #[inline(always)]
    pub(super) fn parse(
        &mut self,
        batch: &mut Batch,
        i: usize,
        headers: &mut Headers,
    ) -> Result<FlowKey, DropReason> {
        let tag = match batch.packet(i).from {
            Via::Tunnel(_) => self.decapsulate(batch, i)?,
            Via::Container(port) => self.leave_container(port, batch.packet(i).len()),
            Via::Host => self.cell.tag,
        };
        let packet = batch.packet(i);
        let (whole, scattered) = (packet.len(), packet.len() != packet.head.len as usize);
        let offload = packet.offload;
        let head = batch.head(i);

        if head.first().is_some_and(|byte| byte >> 4 != 4) {
            return Err(DropReason::NotIpv4);
        }
        let header_len = ipv4_header_len(head).map_err(|_| DropReason::Malformed)?;
        if !ipv4_checksum_ok(&head[..header_len]) {
            return Err(DropReason::BadHeaderChecksum);
        }
        let ip = Ipv4Packet::new_unchecked(head);
        let total_len = usize::from(ip.total_len());
        if total_len > whole || (scattered && total_len != whole) {
            return Err(DropReason::Malformed);
        }
        let head = &head[..head.len().min(total_len)];
        let transport = &head[header_len..];
        let (fragment_offset, more_fragments) = (usize::from(ip.frag_offset()), ip.more_frags());
        let protocol = ip.next_header();
        let mut key = FlowKey {
            source: ip.src_addr(),
            destination: ip.dst_addr(),
            source_port: 0,
            destination_port: 0,
            protocol: u8::from(protocol),
        };
        if is_not_unicast(key.destination) {
            return Err(DropReason::NotUnicast);
        }

        let kind = if fragment_offset != 0 {
            check_later_fragment(protocol, fragment_offset, total_len - header_len)?;
            Kind::LaterFragment
        } else {
            let len = (!more_fragments).then_some(total_len - header_len);
            parse_transport(protocol, transport, len, &mut key)?
        };
        let is_fragment = fragment_offset != 0 || more_fragments;
        let cut = offload::check(offload, head, header_len, total_len, kind, is_fragment)
            .ok_or(DropReason::BadOffload)?;
        if total_len < whole {
            if offload.segmentation.size().is_some() {
                return Err(DropReason::BadOffload);
            }
            batch.truncate(i, total_len);
        }
        batch.packet_mut(i).flow_hash = key.hash() as u32;
        *headers = Headers {
            key,
            kind,
            tag,
            header_len: header_len as u16,
            total_len: total_len as u16,
            largest: cut.largest,
            segments: cut.segments,
            first_fragment: more_fragments && fragment_offset == 0,
        };
        Ok(key)
    }

    /// Takes a packet of `len` bytes from what its container may send, and returns the
    /// container's tag. A packet is never dropped for that: its container is not read for a while.
    #[inline]
    fn leave_container(&mut self, port: PortId, len: usize) -> u16 {
        let Some(container) = self.topology.container(port) else { return 0 };
        if let Some(bucket) = &container.grants.send {
            bucket.charge(self.now_ns, len as u64 * 8);
            let ready_at = bucket.ready_at(self.now_ns);
            if ready_at > self.now_ns {
                self.in_debt.push((port, ready_at));
            }
        }
        container.tag
    }

    /// Takes VXLAN and inner Ethernet headers off packet `i` and returns the sender's tag.
    ///
    /// The kernel's policy rules compare the whole 32-bit packet mark, in which its VXLAN device
    /// also sets bits for D ("don't learn") and A ("policy applied"): with either of them no
    /// policy matches there, so none does here. A group of 0 never names an app.
    #[inline]
    fn decapsulate(&mut self, batch: &mut Batch, i: usize) -> Result<u16, DropReason> {
        let head = batch.head(i);
        if head.len() < TUNNEL_HEADER_LEN {
            return Err(DropReason::Malformed);
        }
        let (header, frame) = head.split_at(vxlan::HEADER_LEN);
        let tunnel = vxlan::Repr::parse(&vxlan::Packet::new_unchecked(header))
            .map_err(|_| DropReason::BadTunnelFlags)?;
        if tunnel.vni != self.cell.vni {
            return Err(DropReason::WrongVni);
        }
        let ethernet = EthernetFrame::new_unchecked(frame);
        if ethernet.dst_addr().0 != self.topology.local_mac() {
            return Err(DropReason::WrongVtep);
        }
        if ethernet.ethertype() != EthernetProtocol::Ipv4 {
            return Err(DropReason::NotIpv4);
        }
        batch.shrink_front(i, TUNNEL_HEADER_LEN);
        self.trace.step(batch.packet(i).trace, || TraceStep::Decapsulated {
            tag: tunnel.group,
            vni: tunnel.vni,
        });
        let matchable = !tunnel.dont_learn && !tunnel.policy_applied;
        Ok(if matchable { tunnel.group.unwrap_or(0) } else { 0 })
    }
}

/// Multicast (224/4), broadcast, and what is reserved between them (RFC 1112 section 4).
#[inline]
fn is_not_unicast(address: Ipv4Addr) -> bool {
    address.octets()[0] >= 224
}

/// Reads the transport header, completes the key. `len` is the length of transport header and
/// payload, unless parts of them are in other fragments.
#[inline]
fn parse_transport(
    protocol: IpProtocol,
    transport: &[u8],
    len: Option<usize>,
    key: &mut FlowKey,
) -> Result<Kind, DropReason> {
    Ok(match protocol {
        IpProtocol::Tcp => {
            tcp_header_len(transport).map_err(|_| DropReason::Malformed)?;
            key.source_port = u16::from_be_bytes([transport[0], transport[1]]);
            key.destination_port = u16::from_be_bytes([transport[2], transport[3]]);
            Kind::Tcp(transport[13] & 0x3f)
        }
        IpProtocol::Udp => {
            if transport.len() < UDP_HEADER_LEN {
                return Err(DropReason::Malformed);
            }
            let udp = UdpPacket::new_unchecked(transport);
            let claimed = usize::from(udp.len());
            if claimed < UDP_HEADER_LEN || len.is_some_and(|len| claimed > len) {
                return Err(DropReason::Malformed);
            }
            key.source_port = udp.src_port();
            key.destination_port = udp.dst_port();
            Kind::Udp
        }
        IpProtocol::Icmp => {
            if transport.len() < ICMP_HEADER_LEN {
                return Err(DropReason::Malformed);
            }
            let icmp = Icmpv4Packet::new_unchecked(transport);
            let kind = icmp_kind(u8::from(icmp.msg_type()), icmp.msg_code());
            if matches!(kind, Kind::EchoRequest | Kind::EchoReply) {
                key.source_port = icmp.echo_ident();
                key.destination_port = icmp.echo_ident();
            }
            kind
        }
        _ => Kind::Other,
    })
}

/// What an ICMP message of this type and code is (RFC 792). An echo request has code 0: rules that
/// admit it are asked for that.
fn icmp_kind(message_type: u8, code: u8) -> Kind {
    match (message_type, code) {
        (0, _) => Kind::EchoReply,
        (8, 0) => Kind::EchoRequest,
        (3 | 11 | 12, _) => Kind::IcmpError,
        (4 | 5, _) => Kind::IcmpOther { error: true },
        _ => Kind::IcmpOther { error: false },
    }
}

/// The flow key of a packet of which only the beginning is there, as quoted in an ICMP error: its
/// IPv4 header and at least 8 bytes behind it.
pub(super) fn parse_quoted(quoted: &[u8]) -> Option<FlowKey> {
    if quoted.len() < 20 {
        return None;
    }
    let ip = Ipv4Packet::new_unchecked(quoted);
    let header_len = usize::from(ip.header_len());
    if ip.version() != 4 || header_len < 20 || ip.frag_offset() != 0 {
        return None;
    }
    let transport = quoted.get(header_len..header_len + 8)?;
    let first = u16::from_be_bytes([transport[0], transport[1]]);
    let second = u16::from_be_bytes([transport[2], transport[3]]);
    let ident = u16::from_be_bytes([transport[4], transport[5]]);
    let (source_port, destination_port) = match ip.next_header() {
        IpProtocol::Tcp | IpProtocol::Udp => (first, second),
        IpProtocol::Icmp => match icmp_kind(transport[0], transport[1]) {
            Kind::EchoRequest | Kind::EchoReply => (ident, ident),
            _ => return None,
        },
        _ => (0, 0),
    };
    Some(FlowKey {
        source: ip.src_addr(),
        destination: ip.dst_addr(),
        source_port,
        destination_port,
        protocol: u8::from(ip.next_header()),
    })
}

/// A later fragment must not reach back into the transport header that the first one was judged
/// by (RFC 1858, RFC 3128), nor beyond the longest packet there is.
fn check_later_fragment(
    protocol: IpProtocol,
    offset: usize,
    payload_len: usize,
) -> Result<(), DropReason> {
    let overlaps = protocol == IpProtocol::Tcp && offset < TCP_HEADER_LEN;
    if overlaps || offset + payload_len > usize::from(u16::MAX) {
        return Err(DropReason::Malformed);
    }
    Ok(())
}

/// The trace record of what was understood.
pub(super) fn parsed_step(headers: &Headers) -> TraceStep {
    let key = &headers.key;
    TraceStep::Parsed {
        protocol: key.protocol,
        source: SocketAddrV4::new(key.source, key.source_port),
        destination: SocketAddrV4::new(key.destination, key.destination_port),
        tcp_flags: headers.tcp_flags().unwrap_or(0),
    }
}
