//! The internal API: what cells ask (contract sections 2 and 16.1). Who may is a matter of the
//! certificate, not of this router.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::from_fn;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter};
use serde::{Deserialize, Serialize};
use tracing::{debug, warn};

use super::external::failed;
use super::payload::{self, TagPayload};
use super::query;
use super::routes::{INTERNAL, Internal as Operation, by_path};
use super::watch::{DEFAULT, GroupQuestion, GroupWatch, LONGEST, Question, Watch, WatchError};
use crate::database::Database;
use crate::http::metrics::Metrics;
use crate::http::reply::{ApiError, text};
use crate::http::{Stop, body, headers, json, reply};
use crate::policy::{PolicyFilter, SecurityGroup};

/// How the internal API behaves.
#[derive(Debug, Clone)]
pub struct InternalSettings {
    /// How many bytes tags are written with.
    pub tag_bytes: u8,
    /// Most cells that can wait at a time for changes of policies, and as many for changes of
    /// security groups.
    pub watchers: usize,
}

impl Default for InternalSettings {
    fn default() -> Self {
        Self { tag_bytes: 2, watchers: 4096 }
    }
}

/// What the internal API works with. Clones are the same.
#[derive(Debug, Clone)]
pub struct Internal {
    database: Database,
    watch: Arc<Watch>,
    group_watch: Arc<GroupWatch>,
    tag_bytes: u8,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct TagRequest {
    id: String,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Serialize)]
struct SecurityGroups<'a> {
    next: i64,
    security_groups: Vec<Group<'a>>,
}

#[derive(Serialize)]
struct Group<'a> {
    guid: &'a str,
    name: &'a str,
    rules: &'a str,
    staging_default: bool,
    running_default: bool,
    staging_space_guids: &'a [String],
    running_space_guids: &'a [String],
}

impl<'a> From<&'a SecurityGroup> for Group<'a> {
    fn from(group: &'a SecurityGroup) -> Self {
        Self {
            guid: &group.guid,
            name: &group.name,
            rules: &group.rules,
            staging_default: group.staging_default,
            running_default: group.running_default,
            staging_space_guids: &group.staging_spaces,
            running_space_guids: &group.running_spaces,
        }
    }
}

/// The routes of the internal API.
pub fn internal_router(server: &Internal) -> Router {
    let mut router = Router::new();
    for (path, routes) in by_path(INTERNAL) {
        let mut methods = MethodRouter::new();
        for route in routes {
            let (server, operation) = (server.clone(), route.operation);
            let Ok(filter) = MethodFilter::try_from(route.method.clone()) else { continue };
            methods = methods.on(filter, move |request: Request| {
                let server = server.clone();
                async move {
                    let answer = server.serve(operation, request).await;
                    answer.unwrap_or_else(ApiError::into_response)
                }
            });
        }
        router = router.route(path, methods.route_layer(from_fn(headers::transport_security)));
    }
    reply::with_fallbacks(router.route_layer(from_fn(headers::request_id)))
}

impl Internal {
    /// Has `sarcenet_waiting_watchers` and `sarcenet_waiting_group_watchers` shown with the metrics of
    /// the process.
    pub fn show_in(&self, metrics: &Metrics) {
        let (policies, groups) = (self.watch.waiting(), self.group_watch.waiting());
        metrics.register(|registry| {
            let help = "Cells that wait for changes of policies";
            registry.register("sarcenet_waiting_watchers", help, policies);
            let help = "Cells that wait for changes of security groups";
            registry.register("sarcenet_waiting_group_watchers", help, groups);
        });
    }

    /// What the routes work with. Cells that wait for changes are answered when it is time to stop.
    pub fn new(settings: &InternalSettings, database: &Database, stop: Stop) -> Self {
        let &InternalSettings { tag_bytes, watchers } = settings;
        Self {
            database: database.clone(),
            watch: Arc::new(Watch::new(database, tag_bytes, watchers, stop.clone())),
            group_watch: Arc::new(GroupWatch::new(database, watchers, stop)),
            tag_bytes,
        }
    }

