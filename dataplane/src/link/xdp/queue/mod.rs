//! One queue of the uplink: an AF_XDP socket, its rings and its memory.
//!
//! The queues of one worker share one memory (a UMEM), each with fill and completion rings of its
//! own (`XDP_SHARED_UMEM`). Frames for receiving stay with their queue: what arrives is copied into
//! the worker's batch, so none has a reason to move. Frames for sending belong to the one queue by
//! which the worker sends; its other queues have none, which is what sharing saves.
//!
//! Reference: `Documentation/networking/af_xdp.rst` of the Linux kernel.
#![expect(unsafe_code, reason = "xsk-rs opens sockets on memory; getsockopt(2) with XDP_OPTIONS")]

mod receiver;
mod transmitter;

pub(super) use receiver::{Next, Receiver};
pub(super) use transmitter::{PacketWriter, Transmitter};

use std::io;
use std::num::NonZeroU32;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::str::FromStr;
use std::time::Duration;

use libc::c_int;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use parking_lot::Mutex;
use xsk_rs::config::{
    BindFlags, FrameSize, Interface as Name, LibxdpFlags, QueueSize, SocketConfig, UmemConfig,
};
use xsk_rs::{FrameDesc, Socket, Umem};

use crate::link::sys;

/// Bytes of a frame with the headroom that XDP keeps in front: a page, the largest there is.
const FRAME_LEN: u32 = 4096;

/// Bytes of a packet in one frame; what is longer takes several.
pub(super) const FRAME_ROOM: usize = FRAME_LEN as usize - 256;

/// Descriptors looked at together.
const WINDOW: usize = 256;

/// Packets that one system call may send in copy mode (`XDP_MAX_TX_SKB_BUDGET`, Linux 6.17).
const XDP_MAX_TX_SKB_BUDGET: c_int = 9;

/// Linux 5.11; not among libc's constants for all systems.
const SO_PREFER_BUSY_POLL: c_int = 69;
const SO_BUSY_POLL_BUDGET: c_int = 70;

/// Packets that a driver handles in one busy poll, as many as after an interrupt
/// (`NAPI_POLL_WEIGHT`).
const BUSY_BUDGET: c_int = 64;

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

/// Memory for the queues of one worker, while they are being opened.
pub(super) struct Memory {
    umem: Umem,
    /// Frames that no queue has yet.
    frames: Vec<FrameDesc>,
    /// Places in the rings of each queue, a power of two.
    ring: u32,
}

impl Memory {
    /// For so many queues with rings of `ring` places, a power of two. One of them sends.
    ///
    /// # Errors
    /// What the system said: usually that memory cannot be locked.
    pub(super) fn new(queues: u32, ring: u32) -> io::Result<Self> {
        let receive_frames = RECEIVE_FRAMES * ring;
        let config = UmemConfig::builder()
            .frame_size(FrameSize::new(FRAME_LEN).map_err(|_| invalid())?)
            .fill_queue_size(size(FILL_PLACES * receive_frames)?)
            .comp_queue_size(size(ring)?)
            .build()
            .map_err(|_| invalid())?;
        let frames = NonZeroU32::new(queues * receive_frames + ring).ok_or_else(invalid)?;
        let (umem, frames) = Umem::new(config, frames, false).map_err(|e| cause(&e))?;
        Ok(Self { umem, frames, ring })
    }
}

/// Frames for receiving, for each place in the receive ring: there must be some for what arrives
/// while a full ring is being read.
const RECEIVE_FRAMES: u32 = 2;

/// Places in the fill ring for each frame. The kernel shows what it has received before it lets go
/// of the frames' places (`xsk_flush`, `net/xdp/xsk.c`), so that a frame which is given back at once
/// has two for a moment.
const FILL_PLACES: u32 = 2;

fn invalid() -> io::Error {
    io::Error::from_raw_os_error(libc::EINVAL)
}

fn size(n: u32) -> io::Result<QueueSize> {
    QueueSize::new(n).map_err(|_| invalid())
}

/// A queue of the interface.
pub(super) struct Queue {
    pub(super) rx: Mutex<Receiver>,
    /// Without frames where the worker sends by another one.
    pub(super) tx: Mutex<Transmitter>,
    pub(super) copying: Copying,
    fd: c_int,
}

