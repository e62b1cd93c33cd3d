//! Datagrams there and back.

use std::io;
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// How often a server looks whether it should end.
const TICK: Duration = Duration::from_millis(20);

/// What came back for a datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UdpAnswer {
    /// The server answered with this.
    Answered(Vec<u8>),
    /// ICMP port unreachable came back after this long.
    Refused(Duration),
    /// Nothing came back in time.
    Silence,
}

impl UdpAnswer {
    /// Whether the server answered.
    pub fn is_answered(&self) -> bool {
        matches!(self, Self::Answered(_))
    }

    /// Whether it was refused.
    pub fn is_refused(&self) -> bool {
        matches!(self, Self::Refused(_))
    }
}

/// Answers each datagram with the sender's address and what it sent, and remembers them all.
#[derive(Debug)]
pub struct UdpServer {
    received: Arc<Mutex<Vec<Datagram>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Sender and payload.
type Datagram = (SocketAddr, Vec<u8>);

impl UdpServer {
    pub(crate) fn start(socket: UdpSocket) -> Result<Self> {
        socket.set_read_timeout(Some(TICK)).context("set a socket's timeout")?;
        let received = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (received, stop) = (Arc::clone(&received), Arc::clone(&stop));
            move || answer(&socket, &received, &stop)
        });
        Ok(Self { received, stop, thread: Some(thread) })
    }

    /// All datagrams so far.
    pub fn received(&self) -> Vec<(SocketAddr, Vec<u8>)> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for UdpServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("a UDP server's thread panicked");
        }
    }
}

fn answer(socket: &UdpSocket, received: &Mutex<Vec<Datagram>>, stop: &AtomicBool) {
    let mut buffer = vec![0; 65_536];
    while !stop.load(Ordering::Relaxed) {
        // Errors are time-outs, and refusals of earlier answers.
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        let payload = buffer[..length].to_vec();
        let mut reply = format!("{} ", from.ip()).into_bytes();
        reply.extend_from_slice(&payload);
        received.lock().unwrap_or_else(PoisonError::into_inner).push((from, payload));
        if let Err(error) = socket.send_to(&reply, from) {
            eprintln!("a UDP server cannot answer {from}: {error}");
        }
    }
}

/// How long to wait before a datagram is sent again: a loaded machine may lose one.
const AGAIN: Duration = Duration::from_secs(1);

/// Sends a datagram by a socket, and again every second, until something comes back.
pub fn ask(
    socket: &UdpSocket,
    to: SocketAddrV4,
    payload: &[u8],
    patience: Duration,
) -> Result<UdpAnswer> {
    socket.connect(to).with_context(|| format!("connect a UDP socket to {to}"))?;
    let began = Instant::now();
    let mut buffer = vec![0; 65_536];
    loop {
        let left = patience.saturating_sub(began.elapsed());
        if left.is_zero() {
            return Ok(UdpAnswer::Silence);
        }
        socket.set_read_timeout(Some(left.min(AGAIN))).context("set a socket's timeout")?;
        let answer = socket.send(payload).and_then(|_| socket.recv(&mut buffer));
        match answer {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(UdpAnswer::Answered(buffer));
            }
            Err(error) => match error.kind() {
                io::ErrorKind::ConnectionRefused => {
                    return Ok(UdpAnswer::Refused(began.elapsed()));
                }
                // A wait with a limit is not begun anew after the process was stopped for a while.
                io::ErrorKind::WouldBlock
                | io::ErrorKind::TimedOut
                | io::ErrorKind::Interrupted => {}
                _ => return Err(error).with_context(|| format!("ask {to} by UDP")),
            },
        }
    }
}
