//! The interface of a container: a TUN device ([`tun`]) or a veth pair ([`veth`]).

mod tun;
mod veth;

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sarcenet_agent_api::{AttachKind, HostEnd};
use sarcenet_dataplane_api::Attach;
use sarcenet_packet_socket::PacketSocketError;
use sarcenet_tun::TunError;

use crate::netlink::{Link, Netlink, NetlinkError};
use crate::netns;
use crate::sysctl::SysctlError;

/// Largest super-packet that a container or the cell hands over, in bytes: 64 KiB less what the
/// headers of the way take, so that a whole one still fits a tunnel packet.
pub const GSO_MAX_SIZE: u32 = 61_900;

/// Why an interface could not be made, or is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The namespace cannot be entered.
    #[error("cannot enter the container's network namespace: {0}; is it still there?")]
    Namespace(io::Error),
    /// The namespace is the cell's own.
    #[error("the network namespace given is the cell's own, not a container's")]
    OwnNamespace,
    /// The device cannot be made or attached to.
    #[error(transparent)]
    Tun(#[from] TunError),
    /// The cell's end of a veth cannot be read.
    #[error(transparent)]
    PacketSocket(#[from] PacketSocketError),
    /// There is a device of that name which is not ours.
    #[error(
        "the container's network namespace has a device {0} already, made by somebody else or \
         still held by a dataplane that does not answer; remove it (ip link del {0}) and try again"
    )]
    Taken(String),
    /// The name of the cell's end belongs to a device which is not ours.
    #[error(
        "the cell has a device {0} already, made by somebody else; remove it (ip link del {0}) \
         and try again"
    )]
    HostTaken(String),
    /// The device cannot be set up.
    #[error("setting up the container's interface: {0}")]
    Netlink(#[from] NetlinkError),
    /// IPv6 cannot be turned off.
    #[error("cannot turn IPv6 off on {ifname}: {source}")]
    Ipv6 {
        /// The device.
        ifname: String,
        /// What the system said.
        source: io::Error,
    },
    /// A setting of the kernel's cannot be made.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// Something was changed by somebody else.
    #[error("{0}")]
    Differs(String),
}

impl AttachError {
    /// Whether the device is there, held by somebody else.
    pub fn held_by_another(&self) -> bool {
        matches!(self, Self::Tun(TunError::Open { source, .. })
            if source.raw_os_error() == Some(nix::Error::EBUSY as i32))
    }
}

/// What an interface shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// What it is made of.
    pub kind: AttachKind,
    /// Its name.
    pub ifname: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// The MAC address that it was asked to have; none for the one that goes with its address.
    pub mac: Option<[u8; 6]>,
    /// Its MTU in bytes.
    pub mtu: u16,
}

impl Interface {
    /// Makes the interface in `netns`. The descriptor is what the dataplane needs of it.
    pub fn make(&self, netns: BorrowedFd<'_>) -> Result<OwnedFd, AttachError> {
        sarcenet_tun::check_name(&self.ifname)?;
        let inode = netns::inode(netns).map_err(AttachError::Namespace)?;
        if inode == netns::own_inode().map_err(AttachError::Namespace)? {
            return Err(AttachError::OwnNamespace);
        }
        match self.kind {
            AttachKind::Tun => tun::make(self, netns),
            AttachKind::Veth => veth::make(self, netns),
        }
    }

    /// Sets up the interface that is in `netns`, whoever holds its descriptor.
    pub fn set_up(&self, netns: BorrowedFd<'_>) -> Result<(), AttachError> {
        match self.kind {
            AttachKind::Tun => tun::set_up(self, netns),
            AttachKind::Veth => veth::set_up(self, netns),
        }
    }

    /// Whether `queue` is that of the interface in `netns`. Not so when its device is gone, or was
    /// renamed or moved.
    pub fn is_of(&self, queue: &OwnedFd, netns: BorrowedFd<'_>) -> Result<bool, AttachError> {
        match self.kind {
            AttachKind::Tun => tun::is_of(self, queue, netns),
            AttachKind::Veth => veth::is_of(self, queue, netns),
        }
    }

