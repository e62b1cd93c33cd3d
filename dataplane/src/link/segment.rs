//! Cutting a super-packet into packets, as the kernel's `tcp_gso_segment` and
//! `__udp_gso_segment` do, and filling in checksums that are still partial.
//!
//! Only headers are written; payload is handed out as slices of where it lies.
#![forbid(unsafe_code)]

use smoltcp::wire::{Ipv4Packet, TcpPacket, UdpPacket};

use super::virtio::{TCP, checksum_offset};
use crate::packet::{Batch, Checksum, Packet, Piece, Segmentation};
use crate::wire::checksum::Sum;
use crate::wire::headers::{
    UDP_HEADER_LEN, ipv4_header_len, pseudo_header_of, set_ident, set_total_len, tcp_header_len,
};

/// Most segments that a super-packet may be cut into: 64 KiB in the smallest segments that a
/// Linux TCP sends by default (`net.ipv4.tcp_min_snd_mss` is 48), rounded up.
pub const MAX_SEGMENTS: usize = 2048;

/// Nothing is left to be done to the packet, or its headers contradict its offload state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotSegmentable;

/// Walks over the bytes of a packet, piece by piece.
#[derive(Clone)]
struct Cursor<'a> {
    batch: &'a Batch,
    current: &'a [u8],
    tail: &'a [Piece],
}

impl<'a> Cursor<'a> {
    /// Takes the next `n` bytes, as few slices as they lie in. Fewer when there are no more.
    fn take(&mut self, mut n: usize, mut each: impl FnMut(&'a [u8])) {
        while n > 0 {
            if self.current.is_empty() {
                let Some((&piece, rest)) = self.tail.split_first() else { return };
                (self.current, self.tail) = (self.batch.bytes(piece), rest);
                continue;
            }
            let (slice, rest) = self.current.split_at(n.min(self.current.len()));
            self.current = rest;
            n -= slice.len();
            each(slice);
        }
    }
}

/// A super-packet that is being cut. A packet whose checksum is partial is taken for a
/// super-packet of one segment.
#[derive(Clone)]
pub struct Segments<'a> {
    /// All headers, with what stands in front of the IPv4 header.
    header: &'a [u8],
    /// Where the IPv4 and the transport header begin, in bytes.
    ip: usize,
    transport: usize,
    tcp: bool,
    size: usize,
    /// Payload bytes handed out and still to come.
    done: usize,
    left: usize,
    number: u16,
    cursor: Cursor<'a>,
}

impl<'a> Segments<'a> {
    /// Begins to cut `packet`, whose IPv4 header stands `prefix` bytes behind the start of its
    /// head. The prefix (a tunnel header) is repeated in front of every segment.
    ///
    /// # Errors
    /// [`NotSegmentable`].
    pub fn new(batch: &'a Batch, packet: &Packet, prefix: usize) -> Result<Self, NotSegmentable> {
        let (tcp, size) = match (packet.offload.segmentation, packet.offload.checksum) {
            (Segmentation::Tcp { size }, _) => (true, usize::from(size)),
            (Segmentation::Udp { size }, _) => (false, usize::from(size)),
            (Segmentation::None, Checksum::Partial { offset, .. }) => {
                (Some(offset) == checksum_offset(TCP), usize::MAX)
            }
            (Segmentation::None, _) => return Err(NotSegmentable),
        };
        let head = batch.bytes(packet.head);
        let inner = head.get(prefix..).ok_or(NotSegmentable)?;
        let transport = ipv4_header_len(inner).map_err(|_| NotSegmentable)?;
        let transport_len = if tcp {
            tcp_header_len(&inner[transport..]).map_err(|_| NotSegmentable)?
        } else {
            UDP_HEADER_LEN
        };
        let header_len = prefix + transport + transport_len;
        if header_len > head.len() || size == 0 {
            return Err(NotSegmentable);
        }
        let (header, rest) = head.split_at(header_len);
        let left = packet.len() - header_len;
        if left.div_ceil(size) > MAX_SEGMENTS {
            return Err(NotSegmentable);
        }
        Ok(Self {
            header,
            ip: prefix,
            transport: prefix + transport,
            tcp,
            size,
            done: 0,
            left,
            number: 0,
            cursor: Cursor { batch, current: rest, tail: batch.tail(packet) },
        })
    }

