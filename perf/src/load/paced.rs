//! Numbered datagrams at a steady rate. The receiver knows what each must hold, which are missing
//! and how long there was silence.

use std::io::{ErrorKind, IoSlice};
use std::net::{SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, sendmmsg, setsockopt, sockopt};
use serde::{Deserialize, Serialize};

use super::PATIENCE;
use crate::cpu::BusyTime;

/// Datagrams in one system call, at most.
const BURST: usize = 64;

/// Bytes of the number that each begins with.
const NUMBER: usize = 8;

/// The number of the datagrams that say that no other follows.
const END: u64 = u64::MAX;

/// How often the end is said; some may get lost.
const ENDS: u32 = 10;

/// Silence after which the receiver believes that it missed the end.
const SILENCE: Duration = Duration::from_secs(2);

/// What left.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Departed {
    /// Datagrams sent.
    pub(crate) sent: u64,
    /// Seconds that it took.
    pub(crate) seconds: f64,
}

/// What arrived.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Arrived {
    /// Different datagrams that arrived whole.
    pub(crate) received: u64,
    /// Datagrams that arrived a second time.
    pub(crate) repeated: u64,
    /// Datagrams with other bytes than those sent.
    pub(crate) spoiled: u64,
    /// Longest time between two, in milliseconds.
    pub(crate) longest_gap_ms: f64,
    /// Seconds from the first to the last.
    pub(crate) seconds: f64,
    /// Processor seconds that the whole machine was busy meanwhile.
    pub(crate) cpu_seconds: f64,
}

/// Writes the datagram of a number.
fn fill(number: u64, datagram: &mut [u8]) {
    datagram[..NUMBER].copy_from_slice(&number.to_le_bytes());
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23).to_le_bytes();
    for (byte, mixed) in datagram[NUMBER..].iter_mut().zip(mixed.iter().cycle()) {
        *byte = *mixed;
    }
}

/// Its number, if its bytes are those that belong to it.
fn number_of(datagram: &[u8], expected: &mut [u8]) -> Option<u64> {
    let number = u64::from_le_bytes(*datagram.first_chunk()?);
    fill(number, expected.get_mut(..datagram.len())?);
    (expected[..datagram.len()] == *datagram).then_some(number)
}

/// Numbers seen so far.
#[derive(Default)]
struct Numbers(Vec<u64>);

impl Numbers {
    /// Numbers beyond are no sender's; the bound keeps a spoiled one from taking all memory.
    const MAX: u64 = 1 << 30;

    /// Whether the number is new.
    fn add(&mut self, number: u64) -> bool {
        let (word, bit) = ((number / 64) as usize, 1 << (number % 64));
        if word >= self.0.len() {
            self.0.resize(word + 1024, 0);
        }
        let new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        new
    }
}

pub(super) fn receive(listen: SocketAddrV4, bound: Duration) -> Result<Arrived> {
    let socket = UdpSocket::bind(listen).with_context(|| format!("receive on {listen}"))?;
    setsockopt(&socket, sockopt::RcvBufForce, &(8 << 20))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    super::say_ready()?;
    let (mut datagram, mut expected) = (vec![0; 65_536], vec![0; 65_536]);
    let mut numbers = Numbers::default();
    let (mut received, mut repeated, mut spoiled) = (0, 0, 0);
    let mut longest_gap = Duration::ZERO;
    let mut times: Option<(Instant, Instant, BusyTime)> = None;
    let began = Instant::now();
    while began.elapsed() < bound {
        let length = match socket.recv(&mut datagram) {
            Ok(length) => length,
            Err(e) if e.kind() == ErrorKind::WouldBlock => break,
            Err(e) => return Err(e).context("receive datagrams"),
        };
        let now = Instant::now();
        let number = number_of(&datagram[..length], &mut expected);
        if number == Some(END) {
            break;
        }
        if let Some((_, last, _)) = &mut times {
            longest_gap = longest_gap.max(now - *last);
            *last = now;
        } else {
            socket.set_read_timeout(Some(SILENCE))?;
            times = Some((now, now, BusyTime::now()?));
        }
        match number {
            None | Some(Numbers::MAX..) => spoiled += 1,
            Some(number) if numbers.add(number) => received += 1,
            Some(_) => repeated += 1,
        }
    }
    let Some((first, last, busy)) = times else {
        bail!("no datagram came to {listen}; does a policy admit it?");
    };
    Ok(Arrived {
        received,
        repeated,
        spoiled,
        longest_gap_ms: longest_gap.as_secs_f64() * 1e3,
        seconds: (last - first).as_secs_f64(),
        cpu_seconds: busy.elapsed()?,
    })
}

