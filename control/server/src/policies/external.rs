//! The external API: what users and their programs ask (contract section 1).

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::HeaderValue;
use axum::http::header::AUTHORIZATION;
use axum::middleware::from_fn;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter};
use serde_json::json;
use tracing::{debug, warn};

use super::audit::{self, Author, Deed, Origin};
use super::cleaner::Cleaner;
use super::cors::{self, Cors};
use super::guard::{Change, Guard, without_tags};
use super::metrics::Refusals;
use super::payload::{self, Version};
use super::query;
use super::routes::{Access, EXTERNAL, External as Operation, by_path};
use crate::access::{ADMIN, AccessError, Authority, Caller, WRITE};
use crate::cloud_controller::CloudController;
use crate::database::{Database, DatabaseError};
use crate::http::metrics::Metrics;
use crate::http::reply::{ApiError, text};
use crate::http::{body, headers, reply, status};
use crate::policy::PolicyFilter;

/// How the external API behaves (contract section 13.2).
#[derive(Debug, Clone)]
pub struct ExternalSettings {
    /// Origins of pages that may use the API, or `*`.
    pub allowed_cors_domains: Vec<String>,
    /// Whether it is served over TLS, which browsers are told to insist on.
    pub tls: bool,
    /// Whether developers may change policies of their spaces without a scope. It takes Cloud
    /// Controller to know the spaces; without it the scope is asked for.
    pub space_developer_self_service: bool,
    /// Most policies with one app as their source, for callers who are no admins.
    pub max_policies_per_app_source: u64,
    /// How many bytes tags are written with.
    pub tag_bytes: u8,
}

impl Default for ExternalSettings {
    fn default() -> Self {
        Self {
            allowed_cors_domains: Vec::new(),
            tls: false,
            space_developer_self_service: false,
            max_policies_per_app_source: 150,
            tag_bytes: 2,
        }
    }
}

/// What the external API works with.
#[derive(Debug)]
struct External {
    database: Database,
    authority: Arc<Authority>,
    guard: Guard,
    cleaner: Cleaner,
    refusals: Refusals,
    self_service: bool,
    tag_bytes: u8,
    started: Instant,
}

/// The routes of the external API.
pub fn external_router(
    settings: &ExternalSettings,
    database: &Database,
    authority: Arc<Authority>,
    cloud_controller: Option<Arc<CloudController>>,
    metrics: &Metrics,
) -> Router {
    let server = Arc::new(External {
        refusals: Refusals::new(metrics),
        database: database.clone(),
        authority,
        self_service: settings.space_developer_self_service && cloud_controller.is_some(),
        cleaner: Cleaner::new(database.clone(), cloud_controller.clone()),
        guard: Guard {
            database: database.clone(),
            cloud_controller,
            quota: settings.max_policies_per_app_source,
        },
        tag_bytes: settings.tag_bytes,
        started: Instant::now(),
    });
    let cors = Arc::new(Cors::new(&settings.allowed_cors_domains));
    let mut router = Router::new();
    for (path, routes) in by_path(EXTERNAL) {
        let mut methods = MethodRouter::new();
        let mut names = Vec::new();
        for route in routes {
            let (server, operation) = (Arc::clone(&server), route.operation);
            let Ok(filter) = MethodFilter::try_from(route.method.clone()) else { continue };
            methods = methods.on(filter, move |request: Request| {
                let server = server.clone();
                async move {
                    let answer = server.serve(operation, request).await;
                    answer.unwrap_or_else(ApiError::into_response)
                }
            });
            names.push(route.method.as_str());
        }
        names.push("OPTIONS");
        let names = names.join(",");
        let cors = Arc::clone(&cors);
        methods = methods
            .on(MethodFilter::OPTIONS, move || std::future::ready(cors::preflight(&names)))
            .route_layer(from_fn(move |request, next| Arc::clone(&cors).mark(request, next)))
            .route_layer(from_fn(headers::security));
        if settings.tls {
            methods = methods.route_layer(from_fn(headers::transport_security));
        }
        router = router.route(path, methods);
    }
    reply::with_fallbacks(router.route_layer(from_fn(headers::request_id)))
}

impl External {
    async fn serve(&self, operation: Operation, request: Request) -> Result<Response, ApiError> {
        let access = operation.access();
        if access == Access::Open {
            return self.open(operation).await;
        }
        // The version is looked at before the token.
        let name = request.uri().path().split('/').nth(2).unwrap_or_default();
        let version = Version::named(name).ok_or_else(|| {
            ApiError::not_acceptable(format!("api version '{name}' not supported"))
        })?;
        let header = request.headers().get(AUTHORIZATION).cloned();
        let caller = self.authenticate(header).await?;
        self.authorize(&caller, access)?;
        match operation {
            Operation::CreatePolicies => self.create(version, &caller, request).await,
            Operation::DeletePolicies => self.delete(version, &caller, request).await,
            Operation::PoliciesIndex => {
                self.list(version, &caller, filter(request.uri().query())).await
            }
            Operation::Cleanup => self.clean_up(&caller, &Origin::of(&request)).await,
            Operation::TagsIndex => self.tags().await,
            Operation::WhoAmI => reply::json(&json!({ "subject": caller.name() })),
            Operation::Uptime | Operation::Health => self.open(operation).await,
        }
    }

