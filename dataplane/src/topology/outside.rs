//! What lies beyond the overlay: the cell's own addresses and services, the ports of the cell
//! that lead to containers, and who may go out.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::Ipv4Net;
use sarcenet_dataplane_api::{ConnectionLimit, HostService, Mapping, Outside, Protocol};

use crate::limit::{ConnectionLimiter, TokenBucket};
use crate::policy::egress::EgressTable;
use crate::table::PrefixMap;

/// Addresses of the cell's own services that containers see (RFC 3927 link-local).
const LINK_LOCAL: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16);

/// What one container may do beyond app-to-app rules, ready to be used. Limits keep their state
/// when it is made anew: they are shared with the one before.
#[derive(Debug, Default)]
pub struct Grants {
    /// Destinations refused before anything else.
    pub denied: Option<Arc<EgressTable>>,
    /// Destinations admitted.
    pub allowed: Option<Arc<EgressTable>>,
    /// Ports of the cell that lead to the container.
    pub mappings: Vec<Mapping>,
    /// Limit on what it sends.
    pub send: Option<Arc<TokenBucket>>,
    /// Limit on what it is sent.
    pub receive: Option<Arc<TokenBucket>>,
    /// Limit on its new TCP connections to the outside.
    pub connections: Option<ConnectionBudget>,
}

/// A limit on new connections and what is left of it.
#[derive(Debug, Clone)]
pub struct ConnectionBudget {
    /// The limit.
    pub limit: ConnectionLimit,
    /// What is left.
    pub limiter: Arc<ConnectionLimiter>,
}

/// A range of ports of the cell that leads to one container.
#[derive(Debug, Clone, Copy)]
struct Mapped {
    protocol: Protocol,
    first: u16,
    last: u16,
    address: Ipv4Addr,
    port: u16,
}

/// The cell as seen from its containers and from the outside.
#[derive(Debug, Default)]
pub(super) struct OutsideView {
    masquerades: bool,
    not_masqueraded: PrefixMap<()>,
    local: HashSet<Ipv4Addr>,
    services: HashSet<HostService>,
    /// By protocol and first port; ranges do not overlap.
    mapped: Vec<Mapped>,
}

impl OutsideView {
    pub(super) fn new(outside: &Outside) -> Self {
        Self {
            masquerades: outside.snat_ports.is_some(),
            not_masqueraded: PrefixMap::new(outside.not_masqueraded.iter().map(|&net| (net, ()))),
            local: outside.local.iter().copied().collect(),
            services: outside.services.iter().copied().collect(),
            mapped: Vec::new(),
        }
    }

    /// Takes the mappings of all containers, each with the container's address.
    pub(super) fn add_mappings(&mut self, mappings: Vec<(Ipv4Addr, Mapping)>) {
        self.mapped.extend(mappings.into_iter().map(|(address, mapping)| Mapped {
            protocol: mapping.protocol,
            first: mapping.cell.first,
            last: mapping.cell.last,
            address,
            port: mapping.container,
        }));
        self.mapped.sort_unstable_by_key(|mapped| (mapped.protocol, mapped.first));
    }

    pub(super) fn is_local(&self, address: Ipv4Addr) -> bool {
        self.local.contains(&address)
    }

    pub(super) fn is_service(&self, service: HostService) -> bool {
        self.services.contains(&service)
    }

    /// Whether conversations with this destination leave under the cell's address; none when they
    /// should but there are no ports for it.
    pub(super) fn masquerade(&self, destination: Ipv4Addr) -> Option<bool> {
        if self.not_masqueraded.get(destination).is_some() {
            return Some(false);
        }
        self.masquerades.then_some(true)
    }

    /// Address and port that a port of the cell leads to.
    pub(super) fn mapping(&self, protocol: Protocol, port: u16) -> Option<(Ipv4Addr, u16)> {
        let after = self
            .mapped
            .partition_point(|mapped| (mapped.protocol, mapped.first) <= (protocol, port));
        let mapped = self.mapped.get(after.checked_sub(1)?)?;
        let fits = mapped.protocol == protocol && port <= mapped.last;
        fits.then(|| (mapped.address, mapped.port + (port - mapped.first)))
    }
}

/// Whether an address can only be the cell's own: loopback, link-local, none at all.
pub(super) fn is_never_outside(address: Ipv4Addr) -> bool {
    address.is_loopback() || address.octets()[0] == 0 || LINK_LOCAL.contains(&address)
}
