//! IP fragments (RFC 791 section 3.2): those that come, and those that have to be made.

use std::net::Ipv4Addr;
use std::ops::Range;

use sarcenet_dataplane_api::DropReason;
use smoltcp::wire::Ipv4Packet;

use super::parse::{Headers, Kind};
use super::route::check_source;
use super::{Out, Run};
use crate::packet::{Batch, Checksum, Offload, Piece, Via};
use crate::wire::checksum;
use crate::wire::headers::{IPV4_HEADER_LEN, pseudo_header_of};

/// How long later fragments may follow the first one, in nanoseconds: as long as the kernel keeps
/// an incomplete datagram (`net.ipv4.ipfrag_time`).
const MAX_AGE_NS: u64 = 30_000_000_000;

/// First fragments remembered by a worker: sets of [`WAYS`], found by hash. Bounded whatever
/// anybody sends; a newer one takes the place of the oldest in its set.
const SETS: usize = 64;
const WAYS: usize = 4;

/// What the fragments of one datagram have in common, and the door they come in by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Datagram {
    from: Via,
    source: Ipv4Addr,
    destination: Ipv4Addr,
    ident: u16,
    protocol: u8,
}

impl Datagram {
    fn of(from: Via, head: &[u8]) -> Self {
        let ip = Ipv4Packet::new_unchecked(head);
        Self {
            from,
            source: ip.src_addr(),
            destination: ip.dst_addr(),
            ident: ip.ident(),
            protocol: u8::from(ip.next_header()),
        }
    }

    fn set(&self) -> usize {
        let mixed = self.source.to_bits().rotate_left(16)
            ^ self.destination.to_bits()
            ^ (u32::from(self.ident) << 8 | u32::from(self.protocol));
        (mixed.wrapping_mul(0x9e37_79b1) >> 26) as usize % SETS
    }
}

/// An admitted first fragment.
#[derive(Debug, Clone, Copy)]
struct Remembered {
    datagram: Datagram,
    out: Out,
    flow_hash: u32,
    generation: u32,
    at_ns: u64,
}

/// Where the first fragments of recent datagrams went.
pub(super) struct FragmentMemory(Box<[[Option<Remembered>; WAYS]; SETS]>);

impl Default for FragmentMemory {
    fn default() -> Self {
        Self(Box::new([[None; WAYS]; SETS]))
    }
}

impl FragmentMemory {
    fn remember(&mut self, new: Remembered) {
        let set = &mut self.0[new.datagram.set()];
        let same = set.iter().position(|old| old.is_some_and(|old| old.datagram == new.datagram));
        let oldest = || {
            let age = |way: &usize| set[*way].map(|old| old.at_ns);
            (0..WAYS).min_by_key(age)
        };
        if let Some(way) = same.or_else(oldest) {
            set[way] = Some(new);
        }
    }

    fn find(&self, datagram: &Datagram, generation: u32, now_ns: u64) -> Option<&Remembered> {
        self.0[datagram.set()].iter().flatten().find(|found| {
            found.datagram == *datagram
                && found.generation == generation
                && now_ns.saturating_sub(found.at_ns) <= MAX_AGE_NS
        })
    }
}

impl Run<'_> {
    /// Remembers where packet `i`, an admitted first fragment, goes.
    #[cold]
    pub(super) fn remember_fragment(&mut self, batch: &Batch, i: usize, out: Out) {
        let packet = batch.packet(i);
        self.fragments.remember(Remembered {
            datagram: Datagram::of(packet.from, batch.head(i)),
            out,
            flow_hash: packet.flow_hash,
            generation: self.topology.generation(),
            at_ns: self.now_ns,
        });
    }

    /// Decides packet `i`, a later fragment: it follows the first one.
    #[cold]
    pub(super) fn follow_fragment(
        &mut self,
        batch: &mut Batch,
        i: usize,
        headers: &Headers,
    ) -> Result<Out, DropReason> {
        debug_assert_eq!(headers.kind, Kind::LaterFragment);
        let from = batch.packet(i).from;
        let datagram = Datagram::of(from, batch.head(i));
        let Some(first) = self.fragments.find(&datagram, self.topology.generation(), self.now_ns)
        else {
            check_source(self.topology, from, headers.key.source)?;
            let back = self.give_back(from, headers.key.destination);
            return back.ok_or(DropReason::OrphanFragment);
        };
        batch.packet_mut(i).flow_hash = first.flow_hash;
        Ok(first.out)
    }
}

