//! The control file: which servers run here, where they listen, and whom they ask.
//!
//! Names and defaults are those of Cloud Foundry's servers where there are any (contract sections
//! 0.3 and 13.1 to 13.4). Times are in seconds. Paths are absolute, below the root of all paths.

mod platform;
mod read;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sarcenet_server::access::UaaSettings;
use sarcenet_server::cloud_controller::CloudControllerSettings;
use sarcenet_server::database::DatabaseSettings;
use sarcenet_server::http::tls::ServerFiles;
use sarcenet_server::leases;
use sarcenet_server::outbound::OutboundSettings;
use sarcenet_server::policies::ExternalSettings;

use super::{ConfigError, Mistake};
use crate::paths::Root;

/// What a control file says.
#[derive(Debug, Clone)]
pub struct ControlSpec {
    /// Where the servers keep what they know.
    pub database: DatabaseSettings,
    /// The directory of the default database, which need not be there; of another one it must.
    pub database_directory: Option<PathBuf>,
    /// The servers' certificate, and the CA of those that ask over mTLS.
    pub tls: ServerFiles,
    /// The policy server, if it runs here.
    pub policy_server: Option<PolicyServerSpec>,
    /// The subnet controller, if it runs here.
    pub subnet_controller: Option<SubnetControllerSpec>,
    /// Where health and metrics are told.
    pub status: SocketAddr,
}

/// The role `policy-server`.
#[derive(Debug, Clone)]
pub struct PolicyServerSpec {
    /// Where users and their programs ask.
    pub external: SocketAddr,
    /// How they are answered.
    pub external_settings: ExternalSettings,
    /// Where cells ask, over mTLS.
    pub internal: SocketAddr,
    /// Who knows the users' tokens.
    pub auth: AuthSpec,
}

/// `auth:`, and what can be had with it alone.
#[derive(Debug, Clone)]
pub enum AuthSpec {
    /// A file.
    TokensFile(PathBuf),
    /// Cloud Foundry.
    Uaa(Box<UaaSpec>),
}

/// Cloud Foundry's servers.
#[derive(Debug, Clone)]
pub struct UaaSpec {
    /// UAA.
    pub uaa: UaaSettings,
    /// Cloud Controller, which is asked with a token of UAA.
    pub cloud_controller: Option<CloudControllerSpec>,
}

/// `cloud_controller:`, and what is done with it.
#[derive(Debug, Clone)]
pub struct CloudControllerSpec {
    /// How it is asked.
    pub settings: CloudControllerSettings,
    /// How often policies of apps that are gone are removed.
    pub cleanup_interval: Duration,
    /// The sync of security groups, if it is wanted.
    pub sync: Option<SyncSpec>,
}

/// `security_groups.sync:`.
#[derive(Debug, Clone)]
pub struct SyncSpec {
    /// Cloud Controller's internal API, which says when security groups changed.
    pub url: String,
    /// How it is asked.
    pub outbound: OutboundSettings,
    /// How often.
    pub interval: Duration,
}

/// The role `subnet-controller`.
#[derive(Debug, Clone)]
pub struct SubnetControllerSpec {
    /// Where cells ask, over mTLS.
    pub listen: SocketAddr,
    /// What is leased.
    pub settings: leases::Settings,
}

impl ControlSpec {
    /// Reads the file at `path`; the paths in it are below `root`.
    pub fn load(path: &Path, root: &Root) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|e| ConfigError::read(path, &e))?;
        Self::parse(&text, root).map_err(|mistakes| ConfigError::Mistakes {
            path: path.display().to_string(),
            mistakes,
        })
    }

    /// Reads `text`. All mistakes are returned, in the order of the text.
    pub fn parse(text: &str, root: &Root) -> Result<Self, Vec<Mistake>> {
        read::control(text, root)
    }
}

#[cfg(test)]
mod tests;
