//! Putting the segments of one train together into super-packets, as the kernel's GRO does
//! (`inet_gro_receive`, `tcp_gro_receive`, `udp_gro_receive`).
//!
//! What arrives is one buffer that a tunnel socket was read into: one datagram, or several of
//! equal length behind each other (`UDP_GRO`), each a tunnel header and an inner packet; or packets
//! without a tunnel header in the same order. Payload stays where it lies; a super-packet is the
//! first datagram and a piece for the payload of each further one.
#![forbid(unsafe_code)]

use sarcenet_dataplane_api::DropReason;
use smoltcp::wire::{Ipv4Packet, TcpPacket, UdpPacket};

use super::Report;
use super::virtio::{TCP, UDP, checksum_offset};
use crate::packet::{Batch, Checksum, Offload, Piece, Segmentation, Via};
use crate::wire::headers::{
    IPV4_HEADER_LEN, UDP_HEADER_LEN, pseudo_header_of, set_total_len, tcp_header_len,
};
use crate::wire::tunnel::TUNNEL_HEADER_LEN;

/// Most datagrams in one train: `UDP_MAX_SEGMENTS` of the Linux kernel.
pub const MAX_TRAIN: usize = 128;

/// Most datagrams of a UDP super-packet: `UDP_MAX_SEGMENTS` of older kernels, which the device
/// that takes it may have been made for.
const MAX_UDP_SEGMENTS: usize = 64;

/// Where the IPv4 header of a packet from there begins, in bytes.
const fn ip_of(from: Via) -> usize {
    match from {
        Via::Tunnel(_) => TUNNEL_HEADER_LEN,
        Via::Host | Via::Container(_) => 0,
    }
}

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const ECE: u8 = 0x40;

/// A datagram that may be part of a super-packet: a tunnel header, if it is the tunnel's, and IPv4
/// without options, no fragment, nothing behind the packet.
#[derive(Debug, Clone, Copy)]
struct Segment {
    piece: Piece,
    protocol: u8,
    /// Where its IPv4 header begins, in bytes.
    ip: usize,
    /// Where its payload begins, in bytes.
    header_len: usize,
    checksum: Checksum,
}

impl Segment {
    fn parse(datagram: &[u8], piece: Piece, ip_at: usize) -> Option<Self> {
        if datagram.len() < ip_at + IPV4_HEADER_LEN {
            return None;
        }
        let (tunnel, packet) = datagram.split_at(ip_at);
        if !tunnel.is_empty() && !tunnel.ends_with(&[0x08, 0x00]) {
            return None;
        }
        let (head, transport) = packet.split_at(IPV4_HEADER_LEN);
        let ip = Ipv4Packet::new_unchecked(head);
        if head[0] != 0x45
            || usize::from(ip.total_len()) != packet.len()
            || ip.more_frags()
            || ip.frag_offset() != 0
        {
            return None;
        }
        let protocol = u8::from(ip.next_header());
        let (transport_len, field) = match protocol {
            TCP => {
                let len = tcp_header_len(transport).ok()?;
                (len, TcpPacket::new_unchecked(transport).checksum())
            }
            UDP if transport.len() >= UDP_HEADER_LEN => {
                (UDP_HEADER_LEN, UdpPacket::new_unchecked(transport).checksum())
            }
            _ => return None,
        };
        // A datagram that never left the machine may carry a partial checksum, and a UDP socket
        // does not say so. Where a complete checksum looks like a partial one (1 in 65,536) the
        // receiver trusts the outer checksum for it.
        let partial = field == pseudo_header_of(head, transport.len() as u32).fold();
        let checksum = match checksum_offset(protocol) {
            Some(offset) if partial => Checksum::Partial { start: IPV4_HEADER_LEN as u16, offset },
            _ => Checksum::Unverified,
        };
        let header_len = ip_at + IPV4_HEADER_LEN + transport_len;
        Some(Self { piece, protocol, ip: ip_at, header_len, checksum })
    }

    /// Where its transport header begins, in bytes.
    fn transport(&self) -> usize {
        self.ip + IPV4_HEADER_LEN
    }

    fn payload(&self) -> Piece {
        let skip = self.header_len as u32;
        Piece { at: self.piece.at + skip, len: self.piece.len - skip }
    }

