//! Following the security groups of the policy server.

mod answer;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use reqwest::Url;
use sarcenet_server::outbound::resource;
use tokio::sync::{mpsc, watch};
use tracing::warn;

pub use answer::{Converted, GroupList, GroupText, Page, convert};

use super::ask::{AskError, LARGEST, get, host};
use super::asker::Asker;
use super::force::Force;
use super::outside_terms::OutsideTerms;
use super::pause::Pause;
use super::policy_metrics::PolicyMetrics;
use super::trouble::Trouble;
use crate::agent::Tenants;
use crate::security_groups::SecurityGroup;

/// In metrics and the log.
const WHAT: &str = "security_groups";

/// Groups in an answer. Cloud Foundry's servers know `limit` only, its agents ask by `per_page`.
const PAGE: &str = "5000";

/// Longest list of spaces in one URL, in bytes; servers take URLs of 65,534.
const LONGEST_LIST: usize = 60_000;

/// How security groups are followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupSettings {
    /// The policy server's internal API.
    pub url: Url,
    /// How often it is asked.
    pub interval: Duration,
    /// How long each answer may take.
    pub timeout: Duration,
}

/// Security groups of the server.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Groups {
    /// As the server writes them.
    pub texts: Vec<GroupText>,
    /// As they are enforced.
    pub groups: Arc<Vec<SecurityGroup>>,
    /// How many of their rules cannot be.
    pub left_out: usize,
}

/// What is known of the security groups.
#[derive(Debug, Clone, Default)]
pub struct GroupState {
    /// The groups; none before any server has said anything.
    pub groups: Option<Arc<Groups>>,
    /// What else holds of the outside; none when only the network file says it.
    pub outside: Option<Arc<OutsideTerms>>,
    /// Counts what was learned.
    pub round: u64,
    /// Why nothing is learned at the moment.
    pub problem: Option<String>,
}

impl Groups {
    /// What `texts` mean. What is left out of them is logged.
    pub fn new(texts: Vec<GroupText>) -> Self {
        let Converted { groups, left_out, first } = convert(&texts);
        if let Some(first) = first {
            warn!(
                "rules of security groups that are left out, so that nothing more is open: \
                {left_out}, the first one: {first}"
            );
        }
        Self { texts, groups: Arc::new(groups), left_out }
    }
}

/// Follows the security groups of one server.
#[derive(Debug)]
pub struct GroupFollower {
    settings: GroupSettings,
    asker: Asker,
    tenants: watch::Receiver<Arc<Tenants>>,
    /// The spaces that were asked for last.
    spaces: BTreeSet<String>,
    /// When the groups here had changed last, as the server said before they were read.
    known: Option<i64>,
    state: watch::Sender<GroupState>,
    force: mpsc::Receiver<Force>,
    metrics: PolicyMetrics,
    trouble: Trouble,
    failures: u32,
}

impl GroupFollower {
    /// Begins with what `state` has, and keeps it up to date. Whoever sends a [`Force`] has the
    /// server asked at once.
    pub fn new(
        settings: GroupSettings,
        asker: Asker,
        tenants: watch::Receiver<Arc<Tenants>>,
        state: watch::Sender<GroupState>,
        force: mpsc::Receiver<Force>,
        metrics: PolicyMetrics,
    ) -> Self {
        Self {
            settings,
            asker,
            tenants,
            spaces: BTreeSet::new(),
            known: None,
            state,
            force,
            metrics,
            trouble: Trouble::none("security groups"),
            failures: 0,
        }
    }

    /// Follows for as long as it is polled.
    pub async fn run(mut self) {
        let mut waiting: Vec<Force> = Vec::new();
        loop {
            waiting.extend(std::iter::from_fn(|| self.force.try_recv().ok()));
            if !waiting.is_empty() {
                self.known = None;
            }
            let outcome = self.cycle().await;
            let pause = match &outcome {
                Ok(()) => {
                    self.failures = 0;
                    self.metrics.answered(WHAT);
                    if self.trouble.over() {
                        self.state.send_modify(|state| state.problem = None);
                    }
                    Pause::about(self.settings.interval)
                }
                Err(error) => {
                    self.failures = self.failures.saturating_add(1);
                    self.metrics.failed(WHAT, error.kind());
                    if let Some(text) = self.trouble.failed(error.kind(), error) {
                        self.state.send_modify(|state| state.problem = Some(text));
                    }
                    match error {
                        AskError::Busy { pause, .. } => Pause::asked(*pause),
                        _ => Pause::after(self.failures),
                    }
                }
            };
            let outcome = outcome.map(|()| self.state.borrow().round).map_err(|e| e.to_string());
            for waiting in waiting.drain(..) {
                // Who has gone does not want to know any more.
                let _ = waiting.send(outcome.clone());
            }
            waiting.extend(self.rest(pause).await);
        }
    }

