//! Small datagrams, in batches of system calls so that the generators are not the bottleneck.

use std::io::IoSlice;
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

const BATCH: usize = 64;

pub(super) fn receive(listen: SocketAddrV4, omit: Duration, seconds: Duration) -> Result<Seen> {
    let socket = UdpSocket::bind(listen).with_context(|| format!("receive on {listen}"))?;
    setsockopt(&socket, sockopt::RcvBufForce, &(8 << 20))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    super::say_ready()?;
    if socket.recv(&mut [0; 2048]).is_err() {
        bail!("no datagram came to {listen}; does a policy admit it?");
    }
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    let mut headers = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    let mut buffers = vec![[0; 2048]; BATCH];
    let first = Instant::now();
    let mut window: Option<(Instant, BusyTime)> = None;
    let (mut bytes, mut packets) = (0, 0);
    loop {
        let now = Instant::now();
        match &window {
            None if now - first >= omit => {
                window = Some((now, BusyTime::now()?));
                (bytes, packets) = (0, 0);
            }
            Some((began, busy)) if now - *began >= seconds => {
                return Ok(Seen {
                    bytes,
                    packets,
                    seconds: began.elapsed().as_secs_f64(),
                    cpu_seconds: busy.elapsed()?,
                });
            }
            _ => {}
        }
        let mut slices =
            buffers.iter_mut().map(|b| [std::io::IoSliceMut::new(b)]).collect::<Vec<_>>();
        match recvmmsg(
            socket.as_raw_fd(),
            &mut headers,
            slices.iter_mut(),
            MsgFlags::MSG_WAITFORONE,
            None,
        ) {
            Ok(results) => {
                for message in results {
                    packets += 1;
                    bytes += message.bytes as u64;
                }
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(e) => return Err(e).context("receive datagrams"),
        }
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
