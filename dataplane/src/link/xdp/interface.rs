//! What there is to know about the uplink's interface before it is opened.
#![expect(unsafe_code, reason = "ioctl(2) with SIOCETHTOOL")]

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_nametoindex;

use super::error::XdpError;

/// An interface of the calling thread's namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) name: String,
    pub(super) index: u32,
    /// Receive queues.
    pub(super) queues: u32,
}

impl Interface {
    /// The one that has this address.
    ///
    /// # Errors
    /// [`XdpError::NoInterface`], [`XdpError::Interface`].
    pub(super) fn with_address(address: Ipv4Addr) -> Result<Self, XdpError> {
        let all = getifaddrs().map_err(|errno| XdpError::Interface {
            interface: "with the underlay address".to_owned(),
            source: errno.into(),
        })?;
        let name = all
            .filter_map(|entry| Some((entry.interface_name, entry.address?)))
            .find(|(_, found)| found.as_sockaddr_in().is_some_and(|found| found.ip() == address))
            .map(|(name, _)| name)
            .ok_or(XdpError::NoInterface(address))?;
        let failed = |source| XdpError::Interface { interface: name.clone(), source };
        let index = if_nametoindex(name.as_str()).map_err(|errno| failed(errno.into()))?;
        let queues = receive_queues(&name).map_err(failed)?;
        Ok(Self { name, index, queues })
    }
}

/// `struct ethtool_channels` of `linux/ethtool.h`.
#[repr(C)]
#[derive(Default)]
struct Channels {
    command: u32,
    max_rx: u32,
    max_tx: u32,
    max_other: u32,
    max_combined: u32,
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

const ETHTOOL_GCHANNELS: u32 = 0x3c;

/// How many receive queues an interface uses. One where its driver does not say.
fn receive_queues(name: &str) -> io::Result<u32> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let mut channels = Channels { command: ETHTOOL_GCHANNELS, ..Channels::default() };
    // SAFETY: plain data, for which all zeroes is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero.
    for (to, from) in request.ifr_name[..libc::IFNAMSIZ - 1].iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = (&raw mut channels).cast();
    // SAFETY: the request names an interface and points at a `struct ethtool_channels` whose
    // command is to fill it; both live for the call.
    let result =
        unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) };
    if result < 0 {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            Some(libc::EOPNOTSUPP) => Ok(1),
            _ => Err(error),
        };
    }
    Ok((channels.rx + channels.combined).max(1))
}
