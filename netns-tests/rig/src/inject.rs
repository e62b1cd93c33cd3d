//! Sending packets that no protocol stack would send.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, Result};
use nix::net::if_::if_nametoindex;
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, recvfrom, sendto,
    setsockopt, socket,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

use crate::container::Container;

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
