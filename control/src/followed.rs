//! What the servers have said last, and the network that comes of it with the local file.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::Ipv4Net;
use sarcenet_agent_api::{AppInfo, Policy};
use sarcenet_dataplane_api::{PortRange, Protocol};
use sarcenet_server::lease::Lease;
use sarcenet_server::policy::{self, TagNumber, TaggedPolicy};

use crate::config::{CellSpec, Network};
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
    pub policies: Option<Arc<Vec<TaggedPolicy>>>,
    /// Security groups.
    pub groups: Option<Arc<Vec<SecurityGroup>>>,
}

impl Followed {
    /// The network file's local part completed with what the servers said. `cell` is the name of
    /// this cell; without a lease it is not among the cells. A file that names no servers stays as
    /// it is.
    pub fn network(&self, base: &Network, cell: &str) -> Network {
        let mut network = base.clone();
        if base.control.is_none() {
            return network;
        }
        network.cells = self.cells(base.overlay, cell);
        if let Some(policies) = &self.policies {
            network.apps = apps(policies);
            network.policies = policies.iter().filter_map(in_words).collect();
        }
        if base.control.as_ref().is_some_and(|control| control.security_groups.is_some()) {
            // Never heard of any: nothing is allowed but what runtimes pass with containers.
            network.security_groups = self.groups.as_deref().cloned();
        }
        network
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

/// The tags of all apps that a policy names.
fn apps(policies: &[TaggedPolicy]) -> crate::config::Apps {
    let ends = policies.iter().flat_map(|tagged| {
        let TaggedPolicy { policy, source_tag, destination_tag } = tagged;
        [(&policy.source, *source_tag), (&policy.destination, *destination_tag)]
    });
    ends.filter_map(|(app, number)| Some(AppInfo { id: app.clone(), tag: tag(number)? })).collect()
}

/// The tag as the tunnel header has it: 16 bits, not 0.
fn tag(TagNumber(number): TagNumber) -> Option<u16> {
    u16::try_from(number).ok().filter(|tag| *tag != 0)
}

/// The policy, if it is one that can be enforced.
fn in_words(tagged: &TaggedPolicy) -> Option<Policy> {
    let policy::Policy { source, destination, protocol, first_port, last_port } = &tagged.policy;
    let port = |port: u32| u16::try_from(port).ok().filter(|port| *port != 0);
    let ports = PortRange { first: port(*first_port)?, last: port(*last_port)? };
    let protocol = match protocol {
        policy::Protocol::Tcp => Protocol::Tcp,
        policy::Protocol::Udp => Protocol::Udp,
    };
    (ports.first <= ports.last).then(|| Policy {
        from: source.clone(),
        to: destination.clone(),
        protocol,
        ports,
    })
}

#[cfg(test)]
mod tests;
