//! Security groups as Cloud Controller lists them (contract section 1.10).

use jiff::Timestamp;
use reqwest::{StatusCode, Url};
use serde::Deserialize;

use super::{CloudController, CloudControllerError, PAGES};
use crate::outbound::{self, Outbound, OutboundError, OutboundSettings};
use crate::policy::{SecurityGroup, SecurityRule};

const WHAT: &str = "list security groups";

/// When security groups changed last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Latest {
    /// Cloud Controller does not say: every look may find something new.
    Unknown,
    /// At this moment.
    At(Timestamp),
}

/// Cloud Controller's internal API, where it says when security groups changed.
#[derive(Debug)]
pub struct SecurityGroupSource {
    server: Url,
    outbound: Outbound,
}

#[derive(Deserialize)]
struct LatestUpdate {
    last_update: String,
}

#[derive(Deserialize)]
struct Page {
    pagination: Pagination,
    resources: Vec<Group>,
}

#[derive(Deserialize)]
struct Pagination {
    #[serde(default)]
    next: Option<Next>,
}

#[derive(Deserialize)]
struct Next {
    #[serde(default)]
    href: Option<String>,
}

#[derive(Deserialize)]
struct Group {
    guid: String,
    name: String,
    #[serde(default)]
    globally_enabled: Globally,
    #[serde(default)]
    rules: Vec<SecurityRule>,
    #[serde(default)]
    relationships: Relationships,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Globally {
    running: bool,
    staging: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Relationships {
    running_spaces: Related,
    staging_spaces: Related,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Related {
    data: Vec<Space>,
}

#[derive(Deserialize)]
struct Space {
    guid: String,
}

impl SecurityGroupSource {
    /// A client of the internal API at `url`; nothing is asked yet.
    pub fn new(url: &str, settings: &OutboundSettings) -> Result<Self, OutboundError> {
        Ok(Self { server: outbound::server(url)?, outbound: Outbound::new(settings)? })
    }

    /// When security groups changed last.
    pub(crate) async fn latest(&self) -> Result<Latest, OutboundError> {
        let url = outbound::resource(&self.server, &["internal", "v4", "asg_latest_update"], &[]);
        let what = "look up when security groups changed";
        match outbound::json::<LatestUpdate>(what, self.outbound.get(url)).await {
            Ok(LatestUpdate { last_update }) => match last_update.parse() {
                Ok(moment) => Ok(Latest::At(moment)),
                Err(e) => Err(OutboundError::Garbage { what, reason: e.to_string() }),
            },
            Err(OutboundError::Status { status: StatusCode::NOT_FOUND, .. }) => Ok(Latest::Unknown),
            Err(e) => Err(e),
        }
    }
}

impl CloudController {
    /// All security groups, or `None` when they changed while they were listed: what `source` says
    /// of the last change is compared after every page.
    pub(crate) async fn security_groups(
        &self,
        source: &SecurityGroupSource,
        latest: Latest,
    ) -> Result<Option<Vec<SecurityGroup>>, CloudControllerError> {
        let mut groups = Vec::new();
        for number in 1..=PAGES {
            let query = [("per_page", "5000"), ("page", &*number.to_string())];
            let page: Page = self.get(WHAT, self.url(&["v3", "security_groups"], &query)).await?;
            for group in page.resources {
                groups.push(group.stored()?);
            }
            if source.latest().await? != latest {
                return Ok(None);
            }
            let next = page.pagination.next.and_then(|next| next.href);
            if next.is_none_or(|href| href.is_empty()) {
                return Ok(Some(groups));
            }
        }
        Err(CloudControllerError::Nonsense { what: WHAT, reason: "the pages do not end" })
    }
}

impl Group {
    fn stored(self) -> Result<SecurityGroup, CloudControllerError> {
        let rules = SecurityRule::text(self.rules).map_err(|_| CloudControllerError::Nonsense {
            what: WHAT,
            reason: "a rule cannot be written as JSON",
        })?;
        let guids = |spaces: Related| spaces.data.into_iter().map(|space| space.guid).collect();
        Ok(SecurityGroup {
            row: 0,
            guid: self.guid,
            name: self.name,
            rules,
            staging_default: self.globally_enabled.staging,
            running_default: self.globally_enabled.running,
            staging_spaces: guids(self.relationships.staging_spaces),
            running_spaces: guids(self.relationships.running_spaces),
        })
    }
}
