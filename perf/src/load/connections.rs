//! New TCP connections, as many a second as will.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, Shutdown, SockFlag, SockType, SockaddrIn, bind, connect,
    listen, recv, setsockopt, shutdown, socket, sockopt,
};
use nix::sys::time::TimeVal;
use serde::{Deserialize, Serialize};

use crate::cpu::BusyTime;

/// Longest that a connection may take. A lost SYN is sent again after one second (RFC 6298).
const CONNECT_PATIENCE: TimeVal = TimeVal::new(3, 500_000);

/// How often an acceptor looks whether it is still wanted.
const TICK_MS: u8 = 50;

/// Connections opened.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Opened {
    /// Connections that were established.
    pub(crate) succeeded: u64,
    /// Those that were not.
    pub(crate) failed: u64,
    /// Seconds in which they were counted.
    pub(crate) seconds: f64,
    /// Processor seconds that the whole machine was busy meanwhile.
    pub(crate) cpu_seconds: f64,
}

/// How the one who opened a connection closes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Close {
    /// By RST: neither end is left with a connection in TIME-WAIT, of which there could only be as
    /// many as ports.
    Reset,
    /// By FIN, as applications do.
    Fin,
}

/// What connections are opened to, in turns.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target {
    /// The first address, and the port of all.
    pub(super) first: SocketAddrV4,
    /// How many addresses, upwards from that one.
    pub(super) addresses: u8,
    /// How they are closed.
    pub(super) close: Close,
}

impl Target {
    /// Where the connection with this number goes.
    fn at(self, number: u64) -> SocketAddrV4 {
        let step = (number % u64::from(self.addresses.max(1))) as u32;
        let address = Ipv4Addr::from(self.first.ip().to_bits().wrapping_add(step));
        SocketAddrV4::new(address, self.first.port())
    }
}

/// Opens connections from several threads and closes each at once.
pub(super) fn open(
    to: Target,
    threads: usize,
    omit: Duration,
    seconds: Duration,
) -> Result<Opened> {
    let begun = Arc::new(AtomicU64::new(0));
    let opened = Arc::new(AtomicU64::new(0));
    let failed = Arc::new(AtomicU64::new(0));
    let done = Arc::new(AtomicBool::new(false));
    let openers: Vec<_> = (0..threads)
        .map(|_| {
            let (begun, opened, failed, done) =
                (Arc::clone(&begun), Arc::clone(&opened), Arc::clone(&failed), Arc::clone(&done));
            thread::spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    let address = to.at(begun.fetch_add(1, Ordering::Relaxed));
                    let counter =
                        if open_one(address, to.close).is_ok() { &opened } else { &failed };
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    thread::sleep(omit);
    let count = || (opened.load(Ordering::Relaxed), failed.load(Ordering::Relaxed));
    let (before, busy, began) = (count(), BusyTime::now()?, Instant::now());
    thread::sleep(seconds);
    let (after, seconds, cpu_seconds) = (count(), began.elapsed().as_secs_f64(), busy.elapsed()?);
    done.store(true, Ordering::Relaxed);
    for opener in openers {
        if opener.join().is_err() {
            bail!("a thread that opens connections died");
        }
    }
    let (succeeded, failed) = (after.0 - before.0, after.1 - before.1);
    Ok(Opened { succeeded, failed, seconds, cpu_seconds })
}

/// With as few system calls as possible: the generator must not be what is measured.
fn open_one(to: SocketAddrV4, close: Close) -> nix::Result<()> {
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    if close == Close::Reset {
        setsockopt(&fd, sockopt::Linger, &RESET)?;
    }
    // Bounds connect(2), too (socket(7)).
    setsockopt(&fd, sockopt::SendTimeout, &CONNECT_PATIENCE)?;
    connect(fd.as_raw_fd(), &SockaddrIn::from(to))?;
    if close == Close::Fin {
        // Waits for the other end's FIN: many threads that open connections would otherwise fill
        // the queue of the one that accepts them.
        setsockopt(&fd, sockopt::ReceiveTimeout, &CONNECT_PATIENCE)?;
        shutdown(fd.as_raw_fd(), Shutdown::Write)?;
        recv(fd.as_raw_fd(), &mut [0], MsgFlags::empty())?;
    }
    Ok(())
}

/// Closing such a socket sends RST (socket(7), `SO_LINGER`).
const RESET: nix::libc::linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };

/// Accepts connections on all addresses of the machine and closes each when its client has.
pub(super) fn accept(address: SocketAddrV4) -> Result<()> {
    let address = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, address.port());
    // Not made by the standard library, whose queue of 128 would overflow.
    let fd = socket(
        AddressFamily::Inet,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        None,
    )?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    bind(fd.as_raw_fd(), &SockaddrIn::from(address))
        .with_context(|| format!("listen on {address}"))?;
    listen(&fd, Backlog::MAXALLOWABLE).with_context(|| format!("listen on {address}"))?;
    let ended = super::watch_input();
    super::say_ready()?;
    let listener = TcpListener::from(fd);
    let mut open = VecDeque::new();
    while !ended.load(Ordering::Relaxed) {
        close_ended(&mut open);
        match listener.accept() {
            Ok((accepted, _)) => open.push_back(accepted),
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                let mut ready: Vec<_> = [listener.as_fd()]
                    .into_iter()
                    .chain(open.front().map(TcpStream::as_fd))
                    .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
                    .collect();
                poll(&mut ready, PollTimeout::from(TICK_MS)).context("wait for connections")?;
            }
            Err(e) if matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {
            }
            Err(e) => return Err(e).context("accept"),
        }
    }
    Ok(())
}

/// Closes connections that their clients have ended, oldest first, up to one that has not.
fn close_ended(open: &mut VecDeque<TcpStream>) {
    while let Some(oldest) = open.front() {
        if recv(oldest.as_raw_fd(), &mut [0], MsgFlags::MSG_DONTWAIT) == Err(Errno::EAGAIN) {
            return;
        }
        open.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_go_round_the_addresses() {
        let first = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 254), 80);
        let target = Target { first, addresses: 3, close: Close::Fin };
        let turns: Vec<_> = (0..4).map(|number| target.at(number).to_string()).collect();
        assert_eq!(turns, ["10.0.0.254:80", "10.0.0.255:80", "10.0.1.0:80", "10.0.0.254:80"]);
    }

    /// How the listening end sees the connection end.
    fn end_by(close: Close) -> std::io::Result<usize> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let std::net::SocketAddr::V4(address) = listener.local_addr()? else { unreachable!() };
        let accepting =
            thread::spawn(move || std::io::Read::read(&mut listener.accept()?.0, &mut [0]));
        open_one(address, close)?;
        accepting.join().unwrap()
    }

    #[test]
    fn they_are_closed_as_asked_for() {
        assert_eq!(end_by(Close::Fin).unwrap(), 0);
        let reset = end_by(Close::Reset).unwrap_err();
        assert_eq!(reset.kind(), std::io::ErrorKind::ConnectionReset);
    }
}
