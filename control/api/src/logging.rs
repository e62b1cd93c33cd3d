//! What is recorded of conversations.

use serde::{Deserialize, Serialize};

/// What shall be recorded from now on; what is none stays as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoggingChange {
    /// Conversations between apps.
    pub overlay: Option<bool>,
    /// Conversations with the outside.
    pub egress: Option<bool>,
}

/// What is recorded, and how that goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoggingStatus {
    /// Whether all conversations between apps are, admitted and refused.
    pub overlay: bool,
    /// Whether all conversations with the outside are, admitted and refused.
    pub egress: bool,
    /// Refusals recorded per container and second.
    pub denied_per_second: u32,
    /// Admitted UDP conversations recorded per container and second.
    pub accepted_udp_per_second: u32,
    /// Where the records are.
    pub file: String,
    /// Records written since the agent's start.
    pub written: u64,
    /// Events since then of which there is no record.
    pub lost: u64,
    /// Why records cannot be written.
    pub problem: Option<String>,
}
