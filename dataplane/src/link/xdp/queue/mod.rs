//! One queue of the uplink: an AF_XDP socket, its rings and its memory.
//!
//! Each queue has memory (a UMEM) of its own. What arrives is copied into the worker's batch and
//! what leaves is copied out of it, so no frame ever moves from one queue to another; memory that
//! they shared would only be a list of free frames that they fight over. A queue's receiving and
//! sending halves have their own frames for the same reason.
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

use libc::c_int;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use parking_lot::Mutex;
use xsk_rs::config::{
    BindFlags, FrameSize, Interface as Name, LibxdpFlags, QueueSize, SocketConfig, UmemConfig,
};
use xsk_rs::{Socket, Umem};

use crate::link::sys;

/// Bytes of a frame with the headroom that XDP keeps in front: a page, the largest there is.
const FRAME_LEN: u32 = 4096;

/// Bytes of a packet in one frame; what is longer takes several.
pub(super) const FRAME_ROOM: usize = FRAME_LEN as usize - 256;

/// Descriptors looked at together.
const WINDOW: usize = 256;

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
    /// power of two. Zero-copy is tried first; with `copying` [`Copying::Zero`] it is had or the
    /// queue is not opened.
    ///
    /// # Errors
    /// What the system said, `EBUSY` among it while another socket, perhaps of a process that has
    /// just ended, has the queue, and `EOPNOTSUPP` when the driver has no zero-copy and nothing
    /// else would do.
    pub(super) fn open(
        interface: &str,
        number: u32,
        ring: u32,
        copying: Option<Copying>,
    ) -> io::Result<Self> {
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
        // SAFETY: the memory is new, so no other socket of it is bound to this queue; and libxdp
        // is told to load no program.
        let (tx, rx, rings) =
            unsafe { Socket::new(config, &umem, &name, number) }.map_err(|e| cause(&e))?;
        let Some((fill, completion)) = rings else {
            return Err(io::Error::other("the socket came without fill and completion ring"));
        };
        let fd = rx.fd().as_raw_fd();
        let for_receiving = frames.split_off(ring as usize);
        let queue = Self {
            rx: Mutex::new(Receiver::new(rx, fill, umem.clone(), &for_receiving)),
            tx: Mutex::new(Transmitter::new(tx, completion, umem, frames, ring)),
            copying: obtained(fd)?,
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
