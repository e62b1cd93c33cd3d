//! The few questions and orders for the kernel's network configuration (rtnetlink(7)), blocking.
//!
//! A [`Netlink`] speaks to the namespace of the thread that opened it.

mod filter;
mod survey;
mod veth;

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteScope};
use netlink_packet_route::tc::TcHandle;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::{AddressMessageBuilder, Handle, LinkUnspec, RouteMessageBuilder};
use tokio::runtime::Runtime;

pub use survey::Placed;
pub use veth::End;

/// Where filters of received packets hang.
const INGRESS: TcHandle = TcHandle { major: 0xffff, minor: TcHandle::MIN_INGRESS };

/// Longest wait for the kernel to notice a carrier, in milliseconds; it takes one or two.
const LONGEST_NOTICE_MS: u32 = 50;

/// An order that the kernel did not follow.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}: {source}")]
pub struct NetlinkError {
    what: String,
    source: io::Error,
}

impl NetlinkError {
    /// Whether the name is another device's already.
    pub fn is_taken(&self) -> bool {
        self.source.raw_os_error() == Some(nix::Error::EEXIST as i32)
    }
}

/// A network device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether the kernel has taken notice that it can send (`IFF_RUNNING`).
    pub running: bool,
    /// Whether it resolves addresses by ARP.
    pub arp: bool,
    /// Its MAC address, if it has one.
    pub mac: Option<[u8; 6]>,
    /// Index of the other end of a veth, in that one's namespace.
    pub peer: Option<u32>,
}

/// What a device shall be. All is set in one message.
#[derive(Debug, Clone, Copy)]
pub struct LinkSettings {
    /// MTU in bytes.
    pub mtu: u32,
    /// Largest super-packet in bytes; kernels before 6.3 take it for IPv4 too.
    pub gso_max_size: Option<u32>,
}

/// A connection to the kernel.
#[derive(Debug)]
pub struct Netlink {
    runtime: Runtime,
    handle: Handle,
}

impl Netlink {
    /// Opens a connection to the calling thread's namespace.
    pub fn open() -> Result<Self, NetlinkError> {
        let failed = |source| NetlinkError { what: "open a netlink socket".into(), source };
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let handle = {
            let _entered = runtime.enter();
            let (connection, handle, _) = rtnetlink::new_connection().map_err(failed)?;
            runtime.spawn(connection);
            handle
        };
        Ok(Self { runtime, handle })
    }

    fn ask<T>(
        &self,
        what: impl FnOnce() -> String,
        order: impl Future<Output = Result<T, rtnetlink::Error>>,
    ) -> Result<T, NetlinkError> {
        self.runtime.block_on(order).map_err(|error| NetlinkError {
            what: what(),
            source: match error {
                rtnetlink::Error::NetlinkError(message) => message.to_io(),
                other => io::Error::other(other),
            },
        })
    }

    /// Sends an order for which `rtnetlink` has no words.
    fn order(
        &self,
        what: impl FnOnce() -> String,
        request: NetlinkMessage<RouteNetlinkMessage>,
    ) -> Result<(), NetlinkError> {
        let mut handle = self.handle.clone();
        self.ask(what, async move {
            let mut replies = handle.request(request)?;
            while let Some(reply) = replies.next().await {
                if let NetlinkPayload::Error(error) = reply.payload
                    && error.code.is_some()
                {
                    return Err(rtnetlink::Error::NetlinkError(error));
                }
            }
            Ok(())
        })
    }

