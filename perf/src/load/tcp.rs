//! Bulk TCP. Congestion control is cubic from the socket's birth: set after connect, a system
//! default of bbr leaves its pacing behind.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, connect, setsockopt, socket, sockopt,
};

use super::{PATIENCE, Seen};
use crate::cpu::BusyTime;

const BLOCK: usize = 128 << 10;

pub(super) fn open(to: SocketAddrV4) -> Result<TcpStream> {
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd, sockopt::TcpCongestion, &"cubic".into())
        .context("choose cubic congestion control (is it built into this kernel?)")?;
    connect(fd.as_raw_fd(), &SockaddrIn::from(to)).with_context(|| format!("connect to {to}"))?;
    Ok(TcpStream::from(fd))
}

pub(super) fn accept(listen: SocketAddrV4, streams: usize) -> Result<Vec<TcpStream>> {
    let listener = TcpListener::bind(listen).with_context(|| format!("listen on {listen}"))?;
    listener.set_nonblocking(true)?;
    super::say_ready()?;
    let deadline = Instant::now() + PATIENCE;
    let mut accepted = Vec::with_capacity(streams);
    while accepted.len() < streams {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                accepted.push(stream);
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                ensure!(
                    Instant::now() < deadline,
                    "{} of {streams} streams came to {listen}; does a policy admit them?",
                    accepted.len()
                );
                thread::sleep(Duration::from_millis(5));
            }
            Err(e) => return Err(e).context("accept"),
        }
    }
    Ok(accepted)
}

pub(super) fn receive(
    listen: SocketAddrV4,
    streams: usize,
    omit: Duration,
    seconds: Duration,
) -> Result<Seen> {
    let total = Arc::new(AtomicU64::new(0));
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = accept(listen, streams)?
        .into_iter()
        .map(|mut stream| {
            let (total, done) = (Arc::clone(&total), Arc::clone(&done));
            thread::spawn(move || {
                let mut block = vec![0; BLOCK];
                while !done.load(Ordering::Relaxed) {
                    match stream.read(&mut block) {
                        Ok(0) | Err(_) => return,
                        Ok(n) => total.fetch_add(n as u64, Ordering::Relaxed),
                    };
                }
            })
        })
        .collect();
    thread::sleep(omit);
    let (before, busy, began) = (total.load(Ordering::Relaxed), BusyTime::now()?, Instant::now());
    thread::sleep(seconds);
    let seen = Seen {
        bytes: total.load(Ordering::Relaxed) - before,
        packets: 0,
        seconds: began.elapsed().as_secs_f64(),
        cpu_seconds: busy.elapsed()?,
    };
    done.store(true, Ordering::Relaxed);
    for reader in readers {
        if reader.join().is_err() {
            bail!("a reading thread died");
        }
    }
    Ok(seen)
}

pub(super) fn send(to: SocketAddrV4, streams: usize, bound: Duration) -> Result<Seen> {
    let began = Instant::now();
    let writers: Vec<_> = (0..streams)
        .map(|_| {
            let mut stream = open(to)?;
            stream.set_write_timeout(Some(PATIENCE))?;
            Ok(thread::spawn(move || {
                let block = vec![0x5a; BLOCK];
                let mut sent = 0;
                while began.elapsed() < bound {
                    match stream.write(&block) {
                        Ok(n) => sent += n as u64,
                        Err(_) => break, // the receiver has seen enough
                    }
                }
                sent
            }))
        })
        .collect::<Result<_>>()?;
    let bytes = writers.into_iter().map(|writer| writer.join().unwrap_or(0)).sum();
    Ok(Seen { bytes, packets: 0, seconds: began.elapsed().as_secs_f64(), cpu_seconds: 0.0 })
}
