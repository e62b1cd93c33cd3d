//! A client of the policy server's external API (contract section 1), version 1: what `sarcenet policy`
//! asks it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderValue, StatusCode};
use reqwest::{Certificate, Client, Url};
use sarcenet_agent_api::Policy;
use sarcenet_server::http::json;
use sarcenet_server::outbound::{self, OutboundError, resource};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::follow::ask::{AskError, exchange, host};
use crate::follow::policies::{DestinationText, PolicyText};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why the server did not do it.
#[derive(Debug, thiserror::Error)]
pub enum PolicyClientError {
    /// Its address is none.
    #[error(transparent)]
    Address(#[from] OutboundError),
    /// The file of its CA.
    #[error("cannot use the CA file {path}: {reason}")]
    Ca {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The settings of the client.
    #[error("cannot set a connection up: {0}")]
    Client(reqwest::Error),
    /// The token has letters that no token has.
    #[error("the token is none: it has line breaks or letters that no header can carry")]
    Token,
    /// 401.
    #[error(
        "{host} does not know the token: {text}; it may have expired, `cf oauth-token` prints a new one"
    )]
    Unknown {
        /// Which server.
        host: String,
        /// In its words.
        text: String,
    },
    /// 403.
    #[error(
        "{host} forbids it: {text}; a token with the scope network.admin may do it, or one with \
         network.write of a developer in the spaces of both apps"
    )]
    Forbidden {
        /// Which server.
        host: String,
        /// In its words.
        text: String,
    },
    /// 400.
    #[error("{host} does not take the policy: {text}")]
    Invalid {
        /// Which server.
        host: String,
        /// In its words.
        text: String,
    },
    /// 404.
    #[error(
        "{host} has no policies; is this the external API of a policy server (port 4002), not the \
         one of cells?"
    )]
    NoPolicies {
        /// Which server.
        host: String,
    },
    /// Anything else.
    #[error(transparent)]
    Ask(AskError),
}

impl From<AskError> for PolicyClientError {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Status { host, status: StatusCode::UNAUTHORIZED, text } => {
                Self::Unknown { host, text }
            }
            AskError::Status { host, status: StatusCode::FORBIDDEN, text } => {
                Self::Forbidden { host, text }
            }
            AskError::Status { host, status: StatusCode::BAD_REQUEST, text } => {
                Self::Invalid { host, text }
            }
            AskError::Status { host, status: StatusCode::NOT_FOUND, .. } => {
                Self::NoPolicies { host }
            }
            error => Self::Ask(error),
        }
    }
}

/// A policy of the server. Its ports may be none that there are: version 0 of the API has no upper
/// bound.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct ListedPolicy {
    /// The app whose containers open the conversation.
    pub from: String,
    /// The app whose containers are talked to.
    pub to: String,
    /// The transport protocol.
    pub protocol: String,
    /// The destination ports.
    pub ports: ListedPorts,
}

/// Ports of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct ListedPorts {
    /// The first one.
    pub first: i64,
    /// The last one.
    pub last: i64,
}

impl std::fmt::Display for ListedPorts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { first, last } = self;
        if first == last { write!(f, "{first}") } else { write!(f, "{first}-{last}") }
    }
}

impl From<Policy> for ListedPolicy {
    fn from(policy: Policy) -> Self {
        let Policy { from, to, protocol, ports } = policy;
        let ports = ListedPorts { first: ports.first.into(), last: ports.last.into() };
        Self { from, to, protocol: protocol.to_string(), ports }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct List {
    policies: Option<Vec<PolicyText>>,
}

/// One who asks a policy server in the name of a user.
#[derive(Debug)]
pub struct PolicyClient {
    client: Client,
    server: Url,
    token: HeaderValue,
}

impl PolicyClient {
    /// Shows `token`, with or without `bearer` before it. The server's certificate must be of `ca`,
    /// if it is given, or of an authority that the system trusts.
    pub fn new(server: &str, token: &str, ca: Option<&Path>) -> Result<Self, PolicyClientError> {
        let server = outbound::server(server)?;
        // A redirect would carry the token to wherever the answer says.
        let mut builder = Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
        if let Some(path) = ca {
            let failed = |reason: String| PolicyClientError::Ca { path: path.to_owned(), reason };
            let pem = std::fs::read(path).map_err(|e| failed(e.to_string()))?;
            let authorities = Certificate::from_pem_bundle(&pem);
            let authorities = authorities.map_err(|e| failed(e.to_string()))?;
            if authorities.is_empty() {
                return Err(failed("it has no certificate in PEM".into()));
            }
            builder = builder.tls_certs_only(authorities);
        }
        let token = token.trim();
        let token = match token.split_once(' ') {
            Some((kind, rest)) if kind.eq_ignore_ascii_case("bearer") => rest.trim(),
            _ => token,
        };
        let header = HeaderValue::try_from(format!("Bearer {token}"));
        let mut token = header.map_err(|_| PolicyClientError::Token)?;
        token.set_sensitive(true);
        Ok(Self { client: builder.build().map_err(PolicyClientError::Client)?, server, token })
    }

    /// Who is asked, for people.
    pub fn host(&self) -> String {
        host(&self.server)
    }

    /// Allows it. Success when it was allowed already.
    pub async fn allow(&self, policy: &Policy) -> Result<(), PolicyClientError> {
        self.change(&[], policy).await
    }

    /// Takes it back. Success when it was not allowed.
    pub async fn revoke(&self, policy: &Policy) -> Result<(), PolicyClientError> {
        self.change(&["delete"], policy).await
    }

    async fn change(&self, last: &[&str], policy: &Policy) -> Result<(), PolicyClientError> {
        let Policy { from, to, protocol, ports } = policy;
        let body = json!({"policies": [{
            "source": {"id": from},
            "destination": {
                "id": to,
                "protocol": protocol.to_string(),
                "ports": {"start": ports.first, "end": ports.last},
            },
        }]});
        let url = self.url(last);
        let request = self.client.post(url.clone()).header(AUTHORIZATION, &self.token);
        exchange(&url, request.body(body.to_string()), PATIENCE).await?;
        Ok(())
    }

    /// The policies that the token may see, in order.
    pub async fn list(&self) -> Result<Vec<ListedPolicy>, PolicyClientError> {
        let url = self.url(&[]);
        let request = self.client.get(url.clone()).header(AUTHORIZATION, &self.token);
        let body = exchange(&url, request, PATIENCE).await?;
        let List { policies } = json::from_slice(&body).map_err(|e| {
            PolicyClientError::Ask(AskError::Garbage { host: self.host(), reason: e.to_string() })
        })?;
        let listed = |PolicyText { source, destination }: PolicyText| {
            let DestinationText { id, protocol, ports, .. } = destination;
            let ports = ListedPorts { first: ports.start, last: ports.end };
            ListedPolicy { from: source.id, to: id, protocol, ports }
        };
        let mut policies: Vec<_> = policies.into_iter().flatten().map(listed).collect();
        policies.sort();
        Ok(policies)
    }

    fn url(&self, last: &[&str]) -> Url {
        let path = [&["networking", "v1", "external", "policies"][..], last].concat();
        resource(&self.server, &path, &[])
    }
}
