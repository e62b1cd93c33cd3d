//! The interface of a container, made inside its namespace.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use sarcenet_tun::{TunDevice, TunError};

use crate::netlink::{Link, LinkSettings, Netlink, NetlinkError};
use crate::netns;

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
    #[error("in the container's network namespace: {0}")]
    Tun(#[from] TunError),
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
    /// Makes the interface in `netns`, or attaches to the one that is there, and sets everything
    /// up. When it fails halfway a device that was made here is removed again.
    pub fn make(&self, netns: BorrowedFd<'_>) -> Result<OwnedFd, AttachError> {
        let inode = netns::inode(netns).map_err(AttachError::Namespace)?;
        if inode == netns::own_inode().map_err(AttachError::Namespace)? {
            return Err(AttachError::OwnNamespace);
        }
        netns::inside(netns, || {
            let netlink = Netlink::open()?;
            let existed = netlink.link(&self.ifname)?.is_some();
            let device = TunDevice::open(&self.ifname)?;
            self.set_up(&netlink, &device).inspect_err(|_| {
                if !existed {
                    // Without persistence the device goes with its descriptor.
                    let _ = device.persist(false);
                }
            })?;
            Ok(device.into_fd())
        })
        .map_err(AttachError::Namespace)?
    }

    /// Sets up the interface that is in `netns` already; its queue is held elsewhere.
    pub fn repair(&self, netns: BorrowedFd<'_>) -> Result<(), AttachError> {
        netns::inside(netns, || self.configure(&Netlink::open()?))
            .map_err(AttachError::Namespace)?
    }

    fn set_up(&self, netlink: &Netlink, device: &TunDevice) -> Result<(), AttachError> {
        device.persist(true)?;
        self.configure(netlink)
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

/// Removes the device `ifname` from `netns`; success when it is not there.
pub fn remove(netns: BorrowedFd<'_>, ifname: &str) -> Result<(), AttachError> {
    netns::inside(netns, || {
        let netlink = Netlink::open()?;
        match netlink.link(ifname)? {
            Some(link) => Ok(netlink.remove(&link)?),
            None => Ok(()),
        }
    })
    .map_err(AttachError::Namespace)?
}

/// Lets the device go with its last descriptor, also when its namespace cannot be entered.
pub fn let_go(queue: &OwnedFd) -> Result<(), AttachError> {
    let again = queue.as_fd().try_clone_to_owned().map_err(AttachError::Namespace)?;
    Ok(TunDevice::from_fd(again)?.persist(false)?)
}
