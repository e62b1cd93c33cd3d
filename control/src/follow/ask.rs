//! Questions to a server over mTLS, and what can go wrong with them.

use std::time::Duration;

use reqwest::header::RETRY_AFTER;
use reqwest::{RequestBuilder, Response, StatusCode, Url};
use sarcenet_server::client::ClientError;
use sarcenet_server::http::json;
use sarcenet_server::outbound::causes;
use serde::Deserialize;

use super::asker::Asker;

/// Largest answer that is read, in bytes: some twenty times that of 10,000 policies.
pub const LARGEST: usize = 32 << 20;

/// As much is read of an answer that says no, in bytes, and shown of it, in characters.
const LARGEST_REFUSAL: usize = 8192;
const SHOWN: usize = 500;

/// Why a server has not answered what was asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The agent's own certificate or CA.
    #[error(transparent)]
    Files(#[from] ClientError),
    /// No connection, or it broke off.
    #[error("{host} cannot be reached; is it up, and is its certificate of the right CA? {reason}")]
    Unreachable {
        /// Which server.
        host: String,
        /// All that is known.
        reason: String,
    },
    /// No answer, or none that came to its end.
    #[error("{host} has not answered within {seconds} s")]
    Slow {
        /// Which server.
        host: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// It has too much to do, and says when to come again.
    #[error("{host} has too much to do and asks to be left alone for {} s", .pause.as_secs())]
    Busy {
        /// Which server.
        host: String,
        /// For how long.
        pause: Duration,
    },
    /// It says no.
    #[error("{host} answers {status}: {text}")]
    Status {
        /// Which server.
        host: String,
        /// The status.
        status: StatusCode,
        /// What it says, shortened.
        text: String,
    },
    /// Far more than was asked.
    #[error("the answer of {host} is larger than {LARGEST} bytes")]
    TooLarge {
        /// Which server.
        host: String,
    },
    /// Not what was asked.
    #[error("the answer of {host} cannot be understood: {reason}")]
    Garbage {
        /// Which server.
        host: String,
        /// Why.
        reason: String,
    },
}

/// Kinds of failures, as they are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FailureKind {
    /// Certificates of the agent.
    Files,
    /// No connection.
    Unreachable,
    /// No answer in time.
    Slow,
    /// `Retry-After`.
    Busy,
    /// An answer that says no.
    Status,
    /// An answer beyond the limit.
    TooLarge,
    /// An answer that makes no sense.
    Garbage,
    /// A difference to something else than what is known here.
    Misfit,
}

impl FailureKind {
    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::Unreachable => "unreachable",
            Self::Slow => "slow",
            Self::Busy => "busy",
            Self::Status => "status",
            Self::TooLarge => "too_large",
            Self::Garbage => "garbage",
            Self::Misfit => "misfit",
        }
    }
}

impl AskError {
    /// What kind it is of.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Files(_) => FailureKind::Files,
            Self::Unreachable { .. } => FailureKind::Unreachable,
            Self::Slow { .. } => FailureKind::Slow,
            Self::Busy { .. } => FailureKind::Busy,
            Self::Status { .. } => FailureKind::Status,
            Self::TooLarge { .. } => FailureKind::TooLarge,
            Self::Garbage { .. } => FailureKind::Garbage,
        }
    }

    /// The status, if that is what went wrong.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Status { status, .. } => Some(*status),
            _ => None,
        }
    }
}

/// The body of a 200 answer to who `asker` is, which must have come as a whole after `patience`.
pub async fn get(asker: &Asker, url: &Url, patience: Duration) -> Result<Vec<u8>, AskError> {
    exchange(url, asker.client()?.get(url.clone()), patience).await
}

/// Sends a request to `url`. The body of a 200 answer, which must have come as a whole after
/// `patience`.
pub async fn exchange(
    url: &Url,
    request: RequestBuilder,
    patience: Duration,
) -> Result<Vec<u8>, AskError> {
    let host = host(url);
    let failed = |e: reqwest::Error| {
        let host = host.clone();
        if e.is_timeout() {
            return AskError::Slow { host, seconds: patience.as_secs() };
        }
        AskError::Unreachable { host, reason: causes(&e.without_url()) }
    };
    let mut response = request.timeout(patience).send().await.map_err(failed)?;
    let status = response.status();
    if status == StatusCode::SERVICE_UNAVAILABLE
        && let Some(pause) = retry_after(&response)
    {
        return Err(AskError::Busy { host, pause });
    }
    let largest = if status == StatusCode::OK { LARGEST } else { LARGEST_REFUSAL };
    let mut body = Vec::new();
    while let Some(part) = response.chunk().await.map_err(failed)? {
        if body.len() + part.len() > largest {
            if status == StatusCode::OK {
                return Err(AskError::TooLarge { host });
            }
            break;
        }
        body.extend_from_slice(&part);
    }
    if status != StatusCode::OK {
        return Err(AskError::Status { host, status, text: said(&body) });
    }
    Ok(body)
}

/// Who is asked, for people.
pub fn host(url: &Url) -> String {
    let port = url.port_or_known_default().unwrap_or_default();
    format!("{}:{port}", url.host_str().unwrap_or_default())
}

/// A number of seconds; dates are not used by any server that is asked.
fn retry_after(response: &Response) -> Option<Duration> {
    let text = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    text.trim().parse().ok().map(Duration::from_secs)
}

/// What a server said when it refused, fit for one line of a log: the text of `{"error": ..}`,
/// which Cloud Foundry's servers do not always escape, or the beginning of whatever it is.
pub(super) fn said(body: &[u8]) -> String {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Refusal {
        error: String,
    }
    let text = match json::from_slice(body) {
        Ok(Refusal { error }) if !error.is_empty() => error.into(),
        _ => String::from_utf8_lossy(body),
    };
    text.chars().take(SHOWN).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_quoted_in_one_line() {
        let table: [(&[u8], &str); 6] = [
            (br#"{"error": "policy quota exceeded"}"#, "policy quota exceeded"),
            (br#"{"error": "a "quoted" word"}"#, r#"{"error": "a "quoted" word"}"#),
            (b"404 page not found\n", "404 page not found "),
            (b"\x1b[2J\xff", " [2J\u{fffd}"),
            (br#"{"Error":"a","metadata":{}}"#, "a"),
            (b"", ""),
        ];
        for (body, text) in table {
            assert_eq!(said(body), text);
        }
        assert_eq!(said(&[b'x'; 4096]).len(), SHOWN);
    }

    #[test]
    fn who_is_asked_is_named_with_the_port() {
        for (url, name) in
            [("https://a.example/x", "a.example:443"), ("http://10.0.0.1:81", "10.0.0.1:81")]
        {
            assert_eq!(host(&url.parse().unwrap()), name);
        }
    }
}
