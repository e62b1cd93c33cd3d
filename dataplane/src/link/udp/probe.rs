//! Finding out, with real packets, whether whole super-packets leave this cell by its TAP.
//!
//! Two packets are sent to another cell, an ordinary datagram through a socket and a super-packet
//! through the TAP, and a packet socket watches in which shape they leave. Their VXLAN header lacks
//! the flag that makes it one (RFC 7348 section 5), so the receiver drops both.
//!
//! When the datagram leaves and the super-packet does not, the kernel does not forward it (a
//! firewall, a setting); when it leaves in segments, the device of the underlay does not take it
//! whole, and cutting it is better done by `UDP_SEGMENT`, which the receiver can put together
//! again. When not even the datagram leaves, there is no way to that cell now.
#![forbid(unsafe_code)]

use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, socket};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, IpProtocol, Ipv4Packet,
    Ipv4Repr,
};

use super::UdpTunnel;
use super::tap::Tap;
use crate::link::group::write_one;
use crate::link::sys;
use crate::packet::{Checksum, Offload, Segmentation};
use crate::wire::headers::{IPV4_HEADER_LEN, TCP_HEADER_LEN, UDP_HEADER_LEN, pseudo_header_of};
use crate::wire::tunnel::TUNNEL_HEADER_LEN;

/// How long a packet may take to leave; the kernel may have to ask for an address first.
const PATIENCE: Duration = Duration::from_millis(300);

/// Pauses between attempts, while there is no way to the other cell.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(64);

/// Segments of the super-packet.
const SEGMENTS: usize = 3;

/// Inner addresses of the super-packet: the dummy address of RFC 7600.
const NOBODY: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);

/// Inner headers of the super-packet, with the tunnel's.
const HEADERS: usize = TUNNEL_HEADER_LEN + IPV4_HEADER_LEN + TCP_HEADER_LEN;

/// Words in the place of the VXLAN header's second word, by which the packets are known again.
const DATAGRAM: u32 = 0x5a5c_e701;
const WHOLE: u32 = 0x5a5c_e702;

/// What came of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finding {
    /// The super-packet leaves whole.
    Whole,
    /// It leaves in segments.
    Cut,
    /// It does not leave, but other packets do.
    Lost,
    /// Nothing leaves.
    NoWay,
}

impl Finding {
    /// Why super-packets are sent as they are.
    fn reason(self) -> &'static str {
        match self {
            Self::Whole => "the underlay's device takes them whole",
            Self::Cut => "the underlay's device does not take them whole",
            Self::Lost => {
                "the kernel does not forward them (rules of its FORWARD chain? \
                 net.ipv4.conf.all.rp_filter?)"
            }
            Self::NoWay => "there is no way to the other cell",
        }
    }
}

/// Looks in a thread of its own which way super-packets to `peer` take, and lets the tunnel take
/// the better one. Ends when that is known, or with the tunnel.
pub(super) fn start(tunnel: &Arc<UdpTunnel>, peer: Ipv4Addr) -> io::Result<()> {
    let tunnel = Arc::downgrade(tunnel);
    std::thread::Builder::new().name("uplink-probe".into()).spawn(move || run(&tunnel, peer))?;
    Ok(())
}