    async fn open(&self, operation: Operation) -> Result<Response, ApiError> {
        if operation == Operation::Health {
            self.database.check().await.map_err(failed("check database failed"))?;
            return Ok(Response::new(Body::empty()));
        }
        Ok(status::uptime(self.started))
    }

    async fn authenticate(&self, header: Option<HeaderValue>) -> Result<Caller, ApiError> {
        let header = header.as_ref().map(|header| String::from_utf8_lossy(header.as_bytes()));
        self.authority.caller(header.as_deref()).await.map_err(|error| {
            if let AccessError::Uaa(cause) = &error {
                warn!("{cause}");
            } else {
                debug!("refused a caller: {error}");
            }
            self.refusals.count(match error {
                AccessError::Missing => "missing",
                AccessError::Uaa(_) => "uaa",
                AccessError::Expired => "expired",
                AccessError::Unknown => "unknown",
            });
            ApiError::unauthorized(error.to_string())
        })
    }

    fn authorize(&self, caller: &Caller, access: Access) -> Result<(), ApiError> {
        let allowed: &[&str] = match access {
            Access::Open => return Ok(()),
            Access::Write if self.self_service => return Ok(()),
            Access::Write => &[ADMIN, WRITE],
            Access::Admin => &[ADMIN],
        };
        if allowed.iter().any(|scope| caller.has(scope)) {
            return Ok(());
        }
        self.refusals.count("scope");
        let (provided, allowed) = (caller.scopes.join(" "), allowed.join(" "));
        Err(ApiError::forbidden(format!(
            "provided scopes [{provided}] do not include allowed scopes [{allowed}]"
        )))
    }

    async fn create(
        &self,
        version: Version,
        caller: &Caller,
        request: Request,
    ) -> Result<Response, ApiError> {
        let origin = Origin::of(&request);
        let body = body::read(request).await.map_err(unread("failed reading request body"))?;
        let policies = payload::read(version, &body)
            .map_err(|error| ApiError::bad_request(error.to_string()))?;
        drop(body);
        self.guard.access(caller, Change::Create, &policies).await?;
        self.guard.quota(caller, &policies).await?;
        let created = self.database.create_policies(&policies).await;
        created.map_err(failed("database create failed"))?;
        audit::record(Author::Caller(caller, &origin), Deed::Created, &policies);
        Ok(text("{}"))
    }

    async fn delete(
        &self,
        version: Version,
        caller: &Caller,
        request: Request,
    ) -> Result<Response, ApiError> {
        let origin = Origin::of(&request);
        let body = body::read(request).await.map_err(unread("invalid request body"))?;
        let policies = payload::read(version, &body)
            .map_err(|error| ApiError::bad_request(error.to_string()))?;
        drop(body);
        self.guard.access(caller, Change::Delete, &policies).await?;
        let deleted = self.database.delete_policies(&policies).await;
        deleted.map_err(failed("database delete failed"))?;
        audit::record(Author::Caller(caller, &origin), Deed::Deleted, &policies);
        Ok(text("{}"))
    }

    async fn list(
        &self,
        version: Version,
        caller: &Caller,
        filter: PolicyFilter,
    ) -> Result<Response, ApiError> {
        let policies = self.database.policies(&filter).await;
        let policies = without_tags(policies.map_err(failed("database read failed"))?);
        let policies = self.guard.visible(caller, policies).await?;
        Ok(text(payload::external(version, &policies).map_err(|e| unwritten(&e))?))
    }

    async fn clean_up(&self, caller: &Caller, origin: &Origin) -> Result<Response, ApiError> {
        let gone = self.cleaner.clean(Author::Caller(caller, origin)).await.map_err(|e| {
            warn!("{e}");
            ApiError::internal("policies cleanup failed")
        })?;
        Ok(text(payload::external(Version::V1, &gone).map_err(|e| unwritten(&e))?))
    }

    async fn tags(&self) -> Result<Response, ApiError> {
        let tags = self.database.tags().await.map_err(failed("database read failed"))?;
        Ok(text(payload::tags(&tags, self.tag_bytes).map_err(|e| unwritten(&e))?))
    }
}

/// Which policies the parameters ask for (contract section 1.6).
fn filter(query: Option<&str>) -> PolicyFilter {
    if let Some(ids) = query::list(query, "id") {
        return PolicyFilter::Either(ids);
    }
    match (query::list(query, "source_id"), query::list(query, "dest_id")) {
        (Some(sources), Some(destinations)) => PolicyFilter::Both(sources, destinations),
        (Some(sources), None) => PolicyFilter::Source(sources),
        (None, Some(destinations)) => PolicyFilter::Destination(destinations),
        (None, None) => PolicyFilter::All,
    }
}

/// The answer when the database fails; why is for the log.
pub(super) fn failed(message: &'static str) -> impl Fn(DatabaseError) -> ApiError {
    move |error| {
        warn!("{message}: {error}");
        ApiError::internal(message)
    }
}

fn unread(message: &'static str) -> impl Fn(body::BodyError) -> ApiError {
    move |error| {
        debug!("{message}: {error}");
        ApiError::bad_request(message)
    }
}

fn unwritten(error: &serde_json::Error) -> ApiError {
    warn!("cannot write policies as JSON: {error}");
    ApiError::internal("map policy as bytes failed")
}
