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
use sarcenet_server::policies::{ExternalSettings, InternalSettings};

use super::{ConfigError, Mistake};
use crate::paths::Root;

/// Which servers run, and with what: what a control file says.
#[derive(Debug, Clone)]
pub struct ControlSpec {
    /// Where the servers keep what they know.
    pub database: DatabaseSettings,
    /// The directory of the default database, which need not be there; of another one it must.
    pub database_directory: Option<PathBuf>,
    /// The policy server for users, if it runs here.
    pub external: Option<ExternalSpec>,
    /// The policy server for cells, if it runs here.
    pub internal: Option<InternalSpec>,
    /// The subnet controller, if it runs here.
    pub subnet_controller: Option<SubnetControllerSpec>,
    /// Where security groups come from, if they are brought to the database from here.
    pub security_groups: Option<GroupsSpec>,
    /// Where health and metrics are told.
    pub status: Option<SocketAddr>,
    /// Where they are told besides: Cloud Foundry's servers have a port for those who look for
    /// mistakes.
    pub debug: Option<SocketAddr>,
}

/// The policy server's side for users.
#[derive(Debug, Clone)]
pub struct ExternalSpec {
    /// Where users and their programs ask.
    pub listen: SocketAddr,
    /// The certificate, if it is served over TLS. Users show tokens, not certificates.
    pub tls: Option<ServerFiles>,
    /// How they are answered.
    pub settings: ExternalSettings,
    /// Who knows the users' tokens.
    pub auth: AuthSpec,
}

/// The policy server's side for cells.
#[derive(Debug, Clone)]
pub struct InternalSpec {
    /// Where cells ask, over mTLS.
    pub listen: SocketAddr,
    /// The certificate, and the CA of those that ask.
    pub tls: ServerFiles,
    /// How they are answered.
    pub settings: InternalSettings,
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
}

/// `security_groups:`.
#[derive(Debug, Clone)]
pub enum GroupsSpec {
    /// Cloud Controller has them.
    Sync(Box<SyncSpec>),
    /// This file has them.
    File(PathBuf),
}

/// `security_groups.sync:`, with whom it takes.
#[derive(Debug, Clone)]
pub struct SyncSpec {
    /// UAA, for a token of the sync's own.
    pub uaa: UaaSettings,
    /// Cloud Controller, which lists security groups.
    pub cloud_controller: CloudControllerSettings,
    /// When and where to look.
    pub source: SourceSpec,
}

/// Cloud Controller's internal API, which says when security groups changed.
#[derive(Debug, Clone)]
pub struct SourceSpec {
    /// Its address.
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
    /// The certificate, and the CA of those that ask.
    pub tls: ServerFiles,
    /// What is leased.
    pub settings: leases::Settings,
}

impl ControlSpec {
    /// No server at all over this database.
    pub(crate) fn nothing(database: DatabaseSettings) -> Self {
        Self {
            database,
            database_directory: None,
            external: None,
            internal: None,
            subnet_controller: None,
            security_groups: None,
            status: None,
            debug: None,
        }
    }

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
