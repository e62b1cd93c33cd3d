//! What can be said to a dataplane, and what it answers.
//!
//! The dataplane knows links, addresses, tags and rules; whoever steers it (a cell's agent) keeps
//! apps, spaces and policies to itself and translates. Both ends speak over a Unix
//! `SOCK_SEQPACKET` socket: one [`Request`] or [`Reply`] a packet ([`codec`]), file descriptors
//! beside it ([`transport`]), the protocol version in the first message.
//!
//! State is level-triggered: a controller that connects sends the whole desired state between
//! [`Request::SnapshotBegin`] and [`Request::SnapshotEnd`], and what it did not mention is gone.
//! Later changes are [`Request::Update`]s. Every change is acknowledged once it is in force.

#![forbid(unsafe_code)]

pub mod client;
pub mod codec;
mod drop_reason;
mod events;
mod messages;
mod observe;
mod outside;
mod tracking;
pub mod transport;

pub use drop_reason::DropReason;
pub use events::{Event, EventKind};
pub use messages::{
    Attach, Cell, Container, Peer, PortId, PortRange, Protocol, Reply, Request, Revoke, Role, Rule,
    RuleId, RuleKey, Update, UplinkMode,
};
pub use observe::{
    Drops, FlowEnd, FlowInfo, FlowState, FlowTableStatus, LinkStatus, PortInfo, Status,
    TraceFilter, TraceStep, Walk, WorkerStatus,
};
pub use outside::{
    ConnectionLimit, EgressRule, EgressSet, HostService, Logging, MAX_EGRESS_RULES, MAX_LISTED,
    MAX_MAPPINGS, Mapping, Outside, Rate, SetId, Settings, Traffic,
};
pub use tracking::{MAX_TIMEOUT, Timeouts, Tracking};

/// Version of the messages in this crate. Raised when any of them changes shape; both ends
/// refuse a peer that speaks another one.
pub const VERSION: u32 = 7;
