//! A TUN device as a container's interface.
//!
//! A TUN's descriptor keeps the namespace alive in which it was opened. So the device is made in
//! the agent's namespace and moved into the container's: that ends when its container does, told
//! to us or not, the device with it, and every holder of the queue notices. Who holds no queue
//! cannot get one from outside, so the device is not persistent either: when nobody holds it any
//! more, it is gone, and [`make`] makes another of the same name and address.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use sarcenet_tun::TunDevice;

use super::{AttachError, GSO_MAX_SIZE, Interface, find, turn_ipv6_off};
use crate::netlink::{LinkSettings, Netlink};
use crate::netns;

/// Begins a device's name until it is in its container's namespace.
const TEMPORARY: &str = "sn-";

/// Makes the interface in `netns`. The descriptor is its only queue: the device goes with it.
pub(super) fn make(interface: &Interface, netns: BorrowedFd<'_>) -> Result<OwnedFd, AttachError> {
    let device = TunDevice::create(TEMPORARY)?;
    let netlink = Netlink::open()?;
    let Some(link) = netlink.link(device.name())? else {
        let name = device.name();
        return Interface::differs(format!("{name} went away while it was set up"));
    };
    // When the name is taken the device may have been moved all the same; it goes with `device`.
    let ifname = &interface.ifname;
    netlink
        .give_away(&link, netns, ifname)
        .map_err(|e| if e.is_taken() { AttachError::Taken(ifname.clone()) } else { e.into() })?;
    set_up(interface, netns)?;
    Ok(device.into_fd())
}

/// Sets up the interface that is in `netns`, whoever holds its queue.
pub(super) fn set_up(interface: &Interface, netns: BorrowedFd<'_>) -> Result<(), AttachError> {
    netns::inside(netns, || configure(interface, &Netlink::open()?))
        .map_err(AttachError::Namespace)?
}

/// Whether `queue` is that of the interface in `netns`.
pub(super) fn is_of(
    interface: &Interface,
    queue: &OwnedFd,
    netns: BorrowedFd<'_>,
) -> Result<bool, AttachError> {
    let queue = queue.try_clone().map_err(AttachError::Namespace)?;
    let place = TunDevice::from_fd(queue).and_then(|device| {
        let namespace = device.namespace()?;
        Ok((device.name().to_owned(), namespace))
    });
    match place {
        Ok((name, namespace)) => {
            let inode = |netns| netns::inode(netns).map_err(AttachError::Namespace);
            Ok(name == interface.ifname && inode(namespace.as_fd())? == inode(netns)?)
        }
        Err(e) if e.is_gone() => Ok(false),
        Err(e) => Err(e.into()),
    }
}

fn configure(interface: &Interface, netlink: &Netlink) -> Result<(), AttachError> {
    netlink.bring_loopback_up()?;
    let link = find(netlink, &interface.ifname)?;
    turn_ipv6_off(&interface.ifname)?;
    let settings = LinkSettings { mtu: interface.mtu.into(), gso_max_size: Some(GSO_MAX_SIZE) };
    netlink.bring_up(&link, settings)?;
    netlink.set_address(&link, interface.address, 32, false)?;
    netlink.set_default_route(&link, interface.address)?;
    Ok(())
}

/// Compares the interface in `netns` with what it shall be.
pub(super) fn check(
    interface: &Interface,
    netns: BorrowedFd<'_>,
    default_route: bool,
) -> Result<(), AttachError> {
    netns::inside(netns, || {
        let netlink = Netlink::open()?;
        let link = find(&netlink, &interface.ifname)?;
        interface.check_link(&link)?;
        interface.check_address(&netlink, &link, default_route)
    })
    .map_err(AttachError::Namespace)?
}

/// Removes the device `ifname` from `netns` if it has that address, by which it is ours.
pub(super) fn remove(
    netns: BorrowedFd<'_>,
    ifname: &str,
    address: Ipv4Addr,
) -> Result<(), AttachError> {
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
