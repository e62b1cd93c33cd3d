//! The HTTP client of those that ask a server over mTLS: the other end of [`crate::http`].

use std::path::PathBuf;
use std::time::Duration;

use rustls::ClientConfig;

use crate::http::tls::{self, Identity, IdentityFiles, TlsError};

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);

/// How long an idle connection is kept: shorter than servers keep it, ours and those of Cloud
/// Foundry, so that no request meets its end.
const IDLE: Duration = Duration::from_mins(1);

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Its files cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The settings are refused.
    #[error("cannot set an HTTP client up: {0}")]
    Http(#[from] reqwest::Error),
}

/// The files of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientFiles {
    /// PEM: the CAs of the servers.
    pub server_ca: PathBuf,
    /// Who the client is.
    pub identity: IdentityFiles,
}

impl ClientFiles {
    /// TLS 1.2 and 1.3; the server's name is checked against the host in the URL (contract section
    /// 0.2, item 7). Files that change later need new settings.
    pub fn settings(&self) -> Result<ClientConfig, TlsError> {
        let Identity { chain, key } = self.identity.read()?;
        ClientConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(tls::roots(&self.server_ca)?)
            .with_client_auth_cert(chain, key)
            .map_err(|e| self.identity.mismatch(e))
    }

    /// A client that speaks to servers of these CAs only, over TLS only, and to nobody that they
    /// send it to. A request is over after `timeout`, its answer's body included.
    pub fn client(&self, timeout: Duration) -> Result<reqwest::Client, ClientError> {
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(self.settings()?)
            .https_only(true)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT)
            .pool_idle_timeout(IDLE)
            .timeout(timeout)
            .build()?;
        Ok(client)
    }
}
