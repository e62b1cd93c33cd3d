//! What can be read from a dataplane: counters, flows, and the walks of traced packets.

use std::net::{Ipv4Addr, SocketAddrV4};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::{DropReason, PortId, RuleId};

/// A container port that the dataplane holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortInfo {
    /// The port.
    pub port: PortId,
    /// Address of its container.
    pub address: Ipv4Addr,
}

/// Everything a person wants to know first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the program.
    pub program: String,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// Generation in force.
    pub generation: u64,
    /// Packets that were sent on, whole super-packets counted as one.
    pub transmitted: u64,
    /// Packets answered by the dataplane itself (ICMP errors).
    pub answered: u64,
    /// Answers that were not sent because too many had been.
    pub answers_suppressed: u64,
    /// Packets that ended here, by reason; only reasons that occurred.
    pub drops: Vec<Drops>,
    /// The flow table.
    pub flows: FlowTableStatus,
    /// Rules in force.
    pub rules: u64,
    /// Peers known.
    pub peers: u64,
    /// Links with the mode they really got.
    pub links: Vec<LinkStatus>,
    /// Worker threads.
    pub workers: Vec<WorkerStatus>,
}

/// Packets that ended for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drops {
    /// Why.
    pub reason: DropReason,
    /// How many.
    pub packets: u64,
}

/// How full the flow table is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowTableStatus {
    /// Flows now.
    pub used: u64,
    /// Flows that fit.
    pub capacity: u64,
    /// Flows ever made.
    pub created: u64,
    /// Flows that went because they were idle for too long.
    pub expired: u64,
    /// Flows that had to go early to make room.
    pub evicted: u64,
    /// Flows that nobody had answered and that made way for others of the same container.
    pub replaced: u64,
}

/// One door of the dataplane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkStatus {
    /// `uplink`, `host`, or the container's name.
    pub name: String,
    /// Port, for containers.
    pub port: Option<PortId>,
    /// The mode it really got, e.g. `tun vnet-hdr csum tso uso` or `udp gso gro`.
    pub mode: String,
    /// Largest IP packet, in bytes.
    pub mtu: u16,
    /// Numbers of the workers that read it.
    pub readers: Vec<u16>,
    /// Packets read (a super-packet counts as one).
    pub rx_packets: u64,
    /// Bytes read.
    pub rx_bytes: u64,
    /// Packets written (a super-packet counts as one).
    pub tx_packets: u64,
    /// Bytes written.
    pub tx_bytes: u64,
    /// Reads and writes that failed, other than for want of room.
    pub errors: u64,
}

/// One worker thread.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Number of the worker, from 0.
    pub worker: u16,
    /// The processor that it is pinned to, if it is.
    pub cpu: Option<u16>,
    /// What its packets lie in: `reserved huge pages`, `transparent huge pages` or `ordinary
    /// pages`.
    pub pool: String,
    /// Links it reads.
    pub links: u32,
    /// Times it slept.
    pub sleeps: u64,
    /// Batches it carried.
    pub batches: u64,
    /// Packets in them.
    pub packets: u64,
    /// TCP acknowledgments that it left out of them because a later one said the same and more.
    pub acks_merged: u64,
}

/// State of a tracked conversation, in the field's names (RFC 9293 section 3.3.2 for TCP).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum FlowState {
    /// First packets in one direction only (UDP, ICMP echo).
    New = 0,
    /// TCP SYN seen.
    SynSent = 1,
    /// TCP SYN and SYN-ACK seen.
    SynReceived = 2,
    /// Both directions seen.
    Established = 3,
    /// One TCP end has sent FIN.
    FinWait = 4,
    /// Both TCP ends have sent FIN.
    TimeWait = 5,
    /// TCP reset seen.
    Closed = 6,
}

/// Where a flow's packets come from or go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FlowEnd {
    /// The cell itself, through the host TUN.
    Host,
    /// A container of this cell.
    Container(PortId),
    /// The tunnel to the cell at this underlay address.
    Tunnel(Ipv4Addr),
}