pub(super) fn send(
    to: SocketAddrV4,
    size: usize,
    rate: f64,
    seconds: Duration,
) -> Result<Departed> {
    ensure!((NUMBER..=65_507).contains(&size), "a datagram has {NUMBER} to 65507 bytes");
    ensure!(rate >= 1.0, "a rate is at least one datagram a second");
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(to)?;
    setsockopt(&socket, sockopt::SndBufForce, &(4 << 20))?;
    let mut datagrams = vec![vec![0; size]; BURST];
    let addresses: Vec<Option<SockaddrIn>> = vec![None; BURST];
    let mut headers = MultiHeaders::preallocate(BURST, None);
    let began = Instant::now();
    let mut sent = 0;
    loop {
        let elapsed = began.elapsed();
        if elapsed >= seconds {
            break;
        }
        let due = (elapsed.as_secs_f64() * rate) as u64;
        let burst = due.saturating_sub(sent).min(BURST as u64) as usize;
        if burst == 0 {
            let next = Duration::from_secs_f64((sent + 1) as f64 / rate);
            std::thread::sleep(next.saturating_sub(began.elapsed()));
            continue;
        }
        for (number, datagram) in (sent..).zip(&mut datagrams[..burst]) {
            fill(number, datagram);
        }
        let slices: Vec<_> = datagrams[..burst].iter().map(|d| [IoSlice::new(d)]).collect();
        let socket = socket.as_raw_fd();
        let flags = MsgFlags::empty();
        match sendmmsg(socket, &mut headers, &slices, &addresses[..burst], [], flags) {
            Ok(results) => sent += results.count() as u64,
            // The receiver may be late, or the interface without room: tried again.
            Err(Errno::ECONNREFUSED | Errno::EAGAIN | Errno::ENOBUFS | Errno::EINTR) => {}
            Err(e) => return Err(e).context("send datagrams"),
        }
    }
    let departed = Departed { sent, seconds: began.elapsed().as_secs_f64() };
    fill(END, &mut datagrams[0]);
    for _ in 0..ENDS {
        std::thread::sleep(Duration::from_millis(10));
        if socket.send(&datagrams[0]).is_err() {
            break; // the receiver has seen the end
        }
    }
    Ok(departed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_byte_is_seen() {
        let mut expected = [0; 64];
        let mut datagram = [0; 18];
        fill(77, &mut datagram);
        assert_eq!(number_of(&datagram, &mut expected), Some(77));
        for position in 0..datagram.len() {
            let mut changed = datagram;
            changed[position] ^= 0x10;
            assert_eq!(number_of(&changed, &mut expected), None, "byte {position}");
        }
        assert_eq!(number_of(&datagram[..7], &mut expected), None);
    }

    #[test]
    fn numbers_count_once() {
        let mut numbers = Numbers::default();
        assert!(numbers.add(0) && numbers.add(63) && numbers.add(1_000_000) && numbers.add(64));
        assert!(!numbers.add(63) && !numbers.add(1_000_000));
    }

    #[test]
    fn what_is_sent_arrives() -> Result<()> {
        let address = "127.0.0.1:0".parse::<SocketAddrV4>()?;
        let port = UdpSocket::bind(address)?.local_addr()?.port();
        let listen = SocketAddrV4::new(*address.ip(), port);
        let receiver = std::thread::spawn(move || receive(listen, Duration::from_secs(10)));
        std::thread::sleep(Duration::from_millis(100));
        let departed = send(listen, 18, 2000.0, Duration::from_millis(200))?;
        let arrived = receiver.join().map_err(|_| anyhow::anyhow!("receiver"))??;
        assert!(departed.sent > 0);
        assert_eq!((arrived.received, arrived.spoiled), (departed.sent, 0));
        Ok(())
    }
}
