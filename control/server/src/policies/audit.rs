//! The audit log: who changed which policies, from where. Events have the target `audit`; their
//! moment is that of the log.

use std::fmt;
use std::net::SocketAddr;

use axum::extract::{ConnectInfo, Request};
use axum::http::HeaderValue;
use tracing::info;

use crate::access::Caller;
use crate::http::headers::RequestId;
use crate::policy::Policy;

/// Most policies in one event; a larger change has several, so that no line is beyond measure.
const IN_ONE: usize = 100;

/// Longest `X-Forwarded-For` that is written down, in bytes.
const LONGEST_FORWARDED: usize = 256;

/// Who is responsible for a change.
#[derive(Debug, Clone, Copy)]
pub(super) enum Author<'a> {
    /// Somebody, by a request.
    Caller(&'a Caller, &'a Origin),
    /// The periodic cleaner.
    Cleaner,
}

/// Where a request came from.
#[derive(Debug, Clone, Default)]
pub(super) struct Origin {
    /// The client's end of the connection.
    peer: Option<SocketAddr>,
    /// What proxies say of those before them.
    forwarded_for: String,
    /// The name of the request.
    request: String,
}

impl Origin {
    pub(super) fn of(request: &Request) -> Self {
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0);
        let forwarded = request.headers().get("x-forwarded-for").map(HeaderValue::as_bytes);
        let forwarded = forwarded.unwrap_or_default();
        let forwarded = &forwarded[..forwarded.len().min(LONGEST_FORWARDED)];
        let id = request.extensions().get::<RequestId>();
        Self {
            peer,
            forwarded_for: String::from_utf8_lossy(forwarded).into_owned(),
            request: id.map(|id| id.0.clone()).unwrap_or_default(),
        }
    }
}

/// What became of policies.
#[derive(Debug, Clone, Copy)]
pub(super) enum Deed {
    Created,
    Deleted,
}

impl Deed {
    /// The name of the event (contract section 1.9).
    fn event(self) -> &'static str {
        match self {
            Self::Created => "created-policies",
            Self::Deleted => "deleted-policies",
        }
    }
}

/// Writes down a change that was made.
pub(super) fn record(author: Author<'_>, deed: Deed, policies: &[Policy]) {
    let (subject, user_name, origin) = match author {
        Author::Caller(caller, origin) => (&*caller.subject, caller.name(), origin.clone()),
        Author::Cleaner => ("", "cleaner", Origin::default()),
    };
    let peer = origin.peer.map(|peer| peer.to_string()).unwrap_or_default();
    for part in policies.chunks(IN_ONE) {
        info!(
            target: "audit",
            event = deed.event(),
            user_name,
            subject,
            peer,
            forwarded_for = origin.forwarded_for,
            request = origin.request,
            total = policies.len(),
            policies = %Line(part),
        );
    }
}

/// Policies in one line, as JSON texts so that no id can forge another one.
struct Line<'a>(&'a [Policy]);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, policy) in self.0.iter().enumerate() {
            let Policy { source, destination, protocol, first_port, last_port } = policy;
            let separator = if index == 0 { "" } else { ", " };
            write!(
                f,
                "{separator}{source:?} to {destination:?} {protocol} {first_port}-{last_port}"
            )?;
        }
        Ok(())
    }
}
