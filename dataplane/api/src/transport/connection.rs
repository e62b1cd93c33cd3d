//! One end of a connection.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    net::Shutdown,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
    time::Duration,
};

use nix::sys::socket::{
    self, AddressFamily, SockFlag, SockType, UnixAddr, getsockopt, setsockopt, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::{Serialize, de::DeserializeOwned};

use super::{MAX_FDS, TransportError};
use crate::codec::{self, MAX_FRAME};

/// Bytes of send buffer asked for: several full frames, so that a sender seldom waits.
const SEND_BUFFER: usize = 4 * MAX_FRAME;

/// Descriptors that can come in one packet at all (`SCM_MAX_FD`, include/net/scm.h). Room for all
/// of them, so that what a peer sends too many of is received, owned, and closed.
const KERNEL_MAX_FDS: usize = 253;

/// Who is at the other end, as the kernel recorded it when the connection was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerCredentials {
    /// Process; 0 when it lives outside this PID namespace.
    pub pid: i32,
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
}

/// One end of a connection. Messages may be sent and received by different threads at once.
#[derive(Debug)]
pub struct Connection {
    socket: OwnedFd,
}

impl Connection {
    /// Connects to the server at `path`.
    pub fn connect(path: &Path) -> Result<Self, TransportError> {
        let failed = |source: nix::Error| TransportError::Path {
            operation: "connect to",
            path: path.to_owned(),
            source: source.into(),
        };
        let address = UnixAddr::new(path).map_err(failed)?;
        let socket = new_socket(SockFlag::empty()).map_err(failed)?;
        loop {
            match socket::connect(socket.as_raw_fd(), &address) {
                Ok(()) => break,
                Err(nix::Error::EINTR) => {}
                Err(e) => return Err(failed(e)),
            }
        }
        Ok(Self::from_socket(socket))
    }

    /// Two ends of one connection, without a path.
    pub fn pair() -> Result<(Self, Self), TransportError> {
        let (a, b) = socket::socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .map_err(|e| TransportError::Io { operation: "make a socket pair", source: e.into() })?;
        Ok((Self::from_socket(a), Self::from_socket(b)))
    }

    pub(super) fn from_socket(socket: OwnedFd) -> Self {
        // Smaller buffers only mean that a sender waits more often.
        let _ = setsockopt(&socket, sockopt::SndBuf, &SEND_BUFFER);
        Self { socket }
    }

    /// Sends a message and duplicates of `fds`. Waits while the other side does not read, at most
    /// as long as [`Self::set_timeouts`] says.
    pub fn send<T: Serialize>(
        &self,
        message: &T,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), TransportError> {
        if fds.len() > MAX_FDS {
            return Err(TransportError::TooManyDescriptors { count: fds.len() });
        }
        let frame = codec::encode(message)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(TransportError::TooManyDescriptors { count: fds.len() });
        }
        loop {
            let sent = rustix::net::sendmsg(
                &self.socket,
                &[IoSlice::new(&frame)],
                &mut control,
                SendFlags::NOSIGNAL,
            );
            match sent {
                // A sequenced packet goes whole or not at all.
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(failed("send a message", e.into())),
            }
        }
    }

    /// Receives the next message with its descriptors, all of them closed on exec. None: the
    /// other side has closed. Whatever is wrong with a packet, its descriptors do not leak.
    pub fn recv<T: DeserializeOwned>(&self) -> Result<Option<(T, Vec<OwnedFd>)>, TransportError> {
        let mut frame = vec![0_u8; MAX_FRAME];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(KERNEL_MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut was_reset = false;
        let packet = loop {
            let received = rustix::net::recvmsg(
                &self.socket,
                &mut [IoSliceMut::new(&mut frame)],
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            );
            match received {
                Ok(packet) => break packet,
                Err(rustix::io::Errno::INTR) => {}
                // The other side closed without reading all we sent. The kernel says so once and
                // then delivers what that side had sent before, which may be the reason.
                Err(rustix::io::Errno::CONNRESET) if !was_reset => was_reset = true,
                Err(e) => return Err(failed("receive a message", e.into())),
            }
        };
        let fds: Vec<OwnedFd> = control
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(fds) => Some(fds),
                _ => None,
            })
            .flatten()
            .collect();
        if packet.bytes == 0 {
            return Ok(None);
        }
        if packet.flags.contains(ReturnFlags::TRUNC) {
            return Err(TransportError::FrameTooLong);
        }
        if packet.flags.contains(ReturnFlags::CTRUNC) {
            return Err(TransportError::DescriptorsLost);
        }
        if fds.len() > MAX_FDS {
            return Err(TransportError::TooManyDescriptors { count: fds.len() });
        }
        Ok(Some((codec::decode(&frame[..packet.bytes])?, fds)))
    }

    /// How long receiving and sending may wait; none: for ever.
    pub fn set_timeouts(
        &self,
        read: Option<Duration>,
        write: Option<Duration>,
    ) -> Result<(), TransportError> {
        // Zero means "for ever" to the kernel, and a timeout of none does here.
        let value = |limit: Option<Duration>| {
            TimeVal::microseconds(
                limit
                    .map_or(0, |limit| i64::try_from(limit.as_micros()).unwrap_or(i64::MAX).max(1)),
            )
        };
        setsockopt(&self.socket, sockopt::ReceiveTimeout, &value(read))
            .and_then(|()| setsockopt(&self.socket, sockopt::SendTimeout, &value(write)))
            .map_err(|e| failed("set a socket's timeouts", e.into()))
    }

    /// Who is at the other end.
    pub fn peer(&self) -> Result<PeerCredentials, TransportError> {
        let peer = getsockopt(&self.socket, sockopt::PeerCredentials)
            .map_err(|e| failed("read the peer's credentials", e.into()))?;
        Ok(PeerCredentials { pid: peer.pid(), uid: peer.uid(), gid: peer.gid() })
    }

    /// A second handle on the same end.
    pub fn try_clone(&self) -> Result<Self, TransportError> {
        let socket =
            self.socket.try_clone().map_err(|e| failed("duplicate a connection's handle", e))?;
        Ok(Self { socket })
    }

    /// Ends the connection for every handle on it; whoever waits on it wakes up.
    pub fn shutdown(&self, how: Shutdown) -> Result<(), TransportError> {
        let how = match how {
            Shutdown::Read => socket::Shutdown::Read,
            Shutdown::Write => socket::Shutdown::Write,
            Shutdown::Both => socket::Shutdown::Both,
        };
        match socket::shutdown(self.socket.as_raw_fd(), how) {
            Ok(()) | Err(nix::Error::ENOTCONN) => Ok(()),
            Err(e) => Err(failed("close a connection", e.into())),
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A socket of the one kind used here.
pub(super) fn new_socket(flags: SockFlag) -> nix::Result<OwnedFd> {
    socket::socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC | flags, None)
}

fn failed(operation: &'static str, source: io::Error) -> TransportError {
    match source.kind() {
        io::ErrorKind::WouldBlock => TransportError::TimedOut { operation },
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => TransportError::Closed,
        _ => TransportError::Io { operation, source },
    }
}