impl Queue {
    /// Opens a socket on a queue and fills its fill ring. The first queue of a memory decides for
    /// all whether the kernel copies: zero-copy is tried first; with `copying` [`Copying::Zero`] it
    /// is had or the queue is not opened. `sends` says whether packets leave by it, which those of
    /// one queue of the memory may.
    ///
    /// # Errors
    /// What the system said, `EBUSY` among it while another socket, perhaps of a process that has
    /// just ended, has the queue, and `EOPNOTSUPP` when the driver has no zero-copy and nothing
    /// else would do. The memory is as it was.
    pub(super) fn open(
        interface: &str,
        number: u32,
        memory: &mut Memory,
        copying: Option<Copying>,
        sends: bool,
    ) -> io::Result<Self> {
        let Memory { umem, frames, ring } = memory;
        let ring = *ring;
        // Without XDP_COPY or XDP_ZEROCOPY the kernel tries zero-copy and falls back.
        let copying = match copying {
            Some(Copying::Zero) => BindFlags::XDP_ZEROCOPY,
            Some(Copying::Once) => BindFlags::XDP_COPY,
            None => BindFlags::empty(),
        };
        let config = SocketConfig::builder()
            .rx_queue_size(size(ring)?)
            .tx_queue_size(size(ring)?)
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .bind_flags(BindFlags::XDP_USE_NEED_WAKEUP | BindFlags::XDP_USE_SG | copying)
            .build();
        let name = Name::from_str(interface).map_err(|_| invalid())?;
        // SAFETY: no other socket of this memory is bound to this queue, because a queue is opened
        // once; and libxdp is told to load no program.
        let (tx, rx, rings) =
            unsafe { Socket::new(config, umem, &name, number) }.map_err(|e| cause(&e))?;
        let Some((fill, completion)) = rings else {
            return Err(io::Error::other("the socket came without fill and completion ring"));
        };
        let fd = rx.fd().as_raw_fd();
        let copying = obtained(fd)?;
        let for_receiving = frames.split_off(frames.len() - (RECEIVE_FRAMES * ring) as usize);
        let for_sending = if sends { ring } else { 0 };
        let for_sending = frames.split_off(frames.len() - for_sending as usize);
        let queue = Self {
            rx: Mutex::new(Receiver::new(rx, fill, umem.clone(), &for_receiving)),
            tx: Mutex::new(Transmitter::new(tx, completion, umem.clone(), for_sending, ring)),
            copying,
            fd,
        };
        if sends {
            queue.raise_send_limits(number, ring);
        }
        Ok(queue)
    }

    /// Has the driver polled by who reads this queue, in place of its interrupts while there is
    /// something to read (`napi_busy_loop`, `net/core/dev.c`).
    ///
    /// # Errors
    /// What the kernel says that knows no `SO_PREFER_BUSY_POLL` (it came with 5.11).
    pub(super) fn poll_busily(&self, period: Duration) -> io::Result<()> {
        // Reading never waits, so that to the kernel any period but none is the same.
        for (option, value) in
            [(SO_PREFER_BUSY_POLL, 1), (libc::SO_BUSY_POLL, 1), (SO_BUSY_POLL_BUDGET, BUSY_BUDGET)]
        {
            sys::set_option(self.fd(), libc::SOL_SOCKET, option, value)?;
        }
        self.rx.lock().poll_busily(period);
        Ok(())
    }

    /// What the kernel says about it.
    #[cfg(test)]
    pub(super) fn prefers_busy_poll(&self) -> bool {
        let mut value: c_int = 0;
        let mut len = size_of_val(&value) as u32;
        // SAFETY: address and length are those of `value`, which lives for the call.
        let result = unsafe {
            libc::getsockopt(
                self.fd,
                libc::SOL_SOCKET,
                SO_PREFER_BUSY_POLL,
                (&raw mut value).cast(),
                &raw mut len,
            )
        };
        assert_eq!(result, 0, "SO_PREFER_BUSY_POLL");
        value != 0
    }

    /// Lets one call send a whole ring, in copy mode.
    fn raise_send_limits(&self, number: u32, ring: u32) {
        let budget =
            sys::set_option(self.fd(), libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, ring as c_int);
        if let Err(error) = budget {
            // An older kernel: 32 packets a call. A send that finds more says EAGAIN and is
            // repeated.
            tracing::debug!("raising the send budget of queue {number}: {error}");
        }
        if let Err(error) =
            sys::set_option(self.fd(), libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, SEND_BUFFER)
        {
            tracing::debug!("raising the send buffer of queue {number}: {error}");
        }
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
fn obtained(fd: c_int) -> io::Result<Copying> {
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
