//! A TAP that takes whole tunnel super-packets.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use libc::{c_int, c_uint};
use tun::Layer;

use crate::device::{TunError, check_name, open};
use crate::{TUNNEL_VNET_HEADER_LEN, sys};

/// Tunnel super-packets, without and with an outer checksum (`<linux/if_tun.h>`, Linux 6.17).
const TUN_F_UDP_TUNNEL_GSO: c_uint = 0x080;
const TUN_F_UDP_TUNNEL_GSO_CSUM: c_uint = 0x100;

/// Address of the device, the dummy address of RFC 7600: from a device without any, the kernel takes
/// only packets whose way back leads through it (`__fib_validate_source`, `net/ipv4/fib_frontend.c`).
const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);

/// A TAP that takes encapsulated super-packets: Ethernet, IPv4, UDP and a tunnel's header around a
/// TCP or UDP super-packet, with a `virtio_net_hdr_v1_hash_tunnel` of [`TUNNEL_VNET_HEADER_LEN`]
/// bytes in front that says where each header lies. The kernel takes them for received packets.
///
/// A TUN would be the right device for IP packets, but the kernel wants an Ethernet header in front
/// of the outer IP header (`virtio_net_hdr_tnl_to_skb`, `include/linux/virtio_net.h`).
#[derive(Debug)]
pub struct TunnelTap {
    fd: OwnedFd,
    name: String,
    mac: [u8; 6],
}

impl TunnelTap {
    /// Makes one in the current network namespace, named `prefix` and a number, and sets it up. It
    /// goes when it is closed.
    ///
    /// # Errors
    /// [`TunError`]; an `EINVAL` of `TUNSETOFFLOAD` is that of a kernel before 6.17.
    pub fn create(prefix: &str) -> Result<Self, TunError> {
        check_name(prefix)?;
        let fd = open(&format!("{prefix}%d"), Layer::L2, Some(ADDRESS))?;
        let name = sys::interface(fd.as_fd()).map_err(TunError::NotTun)?.name;
        let failed = |call| {
            let name = name.clone();
            move |source: io::Error| TunError::Ioctl { call, name, source }
        };
        sys::set_vnet_header_len(fd.as_fd(), TUNNEL_VNET_HEADER_LEN as c_int)
            .map_err(failed("TUNSETVNETHDRSZ"))?;
        let inner = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
        let inner = inner | libc::TUN_F_USO4 | libc::TUN_F_USO6;
        sys::set_offload(fd.as_fd(), inner | TUN_F_UDP_TUNNEL_GSO | TUN_F_UDP_TUNNEL_GSO_CSUM)
            .map_err(failed("TUNSETOFFLOAD"))?;
        let mac = sys::hardware_address(fd.as_fd()).map_err(failed("SIOCGIFHWADDR"))?;
        Ok(Self { fd, name, mac })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its hardware address: that of the destination of packets that are written to it.
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }
}

impl AsFd for TunnelTap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
