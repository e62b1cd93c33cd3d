//! The batch: a worker's packets and the buffers they lie in.

use std::alloc::{Layout, handle_alloc_error};

use super::{Offload, Packet, Verdict, Via};
use crate::memory::{Bytes, Pages};

/// Most packets in one batch: eight trains of 64 datagrams, as a tunnel socket hands them out.
pub const MAX_PACKETS: usize = 512;

/// Free bytes in front of whatever a link receives into a buffer; enough for any outer header.
pub const HEADROOM: usize = 128;

/// Bytes of a buffer behind its headroom: the largest IP packet, and the tunnel headers that may
/// stand in front of one.
pub const BUFFER_LEN: usize = 65_536 + 128;

/// Distance of two buffers. An odd number of cache lines, so that the heads of many small packets
/// do not compete for the same cache sets.
const STRIDE: usize = (HEADROOM + BUFFER_LEN).next_multiple_of(64) + 64;
const _: () = assert!((STRIDE / 64) % 2 == 1);

/// Most buffers a batch can hold: one for each packet that a link can receive at once, and as
/// many for answers.
const MAX_BUFFERS: usize = 128;

/// Bytes of all buffers.
const POOL: Layout = Layout::new::<[u8; STRIDE * MAX_BUFFERS]>();

/// Pieces of all packets of a batch: a coalesced super-packet has up to one for each segment.
const MAX_PIECES: usize = 8_192;

/// Bytes somewhere in a batch's buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Piece {
    /// Offset in the batch's memory.
    pub at: u32,
    /// Length in bytes.
    pub len: u32,
}

/// A worker's packets and their buffers.
///
/// Buffers are handed out in order and all taken back by [`Batch::clear`]: a packet lives no
/// longer than the batch it came with, because a worker runs every packet to completion.
pub struct Batch {
    memory: Bytes,
    buffers_used: usize,
    packets: Vec<Packet>,
    pieces: Vec<Piece>,
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

impl Batch {
    /// An empty batch. Its memory, in huge pages if there are any, is reserved here and touched
    /// only as it is used.
    pub fn new() -> Self {
        Self {
            // As when a vector finds none.
            memory: Bytes::new(POOL.size()).unwrap_or_else(|_| handle_alloc_error(POOL)),
            buffers_used: 0,
            packets: Vec::with_capacity(MAX_PACKETS),
            pieces: Vec::with_capacity(MAX_PIECES),
        }
    }

    /// What its memory lies in.
    pub fn pages(&self) -> Pages {
        self.memory.pages()
    }

    /// Forgets all packets and takes back all buffers.
    pub fn clear(&mut self) {
        self.packets.clear();
        self.pieces.clear();
        self.buffers_used = 0;
    }

    /// Packets in the batch.
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// How many more packets fit.
    pub fn room(&self) -> usize {
        MAX_PACKETS - self.packets.len()
    }

    /// How many more buffers [`Batch::take_buffer`] can give.
    pub fn free_buffers(&self) -> usize {
        MAX_BUFFERS - self.buffers_used
    }

    /// A fresh buffer of [`BUFFER_LEN`] bytes with [`HEADROOM`] free bytes in front of it; none
    /// when all are in use. Its content is undefined.
    pub fn take_buffer(&mut self) -> Option<Piece> {
        (self.buffers_used < MAX_BUFFERS).then(|| {
            let at = self.buffers_used * STRIDE + HEADROOM;
            self.buffers_used += 1;
            Piece { at: at as u32, len: BUFFER_LEN as u32 }
        })
    }

    /// Gives back the buffer that was taken last, when nothing was received into it.
    pub fn untake_buffer(&mut self) {
        debug_assert!(self.buffers_used > 0);
        self.buffers_used -= 1;
    }

    /// Bytes of a piece.
    pub fn bytes(&self, piece: Piece) -> &[u8] {
        &self.memory[piece.at as usize..][..piece.len as usize]
    }

    /// Bytes of a piece, to be written.
    pub fn bytes_mut(&mut self, piece: Piece) -> &mut [u8] {
        &mut self.memory[piece.at as usize..][..piece.len as usize]
    }