    /// Asks for the groups, unless nothing has changed.
    async fn cycle(&mut self) -> Result<(), AskError> {
        let spaces = self.tenants.borrow_and_update().spaces.clone();
        let moment = self.last_updated().await?;
        if moment.is_some() && moment == self.known && spaces.is_subset(&self.spaces) {
            return Ok(());
        }
        let texts = self.all(&spaces).await?;
        (self.known, self.spaces) = (moment, spaces);
        let same = |state: &GroupState| state.groups.as_ref().is_some_and(|now| now.texts == texts);
        if !same(&self.state.borrow()) {
            let groups = Some(Arc::new(Groups::new(texts)));
            self.state.send_modify(|state| {
                state.groups = groups;
                state.round += 1;
            });
        }
        Ok(())
    }

    /// When groups changed last; none if the server does not say (contract section 16.1).
    async fn last_updated(&mut self) -> Result<Option<i64>, AskError> {
        let url = self.url("security_groups_last_updated", &[]);
        match get(&self.asker, &url, self.settings.timeout).await {
            Ok(body) => {
                let number =
                    std::str::from_utf8(&body).ok().and_then(|text| text.trim().parse().ok());
                number.map(Some).ok_or_else(|| garbage(&url, "it is no number"))
            }
            Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The groups that hold everywhere and those of `spaces`, each once.
    async fn all(&mut self, spaces: &BTreeSet<String>) -> Result<Vec<GroupText>, AskError> {
        let mut groups = BTreeMap::new();
        let mut order = Vec::new();
        let mut room = LARGEST;
        for list in lists(spaces) {
            let mut from = 0;
            loop {
                let begin = from.to_string();
                let query =
                    [("per_page", PAGE), ("limit", PAGE), ("from", &begin), ("space_guids", &list)];
                let url = self.url("security_groups", &query);
                let body = get(&self.asker, &url, self.settings.timeout).await?;
                room = room
                    .checked_sub(body.len())
                    .ok_or_else(|| AskError::TooLarge { host: host(&url) })?;
                let page = answer::read(&body).map_err(|e| garbage(&url, &e.to_string()))?;
                let Some(GroupList(page_groups)) = page.security_groups else {
                    return Err(garbage(&url, "it has no security groups"));
                };
                for group in page_groups {
                    let guid = group.guid.clone();
                    if groups.insert(guid.clone(), group).is_none() {
                        order.push(guid);
                    }
                }
                match page.next {
                    0 => break,
                    next if next > from => from = next,
                    _ => return Err(garbage(&url, "its next part is not behind this one")),
                }
            }
        }
        Ok(order.iter().filter_map(|guid| groups.remove(guid)).collect())
    }

    fn url(&self, last: &str, query: &[(&str, &str)]) -> Url {
        resource(&self.settings.url, &["networking", "v1", "internal", last], query)
    }

    /// Waits, unless something happens that makes it right to ask at once.
    async fn rest(&mut self, pause: Pause) -> Option<Force> {
        let mut over = std::pin::pin!(tokio::time::sleep(pause.time()));
        loop {
            tokio::select! {
                () = &mut over => return None,
                Some(force) = self.force.recv() => return Some(force),
                Ok(()) = self.tenants.changed(), if self.failures == 0 => {
                    if !self.tenants.borrow_and_update().spaces.is_subset(&self.spaces) {
                        return None;
                    }
                }
            }
        }
    }
}

fn garbage(url: &Url, reason: &str) -> AskError {
    AskError::Garbage { host: host(url), reason: reason.to_owned() }
}

/// Lists of all spaces, separated by commas, each fit for a URL. One that is empty asks for the
/// groups that hold everywhere.
fn lists(spaces: &BTreeSet<String>) -> Vec<String> {
    let mut lists = vec![String::new()];
    // In a URL a byte is three at most, and so is the comma.
    let mut length = 0;
    for space in spaces {
        let more = 3 * (space.len() + 1);
        if length > 0 && length + more > LONGEST_LIST {
            lists.push(String::new());
            length = 0;
        }
        length += more;
        if let Some(list) = lists.last_mut() {
            if !list.is_empty() {
                list.push(',');
            }
            list.push_str(space);
        }
    }
    lists
}
