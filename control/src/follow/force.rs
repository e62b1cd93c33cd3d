//! Asking the servers now instead of when it is time: what other programs of the cell want of an agent
//! of Cloud Foundry's (contract sections 9.6 and 9.7). Our own CNI plugin needs none of it.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use sarcenet_agent_api::LoggingChange;
use sarcenet_server::http::reply::{self, text};
use sarcenet_server::http::{body, json};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::spawn_blocking;

use super::in_force::{self, InForce};

/// Changes what is recorded, if the change names anything, and tells whether conversations between
/// containers are. May wait.
pub type SwitchLogging = Arc<dyn Fn(LoggingChange) -> Result<bool, String> + Send + Sync>;

/// Told what came of it: which round of what was learned has it, or why there is no answer.
pub type Force = oneshot::Sender<Result<u64, String>>;

/// Those who can be told to ask.
#[derive(Debug, Clone)]
pub struct Forcing {
    /// Who asks for policies.
    pub policies: mpsc::Sender<Force>,
    /// Who asks for security groups, if anybody does.
    pub groups: Option<mpsc::Sender<Force>>,
    /// What is in force.
    pub in_force: watch::Receiver<InForce>,
}

impl Forcing {
    /// Has the policies asked for, and waits until what they are is in force.
    pub async fn policies(&self) -> Result<(), String> {
        self.force(&self.policies, |in_force| in_force.policies).await
    }

    /// The same for security groups; none if nobody asks for them.
    pub async fn groups(&self) -> Option<Result<(), String>> {
        Some(self.force(self.groups.as_ref()?, |in_force| in_force.groups).await)
    }

    async fn force(
        &self,
        who: &mpsc::Sender<Force>,
        round: fn(&InForce) -> u64,
    ) -> Result<(), String> {
        const ENDING: &str = "the agent is ending";
        let (force, told) = oneshot::channel();
        who.send(force).await.map_err(|_| ENDING)?;
        let wanted = told.await.map_err(|_| ENDING)??;
        in_force::until(&self.in_force, |now| round(now) >= wanted).await
    }
}

/// The endpoints of contract section 9.6, for any method.
pub fn force_router(forcing: Forcing) -> Router {
    let router = Router::new()
        .route("/force-policy-poll-cycle", any(force_policies))
        .route("/force-asgs-for-container", any(force_groups))
        .route("/force-orphaned-asgs-cleanup", any(clean_groups))
        .with_state(forcing);
    reply::with_fallbacks(router)
}

async fn force_policies(State(forcing): State<Forcing>) -> Response {
    match forcing.policies().await {
        Ok(()) => StatusCode::OK.into_response(),
        Err(error) => failed(&format!("failed to force policy poll cycle: {error}")),
    }
}

async fn force_groups(State(forcing): State<Forcing>, uri: Uri) -> Response {
    let container = container(&uri);
    if let Some(refusal) = refusal(&forcing, &container) {
        return refusal;
    }
    match forcing.groups().await.unwrap_or(Ok(())) {
        Ok(()) => text(format!("updated container {container}")),
        Err(error) => failed(&format!("failed to update asgs for container {container}: {error}")),
    }
}

/// Rules of a container that is gone have gone with it.
async fn clean_groups(State(forcing): State<Forcing>, uri: Uri) -> Response {
    let container = container(&uri);
    refusal(&forcing, &container)
        .unwrap_or_else(|| text(format!("cleaned up ASGs for container {container}")))
}

/// Which container it is about; empty if none is named.
fn container(uri: &Uri) -> String {
    let query = uri.query().unwrap_or_default().as_bytes();
    let mut named = form_urlencoded::parse(query).filter(|(name, _)| name == "container");
    named.next().map_or_else(String::new, |(_, container)| container.into_owned())
}

fn refusal(forcing: &Forcing, container: &str) -> Option<Response> {
    if forcing.groups.is_none() {
        let disabled = "ASG syncing has been disabled administratively";
        return Some(with_status(StatusCode::METHOD_NOT_ALLOWED, disabled));
    }
    container.is_empty().then(|| with_status(StatusCode::BAD_REQUEST, "no container specified"))
}

fn failed(message: &str) -> Response {
    with_status(StatusCode::INTERNAL_SERVER_ERROR, message)
}

fn with_status(status: StatusCode, message: &str) -> Response {
    let mut response = text(message.to_owned());
    *response.status_mut() = status;
    response
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Switch {
    enabled: Option<bool>,
}

/// The switch of contract section 9.7: whether accepted conversations between containers are
/// recorded.
pub fn logging_route(switch: SwitchLogging) -> Router {
    Router::new()
        .route("/iptables-c2c-logging", get(logging).put(change_logging))
        .with_state(switch)
}

async fn logging(State(switch): State<SwitchLogging>) -> Response {
    switched(switch, LoggingChange::default()).await
}

async fn change_logging(State(switch): State<SwitchLogging>, request: Request) -> Response {
    let read = body::read(request).await.ok();
    let Some(Switch { enabled }) = read.and_then(|body| json::from_slice(&body).ok()) else {
        let error = r#"{ "error": "decoding request body as json" }"#;
        return with_status(StatusCode::BAD_REQUEST, error);
    };
    if enabled.is_none() {
        let error = r#"{ "error": "missing required key 'enabled'" }"#;
        return with_status(StatusCode::BAD_REQUEST, error);
    }
    let change = LoggingChange { overlay: enabled, ..LoggingChange::default() };
    switched(switch, change).await
}

async fn switched(switch: SwitchLogging, change: LoggingChange) -> Response {
    match spawn_blocking(move || switch(change)).await {
        Ok(Ok(enabled)) => text(format!("{{\"enabled\":{enabled}}}\n")),
        Ok(Err(error)) => failed(&error),
        Err(error) => failed(&error.to_string()),
    }
}
