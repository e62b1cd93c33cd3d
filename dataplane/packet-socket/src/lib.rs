//! Packet sockets (packet(7)) on one network device, with virtio-net headers.
//!
//! A socket opened here hands out and takes Ethernet frames, each with a `virtio_net_hdr` of
//! [`VNET_HEADER_LEN`] bytes in front that says how the frame is to be cut and which checksum is
//! still to be filled in, so that one call carries a TCP or UDP super-packet of up to 64 KiB. It
//! sees a copy of what the device receives, and nothing of what it sends: what the kernel does with
//! the frames themselves is decided elsewhere (a filter at the device's ingress comes after the
//! packet sockets, `__netif_receive_skb_core` in `net/core/dev.c` of the Linux kernel).
//!
//! The socket may be opened in one process and used in another. It keeps neither its device nor
//! any namespace but its own alive.

#![deny(unsafe_code)]

mod sys;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Length of the `virtio_net_hdr` in front of every frame, in bytes.
pub const VNET_HEADER_LEN: usize = 10;

/// Bytes that may wait to be read, and bytes that may be on their way to the receiver, each
/// counted with the kernel's own overhead and doubled by it: enough for the window of a fast TCP
/// stream, whose sender does not see the queue (its packets count as sent once they are copied).
const BUFFER: libc::c_int = 8 << 20;

/// Why a packet socket could not be had.
#[derive(Debug, thiserror::Error)]
pub enum PacketSocketError {
    /// It could not be opened.
    #[error(
        "opening a packet socket, {call}: {source} (EPERM: CAP_NET_RAW or CAP_NET_ADMIN is \
         missing; ENODEV: the device is gone; ENOPROTOOPT: the kernel is older than 4.20)"
    )]
    Open {
        /// What was being done.
        call: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A descriptor that is no packet socket with virtio-net headers.
    #[error("the descriptor is not a packet socket with virtio-net headers: {0}")]
    WrongKind(io::Error),
}

/// A packet socket on one device.
#[derive(Debug)]
pub struct PacketSocket(OwnedFd);

impl PacketSocket {
    /// Opens a socket on the device with this index in the current network namespace. It does not
    /// block.
    ///
    /// # Errors
    /// [`PacketSocketError::Open`]; `CAP_NET_RAW` and `CAP_NET_ADMIN` are needed.
    pub fn open(index: u32) -> Result<Self, PacketSocketError> {
        let failed = |call| move |source| PacketSocketError::Open { call, source };
        // Without a protocol it receives nothing until it is bound to its device.
        let socket = sys::socket().map_err(failed("socket"))?;
        let fd = socket.as_fd();
        for (call, level, option, value) in [
            ("PACKET_VNET_HDR", libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1),
            ("PACKET_IGNORE_OUTGOING", libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1),
            ("PACKET_AUXDATA", libc::SOL_PACKET, libc::PACKET_AUXDATA, 1),
            ("SO_RCVBUFFORCE", libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, BUFFER),
            ("SO_SNDBUFFORCE", libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, BUFFER),
        ] {
            sys::set_option(fd, level, option, value).map_err(failed(call))?;
        }
        sys::bind(fd, index).map_err(failed("bind"))?;
        Ok(Self(socket))
    }

    /// Adopts a descriptor that another process opened by [`PacketSocket::open`].
    ///
    /// # Errors
    /// [`PacketSocketError::WrongKind`].
    pub fn from_fd(fd: OwnedFd) -> Result<Self, PacketSocketError> {
        let wrong = PacketSocketError::WrongKind;
        let option = |level, option| sys::option(fd.as_fd(), level, option).map_err(wrong);
        let found = (
            option(libc::SOL_SOCKET, libc::SO_DOMAIN)?,
            option(libc::SOL_SOCKET, libc::SO_TYPE)?,
            option(libc::SOL_PACKET, libc::PACKET_VNET_HDR)?,
            option(libc::SOL_PACKET, libc::PACKET_AUXDATA)?,
        );
        if found != (libc::AF_PACKET, libc::SOCK_RAW, 1, 1) {
            return Err(wrong(io::ErrorKind::InvalidInput.into()));
        }
        Ok(Self(fd))
    }

    /// Index of the device that the socket is bound to, in the namespace where it was opened. None
    /// when the device is gone, or was moved to another namespace.
    ///
    /// # Errors
    /// The system's.
    pub fn device(&self) -> io::Result<Option<u32>> {
        device(self.as_fd())
    }

    /// Frames that were lost because the socket's buffer was full, since the last call
    /// (`PACKET_STATISTICS`).
    ///
    /// # Errors
    /// The system's.
    pub fn take_lost(&self) -> io::Result<u32> {
        sys::take_drops(self.as_fd())
    }

    /// Gives the descriptor away.
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// [`PacketSocket::device`] of a descriptor.
///
/// # Errors
/// `ENOTSOCK` when it is no socket at all, `InvalidInput` when it is one of another family.
pub fn device(fd: BorrowedFd<'_>) -> io::Result<Option<u32>> {
    let index = sys::bound_to(fd)?;
    // The kernel sets it to -1 when the device is unregistered (`packet_notifier`).
    Ok(u32::try_from(index).ok().filter(|&index| index > 0))
}
