//! Frames and file descriptors over a Unix `SOCK_SEQPACKET` socket: one message a packet, its
//! descriptors beside it as `SCM_RIGHTS` (unix(7)).

mod connection;
mod listener;

pub use connection::{Connection, PeerCredentials};
pub use listener::Listener;

use std::{io, path::PathBuf};

use crate::codec::CodecError;

/// Most file descriptors that go with one message. The kernel's limit is 253 (`SCM_MAX_FD`).
pub const MAX_FDS: usize = 64;

/// Why a message could not be sent or received, or a socket not be made.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// A system call failed.
    #[error("cannot {operation}: {source}")]
    Io {
        /// What was being done, e.g. "receive a message".
        operation: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A system call on a socket's path failed.
    #[error("cannot {operation} {path}: {source}", path = path.display())]
    Path {
        /// What was being done, e.g. "connect to".
        operation: &'static str,
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Another process serves this socket.
    #[error("{path} is already served by another process", path = path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// The path holds something that is not a socket; it is left alone.
    #[error("{path} exists and is not a socket; remove it or choose another place", path = path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The message itself.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// A packet longer than any frame; it was thrown away.
    #[error("received a packet longer than a frame may be ({} bytes)", crate::codec::MAX_FRAME)]
    FrameTooLong,
    /// Some descriptors of a message got lost on the way; the others were closed.
    #[error(
        "file descriptors of a message were lost, this process may have too many open (RLIMIT_NOFILE)"
    )]
    DescriptorsLost,
    /// More descriptors than a message may carry; when received, they were closed.
    #[error("{count} file descriptors in one message, at most {MAX_FDS} are allowed")]
    TooManyDescriptors {
        /// How many.
        count: usize,
    },
    /// The other side did not read, or did not answer, in the time set for it.
    #[error("timed out: could not {operation} in time, the other side may be stuck or overloaded")]
    TimedOut {
        /// What was being done.
        operation: &'static str,
    },
    /// The other side closed the connection.
    #[error("the other side closed the connection")]
    Closed,
}

#[cfg(test)]
mod tests;
