//! One question at a time: the time until its answer is there.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddrV4, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::{PATIENCE, Transport, tcp};
use crate::cpu::BusyTime;
use crate::stats::percentile;

/// How long an answer to a datagram may take before it counts as lost and is asked for again.
const LOST: Duration = Duration::from_millis(200);

/// Largest question, in bytes.
const QUESTION_MAX: usize = 65_507;

/// How often an echo looks whether it is still wanted.
const TICK: Duration = Duration::from_millis(50);

/// Times from question to answer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Latency {
    /// Questions answered.
    pub(crate) answers: u64,
    /// Datagrams lost on either way.
    pub(crate) lost: u64,
    /// Microseconds that half of all took at most.
    pub(crate) p50_us: f64,
    /// Microseconds that 99 % took at most.
    pub(crate) p99_us: f64,
    /// Microseconds that 99.9 % took at most.
    pub(crate) p999_us: f64,
    /// Processor seconds that the whole machine was busy meanwhile.
    pub(crate) cpu_seconds: f64,
}

enum Asker {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

impl Asker {
    /// Whether the answer came.
    fn ask(&mut self, question: &[u8], answer: &mut [u8]) -> Result<bool> {
        match self {
            Self::Tcp(stream) => {
                stream.write_all(question).context("ask")?;
                stream.read_exact(answer).context("read the answer")?;
            }
            Self::Udp(socket) => {
                socket.send(question).context("ask")?;
                loop {
                    match socket.recv(answer) {
                        // An answer that was given up has come after all.
                        Ok(_) if answer[..8] != question[..8] => {}
                        Ok(_) => break,
                        Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(false),
                        Err(e) => return Err(e).context("wait for an answer"),
                    }
                }
            }
        }
        ensure!(question == answer, "the answer differs from the question");
        Ok(true)
    }
}

pub(super) fn ask(
    to: SocketAddrV4,
    transport: Transport,
    size: usize,
    omit: Duration,
    seconds: Duration,
) -> Result<Latency> {
    ensure!((8..=QUESTION_MAX).contains(&size), "a question has 8 to {QUESTION_MAX} bytes");
    let mut asker = match transport {
        Transport::Tcp => {
            let stream = tcp::open(to)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            Asker::Tcp(stream)
        }
        Transport::Udp => {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.connect(to)?;
            socket.set_read_timeout(Some(LOST))?;
            Asker::Udp(socket)
        }
    };
    let (mut question, mut answer) = (vec![0x5a; size], vec![0; size]);
    let mut took_ns = Vec::with_capacity(1 << 20);
    let (mut number, mut lost) = (0_u64, 0);
    let began = Instant::now();
    let mut window: Option<(Instant, BusyTime)> = None;
    loop {
        let now = Instant::now();
        match &window {
            None if now - began >= omit => window = Some((now, BusyTime::now()?)),
            Some((first, _)) if now - *first >= seconds => break,
            _ => {}
        }
        number += 1;
        question[..8].copy_from_slice(&number.to_le_bytes());
        let answered = asker.ask(&question, &mut answer)?;
        match (answered, &window) {
            (true, Some(_)) => took_ns.push(now.elapsed().as_nanos() as u64),
            (false, _) => lost += 1,
            (true, None) => {}
        }
    }
    let cpu_seconds = window.map(|(_, busy)| busy.elapsed()).transpose()?.unwrap_or_default();
    took_ns.sort_unstable();
    ensure!(!took_ns.is_empty(), "no answer came from {to}; does a policy admit it?");
    let us = |percent| percentile(&took_ns, percent) as f64 / 1e3;
    Ok(Latency {
        answers: took_ns.len() as u64,
        lost,
        p50_us: us(50.0),
        p99_us: us(99.0),
        p999_us: us(99.9),
        cpu_seconds,
    })
}

pub(super) fn echo_tcp(listen: SocketAddrV4) -> Result<()> {
    let mut stream = tcp::accept(listen, 1)?.remove(0);
    stream.set_nodelay(true)?;
    let mut bytes = vec![0; QUESTION_MAX];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return Ok(()),
            Ok(length) => stream.write_all(&bytes[..length]).context("answer")?,
            Err(e) if e.kind() == ErrorKind::ConnectionReset => return Ok(()),
            Err(e) => return Err(e).context("read a question"),
        }
    }
}

pub(super) fn echo_udp(listen: SocketAddrV4) -> Result<()> {
    let socket = UdpSocket::bind(listen).with_context(|| format!("receive on {listen}"))?;
    let ended: Arc<AtomicBool> = super::watch_input();
    socket.set_read_timeout(Some(TICK))?;
    super::say_ready()?;
    let mut bytes = vec![0; QUESTION_MAX];
    while !ended.load(Ordering::Relaxed) {
        match socket.recv_from(&mut bytes) {
            Ok((length, from)) => {
                socket.send_to(&bytes[..length], from).context("answer")?;
            }
            // The other end has gone and said so.
            Err(e) if e.kind() == ErrorKind::ConnectionRefused => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(e) => bail!("wait for a question: {e}"),
        }
    }
    Ok(())
}
