//! The far sides of a cell's doors: where a test sends what the cell receives, and the other way
//! round.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::sockopt::{ReceiveTimeout, SetBool};
use nix::sys::socket::{
    AddressFamily, ControlMessage, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType,
    SockaddrIn, bind, recv, recvfrom, send, sendmsg, setsockopt, socket,
};
use nix::sys::time::{TimeVal, TimeValLike as _};
use nix::unistd::write;
use sarcenet_dataplane::packet::{Checksum, Offload, Segmentation, Via};

use super::segments::segments;
use crate::expectation::Left;
use crate::namespace::Namespace;
use crate::table::packet::{Packet, encapsulated};

/// How long a packet that must come may take, in seconds.
const PATIENCE: u8 = 10;

/// Longest packet, with what stands in front of it.
const MAX_LEN: usize = 70_000;

/// The far side of one door.
pub(super) struct Door {
    via: Via,
    side: Side,
}

enum Side {
    /// A packet socket on a TUN device, with a `virtio_net_hdr` in front of every packet.
    Tun(OwnedFd),
    /// The tunnel's port of a peer, and the cell's.
    Peer(UdpSocket, SocketAddrV4),
}

/// A `virtio_net_hdr` stands in front of every packet (packet(7)).
#[derive(Clone)]
struct PacketVnetHdr;

nix::setsockopt_impl!(PacketVnetHdr, libc::SOL_PACKET, libc::PACKET_VNET_HDR, bool, SetBool);

impl Door {
    /// The namespace's side of the TUN device `name`, which nobody uses yet.
    pub(super) fn tun(namespace: &Namespace, name: &'static str, tun: &OwnedFd, via: Via) -> Self {
        let (socket, index) = namespace.run(move || {
            let flags = SockFlag::SOCK_CLOEXEC;
            let socket =
                socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll).unwrap();
            setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(PATIENCE.into())).unwrap();
            (socket, if_nametoindex(name).unwrap() as usize)
        });
        // A link-layer address cannot be made by hand without unsafe code. The one that comes
        // with a packet serves as well.
        let mut packet = [0; HEADER_LEN + 20];
        packet[HEADER_LEN] = 0x45;
        write(tun, &packet).unwrap();
        let address = loop {
            let (_, address) = recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut [0]).unwrap();
            if let Some(address) = address.filter(|address| address.ifindex() == index) {
                break address;
            }
        };
        bind(socket.as_raw_fd(), &address).unwrap();
        setsockopt(&socket, PacketVnetHdr, &true).unwrap();
        Self { via, side: Side::Tun(socket) }
    }

    /// A peer at `address`, whose other end is `cell`.
    pub(super) fn peer(namespace: &Namespace, address: Ipv4Addr, cell: SocketAddrV4) -> Self {
        let socket = namespace.run(move || UdpSocket::bind((address, cell.port())).unwrap());
        socket.set_read_timeout(Some(Duration::from_secs(PATIENCE.into()))).unwrap();
        Self { via: Via::Tunnel(address), side: Side::Peer(socket, cell) }
    }

    /// Which door of the cell this is.
    pub(super) fn via(&self) -> Via {
        self.via
    }

    /// Sends a packet to the cell. A super-packet goes through the tunnel as a train of segments.
    pub(super) fn send(&self, packet: &Packet) -> nix::Result<()> {
        match &self.side {
            Side::Tun(socket) => {
                let bytes = [&header_of(packet)[..], &packet.ip_bytes()].concat();
                send(socket.as_raw_fd(), &bytes, MsgFlags::empty()).map(drop)
            }
            Side::Peer(socket, cell) => {
                let mut datagrams = vec![packet.bytes()];
                let size = packet.offload.segmentation.size();
                if size.is_some() {
                    let cut = segments(&packet.ip_bytes(), packet.offload);
                    let header = encapsulated(&[], packet.tunnel, [0xee; 6]);
                    datagrams = cut.iter().map(|ip| [&header[..], ip].concat()).collect();
                }
                let stride = datagrams[0].len() as u16;
                let train = size.map(|_| ControlMessage::UdpGsoSegments(&stride));
                let bytes = datagrams.concat();
                sendmsg(
                    socket.as_raw_fd(),
                    &[std::io::IoSlice::new(&bytes)],
                    train.as_slice(),
                    MsgFlags::empty(),
                    Some(&SockaddrIn::from(*cell)),
                )
                .map(drop)
            }
        }
    }

    /// Waits for a packet from the cell; none when nothing comes.
    pub(super) fn receive(&self) -> Option<Left> {
        self.receive_with(MsgFlags::empty())
    }

    /// A packet that has come from the cell already.
    pub(super) fn look(&self) -> Option<Left> {
        self.receive_with(MsgFlags::MSG_DONTWAIT)
    }

    fn receive_with(&self, flags: MsgFlags) -> Option<Left> {
        let mut buffer = vec![0; MAX_LEN];
        let fd = match &self.side {
            Side::Tun(socket) => socket.as_raw_fd(),
            Side::Peer(socket, _) => socket.as_raw_fd(),
        };
        let len = match recv(fd, &mut buffer, flags) {
            Ok(len) => len,
            Err(Errno::EAGAIN) => return None,
            Err(errno) => panic!("receiving at {:?}: {errno}", self.via),
        };
        buffer.truncate(len);
        let offload = match &self.side {
            Side::Tun(_) => offload_of(&buffer.drain(..HEADER_LEN).collect::<Vec<_>>()),
            Side::Peer(..) => Offload::default(),
        };
        Some(Left { door: self.via, bytes: buffer, offload })
    }
}

// `struct virtio_net_hdr` (VIRTIO 1.2 section 5.1.6), in the machine's byte order: flags,
// gso_type, hdr_len, gso_size, csum_start, csum_offset.
const HEADER_LEN: usize = 10;
const NEEDS_CSUM: u8 = 1;
const GSO_TCPV4: u8 = 1;
const GSO_UDP_L4: u8 = 5;

fn header_of(packet: &Packet) -> [u8; HEADER_LEN] {
    let Offload { checksum, segmentation } = packet.offload;
    let (flags, start, offset) = match checksum {
        Checksum::Partial { start, offset } => (NEEDS_CSUM, start, offset),
        Checksum::Unverified | Checksum::Verified => (0, 0, 0),
    };
    let (gso_type, size, transport) = match segmentation {
        Segmentation::None => (0, 0, 0),
        Segmentation::Tcp { size } => (GSO_TCPV4, size, 20),
        Segmentation::Udp { size } => (GSO_UDP_L4, size, 8),
    };
    let mut header = [flags, gso_type, 0, 0, 0, 0, 0, 0, 0, 0];
    for (at, value) in [(2, start + transport), (4, size), (6, start), (8, offset)] {
        header[at..at + 2].copy_from_slice(&value.to_ne_bytes());
    }
    header
}

fn offload_of(header: &[u8]) -> Offload {
    let field = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
    let checksum = match header[0] & NEEDS_CSUM {
        0 => Checksum::Unverified,
        _ => Checksum::Partial { start: field(6), offset: field(8) },
    };
    let segmentation = match header[1] {
        GSO_TCPV4 => Segmentation::Tcp { size: field(4) },
        GSO_UDP_L4 => Segmentation::Udp { size: field(4) },
        _ => Segmentation::None,
    };
    Offload { checksum, segmentation }
}
