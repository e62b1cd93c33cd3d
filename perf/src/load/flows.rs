//! Datagrams each of which is a conversation of its own.
//!
//! The sender writes its IP and UDP headers by hand, to a raw socket: no socket has more than one
//! source port, and one for each would be the work that is measured.

use std::array;
use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{
    AddressFamily, MsgFlags, MultiHeaders, SockFlag, SockProtocol, SockType, SockaddrIn, connect,
    sendmmsg, setsockopt, socket, sockopt,
};

use super::udp::{BATCH, Batch, TICK, Window, listen_on};
use super::{Departed, PATIENCE, Seen};

/// First port that datagrams come from.
const FIRST_SOURCE: u16 = 1024;
/// Ports from that one on: so many conversations is one port of the receiver good for.
pub(crate) const MOST_SOURCES: u16 = u16::MAX - FIRST_SOURCE + 1;

/// Bytes of an IPv4 header without options (RFC 791).
const IP: usize = 20;
/// Bytes of a UDP header (RFC 768).
const UDP: usize = 8;
/// Payload bytes of each datagram: a frame of 64 bytes on the wire.
const PAYLOAD: usize = 18;
const LENGTH: usize = IP + UDP + PAYLOAD;
/// UDP's number as a protocol of IP.
const PROTOCOL: u8 = 17;

/// Makes packets that differ in nothing but their ports.
struct Maker {
    packet: [u8; LENGTH],
    /// Sum of all that the UDP checksum covers, the ports aside.
    sum: u32,
    first_port: u16,
    /// Ports that each port of the receiver gets datagrams from.
    sources: u32,
}

impl Maker {
    /// From so many ports of an address to an address and the ports from `to`'s on.
    fn new(from: Ipv4Addr, sources: u16, to: SocketAddrV4) -> Self {
        let udp_length = ((UDP + PAYLOAD) as u16).to_be_bytes();
        let mut packet = [0x5a; LENGTH];
        packet[..IP + UDP].fill(0);
        // Version 4, five words of header. The kernel fills in its length, its checksum and an
        // identification (raw(7), IP_HDRINCL).
        packet[0] = 0x45;
        packet[8] = 64;
        packet[9] = PROTOCOL;
        packet[12..16].copy_from_slice(&from.octets());
        packet[16..20].copy_from_slice(&to.ip().octets());
        packet[IP + 4..IP + 6].copy_from_slice(&udp_length);
        // Addresses, protocol and length are the pseudo header; length and payload count as well.
        let pseudo = u32::from(PROTOCOL) + u32::from(u16::from_be_bytes(udp_length));
        let sum = pseudo + words(&packet[12..]);
        let sources = sources.clamp(1, MOST_SOURCES).into();
        Self { packet, sum, first_port: to.port(), sources }
    }

    /// Ports of the `number`th conversation; none if there are no more ports.
    fn ports(&self, number: u32) -> Option<(u16, u16)> {
        let source = FIRST_SOURCE + (number % self.sources) as u16;
        let port = self.first_port.checked_add(u16::try_from(number / self.sources).ok()?)?;
        Some((source, port))
    }

    /// The packet with these ports.
    fn packet(&self, (source, port): (u16, u16)) -> [u8; LENGTH] {
        let mut packet = self.packet;
        packet[IP..IP + 2].copy_from_slice(&source.to_be_bytes());
        packet[IP + 2..IP + 4].copy_from_slice(&port.to_be_bytes());
        let mut sum = self.sum + u32::from(source) + u32::from(port);
        while sum > u32::from(u16::MAX) {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        // A checksum of zero means that there is none (RFC 768).
        let checksum = if sum == 0xffff { 0xffff } else { !(sum as u16) };
        packet[IP + 6..IP + 8].copy_from_slice(&checksum.to_be_bytes());
        packet
    }
}

/// Sum of 16-bit words, not folded (RFC 1071).
fn words(bytes: &[u8]) -> u32 {
    bytes.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum()
}

/// Sends datagrams to so many ports from the receiver's on, each from and to another pair of ports
/// than all before, as fast as it can; until time or pairs are used up.
pub(super) fn send(
    to: SocketAddrV4,
    ports: u16,
    sources: u16,
    seconds: Duration,
) -> Result<Departed> {
    let maker = Maker::new(own_address(to)?, sources, to);
    let socket =
        socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)
            .context("open a raw socket (root only)")?;
    connect(socket.as_raw_fd(), &SockaddrIn::from(to))
        .with_context(|| format!("address a raw socket to {}", to.ip()))?;
    setsockopt(&socket, sockopt::SndBufForce, &(4 << 20))?;
    let addresses = [None::<SockaddrIn>; BATCH];
    let mut headers = MultiHeaders::preallocate(BATCH, None);
    let mut pairs = (0..u32::from(ports) * maker.sources).map_while(|number| maker.ports(number));
    let mut packets = [[0; LENGTH]; BATCH];
    let (began, mut sent) = (Instant::now(), 0);
    while began.elapsed() < seconds {
        let mut filled = 0;
        for (packet, pair) in packets.iter_mut().zip(pairs.by_ref()) {
            *packet = maker.packet(pair);
            filled += 1;
        }
        if filled < BATCH {
            break;
        }
        let slices: [_; BATCH] = array::from_fn(|n| [IoSlice::new(&packets[n])]);
        let fd = socket.as_raw_fd();
        match sendmmsg(fd, &mut headers, &slices, addresses, [], MsgFlags::empty()) {
            Ok(results) => sent += results.count() as u64,
            // What there is no room for is lost like everything else.
            Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::EINTR) => {}
            Err(e) => return Err(e).context("send datagrams"),
        }
    }
    Ok(Departed { sent, seconds: began.elapsed().as_secs_f64() })
}

