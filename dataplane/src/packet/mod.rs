//! Packets in flight.
//!
//! A [`Packet`] is a description: a head (all its headers, in one piece, with room in front) and
//! further pieces, all lying in buffers of the [`Batch`] that holds it. A packet may be a 64 KiB
//! TCP or UDP super-packet; [`Offload`] says how it is to be cut and which checksum is still to be
//! filled in, and it stays whole until the last door that cannot carry it.
//!
//! A worker owns one batch and uses it again and again: receive, decide, transmit,
//! [`Batch::clear`]. Nothing is allocated on that way.

mod batch;
mod offload;

pub use batch::{BUFFER_LEN, Batch, HEADROOM, MAX_PACKETS, Piece};
pub use offload::{Checksum, Offload, Segmentation};

use sarcenet_dataplane_api::{DropReason, FlowEnd, PortId};
use std::net::Ipv4Addr;

/// A door of the dataplane, as packets and flows name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Via {
    /// The cell itself, by the host TUN.
    Host,
    /// A container of this cell.
    Container(PortId),
    /// The tunnel, to or from the cell with this underlay address.
    Tunnel(Ipv4Addr),
}

impl From<Via> for FlowEnd {
    fn from(via: Via) -> Self {
        match via {
            Via::Host => Self::Host,
            Via::Container(port) => Self::Container(port),
            Via::Tunnel(peer) => Self::Tunnel(peer),
        }
    }
}

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Not decided yet.
    Pending,
    /// To be transmitted there.
    Forward(Via),
    /// Ended.
    Drop(DropReason),
}

/// One packet, or one super-packet.
///
/// From a container or the host, the head begins with the IPv4 header. From the tunnel it begins
/// with the VXLAN header (the outer IP and UDP headers are the link's business); the pipeline
/// takes VXLAN and inner Ethernet off, and puts them on for packets to the tunnel.
#[derive(Debug, Clone)]
pub struct Packet {
    /// All headers, and as much of the payload as lies behind them in the same buffer.
    pub head: Piece,
    /// Where the further pieces stand in the batch: first index and count.
    pub(crate) tail: (u32, u16),
    /// Length of all pieces after the head, in bytes.
    pub(crate) tail_len: u32,
    /// Segmentation and checksum state. Offsets count from the IPv4 header on.
    pub offload: Offload,
    /// Where it came from.
    pub from: Via,
    /// What was decided.
    pub verdict: Verdict,
    /// When it may be transmitted, in nanoseconds since start: later than now if the container that
    /// it goes to has got as much as it may for now.
    pub not_before: u64,
    /// Hash of its flow, the same for both directions; spreads flows over source ports.
    pub flow_hash: u32,
    /// Number of its walk in the worker's trace log, when it is being traced.
    pub trace: Option<u16>,
}

impl Packet {
    /// Length of the whole packet in bytes, from the start of its head.
    pub fn len(&self) -> usize {
        self.head.len as usize + self.tail_len as usize
    }

    /// Whether it has no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
