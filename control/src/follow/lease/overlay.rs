//! Whether the overlay is free on this cell: traffic to what overlaps it would end in the tunnel.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use ipnet::Ipv4Net;

use crate::netlink::{Netlink, NetlinkError, Placed};
use crate::paths::Root;

/// How the names of devices of the agent and the dataplane begin.
const OWN_DEVICES: &str = "sarcenet";

/// Why the overlay cannot be used on this cell.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the overlay {overlay} overlaps {conflict} of this cell, which could not be reached any more; \
     choose another overlay, or remove what overlaps it"
)]
pub struct Overlap {
    overlay: Ipv4Net,
    conflict: String,
}

/// Why that could not be found out, or that it is so.
#[derive(Debug, thiserror::Error)]
pub enum OverlayError {
    /// It is not free.
    #[error(transparent)]
    Overlap(#[from] Overlap),
    /// The kernel did not say.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The resolver's file cannot be read.
    #[error("cannot read {path}: {source}")]
    Resolver {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

/// What a cell has that must not be in the overlay.
#[derive(Debug, Clone, Default)]
struct Survey {
    addresses: Vec<Placed<Ipv4Addr>>,
    routes: Vec<Placed<Ipv4Net>>,
    resolvers: Vec<Ipv4Addr>,
}

/// Looks at the addresses, routes and resolvers of the calling thread's network namespace.
pub fn check(overlay: Ipv4Net, root: &Root) -> Result<(), OverlayError> {
    let path = root.resolver_file();
    let resolvers = match std::fs::read(&path) {
        Ok(text) => resolvers(&String::from_utf8_lossy(&text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(source) => return Err(OverlayError::Resolver { path, source }),
    };
    let netlink = Netlink::open()?;
    let (addresses, routes) = (netlink.placed_addresses()?, netlink.placed_routes()?);
    Ok(Survey { addresses, routes, resolvers }.check(overlay)?)
}

impl Survey {
    fn check(&self, overlay: Ipv4Net) -> Result<(), Overlap> {
        let conflict = self.address(overlay).or_else(|| self.route(overlay));
        let conflict = conflict.or_else(|| self.resolver(overlay));
        conflict.map_or(Ok(()), |conflict| Err(Overlap { overlay, conflict }))
    }

    fn address(&self, overlay: Ipv4Net) -> Option<String> {
        let mut foreign =
            self.addresses.iter().filter(|address| is_foreign(address.device.as_ref()));
        let Placed { what, device } = foreign.find(|address| overlay.contains(&address.what))?;
        Some(format!("the address {what}{}", of(device.as_ref())))
    }

    /// The default route leads to whatever has no route of its own, and the overlay has one.
    fn route(&self, overlay: Ipv4Net) -> Option<String> {
        let mut foreign = self.routes.iter().filter(|route| is_foreign(route.device.as_ref()));
        let Placed { what, device } = foreign.find(|route| {
            let overlap = overlay.contains(&route.what) || route.what.contains(&overlay);
            overlap && route.what.prefix_len() > 0
        })?;
        Some(format!("the route to {what}{}", of(device.as_ref())))
    }

    fn resolver(&self, overlay: Ipv4Net) -> Option<String> {
        let found = self.resolvers.iter().find(|address| overlay.contains(*address))?;
        Some(format!("the resolver {found} (/etc/resolv.conf)"))
    }
}

fn is_foreign(device: Option<&String>) -> bool {
    device.is_none_or(|device| !device.starts_with(OWN_DEVICES))
}

fn of(device: Option<&String>) -> String {
    device.map_or_else(String::new, |device| format!(" of device {device}"))
}

/// The IPv4 addresses of name servers (resolv.conf(5)).
fn resolvers(text: &str) -> Vec<Ipv4Addr> {
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next())?
    });
    lines.filter_map(|address| address.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> Vec<Placed<T>> {
        let one = |text: &str| {
            let (what, device) = text.split_once(' ').unwrap_or((text, ""));
            let device = (!device.is_empty()).then(|| device.to_owned());
            Placed { what: what.parse().unwrap(), device }
        };
        text.split(", ").filter(|text| !text.is_empty()).map(one).collect()
    }

    #[test]
    fn what_overlaps_is_named() {
        let good = "10.0.16.4 eth0, 127.0.0.1 lo";
        let of_eth = "0.0.0.0/0 eth0, 10.0.16.0/24 eth0";
        // Addresses, routes, the resolver's file, and the object that is in the way.
        let table = [
            (good, of_eth, "nameserver 10.0.0.2\n", None),
            ("10.255.73.0 sarcenet0", "10.255.0.0/16 sarcenet0", "", None),
            ("10.255.73.0 sarcenet-gso0", "", "", None),
            ("", "10.254.0.0/16 eth0, 10.0.0.0/9 eth0", "nameserver fe80::1%2\n", None),
            ("10.255.3.4 eth1", "", "", Some("the address 10.255.3.4 of device eth1")),
            ("10.255.73.0 silk-vtep", "", "", Some("the address 10.255.73.0 of device silk-vtep")),
            ("", "10.255.9.0/24 tun0", "", Some("the route to 10.255.9.0/24 of device tun0")),
            ("", "10.0.0.0/8 eth0", "", Some("the route to 10.0.0.0/8 of device eth0")),
            ("", "10.255.0.0/16", "", Some("the route to 10.255.0.0/16")),
            (
                good,
                of_eth,
                "# nameserver 10.0.0.2\nnameserver 1.1.1.1\n nameserver\t10.255.255.2 \n",
                Some("the resolver 10.255.255.2 (/etc/resolv.conf)"),
            ),
        ];
        for (addresses, routes, text, conflict) in table {
            let (addresses, routes) = (placed(addresses), placed(routes));
            let survey = Survey { addresses, routes, resolvers: resolvers(text) };
            let overlay = "10.255.0.0/16".parse().unwrap();
            let found = survey.check(overlay).err().map(|overlap| overlap.conflict);
            assert_eq!(found.as_deref(), conflict);
        }
    }

    #[test]
    fn the_message_has_a_cure() {
        let survey = Survey { resolvers: vec![[10, 255, 0, 2].into()], ..Survey::default() };
        let overlap = survey.check("10.255.0.0/16".parse().unwrap()).unwrap_err();
        assert_eq!(
            overlap.to_string(),
            "the overlay 10.255.0.0/16 overlaps the resolver 10.255.0.2 (/etc/resolv.conf) of this \
             cell, which could not be reached any more; choose another overlay, or remove what \
             overlaps it"
        );
    }
}