/// The address that this container sends from.
fn own_address(to: SocketAddrV4) -> Result<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(to).with_context(|| format!("find a route to {to}"))?;
    match socket.local_addr()?.ip() {
        std::net::IpAddr::V4(address) => Ok(address),
        std::net::IpAddr::V6(address) => anyhow::bail!("{address} is no IPv4 address"),
    }
}

/// Counts datagrams on so many ports from this one on.
pub(super) fn receive(
    listen: SocketAddrV4,
    ports: u16,
    omit: Duration,
    seconds: Duration,
) -> Result<Seen> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("make an epoll instance")?;
    let mut sockets = Vec::new();
    for port in (listen.port()..=u16::MAX).take(ports.into()) {
        let socket = listen_on(SocketAddrV4::new(*listen.ip(), port))?;
        epoll
            .add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, sockets.len() as u64))
            .context("watch a socket")?;
        sockets.push(socket);
    }
    super::say_ready()?;
    let mut events = [EpollEvent::empty(); 16];
    let first = epoll.wait(&mut events, EpollTimeout::try_from(PATIENCE)?)?;
    ensure!(first > 0, "no datagram came to {listen}; does a policy admit it?");
    let tick = EpollTimeout::try_from(TICK)?;
    let (mut batch, mut window) = (Batch::new(), Window::new(omit, seconds));
    loop {
        if let Some(seen) = window.look()? {
            return Ok(seen);
        }
        let ready = match epoll.wait(&mut events, tick) {
            Ok(ready) => ready,
            Err(Errno::EINTR) => continue,
            Err(e) => return Err(e).context("wait for datagrams"),
        };
        for event in &events[..ready] {
            let socket = &sockets[event.data() as usize];
            batch.receive(socket, MsgFlags::MSG_DONTWAIT, &mut window)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const FROM: Ipv4Addr = Ipv4Addr::new(10, 255, 1, 2);
    const TO: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 255, 2, 3), 7000);

    #[test]
    fn a_packet_is_a_whole_datagram_with_its_ports() {
        let packet = Maker::new(FROM, MOST_SOURCES, TO).packet((1024, 7001));
        assert_eq!(
            packet[..IP + 6],
            [
                0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 10, 255, 1, 2, 10, 255, 2, 3, // IPv4
                4, 0, 0x1b, 0x59, 0, 26, // UDP without its checksum
            ]
        );
        assert_eq!(packet[IP + UDP..], [0x5a; PAYLOAD]);
    }

    /// A receiver's sum over the pseudo header and all of UDP is all ones (RFC 768, RFC 1071).
    #[test]
    fn every_checksum_is_right_and_there() {
        let maker = Maker::new(FROM, MOST_SOURCES, TO);
        for number in 0..2 * u32::from(MOST_SOURCES) {
            let packet = maker.packet(maker.ports(number).unwrap());
            let sum = words(&packet[12..]) + 17 + 26;
            let folded = (sum & 0xffff) + (sum >> 16);
            assert_eq!((folded & 0xffff) + (folded >> 16), 0xffff, "{packet:x?}");
            assert_ne!(packet[IP + 6..IP + 8], [0, 0], "{packet:x?}");
        }
    }

    #[test]
    fn no_pair_of_ports_comes_twice_and_none_is_beyond_the_last() {
        for sources in [1, 8192, MOST_SOURCES] {
            let maker = Maker::new(FROM, sources, SocketAddrV4::new(*TO.ip(), 65_534));
            let pairs: Vec<_> = (0..=u32::MAX).map_while(|number| maker.ports(number)).collect();
            assert_eq!(pairs.len(), 2 * usize::from(sources));
            assert!(pairs.iter().all(|(source, port)| *source >= FIRST_SOURCE && *port >= 65_534));
            assert_eq!(pairs.iter().collect::<HashSet<_>>().len(), pairs.len());
        }
    }
}
