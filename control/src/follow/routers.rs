//! Routers that reach apps by the overlay (contract sections 2.3, 5.7 and 9.2).
//!
//! The policy server gives all routers of a deployment one tag. What a router's cell sends carries it,
//! and on other cells the ports that apps name are open to it. It is asked for again now and then:
//! a policy server whose database was lost may have given it to somebody else.

use std::time::Duration;

use reqwest::Url;
use sarcenet_server::http::json;
use sarcenet_server::outbound::resource;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::info;

use super::ask::{AskError, exchange, host};
use super::asker::Asker;
use super::pause::Pause;
use super::policies::tag;
use super::policy_metrics::PolicyMetrics;
use super::trouble::Trouble;

/// Whose tag it is, for the policy server. An app of a policy that is called so has the same one.
pub const ROUTERS: &str = "INGRESS_ROUTER";

/// The question.
const QUESTION: &str = r#"{"id":"INGRESS_ROUTER","type":"router"}"#;

/// In metrics.
const WHAT: &str = "routers";

/// How often it is asked for again.
const AGAIN: Duration = Duration::from_mins(1);

/// What Cloud Foundry's agent is configured with beside policies, and tells ours (contract section
/// 13.7).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverlayTerms {
    /// Whether the ports that apps name are open to routers.
    pub ingress: bool,
    /// Whether everybody in the overlay may talk to everybody.
    pub open: bool,
}

/// What is known of the overlay beside policies.
#[derive(Debug, Clone, Default)]
pub struct OverlayState {
    /// What a program beside the agent is configured with; none if there has been none.
    pub terms: Option<OverlayTerms>,
    /// The tag of routers; none before any server has said it.
    pub router_tag: Option<u16>,
    /// Counts what was learned.
    pub round: u64,
    /// Why nothing is learned at the moment.
    pub problem: Option<String>,
}

/// Follows the tag of routers at one policy server.
#[derive(Debug)]
pub struct RouterFollower {
    server: Url,
    timeout: Duration,
    asker: Asker,
    state: watch::Sender<OverlayState>,
    metrics: PolicyMetrics,
}

impl RouterFollower {
    /// Keeps `state` up to date with what the internal API of `server` says within `timeout`.
    pub fn new(
        server: Url,
        timeout: Duration,
        asker: Asker,
        state: watch::Sender<OverlayState>,
        metrics: PolicyMetrics,
    ) -> Self {
        Self { server, timeout, asker, state, metrics }
    }

    /// Follows for as long as it is polled.
    pub async fn run(self) {
        let mut trouble = Trouble::none("tags of routers", WHAT, self.metrics);
        let mut failures = 0_u32;
        loop {
            let answer = ask(&self.asker, &self.server, self.timeout).await;
            let show = |now| self.state.send_modify(|state| state.problem = now);
            trouble.heard(answer.as_ref().err().map(|error| (error.kind(), error as _)), show);
            let pause = match answer {
                Ok(tag) => {
                    failures = 0;
                    learn(&self.state, tag);
                    Pause::about(AGAIN)
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    match error {
                        AskError::Busy { pause, .. } => Pause::asked(pause),
                        _ => Pause::after(failures),
                    }
                }
            };
            sleep(pause.time()).await;
        }
    }
}

/// Routers have this tag.
fn learn(state: &watch::Sender<OverlayState>, tag: u16) {
    let news = state.send_if_modified(|state| {
        let news = state.router_tag.replace(tag) != Some(tag);
        state.round += u64::from(news);
        news
    });
    if news {
        info!(tag = format_args!("{tag:04X}"), "routers have a tag");
    }
}

/// Asks the internal API of `server` for the tag of routers, which gets one if it has none.
pub async fn ask(asker: &Asker, server: &Url, timeout: Duration) -> Result<u16, AskError> {
    let url = resource(server, &["networking", "v1", "internal", "tags"], &[]);
    let question = asker.client()?.put(url.clone()).body(QUESTION);
    let body = exchange(&url, question, timeout).await?;
    read(&body).map_err(|reason| AskError::Garbage { host: host(&url), reason })
}

/// The tag that an answer tells, or why it is of no use.
fn read(body: &[u8]) -> Result<u16, String> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Answer {
        tag: String,
    }
    let Answer { tag: text } = json::from_slice(body).map_err(|e| e.to_string())?;
    tag(&text).ok_or_else(|| {
        format!(
            "routers have the tag `{text}` there, and a packet carries 0001 to FFFF; has the policy \
             server a tag_length of 2?"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_that_a_packet_can_carry() {
        let good: [(&[u8], u16); 4] = [
            (br#"{"id":"INGRESS_ROUTER","tag":"0006","type":"router"}"#, 6),
            (br#"{"ID":"INGRESS_ROUTER","Tag":"FFFF","Type":"router"}"#, 0xffff),
            (br#"{"tag":"00000a"}"#, 10),
            (br#"{"tag":"06"}"#, 6),
        ];
        for (body, tag) in good {
            assert_eq!(read(body), Ok(tag));
        }
        for (body, said) in [
            (r#"{"tag":"010000"}"#, "routers have the tag `010000` there, and a packet carries"),
            (r#"{"tag":"0000"}"#, "routers have the tag `0000` there"),
            (r#"{"tag":"-1"}"#, "routers have the tag `-1` there"),
            ("{}", "routers have the tag `` there"),
            (r#"{"tag":6}"#, "invalid type"),
            ("", "EOF"),
        ] {
            let told = read(body.as_bytes()).unwrap_err();
            assert!(told.contains(said), "{body}: {told}");
        }
    }
}
