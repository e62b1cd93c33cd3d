//! The cell's own door into the overlay: a TUN in the agent's namespace, so that the cell's
//! processes (health checks, routers) reach containers.
//!
//! Its address is the subnet's base with the overlay's prefix and link scope, as that of the
//! kernel stack's VTEP (contract section 5.3); the connected route leads the whole overlay there.
//!
//! It is the door to the outside too. What containers send there leaves it with the cell's underlay
//! address, for the kernel to route; what comes for them is diverted into it, super-packets whole.

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use ipnet::Ipv4Net;
use sarcenet_tun::TunDevice;

use crate::attach::{AttachError, turn_ipv6_off};
use crate::netlink::{LinkSettings, Netlink, NetlinkError};
use crate::sysctl;

/// Name of the device.
pub const DEVICE: &str = "sarcenet0";

/// Largest super-packet that may enter the device, in bytes: any that a card's driver puts together.
/// The kernel cuts longer ones into single packets before they enter.
const GSO_MAX_SIZE: u32 = 65_536;

/// What makes the kernel route what comes out of the device with the cell's own source address
/// (`ip-sysctl.rst`). They are settings of this device alone; where there is one for all interfaces
/// too, these three are in force either way: of the two values of `rp_filter` the larger counts, of
/// `accept_local` either, and `forwarding` is asked of the interface where a packet comes in.
/// Nothing from 127/8 is to pass, so `route_localnet` stays off.
const SETTINGS: [(&str, &str); 3] = [
    // Loose: the way back to our own address, and to other hosts, leads elsewhere.
    ("rp_filter", "2"),
    ("accept_local", "1"),
    ("forwarding", "1"),
];

/// Makes the device, or attaches to the one that an agent before left. None when it is there and
/// a dataplane holds it.
pub fn make(subnet: Ipv4Net, overlay: Ipv4Net, mtu: u16) -> Result<Option<OwnedFd>, AttachError> {
    match TunDevice::open(DEVICE).map_err(AttachError::from) {
        Err(e) if e.held_by_another() => Ok(None),
        Err(e) => Err(e),
        Ok(device) => {
            device.persist(true)?;
            set_up(subnet, overlay, mtu)?;
            Ok(Some(device.into_fd()))
        }
    }
}

/// Makes the device in place of the one that somebody holds and does not give back: conversations
/// of the cell's own processes pause for a moment and go on.
pub fn make_anew(subnet: Ipv4Net, overlay: Ipv4Net, mtu: u16) -> Result<OwnedFd, AttachError> {
    remove()?;
    let device = TunDevice::open(DEVICE)?;
    device.persist(true)?;
    set_up(subnet, overlay, mtu)?;
    Ok(device.into_fd())
}

/// Sets the device up, whoever holds it.
pub fn set_up(subnet: Ipv4Net, overlay: Ipv4Net, mtu: u16) -> Result<(), AttachError> {
    let netlink = Netlink::open()?;
    let Some(link) = netlink.link(DEVICE)? else {
        return Err(AttachError::Differs(format!("{DEVICE} went away while it was set up")));
    };
    turn_ipv6_off(DEVICE)?;
    for (key, value) in SETTINGS {
        sysctl::set(&format!("ipv4/conf/{DEVICE}/{key}"), value)?;
    }
    let settings = LinkSettings { mtu: mtu.into(), gso_max_size: Some(GSO_MAX_SIZE) };
    netlink.bring_up(&link, settings)?;
    netlink.set_address(&link, subnet.network(), overlay.prefix_len(), true)?;
    Ok(())
}

/// Removes the device; success when it is not there.
pub fn remove() -> Result<(), NetlinkError> {
    let netlink = Netlink::open()?;
    match netlink.link(DEVICE)? {
        Some(link) => netlink.remove(&link),
        None => Ok(()),
    }
}

/// Why the underlay cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UnderlayError {
    /// Netlink.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// No interface has the address.
    #[error(
        "no interface of this machine has the underlay address {0}; is --cell right, and is the \
         network up?"
    )]
    NoInterface(Ipv4Addr),
}

/// MTU of the interface that carries the underlay address, in bytes.
pub fn underlay_mtu(underlay: Ipv4Addr) -> Result<u32, UnderlayError> {
    let link = Netlink::open()?.link_with(underlay)?;
    link.map(|link| link.mtu).ok_or(UnderlayError::NoInterface(underlay))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sysctl::tests::in_new_namespace;

    #[test]
    fn the_device_routes_what_bears_the_cells_own_address() {
        in_new_namespace(|| {
            let [subnet, overlay] = ["10.255.55.0/24", "10.255.0.0/16"].map(|n| n.parse().unwrap());
            let queue = make(subnet, overlay, 1450).unwrap();
            assert!(queue.is_some());
            // ip-sysctl.rst: a change of ip_forward resets the settings of all interfaces.
            sysctl::set("ipv4/ip_forward", "1").unwrap();
            sysctl::set("ipv4/ip_forward", "0").unwrap();
            set_up(subnet, overlay, 1450).unwrap();
            for (key, value) in SETTINGS {
                let found = sysctl::get(&format!("ipv4/conf/{DEVICE}/{key}")).unwrap();
                assert_eq!(found.trim(), value, "{key}");
            }
            remove().unwrap();
        });
    }
}
