//! What a world is to be.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use ipnet::Ipv4Net;
use sarcenet_agent_api::{AttachKind, Policy, PortRange, Protocol};
use sarcenet_dataplane_api::UplinkMode;

use crate::outside::{OutsidePlan, SecurityGroup};

/// The overlay of every world.
pub(crate) const OVERLAY: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 255, 0, 0), 16);
/// Network identifier of the tunnel.
pub(crate) const VNI: u32 = 1;
/// UDP port of the tunnel.
pub(crate) const TUNNEL_PORT: u16 = 4789;
/// Bytes that the tunnel puts in front of an inner IP packet: outer IPv4 and UDP, VXLAN, inner
/// Ethernet.
const TUNNEL_OVERHEAD: u16 = 50;

/// How a cell moves packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CellKind {
    /// `sarcenet-dataplane` and `sarcenet agent`.
    Sarcenet,
    /// The kernel's VXLAN device and iptables.
    Kernel(Backend),
    /// The kernel's routing alone: no tunnel, no rules, containers of the underlay's MTU. What
    /// cells cost at least; policies have no meaning there.
    Routed,
}

impl CellKind {
    /// A kernel cell as most are: iptables on xtables.
    pub const KERNEL: Self = Self::Kernel(Backend::Legacy);
}

/// What is behind a kernel cell's iptables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// `iptables-legacy`.
    Legacy,
    /// `iptables-nft`.
    Nft,
}

impl Backend {
    pub(crate) const fn restore(self) -> &'static str {
        match self {
            Self::Legacy => "iptables-legacy-restore",
            Self::Nft => "iptables-nft-restore",
        }
    }

    pub(crate) const fn iptables(self) -> &'static str {
        match self {
            Self::Legacy => "iptables-legacy",
            Self::Nft => "iptables-nft",
        }
    }
}

/// An app and the tag its packets carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppTag {
    /// Its name in policies.
    pub id: String,
    /// Its tag, never 0.
    pub tag: u16,
}

/// What a world is to be.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Goes into the names of its namespaces; short, of letters and digits.
    pub label: String,
    /// Its cells, in order.
    pub cells: Vec<CellKind>,
    /// All apps there will be.
    pub apps: Vec<AppTag>,
    /// MTU of the underlay in bytes.
    pub underlay_mtu: u16,
    /// What Sarcenet cells make the interfaces of containers of.
    pub attach: AttachKind,
    /// How packets of Sarcenet cells shall travel to other cells.
    pub uplink: UplinkMode,
    /// Whether two cells are joined by a bridge although nobody else is to be reached there, and not
    /// by one veth pair, which is faster. Frames that pass a cell's AF_XDP sockets are seen on the
    /// bridge only.
    pub bridge: bool,
    /// Arguments of every `sarcenet-dataplane` beyond those that the rig gives.
    pub dataplane_arguments: Vec<String>,
    /// Seconds after which agents remove what has ended; none for their default.
    pub collect_after: Option<u32>,
    /// How containers may reach the outside; none for a world without one. Cells of a world with
    /// an outside are joined by a bridge.
    pub outside: Option<OutsidePlan>,
    /// Whether Sarcenet cells get their subnets, the other cells, apps and policies from one network
    /// file, and not from servers. Without it apps must have the tags that servers give, which are 1
    /// and so on, and a world with a Sarcenet cell is joined by a bridge, where the servers are, too.
    pub files: bool,
}

impl Plan {
    /// A world of these cells with the apps `app-1` to `app-200`, tags 1 to 200, an Ethernet
    /// underlay, and servers that Sarcenet cells get everything from.
    pub fn new(label: &str, cells: &[CellKind]) -> Self {
        Self {
            label: label.to_owned(),
            cells: cells.to_vec(),
            apps: (1..=200).map(|tag| AppTag { id: format!("app-{tag}"), tag }).collect(),
            underlay_mtu: 1500,
            attach: AttachKind::Tun,
            uplink: UplinkMode::Auto,
            bridge: false,
            dataplane_arguments: Vec::new(),
            collect_after: None,
            outside: None,
            files: false,
        }
    }

