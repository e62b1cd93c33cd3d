//! One queue of the uplink: an AF_XDP socket, its rings and its memory.
//!
//! Each queue has memory (a UMEM) of its own. What arrives is copied into the worker's batch and
//! what leaves is copied out of it, so no frame ever moves from one queue to another; memory that
//! they shared would only be a list of free frames that they fight over. A queue's receiving and
//! sending halves have their own frames for the same reason.
//!
//! Reference: `Documentation/networking/af_xdp.rst` of the Linux kernel.
#![expect(unsafe_code, reason = "frames lie in memory that the kernel writes, and xsk-rs says so")]

use std::io;
use std::num::NonZeroU32;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::str::FromStr;

use libc::c_int;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};
use parking_lot::Mutex;
use xsk_rs::config::{
    BindFlags, FrameSize, Interface as Name, LibxdpFlags, QueueSize, SocketConfig, UmemConfig,
};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue, Umem};

use crate::link::sys;

/// Bytes of a frame with the headroom that XDP keeps in front: a page, the largest there is.
const FRAME_LEN: u32 = 4096;

/// Bytes of a packet in one frame; what is longer takes several.
pub(super) const FRAME_ROOM: usize = FRAME_LEN as usize - 256;

/// Descriptors looked at together.
const WINDOW: usize = 256;

/// Set in all descriptors of a packet but its last (`XDP_PKT_CONTD`).
const MORE: u32 = 1;

/// Packets that one system call may send in copy mode (`XDP_MAX_TX_SKB_BUDGET`, Linux 6.17).
const XDP_MAX_TX_SKB_BUDGET: c_int = 9;

/// Bytes of packets that a socket may have on their way in copy mode.
const SEND_BUFFER: c_int = 8 << 20;

/// Whether the kernel moves frames to and from the card itself, or copies them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Copying {
    /// The card reads and writes the frames.
    Zero,
    /// The kernel copies.
    Once,
}

/// A queue of the interface.
pub(super) struct Queue {
    pub(super) rx: Mutex<Receiver>,
    pub(super) tx: Mutex<Transmitter>,
    pub(super) copying: Copying,
    fd: c_int,
}

impl Queue {
    /// Opens a socket on a queue and fills its fill ring. `ring` is the length of the rings, a
    /// power of two.
    ///
    /// # Errors
    /// What the system said, `EBUSY` among it while another socket, perhaps of a process that has
    /// just ended, has the queue.
    pub(super) fn open(interface: &str, number: u32, ring: u32) -> io::Result<Self> {
        let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
        let size = |n| QueueSize::new(n).map_err(|_| invalid());
        // Twice the receive ring, so that there are frames for what arrives while a full ring is
        // being read.
        let receive_frames = 2 * ring;
        let config = UmemConfig::builder()
            .frame_size(FrameSize::new(FRAME_LEN).map_err(|_| invalid())?)
            .fill_queue_size(size(receive_frames)?)
            .comp_queue_size(size(ring)?)
            .build()
            .map_err(|_| invalid())?;
        let frames = NonZeroU32::new(receive_frames + ring).ok_or_else(invalid)?;
        let (umem, mut frames) = Umem::new(config, frames, false).map_err(|e| cause(&e))?;
        // Without XDP_COPY or XDP_ZEROCOPY the kernel tries zero-copy and falls back.
        let config = SocketConfig::builder()
            .rx_queue_size(size(ring)?)
            .tx_queue_size(size(ring)?)
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .bind_flags(BindFlags::XDP_USE_NEED_WAKEUP | BindFlags::XDP_USE_SG)
            .build();
        let name = Name::from_str(interface).map_err(|_| invalid())?;
        // SAFETY: the memory is new, so no other socket of it is bound to this queue; and libxdp
        // is told to load no program.
        let (tx, rx, rings) =
            unsafe { Socket::new(config, &umem, &name, number) }.map_err(|e| cause(&e))?;
        let Some((fill, completion)) = rings else {
            return Err(io::Error::other("the socket came without fill and completion ring"));
        };
        let fd = rx.fd().as_raw_fd();
        let for_receiving = frames.split_off(ring as usize);
        let mut receiver = Receiver {
            ring: rx,
            fill,
            umem: umem.clone(),
            window: vec![FrameDesc::default(); WINDOW].into_boxed_slice(),
            start: 0,
            end: 0,
        };
        receiver.give(&for_receiving);
        let queue = Self {
            rx: Mutex::new(receiver),
            tx: Mutex::new(Transmitter {
                ring: tx,
                completion,
                umem,
                staged: Vec::with_capacity(frames.len()),
                completed: vec![FrameDesc::default(); WINDOW].into_boxed_slice(),
                free: frames,
                length: ring,
            }),
            copying: copying(fd)?,
            fd,
        };
        let budget =
            sys::set_option(queue.fd(), libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, ring as c_int);
        if let Err(error) = budget {
            // An older kernel: 32 packets a call. A send that finds more says EAGAIN and is
            // repeated.
            tracing::debug!("raising the send budget of queue {number}: {error}");
        }
        if let Err(error) =
            sys::set_option(queue.fd(), libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, SEND_BUFFER)
        {
            tracing::debug!("raising the send buffer of queue {number}: {error}");
        }
        Ok(queue)
    }

