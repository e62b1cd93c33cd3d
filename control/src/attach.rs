//! The interface of a container.
//!
//! A TUN's descriptor keeps the namespace alive in which it was opened. So the device is made in
//! the agent's namespace and moved into the container's: that ends when its container does, told
//! to us or not, the device with it, and every holder of the queue notices. Who holds no queue
//! cannot get one from outside, so the device is not persistent either: when nobody holds it any
//! more, it is gone, and [`Interface::make`] makes another of the same name and address.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sarcenet_tun::{TunDevice, TunError};

use crate::netlink::{Link, LinkSettings, Netlink, NetlinkError};
use crate::netns;

/// Largest super-packet that a container or the cell hands over, in bytes: 64 KiB less what the
/// headers of the way take, so that a whole one still fits a tunnel packet.
pub const GSO_MAX_SIZE: u32 = 61_900;

/// Begins a device's name until it is in its container's namespace.
const TEMPORARY: &str = "sn-";

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
    /// There is a device of that name which is not ours.
    #[error(
        "the container's network namespace has a device {0} already, made by somebody else or \
         still held by a dataplane that does not answer; remove it (ip link del {0}) and try again"
    )]
    Taken(String),
    /// The device cannot be set up.
    #[error("in the container's network namespace: {0}")]
    Netlink(#[from] NetlinkError),
    /// IPv6 cannot be turned off.
    #[error("cannot turn IPv6 off on {ifname}: {source}")]
    Ipv6 {
        /// The device.
        ifname: String,
        /// What the system said.
        source: io::Error,
    },
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
    /// Its name.
    pub ifname: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its MTU in bytes.
    pub mtu: u16,
}

impl Interface {
    /// Makes the interface in `netns`. The descriptor is its only queue: the device goes with it.
    pub fn make(&self, netns: BorrowedFd<'_>) -> Result<OwnedFd, AttachError> {
        sarcenet_tun::check_name(&self.ifname)?;
        let inode = netns::inode(netns).map_err(AttachError::Namespace)?;
        if inode == netns::own_inode().map_err(AttachError::Namespace)? {
            return Err(AttachError::OwnNamespace);
        }
        let device = TunDevice::create(TEMPORARY)?;
        let netlink = Netlink::open()?;
        let Some(link) = netlink.link(device.name())? else {
            let name = device.name();
            return Err(AttachError::Differs(format!("{name} went away while it was set up")));
        };
        // When the name is taken the device may have been moved all the same; it goes with `device`.
        netlink.give_away(&link, netns, &self.ifname).map_err(|e| {
            if e.is_taken() { AttachError::Taken(self.ifname.clone()) } else { e.into() }
        })?;
        self.set_up(netns)?;
        Ok(device.into_fd())
    }

    /// Sets up the interface that is in `netns`, whoever holds its queue.
    pub fn set_up(&self, netns: BorrowedFd<'_>) -> Result<(), AttachError> {
        netns::inside(netns, || self.configure(&Netlink::open()?))
            .map_err(AttachError::Namespace)?
    }

    /// Whether `queue` is that of the interface in `netns`. Not so when its device is gone, or was
    /// renamed or moved.
    pub fn is_of(&self, queue: &OwnedFd, netns: BorrowedFd<'_>) -> Result<bool, AttachError> {
        let queue = queue.try_clone().map_err(AttachError::Namespace)?;
        let place = TunDevice::from_fd(queue).and_then(|device| {
            let namespace = device.namespace()?;
            Ok((device.name().to_owned(), namespace))
        });
        match place {
            Ok((name, namespace)) => {
                let inode = |netns| netns::inode(netns).map_err(AttachError::Namespace);
                Ok(name == self.ifname && inode(namespace.as_fd())? == inode(netns)?)
            }
            Err(e) if e.is_gone() => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    fn configure(&self, netlink: &Netlink) -> Result<(), AttachError> {
        netlink.bring_loopback_up()?;
        let link = self.find(netlink)?;
        turn_ipv6_off(&self.ifname)?;
        let settings = LinkSettings { mtu: self.mtu.into(), gso_max_size: Some(GSO_MAX_SIZE) };
        netlink.bring_up(&link, settings)?;
        netlink.set_address(&link, self.address, 32, false)?;
        netlink.set_default_route(&link, self.address)?;
        Ok(())
    }

    /// Compares the interface in `netns` with what it shall be.
    pub fn check(&self, netns: BorrowedFd<'_>) -> Result<(), AttachError> {
        netns::inside(netns, || {
            let netlink = Netlink::open()?;
            let link = self.find(&netlink)?;
            let differs = |what: String| Err(AttachError::Differs(what));
            let ifname = &self.ifname;
            if !link.up {
                return differs(format!("{ifname} is down"));
            }
            if link.mtu != u32::from(self.mtu) {
                return differs(format!("{ifname} has MTU {} instead of {}", link.mtu, self.mtu));
            }
            let addresses = netlink.addresses(&link)?;
            if addresses != [(self.address, 32)] {
                return differs(format!(
                    "{ifname} has the addresses {addresses:?} instead of {}/32",
                    self.address
                ));
            }
            if !netlink.has_default_route(&link, self.address)? {
                return differs(format!("the default route does not lead through {ifname}"));
            }
            Ok(())
        })
        .map_err(AttachError::Namespace)?
    }

    fn find(&self, netlink: &Netlink) -> Result<Link, AttachError> {
        let found = netlink.link(&self.ifname)?;
        found.ok_or_else(|| AttachError::Differs(format!("{} is not there", self.ifname)))
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

/// Removes the device `ifname` from `netns` if it has that address, by which it is ours; success
/// when there is no such device.
pub fn remove(netns: BorrowedFd<'_>, ifname: &str, address: Ipv4Addr) -> Result<(), AttachError> {
    netns::inside(netns, || {
        let netlink = Netlink::open()?;
        match netlink.link(ifname)? {
            Some(link) if netlink.addresses(&link)?.contains(&(address, 32)) => {
                Ok(netlink.remove(&link)?)
            }
            _ => Ok(()),
        }
    })
    .map_err(AttachError::Namespace)?
}

/// Whether the device of a queue is gone, with its namespace or by itself.
pub fn is_gone(queue: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(queue.as_fd(), PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO).is_ok()
        && fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLERR))
}
