//! The door to other cells: VXLAN over UDP (RFC 7348), through sockets of the kernel.
//!
//! One socket receives at the tunnel's port, whole trains of datagrams at once (`UDP_GRO`); they
//! are put together into super-packets. Several others send, super-packets as trains of segments
//! (`UDP_SEGMENT`): each has a source port of its own, and a flow always uses the same one, so
//! that switches and receiving cards spread the flows (RFC 7348 section 5).
//!
//! Outer packets carry the DF bit and are never fragmented (RFC 7348 section 4.3). The sockets
//! ignore path MTU messages (`IP_PMTUDISC_PROBE`): an underlay whose MTU is smaller than the
//! interface's is a mistake in its configuration, and what a forged message could do to all the
//! traffic with a cell is worse. The outer checksum stays on: without it neither `UDP_SEGMENT`
//! nor GRO work.

mod probe;
mod tap;
#[cfg(test)]
mod tests;
mod transmit;
mod whole;

pub use tap::TapError;

use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use libc::c_int;
use sarcenet_dataplane_api::{DropReason, UplinkMode};

use self::tap::Tap;
use super::sys::{self, MAX_MESSAGES, Message};
use super::{LinkCounters, MAX_BATCH_BYTES, Received, Report, Scratch};
use crate::packet::{Batch, Piece, Via};

/// Sockets that send. A power of two.
const SENDERS: usize = 16;

/// Bytes that a socket may hold: what arrives in 3 ms at 20 Gbit/s.
const SOCKET_BUFFER: c_int = 8 << 20;

/// Datagrams of one train that a batch has room for (`UDP_GRO_CNT_MAX` of the Linux kernel).
const TRAIN_ROOM: usize = 64;