    fn payload_len(&self) -> usize {
        self.payload().len as usize
    }

    /// Computes the checksum where nobody has yet. Returns whether it is right, or partial.
    fn verify(&mut self, batch: &Batch) -> bool {
        if self.checksum == Checksum::Unverified {
            let (head, transport) = batch.bytes(self.piece)[self.ip..].split_at(IPV4_HEADER_LEN);
            let sum = pseudo_header_of(head, transport.len() as u32).add(transport);
            let absent = self.protocol == UDP && transport[6..8] == [0, 0];
            if !absent && sum.fold() == 0xffff {
                self.checksum = Checksum::Verified;
            }
        }
        self.checksum != Checksum::Unverified
    }
}

/// A super-packet that is growing.
struct Open {
    first: Segment,
    /// Bytes of payload in all segments.
    payload: usize,
    /// Pieces after the first segment.
    tail: usize,
    /// Whether nothing more may follow.
    closed: bool,
}

impl Open {
    fn new(batch: &Batch, first: Segment) -> Self {
        let alone = first.protocol == TCP && {
            let flags = batch.bytes(first.piece)[first.transport() + 13];
            flags & !(ACK | ECE) != 0 || flags & ACK == 0
        };
        let closed = alone || first.payload_len() == 0;
        Self { first, payload: first.payload_len(), tail: 0, closed }
    }

    /// Whether `next` continues it, by all headers.
    fn accepts(&self, batch: &Batch, next: &Segment) -> bool {
        let size = self.first.payload_len();
        let (ip, transport) = (self.first.ip, self.first.transport());
        if self.closed
            || next.protocol != self.first.protocol
            || next.header_len != self.first.header_len
            || !(1..=size).contains(&next.payload_len())
            || self.first.header_len - ip + self.payload + next.payload_len() > 0xffff
        {
            return false;
        }
        let a = &batch.bytes(self.first.piece)[..self.first.header_len];
        let b = &batch.bytes(next.piece)[..self.first.header_len];
        let same = |range: std::ops::Range<usize>| a[range.clone()] == b[range];
        let ident = |head: &[u8]| u16::from_be_bytes([head[ip + 4], head[ip + 5]]);
        let dont_fragment = a[ip + 6] & 0x40 != 0;
        // Tunnel header, version, length and TOS; flags and offset, TTL and protocol; addresses
        // and ports.
        let same_flow = same(0..ip + 2)
            && same(ip + 6..ip + 10)
            && same(ip + 12..transport + 4)
            && (dont_fragment || ident(b) == ident(a).wrapping_add(self.tail as u16 + 1));
        if !same_flow {
            return false;
        }
        if self.first.protocol == UDP {
            return self.tail + 1 < MAX_UDP_SEGMENTS;
        }
        let sequence = |head: &[u8]| TcpPacket::new_unchecked(&head[transport..]).seq_number();
        // Acknowledgment and data offset; window; urgent pointer and options.
        sequence(b) == sequence(a) + self.payload
            && same(transport + 8..transport + 13)
            && (a[transport + 13] ^ b[transport + 13]) & !(PSH | FIN) == 0
            && same(transport + 14..transport + 16)
            && same(transport + 18..self.first.header_len)
    }
}

/// Reads one buffer's worth of tunnel datagrams.
pub struct Coalescer {
    tail: [Piece; MAX_TRAIN],
}

impl Default for Coalescer {
    fn default() -> Self {
        Self { tail: [Piece::default(); MAX_TRAIN] }
    }
}