    /// Compares the interface in `netns` with what it shall be, and the default route, too, if that
    /// leads through it still.
    pub fn check(&self, netns: BorrowedFd<'_>, default_route: bool) -> Result<(), AttachError> {
        match self.kind {
            AttachKind::Tun => tun::check(self, netns, default_route),
            AttachKind::Veth => veth::check(self, netns, default_route),
        }
    }

    /// Its MAC address; a TUN has none.
    pub fn container_mac(&self) -> Option<[u8; 6]> {
        (self.kind == AttachKind::Veth).then(|| veth::container_mac(self))
    }

    /// The cell's end, and the gateway that its container sees there; a TUN has none.
    pub fn host_end(&self) -> Option<HostEnd> {
        (self.kind == AttachKind::Veth).then(|| HostEnd {
            name: veth::host_name(self.address),
            mac: veth::host_mac(self.address),
            gateway: veth::GATEWAY,
        })
    }

    /// Whether the cell's end is there; a TUN has none.
    pub fn is_seen_here(&self) -> Result<bool, AttachError> {
        match self.kind {
            AttachKind::Tun => Ok(false),
            AttachKind::Veth => veth::is_here(self.address),
        }
    }

    /// What the dataplane is told about it.
    pub fn description(&self) -> Attach {
        match self.kind {
            AttachKind::Tun => Attach::Tun,
            AttachKind::Veth => Attach::Veth {
                container: veth::container_mac(self),
                gateway: veth::host_mac(self.address),
            },
        }
    }

    fn differs<T>(what: String) -> Result<T, AttachError> {
        Err(AttachError::Differs(what))
    }

    /// Compares the address and the route of `link` with what they shall be, in its namespace.
    fn check_address(
        &self,
        netlink: &Netlink,
        link: &Link,
        default_route: bool,
    ) -> Result<(), AttachError> {
        let Self { ifname, address, .. } = self;
        let addresses = netlink.addresses(link)?;
        if addresses != [(*address, 32)] {
            return Self::differs(format!(
                "{ifname} has the addresses {addresses:?} instead of {address}/32"
            ));
        }
        if default_route && !netlink.has_default_route(link, *address)? {
            return Self::differs(format!("the default route does not lead through {ifname}"));
        }
        Ok(())
    }

    /// Compares what both kinds have with what it shall be.
    fn check_link(&self, link: &Link) -> Result<(), AttachError> {
        let Self { ifname, mtu, .. } = self;
        if !link.up {
            return Self::differs(format!("{ifname} is down"));
        }
        if link.mtu != u32::from(*mtu) {
            return Self::differs(format!("{ifname} has MTU {} instead of {mtu}", link.mtu));
        }
        Ok(())
    }
}

fn find(netlink: &Netlink, name: &str) -> Result<Link, AttachError> {
    match netlink.link(name)? {
        Some(link) => Ok(link),
        None => Interface::differs(format!("{name} is not there")),
    }
}

/// Turns IPv6 off on a device of the calling thread's namespace: the overlay is IPv4, and router
/// solicitations into it would only fill the drop counters.
pub fn turn_ipv6_off(ifname: &str) -> Result<(), AttachError> {
    match std::fs::write(format!("/proc/sys/net/ipv6/conf/{ifname}/disable_ipv6"), "1") {
        Ok(()) => Ok(()),
        // A kernel without IPv6.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(AttachError::Ipv6 { ifname: ifname.to_owned(), source }),
    }
}

/// Removes the interface `ifname` of that address and kind, by which it is ours; success when there
/// is no such device. `netns` is none when the container's namespace is gone.
pub fn remove(
    kind: AttachKind,
    netns: Option<BorrowedFd<'_>>,
    ifname: &str,
    address: Ipv4Addr,
) -> Result<(), AttachError> {
    match (kind, netns) {
        (AttachKind::Tun, Some(netns)) => tun::remove(netns, ifname, address),
        (AttachKind::Tun, None) => Ok(()),
        (AttachKind::Veth, _) => veth::remove(address),
    }
}

/// Whether the device behind a descriptor is gone, with its namespace or by itself.
pub fn is_gone(queue: &OwnedFd) -> bool {
    if let Ok(device) = sarcenet_packet_socket::device(queue.as_fd()) {
        return device.is_none();
    }
    let mut fds = [PollFd::new(queue.as_fd(), PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO).is_ok()
        && fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLERR))
}