/// Why the tunnel could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum UdpTunnelError {
    /// The port could not be had.
    #[error(
        "binding the tunnel to {address}: {source} (EADDRINUSE: another dataplane or a kernel \
         vxlan device has the port; EADDRNOTAVAIL: no interface has that address)"
    )]
    Bind {
        /// Where.
        address: SocketAddrV4,
        /// What the system said.
        source: io::Error,
    },
    /// A socket could not be set up.
    #[error("setting {option} of a tunnel socket: {source}")]
    Option {
        /// Which option.
        option: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Super-packets were to leave whole.
    #[error("mode tunnel-gso: {0}")]
    Tap(#[from] TapError),
}

/// Whether it is to be found out how super-packets leave best.
struct Probing;

impl Probing {
    const OFF: u8 = 0;
    const WANTED: u8 = 1;
    const RUNNING: u8 = 2;
}

/// The tunnel sockets of a cell.
pub struct UdpTunnel {
    local: SocketAddrV4,
    mtu: AtomicU16,
    receiver: UdpSocket,
    senders: Vec<UdpSocket>,
    gro: bool,
    /// Whether trains may be sent; taken back when the kernel refuses one.
    gso: AtomicBool,
    /// Where the senders' packets come from.
    source_ports: Vec<u16>,
    /// Takes super-packets whole, as long as `whole` says so.
    tap: OnceLock<Tap>,
    whole: AtomicBool,
    probing: AtomicU8,
    counters: LinkCounters,
}

impl UdpTunnel {
    /// Opens the tunnel in the current network namespace. `mtu` is the largest inner packet, in
    /// bytes.
    ///
    /// # Errors
    /// [`UdpTunnelError`].
    pub fn bind(underlay: Ipv4Addr, port: u16, mtu: u16) -> Result<Self, UdpTunnelError> {
        let local = SocketAddrV4::new(underlay, port);
        let receiver = open(local)?;
        let fd = receiver.as_fd();
        let gro = sys::set_option(fd, libc::SOL_UDP, libc::UDP_GRO, 1).is_ok();
        set_buffer(fd, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, "SO_RCVBUF")?;
        let senders = (0..SENDERS)
            .map(|_| {
                let sender = open(SocketAddrV4::new(underlay, 0))?;
                let fd = sender.as_fd();
                set_buffer(fd, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, "SO_SNDBUF")?;
                sys::refuse_input(fd).map_err(|source| UdpTunnelError::Option {
                    option: "SO_ATTACH_FILTER",
                    source,
                })?;
                sys::set_option(
                    fd,
                    libc::IPPROTO_IP,
                    libc::IP_MTU_DISCOVER,
                    libc::IP_PMTUDISC_PROBE,
                )
                .map_err(|source| UdpTunnelError::Option { option: "IP_MTU_DISCOVER", source })?;
                Ok(sender)
            })
            .collect::<Result<Vec<_>, UdpTunnelError>>()?;
        // Setting it to 0 changes nothing, but is refused by a kernel that does not know it.
        let gso = sys::set_option(senders[0].as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, 0).is_ok();
        let source_ports = senders
            .iter()
            .map(|sender| sender.local_addr().map(|address| address.port()))
            .collect::<io::Result<_>>()
            .map_err(|source| UdpTunnelError::Option { option: "the address", source })?;
        Ok(Self {
            local,
            source_ports,
            tap: OnceLock::new(),
            whole: AtomicBool::new(false),
            probing: AtomicU8::new(Probing::OFF),
            mtu: AtomicU16::new(mtu),
            receiver,
            senders,
            gro,
            gso: AtomicBool::new(gso),
            counters: LinkCounters::default(),
        })
    }

    /// Where it is bound to.
    pub fn local(&self) -> SocketAddrV4 {
        self.local
    }

    /// Largest inner packet, in bytes.
    pub fn mtu(&self) -> u16 {
        self.mtu.load(Relaxed)
    }

    /// Changes the largest inner packet.
    pub fn set_mtu(&self, mtu: u16) {
        self.mtu.store(mtu, Relaxed);
    }

    /// What it counted.
    pub fn counters(&self) -> &LinkCounters {
        &self.counters
    }

    /// Sets how packets shall leave.
    ///
    /// # Errors
    /// [`TapError`]: this kernel or our rights do not suffice for super-packets to leave whole,
    /// and nothing else was asked for. They leave as trains then.
    pub fn set_mode(&self, mode: UplinkMode) -> Result<(), TapError> {
        self.probing.store(Probing::OFF, Relaxed);
        self.whole.store(false, Relaxed);
        match mode {
            // AF_XDP is another door's; a socket that is all there is carries everything.
            UplinkMode::Udp | UplinkMode::Xdp => {}
            UplinkMode::TunnelGso => {
                self.open_tap()?;
                self.whole.store(true, Relaxed);
            }
            UplinkMode::Auto => match self.open_tap() {
                Ok(()) => self.probing.store(Probing::WANTED, Relaxed),
                Err(error) => {
                    tracing::info!("super-packets leave as trains of segments: {error}");
                }
            },
        }
        Ok(())
    }

    fn open_tap(&self) -> Result<(), TapError> {
        if self.tap.get().is_none() {
            // Only the control thread opens one.
            let _other = self.tap.set(Tap::create()?);
        }
        Ok(())
    }

    /// Looks in the background whether super-packets for another cell can leave whole, if that is
    /// to be found out and nobody has looked yet.
    pub fn probe(self: &Arc<Self>, peer: Ipv4Addr) {
        let (wanted, running) = (Probing::WANTED, Probing::RUNNING);
        if self.probing.compare_exchange(wanted, running, Relaxed, Relaxed).is_err() {
            return;
        }
        if let Err(error) = probe::start(self, peer) {
            tracing::warn!("cannot probe how super-packets leave: no thread: {error}");
        }
    }

    /// Lets super-packets leave as was found best.
    fn probed(&self, whole: bool) {
        let (running, over) = (Probing::RUNNING, Probing::OFF);
        if self.probing.compare_exchange(running, over, Relaxed, Relaxed).is_ok() {
            self.whole.store(whole, Relaxed);
        }
    }

    /// The mode it really has, as in `tunnel-gso, udp gso gro`.
    pub fn mode(&self) -> String {
        let whole = if self.whole.load(Relaxed) { "tunnel-gso, " } else { "" };
        let gso = if self.gso.load(Relaxed) { " gso" } else { "" };
        let gro = if self.gro { " gro" } else { "" };
        format!("{whole}udp{gso}{gro}")
    }

    /// Reads up to `max` trains of datagrams into the batch and coalesces each.
    pub fn receive(
        &self,
        batch: &mut Batch,
        max: usize,
        scratch: &mut Scratch,
        report: &mut Report,
    ) -> Received {
        self.receive_for(&self.counters, batch, max, scratch, report)
    }

    /// The same, counted by the link that this tunnel helps.
    pub(super) fn receive_for(
        &self,
        counters: &LinkCounters,
        batch: &mut Batch,
        max: usize,
        scratch: &mut Scratch,
        report: &mut Report,
    ) -> Received {
        let mut received = Received::default();
        let (mut trains, mut bytes, mut errors) = (0, 0, 0);
        while trains < max && bytes < MAX_BATCH_BYTES {
            let want = MAX_MESSAGES
                .min(max - trains)
                .min(batch.free_buffers())
                .min(batch.room() / TRAIN_ROOM);
            if want == 0 {
                break;
            }
            let mut messages = [Message::EMPTY; MAX_MESSAGES];
            let mut buffers = [Piece::default(); MAX_MESSAGES];
            for buffer in &mut buffers[..want] {
                *buffer = batch.take_buffer().unwrap_or_default();
            }
            let came = self.receive_into(batch, &buffers[..want], &mut messages);
            let count = *came.as_ref().unwrap_or(&0);
            for _ in count..want {
                batch.untake_buffer();
            }
            for (message, buffer) in messages.iter().zip(&buffers).take(count) {
                bytes += u64::from(message.len);
                // An empty datagram would be no packet at all, and counted by nobody.
                if message.truncated || message.len == 0 {
                    errors += 1;
                    report.dropped(DropReason::Malformed, 1);
                    continue;
                }
                let train = Piece { len: message.len, ..*buffer };
                let from = Via::Tunnel(message.source);
                let mtu = self.mtu();
                received.packets +=
                    scratch.coalescer.receive(batch, train, message.stride, mtu, from, report);
            }
            trains += count;
            if count < want {
                // What is no lack of messages is about a packet that was sent (an ICMP error) or
                // passes (memory): the next message announces itself.
                let waiting = matches!(&came, Err(e) if e.kind() != io::ErrorKind::WouldBlock);
                errors += u64::from(waiting);
                received.drained = true;
                break;
            }
        }
        counters.received(received.packets as u64, bytes, errors);
        received
    }

    fn receive_into(
        &self,
        batch: &mut Batch,
        buffers: &[Piece],
        messages: &mut [Message; MAX_MESSAGES],
    ) -> io::Result<usize> {
        let mut slices = [const { None }; MAX_MESSAGES];
        let mut free = slices.iter_mut();
        batch.each_bytes_mut(buffers.iter().copied(), |bytes| {
            if let Some(slot) = free.next() {
                *slot = Some(IoSliceMut::new(bytes));
            }
        });
        let mut slices = slices.map(|slice| slice.unwrap_or_else(|| IoSliceMut::new(&mut [])));
        loop {
            match sys::receive(self.receiver.as_fd(), &mut slices[..buffers.len()], messages) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    /// Makes it a tunnel over a kernel that takes no trains.
    #[cfg(test)]
    pub(super) fn refuse_trains(&self) {
        self.gso.store(false, Relaxed);
    }
}

/// The socket to wait for.
impl AsFd for UdpTunnel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.receiver.as_fd()
    }
}

fn open(address: SocketAddrV4) -> Result<UdpSocket, UdpTunnelError> {
    let socket =
        UdpSocket::bind(address).map_err(|source| UdpTunnelError::Bind { address, source })?;
    socket
        .set_nonblocking(true)
        .map_err(|source| UdpTunnelError::Option { option: "O_NONBLOCK", source })?;
    Ok(socket)
}

/// Sets the size of a socket's buffer, beyond the system's limit where we may.
fn set_buffer(
    socket: BorrowedFd<'_>,
    force: c_int,
    ask: c_int,
    option: &'static str,
) -> Result<(), UdpTunnelError> {
    sys::set_option(socket, libc::SOL_SOCKET, force, SOCKET_BUFFER)
        .or_else(|_| sys::set_option(socket, libc::SOL_SOCKET, ask, SOCKET_BUFFER))
        .map_err(|source| UdpTunnelError::Option { option, source })
}
