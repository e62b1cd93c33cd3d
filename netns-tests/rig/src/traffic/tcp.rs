//! Opening TCP connections.

use std::io;
use std::net::{SocketAddrV4, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use nix::errno::Errno;

/// How an attempt to connect ended, and after how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was accepted.
    Connected(Duration),
    /// It was refused: ICMP port unreachable or a TCP reset (`ECONNREFUSED`).
    Refused(Duration),
    /// Nothing came back in time.
    TimedOut,
    /// It failed in another way.
    Failed(Errno),
}

impl Outcome {
    /// Whether it was accepted.
    pub fn is_connected(self) -> bool {
        matches!(self, Self::Connected(_))
    }

    /// Whether it was refused.
    pub fn is_refused(self) -> bool {
        matches!(self, Self::Refused(_))
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Connected(after) => write!(f, "connected after {}", Milliseconds(*after)),
            Self::Refused(after) => write!(f, "refused after {}", Milliseconds(*after)),
            Self::TimedOut => f.write_str("timed out"),
            Self::Failed(errno) => write!(f, "failed: {errno}"),
        }
    }
}

/// A duration for people: milliseconds with one decimal.
struct Milliseconds(Duration);

impl std::fmt::Display for Milliseconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.1} ms", self.0.as_secs_f64() * 1e3)
    }
}

/// Connects from the calling thread's namespace.
pub(crate) fn connect(to: SocketAddrV4, patience: Duration) -> Outcome {
    let deadline = Instant::now() + patience;
    loop {
        let began = Instant::now();
        let Err(error) = TcpStream::connect_timeout(&to.into(), patience) else {
            return Outcome::Connected(began.elapsed());
        };
        match (error.kind(), error.raw_os_error()) {
            (io::ErrorKind::ConnectionRefused, _) => return Outcome::Refused(began.elapsed()),
            (io::ErrorKind::TimedOut, _) => return Outcome::TimedOut,
            (_, Some(errno)) => return Outcome::Failed(Errno::from_raw(errno)),
            // The socket was hung up, and had no error when it was asked for it: nobody knows how
            // this attempt ended.
            (_, None) if Instant::now() < deadline => {}
            (_, None) => return Outcome::Failed(Errno::UnknownErrno),
        }
    }
}

/// Listens in the calling thread's namespace.
pub(crate) fn listen(local: SocketAddrV4) -> io::Result<TcpListener> {
    super::bind(|| TcpListener::bind(local))
}
