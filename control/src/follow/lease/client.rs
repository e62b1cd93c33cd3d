//! Asking a subnet controller, ours or Cloud Foundry's (contract section 4.1).

use std::net::Ipv4Addr;

use reqwest::{Method, Response, StatusCode, Url};
use sarcenet_server::client::ClientError;
use sarcenet_server::http::json;
use sarcenet_server::lease::Lease;
use sarcenet_server::leases::LeaseBody;
use sarcenet_server::outbound::{self, causes};
use serde::{Deserialize, Serialize};

use crate::follow::ask::said;
use crate::follow::asker::Asker;

/// Largest answer that is read, in bytes: a hundred times the leases of the largest overlay that
/// Cloud Foundry documents.
const ANSWER: usize = 16 << 20;

/// Why a subnet controller did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Nobody can be asked with these certificates.
    #[error("cannot {what}: {source}")]
    Client {
        /// What was asked for.
        what: &'static str,
        /// Why not.
        source: Box<ClientError>,
    },
    /// No answer, or none that ended in time.
    #[error(
        "cannot {what}: no answer from {server}; is the subnet controller up, and are both \
         certificates from the same CA? {}", causes(.source)
    )]
    Exchange {
        /// What was asked for.
        what: &'static str,
        /// Whom.
        server: String,
        /// What went wrong.
        source: reqwest::Error,
    },
    /// 409: not now, and not later either.
    #[error("cannot {what}: {said}")]
    Refused {
        /// What was asked for.
        what: &'static str,
        /// What the server said.
        said: String,
    },
    /// Another answer that says no.
    #[error("cannot {what}: {server} answered {status}: {said}")]
    Status {
        /// What was asked for.
        what: &'static str,
        /// Who answered.
        server: String,
        /// The status.
        status: StatusCode,
        /// What the server said.
        said: String,
    },
    /// An answer that is not what it should be.
    #[error("cannot {what}: the answer of {server} cannot be used: {reason}")]
    Garbage {
        /// What was asked for.
        what: &'static str,
        /// Who answered.
        server: String,
        /// Why.
        reason: String,
    },
}

#[derive(Serialize)]
struct AcquireBody {
    underlay_ip: String,
    single_overlay_ip: bool,
}

#[derive(Serialize)]
struct ReleaseBody {
    underlay_ip: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct LeasesBody {
    leases: Option<Vec<LeaseBody>>,
}

/// What is answered to a change.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Done {}

/// All leases that a server knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listed {
    /// Those that can be read.
    pub leases: Vec<Lease>,
    /// How many more there are.
    pub unreadable: usize,
}

/// A subnet controller.
#[derive(Debug)]
pub struct LeaseClient {
    server: Url,
    asker: Asker,
}

impl LeaseClient {
    /// The one at `url`, which begins with `https://`.
    pub fn new(url: &str, asker: Asker) -> Result<Self, outbound::OutboundError> {
        Ok(Self { server: outbound::server(url)?, asker })
    }

    /// Gets the lease of the cell with this address, a new one if it has none.
    pub async fn acquire(&self, underlay: Ipv4Addr, single: bool) -> Result<Lease, LeaseError> {
        const WHAT: &str = "acquire a lease";
        let body = AcquireBody { underlay_ip: underlay.to_string(), single_overlay_ip: single };
        let answer = self.ask(WHAT, Method::PUT, &["leases", "acquire"], Some(&body)).await?;
        let body: LeaseBody = self.read(WHAT, &answer)?;
        Lease::try_from(body).map_err(|e| self.garbage(WHAT, e.to_string()))
    }

    /// Has the lease go on.
    pub async fn renew(&self, lease: &Lease) -> Result<(), LeaseError> {
        const WHAT: &str = "renew the lease";
        let body = LeaseBody::from(lease);
        let answer = self.ask(WHAT, Method::PUT, &["leases", "renew"], Some(&body)).await?;
        // `{}`: anything else is not from a subnet controller.
        self.read::<Done>(WHAT, &answer).map(|_| ())
    }

    /// Gives the lease of the cell with this address back.
    pub async fn release(&self, underlay: Ipv4Addr) -> Result<(), LeaseError> {
        const WHAT: &str = "release the lease";
        let body = ReleaseBody { underlay_ip: underlay.to_string() };
        let answer = self.ask(WHAT, Method::PUT, &["leases", "release"], Some(&body)).await?;
        self.read::<Done>(WHAT, &answer).map(|_| ())
    }

    /// The leases of all cells.
    pub async fn list(&self) -> Result<Listed, LeaseError> {
        const WHAT: &str = "list the leases";
        let answer = self.ask(WHAT, Method::GET, &["leases"], None::<&()>).await?;
        let LeasesBody { leases } = self.read(WHAT, &answer)?;
        let Some(bodies) = leases else {
            return Err(self.garbage(WHAT, "it has no leases".into()));
        };
        let all = bodies.len();
        let leases: Vec<_> =
            bodies.into_iter().filter_map(|body| Lease::try_from(body).ok()).collect();
        Ok(Listed { unreadable: all - leases.len(), leases })
    }

    /// The body of an answer that says yes.
    async fn ask(
        &self,
        what: &'static str,
        method: Method,
        path: &[&str],
        body: Option<&impl Serialize>,
    ) -> Result<Vec<u8>, LeaseError> {
        let client =
            self.asker.client().map_err(|e| LeaseError::Client { what, source: Box::new(e) })?;
        let mut url = self.server.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        let mut request = client.request(method, url);
        if let Some(body) = body {
            let json = serde_json::to_vec(body);
            request = request.body(json.map_err(|e| self.garbage(what, e.to_string()))?);
        }
        let failed =
            |source| LeaseError::Exchange { what, server: self.server.to_string(), source };
        let response = request.send().await.map_err(failed)?;
        let status = response.status();
        let answer = bytes(response).await.map_err(failed)?;
        let Some(answer) = answer else {
            return Err(self.garbage(what, format!("it is larger than {ANSWER} bytes")));
        };
        match status {
            StatusCode::OK => Ok(answer),
            StatusCode::CONFLICT => Err(LeaseError::Refused { what, said: said(&answer) }),
            status => Err(LeaseError::Status {
                what,
                server: self.server.to_string(),
                status,
                said: said(&answer),
            }),
        }
    }

    fn read<'a, T: Deserialize<'a>>(
        &self,
        what: &'static str,
        answer: &'a [u8],
    ) -> Result<T, LeaseError> {
        json::from_slice(answer).map_err(|e| self.garbage(what, e.to_string()))
    }

    fn garbage(&self, what: &'static str, reason: String) -> LeaseError {
        LeaseError::Garbage { what, server: self.server.to_string(), reason }
    }
}

/// The whole body; none when it is too long.
async fn bytes(mut response: Response) -> Result<Option<Vec<u8>>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(part) = response.chunk().await? {
        if body.len() + part.len() > ANSWER {
            return Ok(None);
        }
        body.extend_from_slice(&part);
    }
    Ok(Some(body))
}