    /// The socket.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is the socket's, which lives as long as the rings in `self`.
        unsafe { BorrowedFd::borrow_raw(self.fd) }
    }

    /// The error that waits at the socket, which tells a device that went away (`ENETDOWN`) from
    /// silence.
    pub(super) fn error(&self) -> Option<io::Error> {
        use nix::sys::socket::{getsockopt, sockopt::SocketError};
        match getsockopt(&self.fd(), SocketError) {
            Ok(0) => None,
            Ok(error) => Some(io::Error::from_raw_os_error(error)),
            Err(errno) => Some(errno.into()),
        }
    }

    /// Waits until the socket takes more, at most so many milliseconds.
    pub(super) fn wait(&self, ms: u8) {
        let mut writable = [PollFd::new(self.fd(), PollFlags::POLLOUT)];
        // Whether it does, the next attempt to send shows.
        let _ = poll(&mut writable, PollTimeout::from(ms));
    }

    /// What the kernel threw away at this socket: for want of a place in the receive ring, of a
    /// frame in the fill ring, and for other reasons.
    pub(super) fn lost(&self) -> io::Result<[u64; 3]> {
        let statistics = self.rx.lock().ring.fd().xdp_statistics()?;
        Ok([
            statistics.rx_ring_full(),
            statistics.rx_fill_ring_empty_descs(),
            statistics.rx_dropped(),
        ])
    }
}

/// What lies in the receive ring.
pub(super) enum Next {
    /// A packet: the descriptors of its frames, to be given to [`Receiver::bytes`].
    Packet(Range<usize>),
    /// A packet of more frames than any can have; it was thrown away.
    Endless,
    /// Nothing more for now.
    Empty,
}

/// The receiving half of a queue.
pub(super) struct Receiver {
    ring: RxQueue,
    fill: FillQueue,
    umem: Umem,
    /// Descriptors that were taken out of the ring; those before `start` are done with.
    window: Box<[FrameDesc]>,
    start: usize,
    end: usize,
}

impl Receiver {
    /// The next packet that has arrived whole.
    pub(super) fn next(&mut self) -> Next {
        loop {
            let waiting = &self.window[self.start..self.end];
            if let Some(last) = waiting.iter().position(|frame| !frame.has_more_frames()) {
                let packet = self.start..self.start + last + 1;
                self.start = packet.end;
                return Next::Packet(packet);
            }
            self.release();
            if self.end == self.window.len() {
                self.start = self.end;
                self.release();
                return Next::Endless;
            }
            // SAFETY: what comes out of the ring are frames of `umem`, with which it was made.
            let taken = unsafe { self.ring.consume(&mut self.window[self.end..]) };
            if taken == 0 {
                return Next::Empty;
            }
            self.end += taken;
        }
    }

    /// The frames of a packet that [`Receiver::next`] returned last, in order.
    pub(super) fn bytes(&self, packet: Range<usize>) -> impl Iterator<Item = &[u8]> {
        self.window[packet].iter().map(|frame| {
            // SAFETY: the frame came out of the ring and has not been given back, so it is ours;
            // nobody writes to it.
            unsafe { self.umem.data(frame) }.contents()
        })
    }

    /// Gives the frames of all packets that were returned back to the kernel.
    pub(super) fn release(&mut self) {
        let done = std::mem::take(&mut self.start);
        self.produce(0..done);
        self.window.copy_within(done..self.end, 0);
        self.end -= done;
    }