    /// Upper bound of the slices in which the payload of one segment lies.
    pub fn max_slices(&self) -> usize {
        1 + self.cursor.tail.len()
    }

    /// Length of the headers of every segment, in bytes.
    pub fn header_len(&self) -> usize {
        self.header.len()
    }

    /// Whether no segment has been made yet.
    pub fn is_untouched(&self) -> bool {
        self.number == 0
    }

    /// How many segments are still to come, and their bytes with headers.
    pub fn rest(&self) -> (usize, usize) {
        let segments = self.left.div_ceil(self.size).max(usize::from(self.number == 0));
        (segments, segments * self.header.len() + self.left)
    }

    /// Length of the next segment with its headers, in bytes; none after the last one.
    pub fn next_len(&self) -> Option<usize> {
        // A super-packet without payload is one segment.
        (self.left > 0 || self.number == 0).then(|| self.header.len() + self.size.min(self.left))
    }

    /// Writes the headers of the next segment into `out`, which is [`Self::header_len`] bytes
    /// long, and hands out the slices of its payload.
    ///
    /// # Panics
    /// When `out` has another length.
    pub fn next(&mut self, out: &mut [u8], mut payload: impl FnMut(&'a [u8])) {
        let len = self.size.min(self.left);
        let last = len == self.left;
        out.copy_from_slice(self.header);
        let mut sum = Sum::zero();
        self.cursor.take(len, |slice| {
            sum = sum.add(slice);
            payload(slice);
        });

        let (front, transport) = out.split_at_mut(self.transport);
        let ip = &mut front[self.ip..];
        let transport_len = transport.len() + len;
        set_total_len(ip, (ip.len() + transport_len) as u16);
        let ident = Ipv4Packet::new_unchecked(&*ip).ident();
        set_ident(ip, ident.wrapping_add(self.number));
        let pseudo = pseudo_header_of(ip, transport_len as u32);
        // Headers have even lengths, so the payload's sum fits behind them as it is.
        let sum = pseudo.add_u16(sum.fold());
        if self.tcp {
            let mut tcp = TcpPacket::new_unchecked(&mut *transport);
            tcp.set_seq_number(tcp.seq_number() + self.done);
            tcp.set_checksum(0);
            if !last {
                tcp.set_fin(false);
                tcp.set_psh(false);
            }
            if self.number > 0 {
                transport[13] &= !TCP_FLAG_CWR;
            }
            let checksum = sum.add(transport).checksum();
            TcpPacket::new_unchecked(transport).set_checksum(checksum);
        } else {
            let mut udp = UdpPacket::new_unchecked(&mut *transport);
            udp.set_len(transport_len as u16);
            udp.set_checksum(0);
            let checksum = sum.add(transport).udp_checksum();
            UdpPacket::new_unchecked(transport).set_checksum(checksum);
        }
        self.number = self.number.wrapping_add(1);
        self.done += len;
        self.left -= len;
    }
}

/// "Congestion window reduced" (RFC 3168 section 6.1): said once, in the first segment.
pub(super) const TCP_FLAG_CWR: u8 = 0x80;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::testing::{
        TCP_FLAGS, TCP_LEN, assert_right, fill_checksum, make_partial, make_super, push_cut,
        tcp_packet, udp_packet,
    };
    use crate::packet::Offload;
    use proptest::prelude::*;

    const FIN: u8 = 0x01;
    const PSH: u8 = 0x08;

    fn cut(batch: &Batch, index: usize, prefix: usize) -> Vec<Vec<u8>> {
        let mut segments = Segments::new(batch, batch.packet(index), prefix).unwrap();
        let mut all = Vec::new();
        while let Some(len) = segments.next_len() {
            // Prefilled, so that a header field that is not written shows.
            let mut header = vec![0xa5; segments.header_len()];
            let mut payload = Vec::new();
            let bound = segments.max_slices();
            let mut slices = 0;
            segments.next(&mut header, |slice| {
                slices += 1;
                payload.extend_from_slice(slice);
            });
            assert!(slices <= bound);
            header.extend(payload);
            assert_eq!(header.len(), len);
            all.push(header);
        }
        all
    }

