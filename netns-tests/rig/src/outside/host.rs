//! The host outside and the router in front of it.
//!
//! ```text
//! cells --- bridge --- 10.77.0.1 router 198.51.100.1 --- 198.51.100.2 outside (wide)
//!                                       ................ .............. outside (narrow)
//! ```
//! The narrow link carries only what the router sends to the outside host; the answers take the
//! wide one. So a path MTU must be learned from the router, not from what the host announces.

use std::net::Ipv4Addr;

use anyhow::Result;
use ipnet::Ipv4Net;

use super::{NARROW_MTU, ROUTER, network};
use crate::namespace::Namespace;
use crate::plan::CellPlan;

/// The router's address on the wide link.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// The host's addresses on the wide and the narrow link (TEST-NET-2, RFC 5737).
const WIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
const NARROW: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 130);

/// A host that is neither a cell nor a container. All addresses of [`network`] are its own, and
/// whatever listens there on all addresses answers on each of them.
#[derive(Debug)]
pub struct OutsideHost {
    namespace: Namespace,
    router: Namespace,
}

impl OutsideHost {
    /// Joins the router to a bridge by its port `port`, and the host to the router.
    pub(crate) fn connect(
        namespace: Namespace,
        router: Namespace,
        hub: &Namespace,
        cells: &[CellPlan],
        mtu: u16,
    ) -> Result<Self> {
        hub.ip(&format!(
            "link add outside mtu {mtu} type veth peer name underlay mtu {mtu} netns {}\n\
             link set outside master bridge0 up\n",
            router.name()
        ))?;
        router.ip(&format!(
            "addr add {ROUTER}/24 dev underlay\n\
             link set underlay up\n\
             link add wide mtu {mtu} type veth peer name wide mtu {mtu} netns {0}\n\
             link add narrow mtu {NARROW_MTU} type veth peer name narrow mtu {mtu} netns {0}\n\
             addr add {GATEWAY}/25 dev wide\n\
             addr add 198.51.100.129/25 dev narrow\n\
             link set wide up\n\
             link set narrow up\n",
            namespace.name()
        ))?;
        namespace.ip(&format!(
            "addr add {WIDE}/25 dev wide\n\
             addr add {NARROW}/25 dev narrow\n\
             link set wide up\n\
             link set narrow up\n\
             route add default via {GATEWAY}\n"
        ))?;
        for (destination, via) in
            [(network::ROUTED, WIDE), (network::OWN_ADDRESS, WIDE), (network::NARROW, NARROW)]
        {
            router.ip(&format!("route add {destination} via {via}\n"))?;
            namespace.ip(&format!("route add local {destination} dev lo\n"))?;
        }
        // Replies to containers that are seen under their own addresses.
        for CellPlan { subnet, underlay, .. } in cells {
            router.ip(&format!("route add {subnet} via {underlay}\n"))?;
        }
        router.sysctl("ipv4/ip_forward", "1")?;
        for namespace in [&namespace, &router] {
            namespace.sysctl("ipv4/conf/all/rp_filter", "0")?;
            unlimited_icmp_errors(namespace)?;
        }
        Ok(Self { namespace, router })
    }

    /// Its network namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The namespace of the router in front of it; its interface to the cells is `underlay`.
    pub fn router(&self) -> &Namespace {
        &self.router
    }

    /// An address of the outside host in a network of [`network`].
    pub fn address(network: Ipv4Net, number: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(network.network()) + number)
    }
}

/// Has the kernel send as many ICMP errors as there are reasons; by default it sends one a second
/// to each host, after six.
pub(crate) fn unlimited_icmp_errors(namespace: &Namespace) -> Result<()> {
    namespace.sysctl("ipv4/icmp_ratelimit", "0")?;
    namespace.sysctl("ipv4/icmp_msgs_per_sec", "1000000")?;
    namespace.sysctl("ipv4/icmp_msgs_burst", "1000000")
}
