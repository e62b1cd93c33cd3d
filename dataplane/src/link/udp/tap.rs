//! Whole tunnel super-packets, handed to the kernel's IP forwarding through a TAP.
//!
//! A train of segments (`UDP_SEGMENT`) is cut in our memory, and put together again at the other
//! end, because a UDP socket knows nothing of what is inside. A TAP with `TUN_F_UDP_TUNNEL_GSO`
//! (Linux 6.17) takes the encapsulated super-packet as it is; the kernel routes it to the underlay,
//! whose device cuts it, or not at all when it leads to another namespace of the same machine.
//!
//! The kernel must forward what comes from this device although it bears the cell's own source
//! address; three settings of the device, and of no other, say so.

use std::fs;
use std::io;
use std::net::SocketAddrV4;
use std::os::fd::{AsFd, BorrowedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use sarcenet_tun::{TUNNEL_VNET_HEADER_LEN, TunError, TunnelTap};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, IpProtocol, Ipv4Packet,
    Ipv4Repr, UdpPacket,
};

use crate::link::virtio;
use crate::packet::Offload;
use crate::wire::checksum;
use crate::wire::headers::{IPV4_HEADER_LEN, UDP_HEADER_LEN};
use crate::wire::tunnel::ETHERNET_HEADER_LEN;

/// Begins the names of these devices.
const PREFIX: &str = "sarcenet-gso";

/// Bytes of the outer headers.
const OUTER_LEN: usize = ETHERNET_HEADER_LEN + IPV4_HEADER_LEN + UDP_HEADER_LEN;

/// Bytes that are written in front of a packet that begins with its tunnel header.
pub(super) const HEADER_LEN: usize = TUNNEL_VNET_HEADER_LEN + OUTER_LEN;

/// Longest packet that the outer IP header can describe, from its tunnel header on.
pub(super) const MAX_LEN: usize = 65_535 - IPV4_HEADER_LEN - UDP_HEADER_LEN;

/// Why there is no such device.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// It could not be made.
    #[error("{0} (EINVAL: the kernel is older than 6.17)")]
    Device(#[from] TunError),
    /// It could not be set up.
    #[error("cannot set {path} to {value}: {source}")]
    Setting {
        /// Which file.
        path: String,
        /// To what.
        value: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// The device.
#[derive(Debug)]
pub(super) struct Tap {
    device: TunnelTap,
}

impl Tap {
    /// Makes it in the current network namespace.
    pub(super) fn create() -> Result<Self, TapError> {
        let device = TunnelTap::create(PREFIX)?;
        fcntl(device.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(|errno| {
            TunError::Ioctl {
                call: "F_SETFL",
                name: device.name().to_owned(),
                source: errno.into(),
            }
        })?;
        let settings = [
            ("ipv6", "disable_ipv6", "1"),
            // Loose: the way back to our own address leads through another device.
            ("ipv4", "rp_filter", "2"),
            ("ipv4", "accept_local", "1"),
            ("ipv4", "forwarding", "1"),
        ];
        for (family, key, value) in settings {
            let path = format!("/proc/sys/net/{family}/conf/{}/{key}", device.name());
            match fs::write(&path, value) {
                Err(e) if e.kind() == io::ErrorKind::NotFound && family == "ipv6" => {}
                Err(source) => return Err(TapError::Setting { path, value, source }),
                Ok(()) => {}
            }
        }
        Ok(Self { device })
    }

    /// Its name.
    pub(super) fn name(&self) -> &str {
        self.device.name()
    }

    /// Makes the headers of a super-packet of `len` bytes that begins with its tunnel header; `head`
    /// holds all headers.
    pub(super) fn header(
        &self,
        offload: Offload,
        head: &[u8],
        len: usize,
        from: SocketAddrV4,
        to: SocketAddrV4,
    ) -> [u8; HEADER_LEN] {
        let mut header = [0; HEADER_LEN];
        let (vnet, outer) = header.split_at_mut(TUNNEL_VNET_HEADER_LEN);
        vnet.copy_from_slice(&virtio::encode_tunnel(offload, head, OUTER_LEN));
        let (ethernet, outer) = outer.split_at_mut(ETHERNET_HEADER_LEN);
        let (ip, udp) = outer.split_at_mut(IPV4_HEADER_LEN);
        EthernetRepr {
            src_addr: EthernetAddress([0; 6]),
            dst_addr: EthernetAddress(self.device.mac()),
            ethertype: EthernetProtocol::Ipv4,
        }
        .emit(&mut EthernetFrame::new_unchecked(ethernet));
        let udp_len = UDP_HEADER_LEN + len;
        Ipv4Repr {
            src_addr: *from.ip(),
            dst_addr: *to.ip(),
            next_header: IpProtocol::Udp,
            payload_len: udp_len,
            hop_limit: 65, // The kernel takes one off.
        }
        .emit(&mut Ipv4Packet::new_unchecked(ip), &ChecksumCapabilities::default());
        // Ours, to be finished by whoever cuts the packet.
        let pseudo = checksum::pseudo_header(*from.ip(), *to.ip(), 17, udp_len as u32);
        let mut udp = UdpPacket::new_unchecked(udp);
        udp.set_src_port(from.port());
        udp.set_dst_port(to.port());
        udp.set_len(udp_len as u16);
        udp.set_checksum(pseudo.fold());
        header
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}
