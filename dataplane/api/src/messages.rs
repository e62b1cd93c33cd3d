//! Desired state and the requests that carry it.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::events::Event;
use crate::observe::{FlowInfo, LinkStatus, PortInfo, Status, TraceFilter, Walk};
use crate::outside::{EgressSet, Logging, Outside, SetId, Settings};
use crate::tracking::Tracking;

/// One container's port on this cell. Chosen by the controller, stable over restarts of either
/// side, small (an index, below 65,536).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortId(pub u16);

/// The controller's name for a rule; 0 is never used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RuleId(pub u32);

/// What becomes of established conversations when the rule that admitted them goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Revoke {
    /// They live on until they end, as with the kernel's connection tracking.
    #[default]
    Drain,
    /// They are refused from the next packet on.
    Immediate,
}

/// How packets travel to other cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UplinkMode {
    /// As is found best when the dataplane tries.
    #[default]
    Auto,
    /// Through UDP sockets, super-packets as trains of segments.
    Udp,
    /// Super-packets whole, through a TAP and the kernel's forwarding; others as with `Udp`.
    TunnelGso,
    /// Through AF_XDP sockets at the card, past the kernel's network stack.
    Xdp,
}

impl UplinkMode {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Auto, Self::Udp, Self::TunnelGso, Self::Xdp];

    /// Its name in configuration files: lower case, hyphens.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Udp => "udp",
            Self::TunnelGso => "tunnel-gso",
            Self::Xdp => "xdp",
        }
    }

    /// The mode of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.name() == name)
    }
}

impl std::fmt::Display for UplinkMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What this cell is. Comes with the file descriptor of the host TUN when `host` is set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cell {
    /// This cell's address on the underlay: source of every tunnel packet.
    pub underlay: Ipv4Addr,
    /// The part of the overlay that lives on this cell, a /24 by default. Its base address is the
    /// cell's own overlay address (its VTEP).
    pub subnet: Ipv4Net,
    /// The whole overlay.
    pub overlay: Ipv4Net,
    /// VXLAN network identifier, 24 bits.
    pub vni: u32,
    /// UDP port of the tunnel.
    pub tunnel_port: u16,
    /// Largest inner IP packet that fits the tunnel, in bytes: underlay MTU - 50.
    pub mtu: u16,
    /// What happens to established conversations on revocation.
    pub revoke: Revoke,
    /// How packets travel to other cells.
    pub uplink: UplinkMode,
    /// Whether the host TUN's file descriptor accompanies this message.
    pub host: bool,
    /// The way to the outside; none when there is none. It leads through the host TUN.
    pub outside: Option<Outside>,
    /// What is recorded as events.
    pub logging: Logging,
    /// How conversations are followed.
    pub tracking: Tracking,
    /// The tag that the cell's own packets to other cells carry, 0 for none.
    pub tag: u16,
    /// Whether everybody in the overlay may open conversations with the cell's containers, also
    /// without a rule.
    pub open: bool,
}

/// Another cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its part of the overlay; identifies the peer.
    pub subnet: Ipv4Net,
    /// Its address on the underlay.
    pub underlay: Ipv4Addr,
    /// MAC address of its VTEP.
    pub mac: [u8; 6],
}

/// How a container is attached, and so what its file descriptor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Attach {
    /// By a TUN device; the descriptor is its queue.
    #[default]
    Tun,
    /// By a veth pair; the descriptor is a packet socket on the cell's end.
    Veth {
        /// MAC address of the container's end.
        container: [u8; 6],
        /// MAC address of the cell's end, to which the container sends everything.
        gateway: [u8; 6],
    },
}

/// A container attached to this cell. Each accompanies one file descriptor (see [`Attach`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// Its port.
    pub port: PortId,
    /// Its one overlay address, inside the cell's subnet.
    pub address: Ipv4Addr,
    /// The tag its packets carry, 0 for none.
    pub tag: u16,
    /// What people call it; appears in status and traces.
    pub name: String,
    /// How it is attached.
    pub attach: Attach,
}

/// Transport protocol of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP, IP protocol 6.
    Tcp,
    /// UDP, IP protocol 17.
    Udp,
}

impl Protocol {
    /// The IP protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// Ports from `first` to `last`, both included; `first <= last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortRange {
    /// Lowest port.
    pub first: u16,
    /// Highest port.
    pub last: u16,
}

impl PortRange {
    /// Whether `port` lies in the range.
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

impl std::fmt::Display for PortRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

/// What a rule says; unique among the rules of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RuleKey {
    /// Tag of the sender, never 0.
    pub source: u16,
    /// Address of the receiving container, on this cell.
    pub destination: Ipv4Addr,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Destination ports.
    pub ports: PortRange,
}

/// "Senders with this tag may open conversations with this container on these ports."
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// The controller's name for it, shown in traces and flow lists.
    pub id: RuleId,
    /// What it says.
    pub key: RuleKey,
}