    /// The device of that name, if there is one.
    pub fn link(&self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let request = self.handle.link().get().match_name(name).execute();
        let found = self.ask(|| format!("look at device {name}"), request.try_collect::<Vec<_>>());
        match found {
            Ok(links) => Ok(links.iter().find_map(link)),
            Err(e) if e.source.raw_os_error() == Some(nix::Error::ENODEV as i32) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The device that carries `address`.
    pub fn link_with(&self, address: Ipv4Addr) -> Result<Option<Link>, NetlinkError> {
        let Some(index) = self
            .all_addresses()?
            .iter()
            .find(|message| local(message) == Some(address))
            .map(|message| message.header.index)
        else {
            return Ok(None);
        };
        let request = self.handle.link().get().match_index(index).execute();
        let links = self.ask(|| "look at a device".into(), request.try_collect::<Vec<_>>())?;
        Ok(links.iter().find_map(link))
    }

    /// Waits until a device that is up, and whose other end is, sends what it is given: the kernel
    /// notices the latter in a thread of its own, and throws packets away without a word until then
    /// (`linkwatch_do_dev` in `net/core/link_watch.c`, `dev_activate` in `net/sched/sch_generic.c`).
    /// That takes a moment; a kernel that takes longer is not waited for.
    pub fn wait_until_running(&self, name: &str) -> Result<(), NetlinkError> {
        for _ in 0..LONGEST_NOTICE_MS {
            match self.link(name)? {
                Some(link) if !link.running => std::thread::sleep(Duration::from_millis(1)),
                Some(_) | None => break,
            }
        }
        Ok(())
    }

    /// Applies the settings and brings the device up.
    pub fn bring_up(&self, device: &Link, settings: LinkSettings) -> Result<(), NetlinkError> {
        let mut message = LinkUnspec::new_with_index(device.index).mtu(settings.mtu).up();
        if let Some(size) = settings.gso_max_size {
            message = message
                .append_extra_attribute(LinkAttribute::GsoMaxSize(size))
                .append_extra_attribute(LinkAttribute::GsoIpv4MaxSize(size));
        }
        let order = self.handle.link().set(message.build()).execute();
        self.ask(|| format!("bring {} up with MTU {}", device.name, settings.mtu), order)
    }

    /// Brings the loopback device up.
    pub fn bring_loopback_up(&self) -> Result<(), NetlinkError> {
        let Some(lo) = self.link("lo")? else { return Ok(()) };
        if lo.up {
            return Ok(());
        }
        let message = LinkUnspec::new_with_index(lo.index).up().build();
        self.ask(|| "bring lo up".into(), self.handle.link().set(message).execute())
    }

    /// Moves a device into another namespace, where it is called `name` and is down.
    pub fn give_away(
        &self,
        device: &Link,
        netns: BorrowedFd<'_>,
        name: &str,
    ) -> Result<(), NetlinkError> {
        let message =
            LinkUnspec::new_with_index(device.index).setns_by_fd(netns.as_raw_fd()).name(name);
        let order = self.handle.link().set(message.build()).execute();
        self.ask(|| format!("move {} into the namespace as {name}", device.name), order)
    }

    /// Removes a device.
    pub fn remove(&self, device: &Link) -> Result<(), NetlinkError> {
        let order = self.handle.link().del(device.index).execute();
        self.ask(|| format!("remove device {}", device.name), order)
    }

    /// The IPv4 addresses of a device with their prefix lengths.
    pub fn addresses(&self, device: &Link) -> Result<Vec<(Ipv4Addr, u8)>, NetlinkError> {
        Ok(self
            .all_addresses()?
            .iter()
            .filter(|message| message.header.index == device.index)
            .filter_map(|message| Some((local(message)?, message.header.prefix_len)))
            .collect())
    }

    /// The IPv4 addresses of all devices.
    pub fn own_addresses(&self) -> Result<Vec<Ipv4Addr>, NetlinkError> {
        Ok(self.all_addresses()?.iter().filter_map(local).collect())
    }

    fn all_addresses(&self) -> Result<Vec<AddressMessage>, NetlinkError> {
        let request = self.handle.address().get().execute();
        self.ask(|| "list addresses".into(), request.try_collect::<Vec<_>>())
    }

    /// Gives a device this IPv4 address and takes all others from it.
    pub fn set_address(
        &self,
        device: &Link,
        address: Ipv4Addr,
        prefix: u8,
        link_scope: bool,
    ) -> Result<(), NetlinkError> {
        self.remove_addresses_but(device, Some((address, prefix)))?;
        let mut message = AddressMessageBuilder::<Ipv4Addr>::new()
            .index(device.index)
            .address(address, prefix)
            .build();
        if link_scope {
            message.header.scope = AddressScope::Link;
        }
        let what = || format!("give {} the address {address}/{prefix}", device.name);
        self.add_address(what, message)
    }

    fn add_address(
        &self,
        what: impl FnOnce() -> String,
        message: AddressMessage,
    ) -> Result<(), NetlinkError> {
        let unspecified = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let mut order = self.handle.address().add(message.header.index, unspecified, 32).replace();
        *order.message_mut() = message;
        self.ask(what, order.execute())
    }

    /// Takes all IPv4 addresses from a device.
    pub fn remove_addresses(&self, device: &Link) -> Result<(), NetlinkError> {
        self.remove_addresses_but(device, None)
    }

    fn remove_addresses_but(
        &self,
        device: &Link,
        kept: Option<(Ipv4Addr, u8)>,
    ) -> Result<(), NetlinkError> {
        let mine = |message: &AddressMessage| {
            message.header.index == device.index && message.header.family == AddressFamily::Inet
        };
        for message in self.all_addresses()?.into_iter().filter(mine) {
            if local(&message).map(|local| (local, message.header.prefix_len)) != kept {
                let what = || format!("remove a stale address from {}", device.name);
                self.ask(what, self.handle.address().del(message).execute())?;
            }
        }
        Ok(())
    }

    /// Makes a device the way to everywhere, from `source`, without a gateway.
    pub fn set_default_route(&self, device: &Link, source: Ipv4Addr) -> Result<(), NetlinkError> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .output_interface(device.index)
            .scope(RouteScope::Link)
            .pref_source(source)
            .build();
        let order = self.handle.route().add(route).replace().execute();
        self.ask(|| format!("make {} the default route", device.name), order)
    }

    /// Whether the default route leads through the device, from `source`.
    pub fn has_default_route(&self, device: &Link, source: Ipv4Addr) -> Result<bool, NetlinkError> {
        let request = self.handle.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build());
        let routes: Vec<RouteMessage> =
            self.ask(|| "list routes".into(), request.execute().try_collect::<Vec<_>>())?;
        Ok(routes.iter().any(|route| {
            let has =
                |wanted: &dyn Fn(&RouteAttribute) -> bool| route.attributes.iter().any(wanted);
            route.header.destination_prefix_length == 0
                && has(&|a| matches!(a, RouteAttribute::Oif(index) if *index == device.index))
                && has(&|a| {
                    matches!(a, RouteAttribute::PrefSource(
                        netlink_packet_route::route::RouteAddress::Inet(found)) if *found == source)
                })
        }))
    }
}

fn link(message: &LinkMessage) -> Option<Link> {
    let name = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })?;
    let mtu = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    })?;
    let mac = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(bytes) => <[u8; 6]>::try_from(&bytes[..]).ok(),
        _ => None,
    });
    let peer = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Link(index) => Some(*index),
        _ => None,
    });
    let flags = message.header.flags;
    let (up, arp) = (flags.contains(LinkFlags::Up), !flags.contains(LinkFlags::Noarp));
    let running = flags.contains(LinkFlags::Running);
    Some(Link { index: message.header.index, name, mtu, up, running, arp, mac, peer })
}

/// The address of the device itself (not of its peer).
fn local(message: &AddressMessage) -> Option<Ipv4Addr> {
    let pick = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| {
        message.attributes.iter().find_map(wanted)
    };
    let address = pick(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    })
    .or_else(|| {
        pick(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    });
    match address {
        Some(IpAddr::V4(address)) => Some(address),
        _ => None,
    }
}