fn run(tunnel: &Weak<UdpTunnel>, peer: Ipv4Addr) {
    let mut pause = FIRST_PAUSE;
    while let Some(tunnel) = tunnel.upgrade() {
        let Some(tap) = tunnel.tap.get() else { return };
        match attempt(&tunnel, tap, peer, PATIENCE) {
            Ok(Finding::NoWay) => {
                tracing::debug!(%peer, "no packet leaves for that cell; the probe is repeated");
            }
            Ok(finding) => {
                tunnel.probed(finding == Finding::Whole);
                let (how, why) = (tunnel.mode(), finding.reason());
                tracing::info!(%peer, "super-packets leave by {how}: {why}");
                return;
            }
            Err(error) => {
                tracing::warn!("cannot probe how super-packets leave: {error}");
                return;
            }
        }
        drop(tunnel);
        std::thread::sleep(pause);
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

/// Sends both packets and looks how they leave, within `patience`.
pub(super) fn attempt(
    tunnel: &UdpTunnel,
    tap: &Tap,
    peer: Ipv4Addr,
    patience: Duration,
) -> io::Result<Finding> {
    let local = tunnel.local();
    let to = SocketAddrV4::new(peer, local.port());
    let watch = Watch::open(*local.ip(), to)?;
    let mut datagram = [0; TUNNEL_HEADER_LEN];
    datagram[4..8].copy_from_slice(&DATAGRAM.to_be_bytes());
    // A refusal is as good as a packet that does not leave.
    let _no_way = sys::send(tunnel.senders[0].as_fd(), to, &[IoSlice::new(&datagram)], None);

    let size = tunnel.mtu() - (IPV4_HEADER_LEN + TCP_HEADER_LEN) as u16;
    let packet = super_packet(size);
    let offload = Offload {
        segmentation: Segmentation::Tcp { size },
        checksum: Checksum::Partial { start: IPV4_HEADER_LEN as u16, offset: 16 },
    };
    let from = SocketAddrV4::new(*local.ip(), tunnel.source_ports[0]);
    let header = tap.header(offload, &packet, packet.len(), from, to);
    match write_one(tap.as_fd(), &[IoSlice::new(&header), IoSlice::new(&packet)]) {
        Ok(()) | Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM) => {}
        Err(errno) => return Err(errno.into()),
    }
    watch.find(IPV4_HEADER_LEN + UDP_HEADER_LEN + packet.len(), patience)
}

/// A TCP super-packet in a tunnel header that is none.
fn super_packet(size: u16) -> Vec<u8> {
    let payload = SEGMENTS * usize::from(size);
    let mut packet = vec![0; HEADERS + payload];
    packet[4..8].copy_from_slice(&WHOLE.to_be_bytes());
    EthernetRepr {
        src_addr: EthernetAddress([0; 6]),
        dst_addr: EthernetAddress([0; 6]),
        ethertype: EthernetProtocol::Ipv4,
    }
    .emit(&mut EthernetFrame::new_unchecked(&mut packet[8..]));
    let ip = &mut packet[TUNNEL_HEADER_LEN..];
    Ipv4Repr {
        src_addr: NOBODY,
        dst_addr: NOBODY,
        next_header: IpProtocol::Tcp,
        payload_len: TCP_HEADER_LEN + payload,
        hop_limit: 1,
    }
    .emit(&mut Ipv4Packet::new_unchecked(&mut *ip), &ChecksumCapabilities::default());
    let pseudo = pseudo_header_of(ip, (TCP_HEADER_LEN + payload) as u32).fold();
    let tcp = &mut ip[IPV4_HEADER_LEN..];
    tcp[12] = 5 << 4;
    tcp[16..18].copy_from_slice(&pseudo.to_be_bytes());
    packet
}

/// Sees the probe's packets as they leave, after the kernel has cut what the device cannot.
struct Watch(OwnedFd);

impl Watch {
    fn open(from: Ipv4Addr, to: SocketAddrV4) -> io::Result<Self> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let all = SockProtocol::EthAll;
        let socket = socket(AddressFamily::Packet, SockType::Datagram, flags, all)?;
        sys::watch_udp(socket.as_fd(), from, to)?;
        Ok(Self(socket))
    }

    /// Waits for both packets, the super-packet of which is `whole` bytes from its IP header on.
    fn find(&self, whole: usize, patience: Duration) -> io::Result<Finding> {
        let deadline = Instant::now() + patience;
        let mut datagram_left = false;
        loop {
            let mut start = [0; IPV4_HEADER_LEN + UDP_HEADER_LEN + 8];
            match recv(self.0.as_raw_fd(), &mut start, MsgFlags::MSG_TRUNC) {
                Ok(len) => {
                    let word = start[start.len() - 4..].try_into().map(u32::from_be_bytes);
                    match word {
                        Ok(WHOLE) if len == whole => return Ok(Finding::Whole),
                        Ok(WHOLE) => return Ok(Finding::Cut),
                        Ok(DATAGRAM) => datagram_left = true,
                        _ => {}
                    }
                    continue;
                }
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(if datagram_left { Finding::Lost } else { Finding::NoWay });
            }
            let timeout = PollTimeout::try_from(left + Duration::from_millis(1));
            poll(
                &mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)],
                timeout.unwrap_or(PollTimeout::MAX),
            )?;
        }
    }
}