impl Coalescer {
    /// Adds what lies in `train` to the batch: datagrams of `stride` bytes (the last may be
    /// shorter), or a single one. `mtu` is the largest packet that their sender may send, in bytes;
    /// for those of a tunnel, the largest inner one.
    /// Returns how many packets it made.
    pub fn receive(
        &mut self,
        batch: &mut Batch,
        train: Piece,
        stride: Option<u16>,
        mtu: u16,
        from: Via,
        report: &mut Report,
    ) -> usize {
        let ip = ip_of(from);
        if let Some(whole) = Segment::parse(batch.bytes(train), train, ip)
            && train.len as usize > ip + usize::from(mtu)
        {
            return super_packet(batch, whole, stride, mtu, from, report);
        }
        let stride = stride.map_or(train.len, u32::from).max(1);
        let end = train.at + train.len;
        let mut made = 0;
        let mut open: Option<Open> = None;
        for at in (train.at..end).step_by(stride as usize).take(MAX_TRAIN) {
            let piece = Piece { at, len: stride.min(end - at) };
            let Some(mut next) = Segment::parse(batch.bytes(piece), piece, ip) else {
                made += self.flush(batch, open.take().as_ref(), from, report);
                made += push(batch, piece, &[], Offload::default(), from, report);
                continue;
            };
            if let Some(open) = &mut open
                && open.accepts(batch, &next)
                && open.first.verify(batch)
                && next.verify(batch)
            {
                open.closed = next.payload_len() < open.first.payload_len();
                if next.protocol == TCP {
                    let flags = next.transport() + 13;
                    let last = batch.bytes(piece)[flags] & (PSH | FIN);
                    batch.bytes_mut(open.first.piece)[flags] |= last;
                    open.closed |= last != 0;
                }
                open.payload += next.payload_len();
                self.tail[open.tail] = next.payload();
                open.tail += 1;
                continue;
            }
            made += self.flush(batch, open.take().as_ref(), from, report);
            open = Some(Open::new(batch, next));
        }
        made + self.flush(batch, open.as_ref(), from, report)
    }

    /// Adds a finished packet to the batch.
    fn flush(
        &self,
        batch: &mut Batch,
        open: Option<&Open>,
        from: Via,
        report: &mut Report,
    ) -> usize {
        let Some(&Open { first, payload, tail, .. }) = open else { return 0 };
        let mut offload = Offload { checksum: first.checksum, segmentation: Segmentation::None };
        if tail > 0 {
            offload = seal(batch, first, payload, first.payload_len() as u16);
        }
        push(batch, first.piece, &self.tail[..tail], offload, from, report)
    }
}

/// Makes the headers of `first` those of a super-packet.
fn seal(batch: &mut Batch, first: Segment, payload: usize, size: u16) -> Offload {
    let head = Piece { len: first.header_len as u32, ..first.piece };
    let (ip, transport) = batch.bytes_mut(head)[first.ip..].split_at_mut(IPV4_HEADER_LEN);
    let transport_len = transport.len() + payload;
    set_total_len(ip, (IPV4_HEADER_LEN + transport_len) as u16);
    let pseudo = pseudo_header_of(ip, transport_len as u32).fold();
    let (offset, segmentation) = if first.protocol == TCP {
        TcpPacket::new_unchecked(transport).set_checksum(pseudo);
        (16, Segmentation::Tcp { size })
    } else {
        let mut udp = UdpPacket::new_unchecked(transport);
        udp.set_len(transport_len as u16);
        udp.set_checksum(pseudo);
        (6, Segmentation::Udp { size })
    };
    let checksum = Checksum::Partial { start: IPV4_HEADER_LEN as u16, offset };
    Offload { checksum, segmentation }
}

/// A datagram larger than any cell sends: the super-packet of a kernel on this machine, which was
/// handed over whole. How it would have been cut is not said for TCP, but follows from the MTU;
/// for UDP the socket says it in place of the length of its own datagrams.
fn super_packet(
    batch: &mut Batch,
    mut whole: Segment,
    size: Option<u16>,
    mtu: u16,
    from: Via,
    report: &mut Report,
) -> usize {
    let headers = (whole.header_len - whole.ip) as u16;
    let size = match whole.protocol {
        TCP => mtu.saturating_sub(headers),
        _ => size.unwrap_or(0),
    };
    let offload = if size == 0 {
        // A datagram that is simply too large; the pipeline says so to its sender.
        Offload { checksum: whole.checksum, segmentation: Segmentation::None }
    } else if whole.verify(batch) {
        seal(batch, whole, whole.payload_len(), size)
    } else {
        report.dropped(DropReason::BadOffload, 1);
        return 0;
    };
    push(batch, whole.piece, &[], offload, from, report)
}

fn push(
    batch: &mut Batch,
    head: Piece,
    tail: &[Piece],
    offload: Offload,
    from: Via,
    report: &mut Report,
) -> usize {
    if batch.push_scattered(head, tail, offload, from).is_some() {
        1
    } else {
        report.dropped(DropReason::NoBuffer, 1);
        0
    }
}

#[cfg(test)]
mod tests;