/// A piece of desired state: part of a snapshot, or a change by itself. Removals are applied
/// before additions; an addition whose identity is already there replaces it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Update {
    /// Generation that this update leads to; larger than the last one.
    pub generation: u64,
    /// The cell itself, when it is new or changed. Its host descriptor, if any, comes first.
    pub cell: Option<Cell>,
    /// Peers that are new or changed.
    pub peers: Vec<Peer>,
    /// Peers that are gone, by subnet.
    pub peers_gone: Vec<Ipv4Net>,
    /// Containers that are new or changed, one file descriptor each, in this order.
    pub containers: Vec<Container>,
    /// Containers that are gone; their flows go with them.
    pub containers_gone: Vec<PortId>,
    /// Rules that are new.
    pub rules: Vec<Rule>,
    /// Rules that are gone.
    pub rules_gone: Vec<RuleKey>,
    /// Sets of egress rules that are new, or pieces of them.
    pub egress: Vec<EgressSet>,
    /// Sets that are gone; no container may use one of them afterwards.
    pub egress_gone: Vec<SetId>,
    /// What containers may do beyond app-to-app rules, when new or changed. A container that is
    /// gone takes its settings along.
    pub settings: Vec<Settings>,
}

/// Who is asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Gives the desired state. One at a time: a new one takes over from the one before.
    Controller,
    /// Only looks.
    Observer,
}

/// Said to the dataplane. Replied to in order, one [`Reply`] each, except that
/// [`Request::Trace`] and [`Request::Events`] are followed by what was asked for until the
/// connection closes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// First message of every connection. Answered by [`Reply::Hello`].
    Hello {
        /// [`crate::VERSION`] of the sender.
        version: u32,
        /// What the connection is for.
        role: Role,
    },
    /// Starts a snapshot: updates until its end describe the whole state. [`Reply::Ack`].
    SnapshotBegin,
    /// Ends it and puts it in force; what it did not mention is gone. [`Reply::Ack`].
    SnapshotEnd,
    /// A change, or a piece of a snapshot. [`Reply::Ack`] or [`Reply::Error`] (nothing applied).
    Update(Box<Update>),
    /// Which container ports are held. [`Reply::Ports`], each with a duplicate of its descriptor.
    Ports {
        /// Continue after this port.
        after: Option<PortId>,
    },
    /// [`Reply::Status`].
    Status,
    /// A page of the flow table. [`Reply::Flows`].
    Flows {
        /// Where to go on, 0 at first.
        cursor: u64,
        /// At most so many; bounded by the dataplane.
        limit: u32,
    },
    /// Follow packets that match. [`Reply::Ack`], then [`Reply::Walks`] as they come.
    Trace(TraceFilter),
    /// Is the host TUN held? [`Reply::Host`], with a duplicate of its descriptor if it is.
    Host,
    /// Tell what [`crate::Logging`] and rules want recorded. Without anybody who asks, nothing is
    /// recorded. [`Reply::Ack`], then [`Reply::Events`] as they come.
    Events,
    /// A page of links. [`Reply::Links`].
    Links {
        /// Continue after the container at this port.
        after: Option<PortId>,
    },
}

/// Said by the dataplane.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// Welcome.
    Hello {
        /// [`crate::VERSION`] of the dataplane.
        version: u32,
        /// Last generation in force; 0 for a dataplane that has no state yet.
        generation: u64,
    },
    /// Done.
    Ack {
        /// Generation now in force.
        generation: u64,
    },
    /// Not done; nothing was changed.
    Error {
        /// What was wrong, for people.
        message: String,
    },
    /// Ports held, with descriptors.
    Ports {
        /// In order of port.
        ports: Vec<PortInfo>,
        /// Whether there are more.
        more: bool,
    },
    /// How it is, without its links, which come in pages: see [`Request::Links`].
    Status(Box<Status>),
    /// A page of flows.
    Flows {
        /// The page.
        flows: Vec<FlowInfo>,
        /// Where to go on; none when the table's end was reached.
        next: Option<u64>,
    },
    /// Traced packets.
    Walks {
        /// Packets, in the order they were seen by each worker.
        walks: Vec<Walk>,
        /// Walks that had to be thrown away since the last message because nobody read.
        lost: u64,
    },
    /// The host TUN.
    Host {
        /// Whether its descriptor accompanies this message.
        held: bool,
    },
    /// What happened.
    Events {
        /// Events, in the order they were recorded.
        events: Vec<Event>,
        /// Events that had to be thrown away since the last message because there were too many.
        lost: u64,
    },
    /// A page of links.
    Links {
        /// The uplink and the host first, then containers in order of port.
        links: Vec<LinkStatus>,
        /// Whether there are more.
        more: bool,
    },
}
