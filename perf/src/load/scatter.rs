//! As many conversations as possible, of one datagram each.

use std::net::{SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::Departed;

/// Payload bytes of each.
const SIZE: usize = 18;

/// Datagrams between two looks at the clock.
const BURST: u64 = 32;

/// Sends one datagram from each of `sources` ports to each of `ports` ports. Not through connected
/// sockets: nobody listens, and they would report every refusal.
pub(super) fn send(to: SocketAddrV4, sources: u16, ports: u16, rate: f64) -> Result<Departed> {
    let sockets = (0..sources)
        .map(|_| UdpSocket::bind("0.0.0.0:0").context("open a socket to send from"))
        .collect::<Result<Vec<_>>>()?;
    let payload = [0x5a; SIZE];
    let began = Instant::now();
    let mut sent = 0_u64;
    for port in (to.port()..=u16::MAX).take(ports.into()) {
        for socket in &sockets {
            let to = SocketAddrV4::new(*to.ip(), port);
            // What the interface has no room for is lost like everything else.
            let _ = socket.send_to(&payload, to);
            sent += 1;
            if sent.is_multiple_of(BURST) {
                let due = Duration::from_secs_f64(sent as f64 / rate);
                std::thread::sleep(due.saturating_sub(began.elapsed()));
            }
        }
    }
    Ok(Departed { sent, seconds: began.elapsed().as_secs_f64() })
}