    /// The same with these apps instead.
    #[must_use]
    pub fn apps<'a>(mut self, apps: impl IntoIterator<Item = (&'a str, u16)>) -> Self {
        self.apps = apps.into_iter().map(|(id, tag)| AppTag { id: id.to_owned(), tag }).collect();
        self
    }

    /// The same with containers of Sarcenet cells attached like this.
    #[must_use]
    pub fn attach(mut self, kind: AttachKind) -> Self {
        self.attach = kind;
        self
    }

    /// The same with Sarcenet cells whose packets travel like this.
    #[must_use]
    pub fn uplink(mut self, mode: UplinkMode) -> Self {
        self.uplink = mode;
        self
    }

    /// The same with cells that are joined by a bridge.
    #[must_use]
    pub fn bridge(mut self) -> Self {
        self.bridge = true;
        self
    }

    /// The same with agents that remove what has ended after so many seconds.
    #[must_use]
    pub fn collect_after(mut self, seconds: u32) -> Self {
        self.collect_after = Some(seconds);
        self
    }

    /// The same with an outside.
    #[must_use]
    pub fn outside(mut self, outside: OutsidePlan) -> Self {
        self.outside = Some(outside);
        self
    }

    /// The same without servers: one network file says what they would.
    #[must_use]
    pub fn from_files(mut self) -> Self {
        self.files = true;
        self
    }

    /// Whether there are servers. Kernel cells ask none.
    pub(crate) fn has_servers(&self) -> bool {
        !self.files && self.cells.contains(&CellKind::Sarcenet)
    }

    /// Whether a bridge joins the cells.
    pub(crate) fn is_bridged(&self) -> bool {
        self.bridge || self.cells.len() != 2 || self.outside.is_some() || self.has_servers()
    }

    /// Addresses of the cells.
    pub(crate) fn cell_plans(&self) -> Vec<CellPlan> {
        (0_u8..).zip(&self.cells).map(|(index, &kind)| CellPlan::new(index, kind)).collect()
    }

    /// Largest inner IP packet, in bytes.
    pub fn overlay_mtu(&self) -> u16 {
        self.underlay_mtu - TUNNEL_OVERHEAD
    }

    /// The network file that Sarcenet's agents read when there are no servers.
    pub(crate) fn network_file(&self, policies: &[Policy], groups: &[SecurityGroup]) -> String {
        let mut text = self.local_part();
        if self.outside.is_some() {
            text.push_str(&SecurityGroup::file(groups));
        }
        text.push_str("cells:\n");
        for cell in self.cell_plans() {
            let CellPlan { name, underlay, subnet, .. } = cell;
            let _ = writeln!(text, "  - {{name: {name}, underlay: {underlay}, subnet: {subnet}}}");
        }
        text.push_str("apps:\n");
        for AppTag { id, tag } in &self.apps {
            let _ = writeln!(text, "  - {{id: {id}, tag: {tag}}}");
        }
        if policies.is_empty() {
            text.push_str("policies: []\n");
            return text;
        }
        text.push_str("policies:\n");
        for Policy { from, to, protocol, ports } in policies {
            let _ = writeln!(
                text,
                "  - {{from: {from}, to: {to}, protocol: {protocol}, ports: {ports}}}"
            );
        }
        text
    }

    /// What a network file says with servers and without.
    pub(crate) fn local_part(&self) -> String {
        let (mtu, uplink) = (self.overlay_mtu(), self.uplink);
        let mut text = format!("overlay: {OVERLAY}\nmtu: {mtu}\nuplink: {uplink}\n");
        if let Some(seconds) = self.collect_after {
            let _ = writeln!(text, "collect_after: {seconds}");
        }
        if let Some(outside) = &self.outside {
            text.push_str(&outside.network_file());
        }
        text
    }
}

/// Names and addresses of one cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CellPlan {
    /// `cell1`, `cell2`, ...
    pub name: String,
    /// How it moves packets.
    pub kind: CellKind,
    /// Its address on the underlay.
    pub underlay: Ipv4Addr,
    /// Its part of the overlay.
    pub subnet: Ipv4Net,
}

impl CellPlan {
    fn new(index: u8, kind: CellKind) -> Self {
        Self {
            name: format!("cell{}", index + 1),
            kind,
            underlay: Ipv4Addr::new(10, 77, 0, 11 + index),
            subnet: Ipv4Net::new_assert(Ipv4Addr::new(10, 255, 55 + 7 * index, 0), 24),
        }
    }

    /// MAC address of the cell's VTEP: `ee:ee` and the subnet's base address.
    pub(crate) fn vtep_mac(&self) -> String {
        mac([0xee, 0xee], self.subnet.network())
    }
}

/// A MAC address made of two bytes and an IPv4 address, as Silk makes all of its own.
pub(crate) fn mac(prefix: [u8; 2], address: Ipv4Addr) -> String {
    let bytes = prefix.into_iter().chain(address.octets());
    bytes.map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

/// A TCP policy between two apps.
pub fn tcp(from: &str, to: &str, ports: RangeInclusive<u16>) -> Policy {
    policy(from, to, Protocol::Tcp, ports)
}

/// A UDP policy between two apps.
pub fn udp(from: &str, to: &str, ports: RangeInclusive<u16>) -> Policy {
    policy(from, to, Protocol::Udp, ports)
}

fn policy(from: &str, to: &str, protocol: Protocol, ports: RangeInclusive<u16>) -> Policy {
    let (first, last) = ports.into_inner();
    Policy { from: from.to_owned(), to: to.to_owned(), protocol, ports: PortRange { first, last } }
}
