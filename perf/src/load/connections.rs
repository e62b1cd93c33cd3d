//! New TCP connections, as many a second as will.

use std::net::SocketAddrV4;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, accept4, bind, connect, listen,
    setsockopt, socket, sockopt,
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

/// Opens connections from several threads and resets each at once: neither end is left with a
/// connection in TIME-WAIT, of which there could only be as many as ports.
pub(super) fn open(
    to: SocketAddrV4,
    threads: usize,
    omit: Duration,
    seconds: Duration,
) -> Result<Opened> {
    let opened = Arc::new(AtomicU64::new(0));
    let failed = Arc::new(AtomicU64::new(0));
    let done = Arc::new(AtomicBool::new(false));
    let openers: Vec<_> = (0..threads)
        .map(|_| {
            let (opened, failed, done) =
                (Arc::clone(&opened), Arc::clone(&failed), Arc::clone(&done));
            thread::spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    let counter = if open_one(to).is_ok() { &opened } else { &failed };
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
fn open_one(to: SocketAddrV4) -> nix::Result<()> {
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd, sockopt::Linger, &RESET)?;
    // Bounds connect(2), too (socket(7)).
    setsockopt(&fd, sockopt::SendTimeout, &CONNECT_PATIENCE)?;
    connect(fd.as_raw_fd(), &SockaddrIn::from(to))
}

/// Closing such a socket sends RST (socket(7), `SO_LINGER`).
const RESET: nix::libc::linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };

pub(super) fn accept(address: SocketAddrV4) -> Result<()> {
    // Not the standard library's listener, whose queue of 128 would overflow.
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
    while !ended.load(Ordering::Relaxed) {
        match accept4(fd.as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
            Ok(accepted) => drop(nix::unistd::close(accepted)),
            Err(Errno::EAGAIN) => {
                let mut ready = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
                poll(&mut ready, PollTimeout::from(TICK_MS)).context("wait for connections")?;
            }
            Err(Errno::EINTR | Errno::ECONNABORTED) => {}
            Err(e) => return Err(e).context("accept"),
        }
    }
    Ok(())
}
