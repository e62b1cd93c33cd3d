//! The network file: overlay, cells, apps, policies, the way to the outside and security groups,
//! the same on every cell.
//!
//! All mistakes are found in one pass and reported together, each with its place and its cure;
//! a file with any mistake is not used at all. The control file is read in the same way.

mod apps;
mod check;
mod control;
mod edit;
mod follow;
pub mod group_file;
mod groups;
mod mistake;
mod outside;
mod read;
mod reader;
mod tracking;
mod tree;

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use ipnet::Ipv4Net;
use sarcenet_agent_api::Policy;
use sarcenet_dataplane_api::{Revoke, Tracking, UplinkMode};

pub use apps::Apps;
pub use control::{
    AuthSpec, CloudControllerSpec, ControlSpec, ExternalSpec, GroupsSpec, InternalSpec, SourceSpec,
    SubnetControllerSpec, SyncSpec, UaaSpec,
};
pub use edit::{EditError, Outcome, PolicyFile, with_policy, without_policy};
pub use follow::{CertsSpec, FollowSpec, LeasesSpec, PolicyServerSpec};
pub use mistake::{ConfigError, Mistake};
pub(crate) use outside::LIST_MAX;
pub use outside::{DEFAULT_SNAT_PORTS, DenyNetworks, OutsideSpec};
pub(crate) use reader::check_overlay;

use crate::security_groups::SecurityGroup;

/// VXLAN network identifier of the overlay (contract section 5.3).
pub const DEFAULT_VNI: u32 = 1;
/// UDP port of the tunnel (RFC 7348 section 5).
pub const DEFAULT_PORT: u16 = 4789;
/// Where health and metrics are told when nothing else is said.
pub const DEFAULT_STATUS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 23955);
/// Time that a runtime has for its own DEL when nothing else is said.
pub const DEFAULT_COLLECT_AFTER: Duration = Duration::from_mins(1);
/// Bytes that the tunnel adds to an inner IP packet: IPv4 20, UDP 8, VXLAN 8, Ethernet 14.
pub const TUNNEL_OVERHEAD: u16 = 50;

/// What a network file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// The whole overlay.
    pub overlay: Ipv4Net,
    /// All cells, in the order of the file.
    pub cells: Vec<CellSpec>,
    /// All apps.
    pub apps: Apps,
    /// All policies, in the order of the file.
    pub policies: Vec<Policy>,
    /// VXLAN network identifier, 24 bits.
    pub vni: u32,
    /// UDP port of the tunnel.
    pub port: u16,
    /// Largest inner IP packet in bytes; none means the underlay's MTU - 50.
    pub mtu: Option<u16>,
    /// What happens to established conversations on revocation.
    pub revoke: Revoke,
    /// How packets travel between cells.
    pub uplink: UplinkMode,
    /// The way to the outside; none when there is none.
    pub outside: Option<OutsideSpec>,
    /// Security groups, in the order of the file. None when the file says nothing of them: then the
    /// rules hold that runtimes pass with containers.
    pub security_groups: Option<Arc<Vec<SecurityGroup>>>,
    /// How conversations are followed.
    pub tracking: Tracking,
    /// Whether everybody in the overlay may talk to this cell's containers, whatever policies say.
    pub open_overlay: bool,
    /// The tag to which the TCP ports are open that apps of containers name; none if to no tag.
    pub router_tag: Option<u16>,
    /// The tag of what the cell itself sends into the overlay; none if it sends without one.
    pub own_tag: Option<u16>,
    /// Which servers say what the file does not: cells, apps and policies, and security groups if
    /// they are asked for. None when all of it is in the file.
    pub control: Option<FollowSpec>,
    /// Where health and metrics of the agent and the dataplane are told, if anywhere.
    pub status: Option<SocketAddr>,
    /// How long after its end a container is removed that its runtime has not detached; none for
    /// never.
    pub collect_after: Option<Duration>,
}

/// One cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CellSpec {
    /// Its name.
    pub name: String,
    /// Its address on the underlay.
    pub underlay: Ipv4Addr,
    /// Its part of the overlay.
    pub subnet: Ipv4Net,
    /// The MAC address of its VTEP.
    pub mac: [u8; 6],
}

impl Network {
    /// Reads the file at `path`.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::parse_file(path, &Self::text(path)?)
    }

    /// The text of the file at `path`.
    pub fn text(path: &Path) -> Result<String, ConfigError> {
        std::fs::read_to_string(path).map_err(|e| ConfigError::read(path, &e))
    }

    /// SHA-256 of such a text, as `sha256sum` prints it.
    pub fn digest(text: &str) -> String {
        let digest = digest(&SHA256, text.as_bytes());
        digest.as_ref().iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    /// Reads `text`, which came from the file at `path`.
    pub fn parse_file(path: &Path, text: &str) -> Result<Self, ConfigError> {
        Self::parse(text).map_err(|mistakes| ConfigError::Mistakes {
            path: path.display().to_string(),
            mistakes,
        })
    }

    /// Reads `text`. All mistakes are returned, in the order of the text.
    pub fn parse(text: &str) -> Result<Self, Vec<Mistake>> {
        read::network(text)
    }

    /// The cell of that name in the file at `path`, or a mistake that says what to do.
    pub fn cell_of(&self, path: &Path, name: &str) -> Result<&CellSpec, ConfigError> {
        self.cell(name).ok_or_else(|| ConfigError::Mistakes {
            path: path.display().to_string(),
            mistakes: vec![Mistake { line: 1, column: 1, message: self.no_such_cell(name) }],
        })
    }

    /// The cell of that name.
    pub fn cell(&self, name: &str) -> Option<&CellSpec> {
        self.cells.iter().find(|cell| cell.name == name)
    }

    /// The tag of an app; none when the file does not name it.
    pub fn tag(&self, app: &str) -> Option<u16> {
        self.apps.tag(app)
    }

    /// Explains that there is no cell `name`.
    fn no_such_cell(&self, name: &str) -> String {
        let known: Vec<_> = self.cells.iter().map(|cell| cell.name.as_str()).collect();
        format!(
            "no cell is named `{name}`{}; add it under `cells:` or start the agent with one of: {}",
            mistake::suggestion(name, known.iter().copied()),
            if known.is_empty() { "(none yet)".to_owned() } else { known.join(", ") }
        )
    }
}

#[cfg(test)]
mod tests;
