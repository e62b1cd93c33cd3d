//! What is recorded of conversations: which were admitted, which refused.

use std::net::{Ipv4Addr, SocketAddrV4};

use serde::{Deserialize, Serialize};

use crate::messages::{PortId, RuleId};

/// Something that happened to a conversation of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, in nanoseconds since 1970-01-01 00:00:00 UTC.
    pub at_ns: u64,
    /// What.
    pub kind: EventKind,
    /// Port of the container that it is about: the sender for the outside, the receiver between
    /// apps.
    pub port: PortId,
    /// Address of that container.
    pub container: Ipv4Addr,
    /// Tag of the sender, 0 for none.
    pub tag: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Who began, before any translation (port is the identifier for ICMP echo, 0 for protocols
    /// without ports).
    pub source: SocketAddrV4,
    /// With whom.
    pub destination: SocketAddrV4,
    /// The rule that decided, if one did.
    pub rule: Option<RuleId>,
}

/// What can happen to a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A container began one with the outside.
    EgressAllowed,
    /// A container may not.
    EgressDenied,
    /// An app began one with a container of this cell.
    OverlayAllowed,
    /// An app may not.
    OverlayDenied,
    /// A container opens too many TCP connections with one destination address and port.
    ConnectionLimited {
        /// Whether this one was refused; not so in a dry run.
        enforced: bool,
    },
}

impl EventKind {
    /// Whether the conversation was admitted. One that a dry run would have refused was not
    /// refused for that.
    pub const fn is_admitted(self) -> bool {
        matches!(
            self,
            Self::EgressAllowed
                | Self::OverlayAllowed
                | Self::ConnectionLimited { enforced: false }
        )
    }
}