    async fn serve(&self, operation: Operation, request: Request) -> Result<Response, ApiError> {
        let query = request.uri().query();
        match operation {
            Operation::Policies if query::first(query, "watch").is_some() => {
                self.watch(query).await
            }
            Operation::Policies => self.policies(query).await,
            Operation::PoliciesLastUpdated => {
                let moment = self.database.last_updated().await;
                Ok(text(moment.map_err(failed("database read failed"))?.to_string()))
            }
            Operation::SecurityGroups => self.security_groups(query).await,
            Operation::SecurityGroupsLastUpdated if query::first(query, "watch").is_some() => {
                self.watch_groups(query).await
            }
            Operation::SecurityGroupsLastUpdated => {
                let moment = self.database.security_groups_last_updated().await;
                Ok(text(moment.map_err(failed("database read failed"))?.to_string()))
            }
            Operation::CreateTag => self.create_tag(request).await,
        }
    }

    async fn policies(&self, query: Option<&str>) -> Result<Response, ApiError> {
        let filter = query::list(query, "id").map_or(PolicyFilter::All, PolicyFilter::Either);
        let policies = self.database.policies(&filter).await;
        let policies = policies.map_err(failed("database read failed"))?;
        let body = payload::internal(&policies, self.tag_bytes).map_err(|e| {
            warn!("cannot write policies as JSON: {e}");
            ApiError::internal("map policies as bytes failed")
        })?;
        Ok(text(body))
    }

    /// See the module `watch` for what is asked and answered.
    async fn watch(&self, query: Option<&str>) -> Result<Response, ApiError> {
        let (generation, timeout) = waiting(query)?;
        let ids = query::list(query, "id").map(|ids| ids.into_iter().collect());
        let question = Question { generation, timeout, ids };
        match self.watch.answer(&question).await {
            Ok(body) => Ok(text(body)),
            Err(error) => unanswered(&error),
        }
    }

    /// See the module `watch::groups` for what is asked and answered.
    async fn watch_groups(&self, query: Option<&str>) -> Result<Response, ApiError> {
        let (generation, timeout) = waiting(query)?;
        let spaces = query::list(query, "space_guids").map(|spaces| spaces.into_iter().collect());
        let question = GroupQuestion { generation, timeout, spaces };
        match self.group_watch.answer(&question).await {
            Ok(answer) => reply::json(&answer),
            Err(error) => unanswered(&error),
        }
    }

    async fn security_groups(&self, query: Option<&str>) -> Result<Response, ApiError> {
        let spaces = query::list(query, "space_guids").unwrap_or_default();
        // Not the client's fault in the eyes of shipped clients.
        let number =
            |name| query::number(query, name).map_err(|e| ApiError::internal(e.to_string()));
        let (from, limit) = (number("from")?, number("limit")?);
        let found = self.database.security_groups(&spaces, from, limit.max(0)).await;
        let (groups, next) = found.map_err(failed("database read failed"))?;
        reply::json(&SecurityGroups {
            next,
            security_groups: groups.iter().map(Group::from).collect(),
        })
    }

    async fn create_tag(&self, request: Request) -> Result<Response, ApiError> {
        let body = body::read(request).await.map_err(|e| {
            debug!("cannot read a request for a tag: {e}");
            ApiError::bad_request("failed reading request body")
        })?;
        let request: TagRequest = json::from_slice(&body).map_err(|e| {
            debug!("cannot understand a request for a tag: {e}");
            ApiError::bad_request("failed parsing request body")
        })?;
        let tag = self.database.create_tag(&request.id, &request.kind).await;
        let tag = tag.map_err(failed("database create failed"))?;
        reply::json(&TagPayload::new(&tag, self.tag_bytes))
    }
}

/// The generation that a cell has, and how long it will wait for another one.
fn waiting(query: Option<&str>) -> Result<(i64, Duration), ApiError> {
    let number =
        |name| query::number(query, name).map_err(|e| ApiError::bad_request(e.to_string()));
    let generation = number("watch")?;
    let timeout = match query::first(query, "timeout") {
        Some(_) => Duration::from_secs(number("timeout")?.max(0) as u64),
        None => DEFAULT,
    };
    Ok((generation, timeout.min(LONGEST)))
}

/// What a cell hears that has waited in vain.
fn unanswered(error: &WatchError) -> Result<Response, ApiError> {
    if let WatchError::Full = error {
        let full = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string());
        let mut response = full.into_response();
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("5"));
        return Ok(response);
    }
    warn!("cannot tell a cell what has changed: {error:?}");
    Err(ApiError::internal(error.to_string()))
}
