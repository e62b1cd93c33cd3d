//! Small datagrams, in batches of system calls so that the generators are not the bottleneck.

use std::io::{IoSlice, IoSliceMut};
use std::net::{SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::socket::{
    MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg, setsockopt, sockopt,
};

use super::{PATIENCE, Seen};
use crate::cpu::BusyTime;

/// Datagrams in one system call, at most.
pub(super) const BATCH: usize = 64;

/// How long a receiver waits for a datagram before it looks at the clock.
pub(super) const TICK: Duration = Duration::from_millis(100);

/// Opens a socket to count datagrams on.
pub(super) fn listen_on(address: SocketAddrV4) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(address).with_context(|| format!("receive on {address}"))?;
    setsockopt(&socket, sockopt::RcvBufForce, &(8 << 20))?;
    Ok(socket)
}

pub(super) fn receive(listen: SocketAddrV4, omit: Duration, seconds: Duration) -> Result<Seen> {
    let socket = listen_on(listen)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    super::say_ready()?;
    if socket.recv(&mut [0; 2048]).is_err() {
        bail!("no datagram came to {listen}; does a policy admit it?");
    }
    socket.set_read_timeout(Some(TICK))?;
    let (mut batch, mut window) = (Batch::new(), Window::new(omit, seconds));
    loop {
        if let Some(seen) = window.look()? {
            return Ok(seen);
        }
        batch.receive(&socket, MsgFlags::MSG_WAITFORONE, &mut window)?;
    }
}

/// Room for the datagrams of one system call.
pub(super) struct Batch {
    headers: MultiHeaders<SockaddrIn>,
    buffers: Vec<[u8; 2048]>,
}

impl Batch {
    pub(super) fn new() -> Self {
        let headers = MultiHeaders::preallocate(BATCH, None);
        Self { headers, buffers: vec![[0; 2048]; BATCH] }
    }

    /// Counts what is there, up to a batch.
    pub(super) fn receive(
        &mut self,
        socket: &UdpSocket,
        flags: MsgFlags,
        window: &mut Window,
    ) -> Result<()> {
        let mut slices = self.buffers.iter_mut().map(|b| [IoSliceMut::new(b)]).collect::<Vec<_>>();
        let fd = socket.as_raw_fd();
        match recvmmsg(fd, &mut self.headers, slices.iter_mut(), flags, None) {
            Ok(results) => {
                for message in results {
                    window.packets += 1;
                    window.bytes += message.bytes as u64;
                }
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(e) => return Err(e).context("receive datagrams"),
        }
        Ok(())
    }
}

/// The time in which datagrams count.
pub(super) struct Window {
    omit: Duration,
    seconds: Duration,
    first: Instant,
    open: Option<(Instant, BusyTime)>,
    bytes: u64,
    packets: u64,
}

impl Window {
    /// From `omit` after now on, for so long.
    pub(super) fn new(omit: Duration, seconds: Duration) -> Self {
        Self { omit, seconds, first: Instant::now(), open: None, bytes: 0, packets: 0 }
    }

    /// Opens it when it is time; what it saw when it is over.
    pub(super) fn look(&mut self) -> Result<Option<Seen>> {
        let now = Instant::now();
        match &self.open {
            None if now - self.first >= self.omit => {
                self.open = Some((now, BusyTime::now()?));
                (self.bytes, self.packets) = (0, 0);
            }
            Some((began, busy)) if now - *began >= self.seconds => {
                return Ok(Some(Seen {
                    bytes: self.bytes,
                    packets: self.packets,
                    seconds: began.elapsed().as_secs_f64(),
                    cpu_seconds: busy.elapsed()?,
                }));
            }
            _ => {}
        }
        Ok(None)
    }
}

pub(super) fn send(to: SocketAddrV4, size: usize, seconds: Duration) -> Result<Seen> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(to)?;
    setsockopt(&socket, sockopt::SndBufForce, &(4 << 20))?;
    let payload = vec![0x5a; size];
    let slices = vec![[IoSlice::new(&payload)]; BATCH];
    let addresses: Vec<Option<SockaddrIn>> = vec![None; BATCH];
    let mut headers = MultiHeaders::preallocate(BATCH, None);
    let began = Instant::now();
    let mut packets = 0;
    while began.elapsed() < seconds {
        match sendmmsg(socket.as_raw_fd(), &mut headers, &slices, &addresses, [], MsgFlags::empty())
        {
            Ok(results) => packets += results.count() as u64,
            // A refused first datagram (ICMP) must not end the run; the receiver may be late.
            Err(Errno::ECONNREFUSED | Errno::EAGAIN | Errno::ENOBUFS | Errno::EINTR) => {}
            Err(e) => return Err(e).context("send datagrams"),
        }
    }
    Ok(Seen {
        bytes: packets * size as u64,
        packets,
        seconds: began.elapsed().as_secs_f64(),
        cpu_seconds: 0.0,
    })
}
