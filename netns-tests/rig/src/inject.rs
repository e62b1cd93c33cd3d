//! Sending packets that no protocol stack would send.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::net::if_::if_nametoindex;
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recvfrom,
    sendto, setsockopt, socket,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

use crate::container::Container;
use crate::namespace::Namespace;

/// Anywhere outside (TEST-NET-1, RFC 5737), discard service.
const ANYWHERE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 9);

impl Container {
    /// Sends packets by its `eth0` exactly as they are: from the IP header on where that is a TUN,
    /// with an Ethernet header where it is a veth.
    pub fn inject(&self, packets: &[Vec<u8>]) -> Result<()> {
        let (socket, interface) = self
            .namespace
            .run(|| -> nix::Result<_> {
                let socket = socket(
                    AddressFamily::Packet,
                    SockType::Raw,
                    SockFlag::SOCK_CLOEXEC,
                    SockProtocol::EthAll,
                )?;
                setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(2))?;
                Ok((socket, if_nametoindex("eth0")?))
            })?
            .context("open a packet socket")?;
        // A link-layer address cannot be made by hand without unsafe code. The one that comes
        // with a packet seen on the way out serves as well.
        self.udp_socket(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0))?.send_to(&[], ANYWHERE)?;
        let address = loop {
            let (_, address) = recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut [0])
                .context("see a packet leave by eth0")?;
            if let Some(address) = address.filter(|a| a.ifindex() == interface as usize) {
                break address;
            }
        };
        for packet in packets {
            sendto(socket.as_raw_fd(), packet, &address, MsgFlags::empty())
                .with_context(|| format!("send {} bytes from {}", packet.len(), self.address()))?;
        }
        Ok(())
    }
}

/// Packets that are sent without a pause.
const TRAIN: usize = 32;
/// Pause between those.
const PAUSE: Duration = Duration::from_millis(2);

impl Namespace {
    /// Sends packets, from the IP header on, where the namespace's routes lead; at a pace at which
    /// nobody loses any.
    pub fn send_packets(&self, packets: &[Vec<u8>]) -> Result<()> {
        let socket = self
            .run(|| {
                socket(
                    AddressFamily::Inet,
                    SockType::Raw,
                    SockFlag::SOCK_CLOEXEC,
                    SockProtocol::Raw,
                )
            })?
            .context("open a raw socket")?;
        for train in packets.chunks(TRAIN) {
            for packet in train {
                let destination: [u8; 4] = packet
                    .get(16..20)
                    .and_then(|bytes| bytes.try_into().ok())
                    .context("a packet without an IPv4 header")?;
                let to = SockaddrIn::from(SocketAddrV4::new(destination.into(), 0));
                sendto(socket.as_raw_fd(), packet, &to, MsgFlags::empty()).with_context(|| {
                    format!("send {} bytes from {} to {to}", packet.len(), self.name())
                })?;
            }
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }
}
