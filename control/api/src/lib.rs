//! What can be said to a cell's agent, and what it answers.
//!
//! CNI plugins and the `sarcenet` command speak to the agent over a Unix `SOCK_SEQPACKET` socket
//! with the dataplane's codec and transport: one [`Request`] or [`Reply`] a packet, the
//! container's network namespace as a file descriptor beside [`Request::Add`] and
//! [`Request::Check`], the version in the first message. Every request is answered in order by
//! one reply.

#![forbid(unsafe_code)]

mod client;
mod egress;
mod followed;
mod garden;
mod logging;
mod messages;
mod names;
mod policy;
mod rules;
mod status;

pub use client::{AgentClient, AgentError};
pub use egress::{
    AddressRange, Bandwidth, CellTerms, IcmpControl, Metadata, NetOutRule, PortMapping, Terms,
    ranges,
};
pub use followed::{FollowProblems, MAX_DOCUMENT, MAX_PART, MAX_PROBLEM, Tenant};
pub use garden::{GardenRule, GardenRuleError};
pub use logging::{LoggingChange, LoggingStatus};
pub use messages::{
    AppInfo, Attach, AttachKind, Attachment, AttachmentId, ContainerInfo, ErrorCode, Expected,
    Extension, HostEnd, Reply, Request, Wishes,
};
pub use names::{is_container_id, is_name};
pub use policy::{Policy, PortsError, ProtocolError, parse_ports, parse_protocol};
pub use rules::{RuleMeaning, RuleName};
pub use sarcenet_dataplane_api::{HostService, Mapping, PortId, PortRange, Protocol, Rate, RuleId};
pub use status::{AgentStatus, ConfigStatus, DataplaneState};

use std::path::{Path, PathBuf};

/// Version of the messages in this crate. Raised when any of them changes shape; both ends
/// refuse a peer that speaks another one.
pub const VERSION: u32 = 6;

/// Most interfaces that a [`Request::Gc`] can be told to leave: more than addresses in the largest
/// subnet of a cell.
pub const MAX_KEPT: usize = 1 << 16;

/// Least MTU that a container's interface may have, in bytes: what every IPv4 host takes (RFC 791).
pub const MIN_MTU: u16 = 576;

/// Where the agent of the cell rooted at `root` (`/` normally) listens.
pub fn socket_path(root: &Path) -> PathBuf {
    root.join("run/sarcenet/agent.sock")
}