/// The lengths of header and payload pieces into which a packet is cut so that each fragment is
/// at most `mtu` bytes long. None when not even 8 payload bytes fit behind its header.
pub(super) fn pieces(head: &[u8], mtu: u16) -> Option<(usize, usize)> {
    let header_len = usize::from(Ipv4Packet::new_unchecked(head).header_len());
    let payload_len = usize::from(mtu).checked_sub(header_len)? & !7;
    (payload_len >= 8).then_some((header_len, payload_len))
}

/// Cuts packet `i`, which lies in one piece and may be a fragment itself, and appends the further
/// fragments to the batch; their payload stays where it is. Returns their indices. None, with the
/// packet as it was, when there is no room for them.
pub(super) fn cut(batch: &mut Batch, i: usize, mtu: u16) -> Option<Range<usize>> {
    let (header_len, piece_len) = pieces(batch.head(i), mtu)?;
    complete_checksum(batch, i, header_len);
    let packet = batch.packet(i).clone();
    let (whole, first) = (packet.len(), batch.len());
    let further = (whole - header_len - piece_len).div_ceil(piece_len);
    if batch.room() < further || batch.free_buffers() < further {
        return None;
    }
    let original = Ipv4Packet::new_unchecked(batch.head(i));
    let (offset, more) = (original.frag_offset(), original.more_frags());
    let mut header = [0; 60];
    header[..header_len].copy_from_slice(&batch.head(i)[..header_len]);

    for at in (header_len + piece_len..whole).step_by(piece_len) {
        let len = piece_len.min(whole - at);
        let is_last = at + len == whole;
        let buffer = batch.take_buffer()?;
        let head = Piece { len: header_len as u32, ..buffer };
        let bytes = batch.bytes_mut(head);
        bytes.copy_from_slice(&header[..header_len]);
        blank_uncopied_options(bytes);
        let place = offset + (at - header_len) as u16;
        write_fragment(bytes, header_len + len, place, more || !is_last);
        let tail = Piece { at: packet.head.at + at as u32, len: len as u32 };
        let index = batch.push_scattered(head, &[tail], Offload::default(), packet.from)?;
        batch.packet_mut(index).flow_hash = packet.flow_hash;
    }
    batch.truncate(i, header_len + piece_len);
    write_fragment(batch.packet_and_head(i).1, header_len + piece_len, offset, true);
    Some(first..batch.len())
}

/// Writes what differs between the fragments of a packet.
fn write_fragment(head: &mut [u8], total_len: usize, offset: u16, more: bool) {
    let mut ip = Ipv4Packet::new_unchecked(head);
    ip.set_total_len(total_len as u16);
    ip.clear_flags();
    ip.set_frag_offset(offset);
    ip.set_more_frags(more);
    ip.fill_checksum();
}

/// Replaces options that only the first fragment carries by no-operations (RFC 791 section 3.1:
/// the copied flag), so that the header keeps its length.
fn blank_uncopied_options(header: &mut [u8]) {
    let mut at = IPV4_HEADER_LEN;
    while let Some(&option) = header.get(at) {
        let len = match option {
            0 => return,
            1 => 1,
            _ => match header.get(at + 1) {
                Some(&len) if len >= 2 => usize::from(len),
                _ => return,
            },
        };
        let end = (at + len).min(header.len());
        if option & 0x80 == 0 {
            header[at..end].fill(1);
        }
        at = end;
    }
}

/// Fills in a transport checksum that was left to the last door: no door can do so for a part of
/// what it covers.
fn complete_checksum(batch: &mut Batch, i: usize, header_len: usize) {
    let Checksum::Partial { offset, .. } = batch.packet(i).offload.checksum else { return };
    let (packet, head) = batch.packet_and_head(i);
    let transport_len = (head.len() - header_len) as u32;
    let field = header_len + usize::from(offset);
    let is_udp =
        Ipv4Packet::new_unchecked(&head[..]).next_header() == smoltcp::wire::IpProtocol::Udp;
    head[field..field + 2].fill(0);
    let sum: checksum::Sum = pseudo_header_of(head, transport_len).add(&head[header_len..]);
    let check = if is_udp { sum.udp_checksum() } else { sum.checksum() };
    head[field..field + 2].copy_from_slice(&check.to_be_bytes());
    packet.offload.checksum = Checksum::Verified;
}