    proptest! {
        #[test]
        fn segments_are_right_and_complete(
            payload in prop::collection::vec(any::<u8>(), 1..20_000),
            size in 30_u16..1500,
            tcp: bool,
            prefix in prop_oneof![Just(0_usize), Just(22)],
            cuts in prop::collection::vec(0_usize..20_000, 0..5),
        ) {
            let sequence = 0xffff_f000;
            let mut packet = if tcp { tcp_packet(&payload, sequence) } else { udp_packet(&payload) };
            if tcp {
                packet[33] = TCP_FLAGS | FIN | PSH | TCP_FLAG_CWR;
            }
            let offload = make_super(&mut packet, size);
            let header_len = if tcp { 20 + TCP_LEN } else { 28 };
            let mut bytes = vec![0x55; prefix];
            bytes.extend(&packet);
            let cuts: Vec<_> =
                cuts.iter().map(|cut| prefix + header_len + cut % (payload.len() + 1)).collect();
            let mut batch = Batch::new();
            let index = push_cut(&mut batch, &bytes, &cuts, offload);

            let segments = cut(&batch, index, prefix);
            prop_assert_eq!(segments.len(), payload.len().div_ceil(usize::from(size)));
            let mut joined = Vec::new();
            for (number, segment) in segments.iter().enumerate() {
                let (first, last) = (number == 0, number + 1 == segments.len());
                prop_assert!(segment[..prefix].iter().all(|&byte| byte == 0x55));
                let inner = &segment[prefix..];
                assert_right(inner);
                let ident = Ipv4Packet::new_unchecked(inner).ident();
                prop_assert_eq!(ident, 0xfffe_u16.wrapping_add(number as u16));
                if tcp {
                    let header = TcpPacket::new_unchecked(&inner[20..]);
                    let expected = sequence.wrapping_add(joined.len() as u32);
                    prop_assert_eq!(header.seq_number().0 as u32, expected);
                    prop_assert_eq!((header.fin(), header.psh()), (last, last));
                    prop_assert_eq!(inner[33] & TCP_FLAG_CWR != 0, first);
                }
                let part = &inner[header_len..];
                prop_assert!(part.len() == usize::from(size) || (last && !part.is_empty()));
                joined.extend_from_slice(part);
            }
            prop_assert_eq!(joined, payload);
        }

        #[test]
        fn a_partial_checksum_is_completed(
            payload in prop::collection::vec(any::<u8>(), 0..3000),
            tcp: bool,
        ) {
            let complete = if tcp { tcp_packet(&payload, 1) } else { udp_packet(&payload) };
            let mut packet = complete.clone();
            let checksum = make_partial(&mut packet);
            let mut batch = Batch::new();
            let offload = Offload { checksum, segmentation: Segmentation::None };
            let index = push_cut(&mut batch, &packet, &[], offload);
            prop_assert_eq!(cut(&batch, index, 0), [complete]);
        }

        #[test]
        fn any_bytes(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            size: u16,
            tcp: bool,
            prefix in 0_usize..40,
        ) {
            let segmentation =
                if tcp { Segmentation::Tcp { size } } else { Segmentation::Udp { size } };
            let offload = Offload { segmentation, ..Offload::default() };
            let mut batch = Batch::new();
            let index = push_cut(&mut batch, &bytes, &[], offload);
            if let Ok(mut segments) = Segments::new(&batch, batch.packet(index), prefix) {
                let mut header = vec![0; segments.header_len()];
                while segments.next_len().is_some() {
                    segments.next(&mut header, |_| ());
                }
            }
        }
    }

    #[test]
    fn a_udp_checksum_of_zero_is_sent_as_its_other_form() {
        // A payload that makes the sum 0xffff, so that the checksum comes out as 0.
        let mut packet = udp_packet(&[0, 0]);
        let check = [packet[26], packet[27]];
        packet[28..30].copy_from_slice(&check);
        fill_checksum(&mut packet);
        assert_eq!(packet[26..28], [0xff, 0xff]);
        let checksum = make_partial(&mut packet);
        let mut batch = Batch::new();
        let offload = Offload { checksum, segmentation: Segmentation::None };
        let index = push_cut(&mut batch, &packet, &[], offload);
        assert_eq!(cut(&batch, index, 0)[0][26..28], [0xff, 0xff]);
    }

    #[test]
    fn ordinary_packets_are_not_segmentable() {
        let mut batch = Batch::new();
        let index = push_cut(&mut batch, &tcp_packet(&[1; 100], 1), &[], Offload::default());
        assert!(Segments::new(&batch, batch.packet(index), 0).is_err());
    }
}
