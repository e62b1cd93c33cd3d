//! Following the security groups of the policy server.

mod answer;
mod course;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use reqwest::Url;
use sarcenet_server::outbound::resource;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

pub use answer::{Converted, GroupList, GroupText, Page, Told, convert};
pub use course::{Course, Question, Reply, Step};

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
    /// How often it is asked when it does not tell of changes itself.
    pub interval: Duration,
    /// How long each answer may take, beside the time that the server is asked to wait.
    pub timeout: Duration,
    /// Whether it is asked to tell of changes.
    pub watch: bool,
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
    course: Course,
    tenants: watch::Receiver<Arc<Tenants>>,
    /// The spaces whose groups were read last.
    spaces: BTreeSet<String>,
    state: watch::Sender<GroupState>,
    force: mpsc::Receiver<Force>,
    /// Who wants to know how it is.
    waiting: Vec<Force>,
    metrics: PolicyMetrics,
    trouble: Trouble,
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
        let course = Course::new(settings.watch, settings.interval);
        Self {
            settings,
            asker,
            course,
            tenants,
            spaces: BTreeSet::new(),
            state,
            force,
            waiting: Vec::new(),
            trouble: Trouble::none("security groups", WHAT, metrics.clone()),
            metrics,
        }
    }

    /// Follows for as long as it is polled.
    pub async fn run(mut self) {
        loop {
            while let Ok(force) = self.force.try_recv() {
                self.forced(force);
            }
            if self.has_new_spaces() {
                self.course.spaces_came();
            }
            let question = self.course.question();
            let began = Instant::now();
            let reply = match question {
                Question::All => self.read().await.map(|()| Reply::Read),
                Question::Changes { .. } | Question::LastUpdated => {
                    let Some(told) = self.told(question).await else { continue };
                    told.map(Reply::Told)
                }
            };
            let pause = self.replied(reply.unwrap_or_else(Reply::Failed), began.elapsed());
            self.rest(pause).await;
        }
    }

    /// The server is asked at once.
    fn forced(&mut self, force: Force) {
        self.waiting.push(force);
        self.course.doubted();
    }

    /// Whether there are spaces here whose groups were not read.
    fn has_new_spaces(&mut self) -> bool {
        !self.tenants.borrow_and_update().spaces.is_subset(&self.spaces)
    }

    /// Asks when groups changed, or whether. None when there is something else to ask first: what waits
    /// for changes makes room for it.
    async fn told(&mut self, question: Question) -> Option<Result<Told, AskError>> {
        let last = "security_groups_last_updated";
        let (url, wait) = match question {
            Question::Changes { since, wait } => {
                let (since, seconds) = (since.to_string(), wait.as_secs().to_string());
                let mut query = vec![("watch", &*since), ("timeout", &*seconds)];
                // Of more spaces than there is room for, all changes are told.
                let lists = lists(&self.spaces);
                if let [list] = &*lists {
                    query.push(("space_guids", list));
                }
                (self.url(last, &query), wait)
            }
            Question::LastUpdated | Question::All => (self.url(last, &[]), Duration::ZERO),
        };
        let waits = !wait.is_zero();
        let body = {
            let mut asking = std::pin::pin!(get(&self.asker, &url, self.settings.timeout + wait));
            loop {
                tokio::select! {
                    body = &mut asking => break Ok(body),
                    Some(force) = self.force.recv(), if waits => break Err(Some(force)),
                    Ok(()) = self.tenants.changed(), if waits => {
                        if !self.tenants.borrow_and_update().spaces.is_subset(&self.spaces) {
                            break Err(None);
                        }
                    }
                }
            }
        };
        let body = match body {
            Ok(body) => body,
            Err(force) => {
                if let Some(force) = force {
                    self.forced(force);
                }
                return None;
            }
        };
        Some(match body {
            Ok(body) => answer::told(&body).map_err(|e| garbage(&url, &e.to_string())),
            Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => Ok(Told::Moment(None)),
            Err(error) => Err(error),
        })
    }

    /// Reads the groups of the spaces here.
    async fn read(&mut self) -> Result<(), AskError> {
        let spaces = self.tenants.borrow_and_update().spaces.clone();
        let texts = self.all(&spaces).await?;
        self.spaces = spaces;
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

    /// Takes note of a reply. Returns how long to wait.
    fn replied(&mut self, reply: Reply, elapsed: Duration) -> Pause {
        let was_watching = self.course.is_watching();
        let Step { problem, pause } = self.course.replied(reply, elapsed);
        let is_watching = self.course.is_watching();
        if was_watching != is_watching {
            let (server, seconds) = (host(&self.settings.url), self.settings.interval.as_secs());
            if is_watching {
                info!("{server} tells of changes of security groups by itself");
            } else {
                info!(
                    "{server} does not tell of changes of security groups; it is asked every \
                     {seconds} s"
                );
            }
        }
        self.metrics.groups_watched(is_watching);
        let Self { trouble, state, .. } = self;
        let heard = problem.as_ref().map(|problem| (problem.kind(), problem as _));
        trouble.heard(heard, |now| state.send_modify(|state| state.problem = now));
        // As long as something is to be read another question comes.
        if problem.is_some() || self.course.is_complete() {
            let outcome = match problem {
                None => Ok(self.state.borrow().round),
                Some(problem) => Err(problem.to_string()),
            };
            for waiting in self.waiting.drain(..) {
                // Who has gone does not want to know any more.
                let _ = waiting.send(outcome.clone());
            }
        }
        pause
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
    async fn rest(&mut self, pause: Pause) {
        let mut over = std::pin::pin!(tokio::time::sleep(pause.time()));
        loop {
            tokio::select! {
                () = &mut over => return,
                Some(force) = self.force.recv() => {
                    self.forced(force);
                    return;
                }
                Ok(()) = self.tenants.changed(), if self.course.is_well() => {
                    if self.has_new_spaces() {
                        return;
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