    /// Tells the driver that there are frames again, if it waits to be told.
    pub(super) fn wake(&mut self) {
        if self.fill.needs_wakeup() {
            // What the kernel says is seen by who reads: this only lets it work.
            let _ = self.ring.poll(0);
        }
    }

    fn produce(&mut self, frames: Range<usize>) {
        // SAFETY: the frames are of `umem` and were taken out of the receive ring; nothing refers
        // to them any more.
        let taken = unsafe { self.fill.produce(&self.window[frames.clone()]) };
        debug_assert_eq!(taken, frames.len(), "the fill ring has a place for every frame");
    }

    fn give(&mut self, frames: &[FrameDesc]) {
        // SAFETY: the frames are new ones of `umem`.
        let taken = unsafe { self.fill.produce(frames) };
        debug_assert_eq!(taken, frames.len(), "the fill ring has a place for every frame");
    }
}

/// The sending half of a queue.
pub(super) struct Transmitter {
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
    /// Whether there are frames for a packet of `len` bytes.
    pub(super) fn has_room(&self, len: usize) -> bool {
        self.free.len() >= len.div_ceil(FRAME_ROOM)
    }

    /// Begins a packet that [`Transmitter::has_room`] has room for. Its first `skip` bytes, fewer
    /// than a frame holds, are written last, by [`PacketWriter::finish`].
    pub(super) fn begin(&mut self, skip: usize) -> Option<PacketWriter<'_>> {
        let first = self.staged.len();
        self.staged.push(self.free.pop()?);
        Some(PacketWriter { transmitter: self, first, at: skip })
    }

    /// Takes back all frames that were sent.
    pub(super) fn reclaim(&mut self) {
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
    pub(super) fn submit(&mut self) {
        // SAFETY: the frames are of `umem`, were written, and nothing refers to them any more.
        let taken = unsafe { self.ring.produce(&self.staged) };
        debug_assert!(self.staged.is_empty() || taken == self.staged.len(), "a place for all");
        self.staged.clear();
    }

    /// How many frames wait in the ring for the kernel.
    pub(super) fn waiting(&mut self) -> u32 {
        self.length - self.ring.nb_free_exact()
    }

    /// Lets the kernel send what is in the ring, if it waits to be told.
    ///
    /// # Errors
    /// What sendto(2) said; what was not sent is still in the ring.
    pub(super) fn kick(&self) -> Result<(), Errno> {
        if !self.ring.needs_wakeup() {
            return Ok(());
        }
        send(self.ring.fd().as_raw_fd(), &[], MsgFlags::MSG_DONTWAIT).map(drop)
    }
}

/// Writes one packet into as many frames as it takes.
pub(super) struct PacketWriter<'a> {
    transmitter: &'a mut Transmitter,
    /// Place of its first frame among those that are staged.
    first: usize,
    /// Bytes in the last frame.
    at: usize,
}

impl PacketWriter<'_> {
    /// Adds bytes. Returns false when there was no frame for them.
    pub(super) fn write(&mut self, mut bytes: &[u8]) -> bool {
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
    pub(super) fn finish(self, front: &[&[u8]]) {
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
    pub(super) fn abandon(self) {
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

/// The operating system's error in one of xsk-rs.
fn cause(error: &(dyn std::error::Error + 'static)) -> io::Error {
    match error.source().and_then(|source| source.downcast_ref::<io::Error>()) {
        Some(source) => source
            .raw_os_error()
            .map_or_else(|| io::Error::other(source.to_string()), io::Error::from_raw_os_error),
        None => io::Error::other(error.to_string()),
    }
}

/// What the kernel made of a socket (`XDP_OPTIONS`).
fn copying(fd: c_int) -> io::Result<Copying> {
    let mut options = libc::xdp_options { flags: 0 };
    let mut len = size_of_val(&options) as u32;
    // SAFETY: address and length are those of `options`, which lives for the call.
    let result = unsafe {
        libc::getsockopt(
            fd,
            libc::SOL_XDP,
            libc::XDP_OPTIONS,
            (&raw mut options).cast(),
            &raw mut len,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let zero = options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0;
    Ok(if zero { Copying::Zero } else { Copying::Once })
}
