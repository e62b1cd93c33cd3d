//! The end of the program beside the agent.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sarcenet_agent_api::{AgentClient, AgentError, FollowProblems};
use sarcenet_server::http::Stop;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::info;

use crate::agent::Tenants;
use crate::follow::in_force::{Hearing, Known, Learned, Teller, same};
use crate::follow::pause::Pause;
use crate::follow::policy_metrics::PolicyMetrics;
use crate::follow::saved::Saved;

/// How often the agent is asked whose containers it has.
const LOOK: Duration = Duration::from_millis(500);

/// Hands what is learned to the agent, and learns from it whose containers it has.
#[derive(Debug)]
pub struct Giver {
    socket: PathBuf,
    hearing: Hearing,
    tenants: watch::Sender<Arc<Tenants>>,
    met: watch::Sender<bool>,
    teller: Teller,
}

/// A connection to the agent, and what was said on it.
struct Link {
    client: AgentClient,
    said: Known,
    problems: Option<FollowProblems>,
}

/// Why nothing was handed over.
#[derive(Debug, thiserror::Error)]
enum GiveError {
    #[error(transparent)]
    Agent(#[from] AgentError),
    #[error("what the policy server says cannot be written: {0}")]
    Text(#[from] serde_json::Error),
    #[error("the exchange with the agent broke off: {0}")]
    Task(#[from] tokio::task::JoinError),
}

impl Giver {
    /// To the agent that listens on `socket`. Whose containers it has is told to `tenants`; once that
    /// is known the agent has been `met`.
    pub fn new(
        socket: PathBuf,
        learned: &Learned,
        tenants: watch::Sender<Arc<Tenants>>,
        met: watch::Sender<bool>,
        metrics: PolicyMetrics,
    ) -> Self {
        let teller = Teller::new(learned.in_force.clone(), metrics);
        Self { socket, hearing: learned.hear(), tenants, met, teller }
    }

    /// Hands over until it is time to stop, with an agent that comes and goes.
    pub async fn run(mut self, stop: Stop) {
        let mut link = None;
        let mut failures = 0_u32;
        loop {
            let now = self.hearing.now();
            let pause = match exchange(self.socket.clone(), link.take(), now.clone()).await {
                Ok((same_link, tenants)) => {
                    link = Some(same_link);
                    failures = 0;
                    self.teller.done(&now);
                    self.here(tenants);
                    LOOK
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    self.teller.failed(format!("the agent cannot be told: {error}"));
                    Pause::after(failures).time()
                }
            };
            // Who has failed is not helped by more to do.
            let well = failures == 0;
            tokio::select! {
                () = sleep(pause) => {}
                () = self.hearing.changed(), if well => {}
                () = stop.stopped() => return,
            }
        }
    }

    /// These are the tenants whose containers are here.
    fn here(&self, tenants: Tenants) {
        self.tenants.send_if_modified(|known| {
            let news = **known != tenants;
            if news {
                *known = Arc::new(tenants);
            }
            news
        });
        if !self.met.send_replace(true) {
            info!("the agent is told what the policy server says");
        }
    }
}

/// Says what is news, and asks whose containers there are.
async fn exchange(
    socket: PathBuf,
    link: Option<Link>,
    now: Known,
) -> Result<(Link, Tenants), GiveError> {
    spawn_blocking(move || {
        let mut link = match link {
            Some(link) => link,
            None => Link::open(&socket)?,
        };
        link.say(now)?;
        let tenants = link.client.tenants()?.into_iter().collect();
        Ok((link, tenants))
    })
    .await?
}

impl Link {
    fn open(socket: &Path) -> Result<Self, AgentError> {
        let client = AgentClient::connect(socket)?;
        Ok(Self { client, said: Known::default(), problems: None })
    }

    fn say(&mut self, now: Known) -> Result<(), GiveError> {
        let problems = Some(FollowProblems {
            policies: now.policies.problem.clone(),
            groups: now.groups.problem.clone(),
            routers: now.overlay.problem.clone(),
        });
        let news = news(&self.said, &now);
        if news == Saved::default() && self.problems == problems {
            return Ok(());
        }
        let text = if news == Saved::default() { Vec::new() } else { news.text()? };
        self.client.followed(&text, problems.clone().unwrap_or_default())?;
        (self.said, self.problems) = (now, problems);
        Ok(())
    }
}

/// What of it was not said before.
fn news(Known { policies, groups, overlay }: &Known, now: &Known) -> Saved {
    let mut saved = now.saved();
    if same(policies.policies.as_ref(), saved.policies.as_ref())
        && policies.generation == saved.generation
    {
        (saved.policies, saved.generation) = (None, 0);
    }
    if same(groups.groups.as_ref(), saved.groups.as_ref()) {
        saved.groups = None;
    }
    if same(groups.outside.as_ref(), saved.outside.as_ref()) {
        saved.outside = None;
    }
    if overlay.terms == saved.overlay {
        saved.overlay = None;
    }
    if overlay.router_tag == saved.router_tag {
        saved.router_tag = None;
    }
    saved
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::follow::groups::{GroupState, Groups};
    use crate::follow::outside_terms::OutsideTerms;
    use crate::follow::policies::{Policies, PolicyState};
    use crate::follow::routers::{OverlayState, OverlayTerms};

    #[test]
    fn only_what_is_news_is_said() {
        let policies = PolicyState {
            policies: Some(Arc::<Policies>::default()),
            generation: 7,
            ..PolicyState::default()
        };
        let groups = GroupState {
            groups: Some(Arc::<Groups>::default()),
            outside: Some(Arc::<OutsideTerms>::default()),
            ..GroupState::default()
        };
        let overlay = OverlayState {
            terms: Some(OverlayTerms::default()),
            router_tag: Some(6),
            ..OverlayState::default()
        };
        let all = Known { policies, groups, overlay };
        assert_eq!(news(&Known::default(), &all), all.saved());
        let mut worse = all.clone();
        worse.policies.problem = Some("away".into());
        worse.overlay.problem = Some("away".into());
        assert_eq!(news(&all, &worse), Saved::default());
        let mut later = all.clone();
        later.policies.generation = 8;
        let policies = all.policies.policies.clone();
        assert_eq!(news(&all, &later), Saved { policies, generation: 8, ..Saved::default() });
        let mut regrouped = all.clone();
        regrouped.groups.groups = Some(Arc::default());
        let groups = regrouped.groups.groups.clone();
        assert_eq!(news(&all, &regrouped), Saved { groups, ..Saved::default() });
        let mut opened = all.clone();
        opened.overlay.terms = Some(OverlayTerms { ingress: false, open: true });
        let overlay = opened.overlay.terms;
        assert_eq!(news(&all, &opened), Saved { overlay, ..Saved::default() });
        let mut renamed = all.clone();
        renamed.overlay.router_tag = Some(7);
        assert_eq!(news(&all, &renamed), Saved { router_tag: Some(7), ..Saved::default() });
    }
}
