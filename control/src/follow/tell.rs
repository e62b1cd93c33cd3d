//! What the agent tells over HTTP on the loopback interface: network information, as Cloud Foundry's
//! daemon does, and its own health and metrics.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use parking_lot::RwLock;
use sarcenet_server::http::metrics::Metrics;
use sarcenet_server::http::reply::{self, ApiError};
use sarcenet_server::http::{Limits, Serve, ServeError, Server, Stop, status};
use serde::Serialize;
use tokio::task::spawn_blocking;
use tracing::info;

use crate::agent::Agent;
use crate::paths::Root;
use crate::servers::with_log_level;

/// The agent, once it has a lease.
pub type Started = Arc<RwLock<Option<Arc<Agent>>>>;

/// `{"overlay_subnet":"10.255.73.0/24","mtu":1410}` (contract section 5.5).
#[derive(Serialize)]
struct NetworkInfo {
    overlay_subnet: String,
    mtu: u16,
}

/// Answers any method and path with the cell's subnet and MTU.
pub fn network_info(agent: Arc<Agent>) -> Router {
    Router::new().fallback(move || {
        let status = agent.status();
        let info = NetworkInfo { overlay_subnet: status.subnet.to_string(), mtu: status.mtu };
        async move { reply::json(&info) }
    })
}

/// The routes `/health`, 200 without a body when there is no `problem`, `/metrics` and `/log-level`.
pub fn health_and_metrics(
    problem: impl Fn() -> Option<String> + Clone + Send + Sync + 'static,
    metrics: Metrics,
) -> Router {
    let router = Router::new()
        .route("/health", get(move || async move { health(problem()) }))
        .route("/metrics", get(move || tell_metrics(metrics)));
    with_log_level(router)
}

/// On another thread: the dataplane may have to be asked.
async fn tell_metrics(metrics: Metrics) -> Result<Response, ApiError> {
    let told = spawn_blocking(move || status::metrics(&metrics)).await;
    told.unwrap_or_else(|e| Err(ApiError::internal(format!("metrics cannot be told: {e}"))))
}

fn health(problem: Option<String>) -> Response {
    match problem {
        None => Response::new(Body::empty()),
        Some(problem) => ApiError::new(StatusCode::SERVICE_UNAVAILABLE, problem).into_response(),
    }
}

/// Why an agent is not well: it is when the cell has a lease and the dataplane is up to date.
pub fn agent_problem(started: &Started) -> Option<String> {
    let agent = started.read().clone();
    match agent.map(|agent| agent.status().dataplane) {
        None => Some("the cell has no lease yet".to_owned()),
        Some(dataplane) if dataplane.ready => None,
        Some(dataplane) => {
            let error = dataplane.error.unwrap_or_else(|| "it is busy".into());
            Some(format!("the dataplane is not up to date: {error}"))
        }
    }
}

/// Tells of the health of the agent that is `started` at some time, and with `metrics` those of the
/// agent and of the dataplane below `root`, if that is wanted at an `address`.
pub async fn status(
    address: Option<SocketAddr>,
    root: &Root,
    started: &Started,
    metrics: &Metrics,
    stop: &Stop,
) -> Result<Option<Server>, ServeError> {
    let Some(address) = address else { return Ok(None) };
    crate::metrics::register(metrics, Arc::clone(started), root);
    let agent = Arc::clone(started);
    let problem = move || agent_problem(&agent);
    let router = reply::with_fallbacks(health_and_metrics(problem, metrics.clone()));
    let status = serve("status", address, router, metrics, stop).await?;
    info!(status = %status.address(), "telling of health and metrics");
    Ok(Some(status))
}

/// Serves `router` on `address`.
pub async fn serve(
    name: &'static str,
    address: SocketAddr,
    router: Router,
    metrics: &Metrics,
    stop: &Stop,
) -> Result<Server, ServeError> {
    let serve = Serve { name, address, tls: None, router, limits: Limits::default() };
    Server::start(serve, metrics, stop.clone()).await
}
