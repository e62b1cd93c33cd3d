//! What the agent says about itself.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

/// The agent's own state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// Version of the program.
    pub program: String,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// Name of the cell.
    pub cell: String,
    /// Its address on the underlay.
    pub underlay: Ipv4Addr,
    /// Its part of the overlay.
    pub subnet: Ipv4Net,
    /// The whole overlay.
    pub overlay: Ipv4Net,
    /// Largest inner IP packet, in bytes.
    pub mtu: u16,
    /// Containers attached.
    pub containers: u32,
    /// Containers that had ended without a DEL and were removed, since the agent started.
    pub collected: u64,
    /// Addresses that are still free.
    pub addresses_free: u32,
    /// Cells known, this one included.
    pub cells: u32,
    /// Apps known.
    pub apps: u32,
    /// Policies in force.
    pub policies: u32,
    /// Rules on this cell that were made from them.
    pub rules: u32,
    /// The configuration file.
    pub config: ConfigStatus,
    /// The connection to the dataplane.
    pub dataplane: DataplaneState,
    /// What else somebody should look at, one sentence each. Empty when all is well.
    pub problems: Vec<String>,
}

/// The configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigStatus {
    /// Where it is.
    pub path: String,
    /// Seconds since the content that is in force was read.
    pub age_s: u64,
    /// SHA-256 of the content that is in force, as `sha256sum` prints it: whether it is the one
    /// that somebody has in mind, and the same on all cells.
    pub digest: String,
    /// Mistakes in the newest content, which is not in force because of them. Empty when the
    /// newest content is in force.
    pub mistakes: Vec<String>,
}

/// The connection to the dataplane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataplaneState {
    /// Whether it is connected and has the whole desired state.
    pub ready: bool,
    /// Generation that is in force in the dataplane; 0 before the first.
    pub generation: u64,
    /// Why it is not ready.
    pub error: Option<String>,
}
