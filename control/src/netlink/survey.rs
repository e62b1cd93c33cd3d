//! What is there already: addresses and routes with the devices that they belong to.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use futures_util::TryStreamExt;
use ipnet::Ipv4Net;
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use rtnetlink::RouteMessageBuilder;

use super::{Link, Netlink, NetlinkError, link, local};

/// An address or a route, and its device; a route that leads nowhere has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed<T> {
    /// Which.
    pub what: T,
    /// Name of the device.
    pub device: Option<String>,
}

impl Netlink {
    /// All devices.
    pub fn links(&self) -> Result<Vec<Link>, NetlinkError> {
        let request = self.handle.link().get().execute();
        let links: Vec<LinkMessage> =
            self.ask(|| "list devices".into(), request.try_collect::<Vec<_>>())?;
        Ok(links.iter().filter_map(link).collect())
    }

    /// The IPv4 addresses of all devices.
    pub fn placed_addresses(&self) -> Result<Vec<Placed<Ipv4Addr>>, NetlinkError> {
        let names = self.names()?;
        let addresses = self.all_addresses()?;
        let placed = addresses.iter().filter_map(|message| {
            let device = names.get(&message.header.index).cloned();
            Some(Placed { what: local(message)?, device })
        });
        Ok(placed.collect())
    }

    /// The destinations of all IPv4 routes to other hosts, whatever their table.
    pub fn placed_routes(&self) -> Result<Vec<Placed<Ipv4Net>>, NetlinkError> {
        let names = self.names()?;
        let request = self.handle.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build());
        let routes: Vec<RouteMessage> =
            self.ask(|| "list routes".into(), request.execute().try_collect::<Vec<_>>())?;
        let placed = routes.iter().filter_map(|route| {
            let to_ourselves = matches!(
                route.header.kind,
                RouteType::Local | RouteType::Broadcast | RouteType::Anycast | RouteType::Multicast
            );
            let base = route.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(base)) => Some(*base),
                _ => None,
            });
            let device = route.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::Oif(index) => names.get(index).cloned(),
                _ => None,
            });
            let base = base.unwrap_or(Ipv4Addr::UNSPECIFIED);
            let what = Ipv4Net::new(base, route.header.destination_prefix_length).ok()?;
            (!to_ourselves).then_some(Placed { what, device })
        });
        Ok(placed.collect())
    }

    fn names(&self) -> Result<HashMap<u32, String>, NetlinkError> {
        Ok(self.links()?.into_iter().map(|link| (link.index, link.name)).collect())
    }
}