/// One conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowInfo {
    /// IP protocol number.
    pub protocol: u8,
    /// Who began (port is the identifier for ICMP echo).
    pub source: SocketAddrV4,
    /// With whom.
    pub destination: SocketAddrV4,
    /// Door on the beginner's side.
    pub from: FlowEnd,
    /// Door on the other side.
    pub to: FlowEnd,
    /// Tag of the beginner's packets, 0 for none.
    pub tag: u16,
    /// State.
    pub state: FlowState,
    /// Rule that admitted it, where this cell decided.
    pub rule: Option<RuleId>,
    /// Generation under which it was last decided (low 32 bits).
    pub generation: u32,
    /// Seconds since its last packet.
    pub idle_s: u32,
    /// Packets from the beginner, and back.
    pub packets: [u64; 2],
    /// Bytes from the beginner, and back.
    pub bytes: [u64; 2],
    /// Address and port that the container among the ends appears with outside, where that is
    /// translated.
    pub nat: Option<SocketAddrV4>,
}

/// Which packets to follow. All given conditions must hold, on the inner header; a packet also
/// matches when it runs in the opposite direction.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceFilter {
    /// One end.
    pub from: Option<Ipv4Net>,
    /// The other.
    pub to: Option<Ipv4Net>,
    /// IP protocol number.
    pub protocol: Option<u8>,
    /// Port on either side.
    pub port: Option<u16>,
    /// Only packets that are dropped or refused.
    pub drops_only: bool,
}

/// The walk of one packet through the pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Walk {
    /// Nanoseconds since the dataplane started.
    pub at_ns: u64,
    /// Worker that carried it.
    pub worker: u16,
    /// What happened, in order.
    pub steps: Vec<TraceStep>,
}

/// One step of a walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TraceStep {
    /// Came in.
    Received {
        /// Through which door.
        from: FlowEnd,
        /// Length in bytes from the IP header on (from the VXLAN header on for the tunnel).
        len: u32,
        /// Payload bytes of a segment, for a super-packet.
        segment: Option<u16>,
    },
    /// Tunnel header taken off.
    Decapsulated {
        /// Sender's group tag; none without the G bit.
        tag: Option<u16>,
        /// Network identifier.
        vni: u32,
    },
    /// Headers understood.
    Parsed {
        /// IP protocol number.
        protocol: u8,
        /// Sender.
        source: SocketAddrV4,
        /// Receiver.
        destination: SocketAddrV4,
        /// TCP flags, 0 for others.
        tcp_flags: u8,
    },
    /// The flow is known.
    FlowHit {
        /// Its state before this packet.
        state: FlowState,
        /// Whether this packet runs as the first one did.
        forward: bool,
        /// Rule that admitted it.
        rule: Option<RuleId>,
    },
    /// No such flow, or it was decided under an older generation.
    FlowMiss {
        /// Known but to be decided again.
        stale: bool,
    },
    /// The source address belongs where the packet came from.
    SourceChecked,
    /// Where it goes.
    Routed {
        /// Through which door.
        to: FlowEnd,
    },
    /// Compared with the rules.
    Policy {
        /// Sender's tag.
        tag: u16,
        /// The rule that admits it; none when no rule does.
        rule: Option<RuleId>,
    },
    /// Compared with the egress rules of the container.
    Egress {
        /// The rule that refuses it, of those that come before all others.
        denied: Option<RuleId>,
        /// The rule that admits it; none when no rule does.
        allowed: Option<RuleId>,
    },
    /// A new flow was made.
    FlowCreated,
    /// Address and port of one side written anew.
    Translated {
        /// The sender's.
        source: Option<SocketAddrV4>,
        /// The receiver's.
        destination: Option<SocketAddrV4>,
    },
    /// Tunnel header put on.
    Encapsulated {
        /// Receiving cell.
        peer: Ipv4Addr,
        /// Tag in the header; 0 when the G bit is not set.
        tag: u16,
    },
    /// Handed to a door.
    Transmitted {
        /// Which.
        to: FlowEnd,
    },
    /// Answered with an ICMP error.
    Answered {
        /// ICMP type.
        icmp_type: u8,
        /// ICMP code.
        icmp_code: u8,
    },
    /// Ended here.
    Dropped {
        /// Why.
        reason: DropReason,
    },
}
