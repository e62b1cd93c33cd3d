//! Cloud Controller: which app is in which space, and who may change what (contract section 1.3).

mod security_groups;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use reqwest::header::AUTHORIZATION;
use reqwest::{StatusCode, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::access::{Caller, Secret, Uaa};
use crate::expiring::Expiring;
use crate::outbound::{self, Outbound, OutboundError, OutboundSettings};
pub use security_groups::{Latest, SecurityGroupSource};

/// Most apps in one request (contract section 1.8); their GUIDs are in its address.
const CHUNK: usize = 100;

/// Most apps whose space is remembered.
const REMEMBERED: usize = 100_000;

/// Most pages of a list that are read; more are a server that goes in circles.
const PAGES: usize = 1000;

/// How Cloud Controller is asked.
#[derive(Debug, Clone)]
pub struct CloudControllerSettings {
    /// Its address, such as `https://cloud-controller-ng.service.cf.internal:9024`.
    pub url: String,
    /// How long an app's space is remembered, at most as long as the token of who asked for it.
    pub remember: Duration,
    /// How the server is reached.
    pub outbound: OutboundSettings,
}

/// Why it is not known what Cloud Controller thinks.
#[derive(Debug, thiserror::Error)]
pub enum CloudControllerError {
    /// UAA gave no token for the question, or Cloud Controller no answer.
    #[error(transparent)]
    Outbound(#[from] OutboundError),
    /// The answer contradicts itself or the question.
    #[error("{what}: Cloud Controller's answer makes no sense: {reason}")]
    Nonsense {
        /// What was asked.
        what: &'static str,
        /// Why.
        reason: &'static str,
    },
}

/// A client of Cloud Controller, which asks with the server's own token.
#[derive(Debug)]
pub struct CloudController {
    server: Url,
    uaa: Arc<Uaa>,
    outbound: Outbound,
    remember: Duration,
    spaces: Expiring<String, String>,
}

#[derive(Deserialize)]
struct Apps {
    pagination: Pagination,
    resources: Vec<App>,
}

#[derive(Deserialize)]
struct Pagination {
    total_pages: u64,
}

#[derive(Deserialize)]
struct App {
    guid: String,
    links: Links,
}

#[derive(Deserialize)]
struct Links {
    space: Link,
}

#[derive(Deserialize)]
struct Link {
    href: String,
}

#[derive(Deserialize)]
struct Space {
    entity: SpaceEntity,
}

#[derive(Deserialize)]
struct SpaceEntity {
    name: String,
    organization_guid: String,
}

#[derive(Deserialize)]
struct Spaces {
    #[serde(default)]
    next_url: Option<String>,
    resources: Vec<Listed>,
}

#[derive(Deserialize)]
struct Listed {
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    guid: String,
}

impl CloudController {
    /// A client; nothing is asked yet. The server's own token comes from `uaa`.
    pub fn new(settings: &CloudControllerSettings, uaa: Arc<Uaa>) -> Result<Self, OutboundError> {
        Ok(Self {
            server: outbound::server(&settings.url)?,
            uaa,
            outbound: Outbound::new(&settings.outbound)?,
            remember: settings.remember,
            spaces: Expiring::new(REMEMBERED),
        })
    }

    /// The spaces of those apps that exist. What is remembered for `caller` is forgotten with the
    /// caller's token.
    pub(crate) async fn spaces_of_apps(
        &self,
        apps: &BTreeSet<&str>,
        caller: &Caller,
    ) -> Result<HashMap<String, String>, CloudControllerError> {
        let now = Instant::now();
        let mut known = HashMap::new();
        let mut asked = Vec::new();
        for app in apps {
            match self.spaces.get(&(*app).to_owned(), now) {
                Some(space) => drop(known.insert((*app).to_owned(), space)),
                None => asked.push(*app),
            }
        }
        let hold = caller.expires.map_or(Duration::ZERO, |end| {
            end.duration_since(SystemTime::now()).unwrap_or_default().min(self.remember)
        });
        for (app, space) in self.ask_for_apps(asked).await? {
            self.spaces.put(app.clone(), space.clone(), now, now + hold);
            known.insert(app, space);
        }
        Ok(known)
    }

    /// Which of the apps exist, asked anew.
    pub(crate) async fn existing_apps(
        &self,
        apps: &BTreeSet<&str>,
    ) -> Result<HashSet<String>, CloudControllerError> {
        Ok(self.ask_for_apps(apps.iter().copied().collect()).await?.into_keys().collect())
    }

    async fn ask_for_apps(
        &self,
        mut apps: Vec<&str>,
    ) -> Result<HashMap<String, String>, CloudControllerError> {
        const WHAT: &str = "look up apps";
        // What cannot be a GUID names no app, and a comma would name two.
        apps.retain(|app| is_guid(app));
        let mut spaces = HashMap::with_capacity(apps.len());
        for chunk in apps.chunks(CHUNK) {
            let size = chunk.len().to_string();
            let query = [("guids", &*chunk.join(",")), ("per_page", &*size)];
            let answer: Apps = self.get(WHAT, self.url(&["v3", "apps"], &query)).await?;
            if answer.pagination.total_pages > 1 || answer.resources.len() > chunk.len() {
                let reason = "it has more apps than were asked for";
                return Err(CloudControllerError::Nonsense { what: WHAT, reason });
            }
            for app in answer.resources {
                let space = app.links.space.href.rsplit('/').next().unwrap_or_default();
                if !is_guid(space) {
                    let reason = "an app has no space";
                    return Err(CloudControllerError::Nonsense { what: WHAT, reason });
                }
                spaces.insert(app.guid, space.to_owned());
            }
        }
        Ok(spaces)
    }

    /// Whether a user is a developer of the space; of one that does not exist nobody is.
    pub(crate) async fn is_developer(
        &self,
        user: &str,
        space: &str,
    ) -> Result<bool, CloudControllerError> {
        let found = self.get("look up a space", self.url(&["v2", "spaces", space], &[])).await;
        let space: Space = match found {
            Ok(space) => space,
            Err(OutboundError::Status { status: StatusCode::NOT_FOUND, .. }) => return Ok(false),
            Err(e) => return Err(e.into()),
        };
        let filters = [
            ("q", &*format!("developer_guid:{user}")),
            ("q", &*format!("name:{}", space.entity.name)),
            ("q", &*format!("organization_guid:{}", space.entity.organization_guid)),
        ];
        let what = "look up the developers of a space";
        let spaces: Spaces = self.get(what, self.url(&["v2", "spaces"], &filters)).await?;
        match spaces.resources.len() {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(CloudControllerError::Nonsense {
                what,
                reason: "there are several spaces of one name in one organization",
            }),
        }
    }

    /// All spaces of a user.
    pub(crate) async fn spaces_of_user(
        &self,
        user: &str,
    ) -> Result<HashSet<String>, CloudControllerError> {
        const WHAT: &str = "look up the spaces of a user";
        let mut spaces = HashSet::new();
        let path = ["v2", "users", user, "spaces"];
        let mut url = self.url(&path, &[("results-per-page", "100")]);
        for _ in 0..PAGES {
            let page: Spaces = self.get(WHAT, url).await?;
            spaces.extend(page.resources.into_iter().map(|space| space.metadata.guid));
            let Some(next) = page.next_url.filter(|next| !next.is_empty()) else {
                return Ok(spaces);
            };
            url = self.next_page(&next).ok_or(CloudControllerError::Nonsense {
                what: WHAT,
                reason: "the next page is on another server",
            })?;
        }
        let reason = "the pages do not end";
        Err(CloudControllerError::Nonsense { what: WHAT, reason })
    }

    /// Where a list goes on. The token goes with the request, so it must be the same server.
    fn next_page(&self, next: &str) -> Option<Url> {
        let url = self.server.join(next).ok()?;
        (url.origin() == self.server.origin()).then_some(url)
    }

    fn url(&self, path: &[&str], query: &[(&str, &str)]) -> Url {
        outbound::resource(&self.server, path, query)
    }

    /// Asks with the server's own token, and with a new one if that is not accepted.
    async fn get<T: DeserializeOwned>(
        &self,
        what: &'static str,
        url: Url,
    ) -> Result<T, OutboundError> {
        let token = self.uaa.own_token().await?;
        let authorized = |token: &Secret| {
            self.outbound.get(url.clone()).header(AUTHORIZATION, format!("bearer {}", token.text()))
        };
        match outbound::json(what, authorized(&token)).await {
            Err(OutboundError::Status { status: StatusCode::UNAUTHORIZED, .. }) => {
                self.uaa.forget_own_token(&token).await;
                outbound::json(what, authorized(&self.uaa.own_token().await?)).await
            }
            answer => answer,
        }
    }
}

/// Whether it can be the GUID of anything in Cloud Controller.
fn is_guid(text: &str) -> bool {
    let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    (1..=128).contains(&text.len()) && text.bytes().all(fine) && !matches!(text, "." | "..")
}
