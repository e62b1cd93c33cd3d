//! Requests to other servers of the platform: bounded in time and size, and told apart when they fail.

use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::{Certificate, Client, Identity, RequestBuilder, StatusCode, Url};
use serde::de::DeserializeOwned;

/// Largest answer that is read. A page of 5000 security groups is the largest there is.
const ANSWER: usize = 64 << 20;

/// How another server is reached.
#[derive(Debug, Clone)]
pub struct OutboundSettings {
    /// PEM file of the authorities that may vouch for the server; none: those of the system.
    pub authorities: Option<PathBuf>,
    /// PEM files of the client's certificate and key, where the server asks for one.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Whether any certificate will do (`skip_ssl_validation`, contract section 13.2).
    pub skip_verification: bool,
    /// How long a request may take, from the connection to the last byte.
    pub timeout: Duration,
}

impl Default for OutboundSettings {
    fn default() -> Self {
        Self {
            authorities: None,
            identity: None,
            skip_verification: false,
            timeout: Duration::from_secs(10),
        }
    }
}

/// Why another server did not answer what was asked.
#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    /// A file of the settings cannot be used.
    #[error("cannot use {path} for connections to other servers: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The address of the settings is none.
    #[error("`{url}` is not the address of a server: {reason}")]
    Address {
        /// The address.
        url: String,
        /// Why.
        reason: String,
    },
    /// No client can be made of the settings.
    #[error("cannot set up connections to other servers: {0}")]
    Client(#[source] reqwest::Error),
    /// No answer, or none that ended in time.
    #[error("{what}: no answer; is the server up and its certificate from the right authority? {}", causes(.source))]
    Exchange {
        /// What was asked.
        what: &'static str,
        /// What went wrong.
        #[source]
        source: reqwest::Error,
    },
    /// An answer that says no.
    #[error("{what}: answered {status}")]
    Status {
        /// What was asked.
        what: &'static str,
        /// The status.
        status: StatusCode,
    },
    /// An answer without end.
    #[error("{what}: the answer is larger than {ANSWER} bytes")]
    TooLarge {
        /// What was asked.
        what: &'static str,
    },
    /// An answer that is not what it should be.
    #[error("{what}: the answer cannot be understood: {reason}")]
    Garbage {
        /// What was asked.
        what: &'static str,
        /// Why.
        reason: String,
    },
}

/// What went wrong with a request, to the last cause: reqwest's own text ends before it.
pub fn causes(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

/// The client's side of connections to one server, or several under the same settings.
#[derive(Debug, Clone)]
pub(crate) struct Outbound {
    client: Client,
}

impl Outbound {
    pub(crate) fn new(settings: &OutboundSettings) -> Result<Self, OutboundError> {
        // A redirect would carry a token to wherever the answer says.
        let mut builder = Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(settings.timeout)
            .tls_danger_accept_invalid_certs(settings.skip_verification);
        if let Some(path) = &settings.authorities {
            let authorities = Certificate::from_pem_bundle(&file(path)?);
            builder = builder.tls_certs_only(authorities.map_err(|e| unusable(path, &e))?);
        }
        if let Some((certificate, key)) = &settings.identity {
            let pem = [file(certificate)?, b"\n".to_vec(), file(key)?].concat();
            builder =
                builder.identity(Identity::from_pem(&pem).map_err(|e| unusable(certificate, &e))?);
        }
        Ok(Self { client: builder.build().map_err(OutboundError::Client)? })
    }

    pub(crate) fn get(&self, url: Url) -> RequestBuilder {
        self.client.get(url)
    }

    pub(crate) fn post(&self, url: Url) -> RequestBuilder {
        self.client.post(url)
    }
}

/// Sends a request and reads its answer, which must be 200 and JSON.
pub(crate) async fn json<T: DeserializeOwned>(
    what: &'static str,
    request: RequestBuilder,
) -> Result<T, OutboundError> {
    let failed = |source| OutboundError::Exchange { what, source };
    let mut response = request.send().await.map_err(failed)?;
    let status = response.status();
    if status != StatusCode::OK {
        return Err(OutboundError::Status { what, status });
    }
    let mut body = Vec::new();
    while let Some(part) = response.chunk().await.map_err(failed)? {
        if body.len() + part.len() > ANSWER {
            return Err(OutboundError::TooLarge { what });
        }
        body.extend_from_slice(&part);
    }
    serde_json::from_slice(&body)
        .map_err(|e| OutboundError::Garbage { what, reason: e.to_string() })
}

/// The address of a server, to which paths are added.
pub fn server(text: &str) -> Result<Url, OutboundError> {
    let wrong = |reason: &str| OutboundError::Address { url: text.into(), reason: reason.into() };
    let url = Url::parse(text).map_err(|e| wrong(&e.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") || url.cannot_be_a_base() {
        return Err(wrong("it must begin with http:// or https://"));
    }
    Ok(url)
}

/// The address of a resource: each segment is one step of the path, whatever it contains.
pub fn resource(server: &Url, segments: &[&str], query: &[(&str, &str)]) -> Url {
    let mut url = server.clone();
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(segments);
    }
    if !query.is_empty() {
        url.query_pairs_mut().extend_pairs(query);
    }
    url
}

fn file(path: &Path) -> Result<Vec<u8>, OutboundError> {
    std::fs::read(path).map_err(|e| unusable(path, &e))
}

fn unusable(path: &Path, error: &dyn std::fmt::Display) -> OutboundError {
    OutboundError::File { path: path.to_owned(), reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_segment_or_value_contains_stays_in_its_place() {
        let base = server("http://127.0.0.1:9/base/").unwrap();
        let url = resource(&base, &["v2", "../x?y#z"], &[("q", "name:a b&c=d")]);
        assert_eq!(url.as_str(), "http://127.0.0.1:9/base/v2/..%2Fx%3Fy%23z?q=name%3Aa+b%26c%3Dd");
        assert_eq!(resource(&base, &["v3"], &[]).as_str(), "http://127.0.0.1:9/base/v3");
    }

    #[test]
    fn what_is_no_server_is_refused() {
        for text in ["", "uaa.service.cf.internal", "mailto:a@b", "file:///etc/passwd"] {
            let error = server(text).unwrap_err();
            assert!(error.to_string().contains("is not the address of a server"), "{error}");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let settings = OutboundSettings {
            authorities: Some("/nonexistent/ca.pem".into()),
            ..OutboundSettings::default()
        };
        let error = Outbound::new(&settings).unwrap_err();
        assert!(error.to_string().starts_with("cannot use /nonexistent/ca.pem"), "{error}");
    }
}
