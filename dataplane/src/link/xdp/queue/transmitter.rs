//! The sending half of a queue: its transmit and completion rings, and packets that are written.
#![expect(unsafe_code, reason = "frames lie in memory that the kernel reads, and xsk-rs says so")]

use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, send};
use xsk_rs::{CompQueue, FrameDesc, TxQueue, Umem};

use super::{FRAME_ROOM, WINDOW};

/// Set in all descriptors of a packet but its last (`XDP_PKT_CONTD`).
const MORE: u32 = 1;

/// The sending half of a queue.
pub(in crate::link::xdp) struct Transmitter {
    ring: TxQueue,
    completion: CompQueue,
    umem: Umem,
    free: Vec<FrameDesc>,
    /// Frames that are written and not in the ring yet.
    staged: Vec<FrameDesc>,
    completed: Box<[FrameDesc]>,
    /// Places in the ring.
    length: u32,
}

impl Transmitter {
    /// With these free frames, for a ring with so many places.
    pub(super) fn new(
        ring: TxQueue,
        completion: CompQueue,
        umem: Umem,
        free: Vec<FrameDesc>,
        length: u32,
    ) -> Self {
        let staged = Vec::with_capacity(free.len());
        let completed = vec![FrameDesc::default(); WINDOW].into_boxed_slice();
        Self { ring, completion, umem, free, staged, completed, length }
    }

    /// Whether there are frames for a packet of `len` bytes.
    pub(in crate::link::xdp) fn has_room(&self, len: usize) -> bool {
        self.free.len() >= len.div_ceil(FRAME_ROOM)
    }

    /// Begins a packet that [`Transmitter::has_room`] has room for. Its first `skip` bytes, fewer
    /// than a frame holds, are written last, by [`PacketWriter::finish`].
    pub(in crate::link::xdp) fn begin(&mut self, skip: usize) -> Option<PacketWriter<'_>> {
        let first = self.staged.len();
        self.staged.push(self.free.pop()?);
        Some(PacketWriter { transmitter: self, first, at: skip })
    }

    /// Takes back all frames that were sent.
    pub(in crate::link::xdp) fn reclaim(&mut self) {
        loop {
            // SAFETY: what comes out of the ring are frames of `umem`, with which it was made.
            let count = unsafe { self.completion.consume(&mut self.completed) };
            self.free.extend_from_slice(&self.completed[..count]);
            if count < self.completed.len() {
                return;
            }
        }
    }

    /// Puts what was written into the ring.
    pub(in crate::link::xdp) fn submit(&mut self) {
        // SAFETY: the frames are of `umem`, were written, and nothing refers to them any more.
        let taken = unsafe { self.ring.produce(&self.staged) };
        debug_assert!(self.staged.is_empty() || taken == self.staged.len(), "a place for all");
        self.staged.clear();
    }

    /// How many frames wait in the ring for the kernel.
    pub(in crate::link::xdp) fn waiting(&mut self) -> u32 {
        self.length - self.ring.nb_free_exact()
    }

    /// Lets the kernel send what is in the ring, if it waits to be told.
    ///
    /// # Errors
    /// What sendto(2) said; what was not sent is still in the ring.
    pub(in crate::link::xdp) fn kick(&self) -> Result<(), Errno> {
        if !self.ring.needs_wakeup() {
            return Ok(());
        }
        send(self.ring.fd().as_raw_fd(), &[], MsgFlags::MSG_DONTWAIT).map(drop)
    }
}

/// Writes one packet into as many frames as it takes.
pub(in crate::link::xdp) struct PacketWriter<'a> {
    transmitter: &'a mut Transmitter,
    /// Place of its first frame among those that are staged.
    first: usize,
    /// Bytes in the last frame.
    at: usize,
}

impl PacketWriter<'_> {
    /// Adds bytes. Returns false when there was no frame for them.
    pub(in crate::link::xdp) fn write(&mut self, mut bytes: &[u8]) -> bool {
        let Transmitter { umem, staged, free, .. } = &mut *self.transmitter;
        while !bytes.is_empty() {
            if self.at == FRAME_ROOM {
                let Some(frame) = free.pop() else { return false };
                if let Some(last) = staged.last_mut() {
                    last.set_options(MORE);
                }
                staged.push(frame);
                self.at = 0;
            }
            let Some(frame) = staged.last_mut() else { return false };
            let (now, later) = bytes.split_at(bytes.len().min(FRAME_ROOM - self.at));
            fill(umem, frame, self.at, now);
            self.at += now.len();
            bytes = later;
        }
        true
    }

    /// Writes the bytes that were skipped. The packet is complete.
    pub(in crate::link::xdp) fn finish(self, front: &[&[u8]]) {
        let Transmitter { umem, staged, .. } = self.transmitter;
        let frame = &mut staged[self.first];
        let len = frame.lengths().data();
        let mut at = 0;
        for bytes in front {
            fill(umem, frame, at, bytes);
            at += bytes.len();
        }
        if len > at {
            // SAFETY: as in `fill`.
            unsafe { umem.data_mut(frame) }.cursor().set_pos(len);
        }
    }

    /// Gives the frames back; nothing of the packet is sent.
    pub(in crate::link::xdp) fn abandon(self) {
        let Transmitter { staged, free, .. } = self.transmitter;
        for mut frame in staged.drain(self.first..) {
            frame.set_options(0);
            free.push(frame);
        }
    }
}

/// Copies bytes into a frame, which then ends behind them.
fn fill(umem: &Umem, frame: &mut FrameDesc, at: usize, bytes: &[u8]) {
    // SAFETY: the frame is of this memory, is neither in a ring nor free, and is borrowed
    // exclusively; frames do not overlap.
    let mut data = unsafe { umem.data_mut(frame) };
    data.cursor().set_pos(at + bytes.len());
    data.contents_mut()[at..].copy_from_slice(bytes);
}
