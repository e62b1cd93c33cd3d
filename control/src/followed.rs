//! What the servers have said last, and the network that comes of it with the local file.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::Ipv4Net;
use sarcenet_server::lease::Lease;

use crate::config::{Apps, CellSpec, FollowSpec, Network};
use crate::follow::outside_terms::OutsideTerms;
use crate::follow::policies::Policies;
use crate::follow::routers::{OverlayTerms, ROUTERS};
use crate::security_groups::SecurityGroup;

/// Most other cells that the dataplane takes.
const CELLS: usize = 1 << 16;

/// What the servers have said last. What they have never said is not there: without policies nobody
/// may speak to anybody.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Followed {
    /// This cell's own lease.
    pub lease: Option<Lease>,
    /// The leases of all cells, as the subnet controller lists them; this cell's may be among them.
    pub cells: Vec<Lease>,
    /// All policies with the tags of their apps.
    pub policies: Option<Arc<Policies>>,
    /// Security groups.
    pub groups: Option<Arc<Vec<SecurityGroup>>>,
    /// What else a program beside the agent says of the outside.
    pub outside: Option<Arc<OutsideTerms>>,
    /// What a program beside the agent says of the overlay beside policies.
    pub overlay: Option<OverlayTerms>,
    /// The tag of routers.
    pub router_tag: Option<u16>,
}

impl Followed {
    /// The network file's local part completed with what the servers said. `cell` is the name of
    /// this cell; without a lease it is not among the cells. A file that names no servers stays as
    /// it is.
    pub fn network(&self, base: &Network, cell: &str) -> Network {
        let mut network = base.clone();
        let Some(control) = &base.control else { return network };
        network.cells = self.cells(base.overlay, cell);
        if let Some(policies) = &self.policies {
            network.apps = policies.apps();
            network.policies = policies.rules();
        }
        let asked_for = match &control.policy_server {
            Some(server) => server.security_groups.is_some(),
            // Until a program has said that they are not followed nothing must be open either.
            None => self.outside.as_ref().is_none_or(|told| told.security_groups),
        };
        if asked_for {
            // As long as nothing is known of groups none allows anything.
            network.security_groups = Some(self.groups.clone().unwrap_or_default());
        }
        if let (None, Some(told)) = (&control.policy_server, &self.outside) {
            network.outside = network.outside.map(|outside| told.applied(&outside));
        }
        if let (None, Some(told)) = (&control.policy_server, &self.overlay) {
            network.open_overlay = told.open;
        }
        if self.owner_of_router_tag(&network.apps).is_none() {
            network.router_tag = self.router_tag.filter(|_| self.wants_routers(control));
            network.own_tag = self.router_tag.filter(|_| control.leases.single_ip);
        }
        network
    }

    /// Whether routers have a meaning for this cell: because they reach its apps, or as it is one's.
    fn wants_routers(&self, control: &FollowSpec) -> bool {
        control.leases.single_ip
            || match &control.policy_server {
                Some(server) => server.routers,
                None => self.overlay.is_some_and(|told| told.ingress),
            }
    }

    /// The app that has the tag of routers, too: after the loss of its database a policy server may
    /// give it to one. What is open to one of them would be to the other.
    fn owner_of_router_tag<'a>(&self, apps: &'a Apps) -> Option<&'a str> {
        let tag = self.router_tag?;
        let owner = apps.iter().find(|(app, of)| *of == tag && *app != ROUTERS);
        owner.map(|(app, _)| app)
    }

    /// What somebody should know of `network`, which came of this.
    pub fn problem(&self, network: &Network) -> Option<String> {
        let control = network.control.as_ref().filter(|control| self.wants_routers(control))?;
        let Some(tag) = self.router_tag else {
            let hint = match (&control.policy_server, control.leases.single_ip) {
                (None, true) => "; has silk-daemon-bootstrap run?",
                _ => "",
            };
            return Some(format!(
                "the tag of routers is not known, so that nothing is open to them{hint}"
            ));
        };
        let app = self.owner_of_router_tag(&network.apps)?;
        Some(format!(
            "routers have the tag {tag:04X}, which belongs to app {app}: nothing is open to them \
             until the policy server says otherwise"
        ))
    }

    /// This cell first, then all others that packets can be sent to.
    fn cells(&self, overlay: Ipv4Net, cell: &str) -> Vec<CellSpec> {
        let Some(own) = &self.lease else { return Vec::new() };
        let others = routable(overlay, own, &self.cells);
        let others = others.into_iter().map(|lease| spec(lease, lease.underlay.to_string()));
        std::iter::once(spec(own, cell.to_owned())).chain(others).collect()
    }

    /// How many of the listed leases are of other cells and cannot be used: outside of the overlay,
    /// or at odds with other leases.
    pub fn unroutable(&self, overlay: Ipv4Net) -> usize {
        let Some(own) = &self.lease else { return 0 };
        let foreign = self.cells.iter().filter(|lease| lease.underlay != own.underlay).count();
        foreign - routable(overlay, own, &self.cells).len()
    }
}

fn spec(lease: &Lease, name: String) -> CellSpec {
    let &Lease { underlay, subnet, mac } = lease;
    CellSpec { name, underlay, subnet, mac }
}

/// The leases of other cells that packets can be sent to, in the order of their subnets: those that
/// the dataplane takes. Of two that overlap it is the one whose subnet begins first, and of two with
/// the same base the larger one: which one is right is not to be told from here.
fn routable<'a>(overlay: Ipv4Net, own: &Lease, leases: &'a [Lease]) -> Vec<&'a Lease> {
    let usable = leases.iter().filter(|lease| {
        let Lease { underlay, subnet, .. } = lease;
        *underlay != own.underlay
            && is_host(*underlay)
            && !overlay.contains(underlay)
            && subnet.trunc() == *subnet
            && overlay.contains(subnet)
            && overlay.prefix_len() < subnet.prefix_len()
            && !subnet.contains(&own.subnet)
            && !own.subnet.contains(subnet)
    });
    let sorted: BTreeMap<_, _> =
        usable.map(|lease| ((lease.subnet.network(), lease.subnet.prefix_len()), lease)).collect();
    let mut disjoint: Vec<&Lease> = Vec::with_capacity(sorted.len());
    for lease in sorted.into_values() {
        if disjoint.last().is_none_or(|before| !before.subnet.contains(&lease.subnet)) {
            disjoint.push(lease);
        }
    }
    disjoint.truncate(CELLS);
    disjoint
}

fn is_host(address: Ipv4Addr) -> bool {
    !(address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
        || address.is_broadcast())
}

#[cfg(test)]
mod tests;