    /// Bytes of several pieces, to be written together. The pieces must follow each other in
    /// memory, as buffers that were taken one after the other do.
    ///
    /// # Panics
    /// When they do not.
    pub fn each_bytes_mut<'a>(
        &'a mut self,
        pieces: impl IntoIterator<Item = Piece>,
        mut each: impl FnMut(&'a mut [u8]),
    ) {
        let mut rest = &mut self.memory[..];
        let mut at = 0;
        for piece in pieces {
            let (_, from) = rest.split_at_mut(piece.at as usize - at);
            let (bytes, behind) = from.split_at_mut(piece.len as usize);
            each(bytes);
            at = (piece.at + piece.len) as usize;
            rest = behind;
        }
    }

    /// Adds a packet that lies in one piece. Returns its index, or none when the batch is full.
    pub fn push(&mut self, head: Piece, offload: Offload, from: Via) -> Option<usize> {
        self.push_scattered(head, &[], offload, from)
    }

    /// Adds a packet that lies in several pieces. Returns its index, or none when there is no
    /// room for it.
    pub fn push_scattered(
        &mut self,
        head: Piece,
        tail: &[Piece],
        offload: Offload,
        from: Via,
    ) -> Option<usize> {
        if self.room() == 0 || self.pieces.len() + tail.len() > MAX_PIECES {
            return None;
        }
        let start = self.pieces.len() as u32;
        self.pieces.extend_from_slice(tail);
        self.packets.push(Packet {
            head,
            tail: (start, tail.len() as u16),
            tail_len: tail.iter().map(|piece| piece.len).sum(),
            offload,
            from,
            verdict: Verdict::Pending,
            not_before: 0,
            flow_hash: 0,
            trace: None,
        });
        Some(self.packets.len() - 1)
    }

    /// All packets.
    pub fn packets(&self) -> &[Packet] {
        &self.packets
    }

    /// One packet.
    pub fn packet(&self, index: usize) -> &Packet {
        &self.packets[index]
    }

    /// One packet, to be changed.
    pub fn packet_mut(&mut self, index: usize) -> &mut Packet {
        &mut self.packets[index]
    }

    /// One packet and the bytes of its head, to be changed together.
    pub fn packet_and_head(&mut self, index: usize) -> (&mut Packet, &mut [u8]) {
        let packet = &mut self.packets[index];
        let head = packet.head;
        (packet, &mut self.memory[head.at as usize..][..head.len as usize])
    }

    /// Bytes of a packet's head.
    pub fn head(&self, index: usize) -> &[u8] {
        self.bytes(self.packets[index].head)
    }

    /// The further pieces of a packet.
    pub fn tail(&self, packet: &Packet) -> &[Piece] {
        let (start, count) = packet.tail;
        &self.pieces[start as usize..][..usize::from(count)]
    }

    /// Puts `n` bytes in front of a packet's head and returns the whole head. The bytes are
    /// whatever lay there; the caller writes them.
    ///
    /// # Panics
    /// When there is no room in front: `n` must not exceed [`HEADROOM`] in total beyond what was
    /// received.
    pub fn grow_front(&mut self, index: usize, n: usize) -> &mut [u8] {
        let head = &mut self.packets[index].head;
        head.at -= n as u32;
        head.len += n as u32;
        &mut self.memory[head.at as usize..][..head.len as usize]
    }

    /// Takes `n` bytes off the front of a packet's head.
    ///
    /// # Panics
    /// When the head is shorter.
    pub fn shrink_front(&mut self, index: usize, n: usize) {
        let head = &mut self.packets[index].head;
        assert!(head.len as usize >= n, "headers lie in the head");
        head.at += n as u32;
        head.len -= n as u32;
    }

    /// Cuts a packet that lies in one piece down to `len` bytes (padding behind an IP packet).
    pub fn truncate(&mut self, index: usize, len: usize) {
        let packet = &mut self.packets[index];
        debug_assert_eq!(packet.tail.1, 0);
        packet.head.len = packet.head.len.min(len as u32);
    }

    /// Copies a whole packet out, for tests and for answers that quote it.
    pub fn copy_out(&self, index: usize) -> Vec<u8> {
        let packet = &self.packets[index];
        let mut out = self.bytes(packet.head).to_vec();
        for &piece in self.tail(packet) {
            out.extend_from_slice(self.bytes(piece));
        }
        out
    }
}
