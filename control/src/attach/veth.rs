//! A veth pair as a container's interface: one end is the container's, the other stays in the cell,
//! where a packet socket is its reader and writer. Names, MAC addresses, addresses and routes are
//! those of a Silk container (contract section 6.2), but the cell's end has no address: the cell's
//! IP stack never sees what the container sends, because a filter throws it away behind the
//! packet socket, whether anybody reads that or not.
//!
//! The pair lives as long as the container's namespace. Who has no socket opens another.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use sarcenet_packet_socket::PacketSocket;

use super::{AttachError, GSO_MAX_SIZE, Interface, find, turn_ipv6_off};
use crate::netlink::{End, Link, LinkSettings, Netlink};
use crate::netns;

/// What every container takes for its gateway.
pub(super) const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 1);

/// Name of the cell's end.
pub(super) fn host_name(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("s-{a:03}{b:03}{c:03}{d:03}")
}

/// MAC address of the cell's end.
pub(super) fn host_mac(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0xaa, 0xaa, a, b, c, d]
}

/// MAC address of the container's end.
pub(super) fn container_mac(interface: &Interface) -> [u8; 6] {
    let [a, b, c, d] = interface.address.octets();
    interface.mac.unwrap_or([0xee, 0xee, a, b, c, d])
}

/// Makes the pair, or takes the one that an agent before made, and opens a socket on the cell's end.
pub(super) fn make(interface: &Interface, netns: BorrowedFd<'_>) -> Result<OwnedFd, AttachError> {
    let netlink = Netlink::open()?;
    let address = interface.address;
    let host = host_name(address);
    let here = End { name: &host, mac: host_mac(address) };
    let mut kept = false;
    if let Some(link) = netlink.link(&host)? {
        if link.mac != Some(here.mac) {
            return Err(AttachError::HostTaken(host));
        }
        kept = leads_to(&link, interface, netns)?;
        if !kept {
            // Left by a container of the same address.
            netlink.remove(&link)?;
        }
    }
    if !kept {
        let there = End { name: &interface.ifname, mac: container_mac(interface) };
        netlink.add_veth(here, there, netns, interface.mtu.into()).map_err(|e| {
            if e.is_taken() { AttachError::Taken(interface.ifname.clone()) } else { e.into() }
        })?;
    }
    let opened = set_up(interface, netns).and_then(|()| {
        let link = find(&netlink, &host)?;
        Ok(PacketSocket::open(link.index)?.into_fd())
    });
    if opened.is_err() && !kept {
        // Why it cannot be used is what matters.
        let _ = remove(address);
    }
    opened
}

/// Sets up both ends of the pair.
pub(super) fn set_up(interface: &Interface, netns: BorrowedFd<'_>) -> Result<(), AttachError> {
    let address = interface.address;
    let settings = LinkSettings { mtu: interface.mtu.into(), gso_max_size: Some(GSO_MAX_SIZE) };
    let netlink = Netlink::open()?;
    let host = find(&netlink, &host_name(address))?;
    // Before it is up: nothing is to come in without the filter.
    netlink.drop_ingress(&host)?;
    turn_ipv6_off(&host.name)?;
    netlink.remove_addresses(&host)?;
    netlink.set_mac_without_arp(&host, host_mac(address))?;
    netlink.bring_up(&host, settings)?;
    netns::inside(netns, || {
        let netlink = Netlink::open()?;
        netlink.bring_loopback_up()?;
        let link = find(&netlink, &interface.ifname)?;
        turn_ipv6_off(&interface.ifname)?;
        netlink.set_mac_without_arp(&link, container_mac(interface))?;
        netlink.bring_up(&link, settings)?;
        netlink.set_point_to_point(&link, address, GATEWAY)?;
        netlink.set_neighbour(&link, GATEWAY, host_mac(address))?;
        netlink.set_default_gateway(&link, GATEWAY, address)?;
        Ok::<_, AttachError>(())
    })
    .map_err(AttachError::Namespace)??;
    // The container's end came up second, and sends from then on.
    Ok(netlink.wait_until_running(&host.name)?)
}

/// Whether `socket` is on the cell's end of the pair whose other end is in `netns`.
pub(super) fn is_of(
    interface: &Interface,
    socket: &OwnedFd,
    netns: BorrowedFd<'_>,
) -> Result<bool, AttachError> {
    let device = sarcenet_packet_socket::device(socket.as_fd()).map_err(AttachError::Namespace)?;
    let host = Netlink::open()?.link(&host_name(interface.address))?;
    match host {
        Some(host) if device == Some(host.index) => leads_to(&host, interface, netns),
        _ => Ok(false),
    }
}

/// Compares both ends of the pair with what they shall be.
pub(super) fn check(
    interface: &Interface,
    netns: BorrowedFd<'_>,
    default_route: bool,
) -> Result<(), AttachError> {
    let Interface { ifname, address, .. } = interface;
    let netlink = Netlink::open()?;
    let host = find(&netlink, &host_name(*address))?;
    let name = &host.name;
    if !host.up {
        return Interface::differs(format!("{name} is down"));
    }
    if !netlink.addresses(&host)?.is_empty() {
        return Interface::differs(format!("{name} has addresses, and should have none"));
    }
    if !netlink.drops_ingress(&host)? {
        return Interface::differs(format!(
            "{name} lets its container's packets into the cell: its filter is gone"
        ));
    }
    if !leads_to(&host, interface, netns)? {
        return Interface::differs(format!("{name} is not the other end of {ifname}"));
    }
    netns::inside(netns, || {
        let netlink = Netlink::open()?;
        let link = find(&netlink, ifname)?;
        interface.check_link(&link)?;
        if link.mac != Some(container_mac(interface)) {
            return Interface::differs(format!("the MAC address of {ifname} was changed"));
        }
        interface.check_address(&netlink, &link, default_route)
    })
    .map_err(AttachError::Namespace)?
}

/// Removes the pair of that address if it is ours.
pub(super) fn remove(address: Ipv4Addr) -> Result<(), AttachError> {
    let netlink = Netlink::open()?;
    own_end(&netlink, address)?.map_or(Ok(()), |link| Ok(netlink.remove(&link)?))
}

/// Whether there is a pair of that address that is ours.
pub(super) fn is_here(address: Ipv4Addr) -> Result<bool, AttachError> {
    Ok(own_end(&Netlink::open()?, address)?.is_some())
}

/// The cell's end of the pair of that address if it is ours, by its name and MAC address.
fn own_end(netlink: &Netlink, address: Ipv4Addr) -> Result<Option<Link>, AttachError> {
    let link = netlink.link(&host_name(address))?;
    Ok(link.filter(|link| link.mac == Some(host_mac(address))))
}

/// Whether the other end of `host` is the interface in `netns`.
fn leads_to(
    host: &Link,
    interface: &Interface,
    netns: BorrowedFd<'_>,
) -> Result<bool, AttachError> {
    let there = netns::inside(netns, || Netlink::open()?.link(&interface.ifname))
        .map_err(AttachError::Namespace)??;
    Ok(there.is_some_and(|there| there.peer == Some(host.index) && host.peer == Some(there.index)))
}
