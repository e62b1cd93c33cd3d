//! What the servers count, in the text form of OpenMetrics.
//!
//! | Metric | Labels | Meaning |
//! | --- | --- | --- |
//! | `sarcenet_http_requests_total` | server, route, method, status | requests answered |
//! | `sarcenet_http_errors_total` | server, status | answers with a status of 400 or above |
//! | `sarcenet_http_request_seconds` | server, route | from a request's head to its answer's head |
//! | `sarcenet_http_connections` | server | connections open now |
//! | `sarcenet_http_failed_connections_total` | server, reason | see [`Failure`] |
//! | `sarcenet_http_certificate_expiry_seconds` | server | when its certificate is over, since the epoch |
//! | `sarcenet_http_tls_reloads_total` | server, result | changed TLS files: `good`, `bad` |
//!
//! A route is the pattern of a path, `/leases/acquire`, so that there is a bounded number of them;
//! `none` stands for all paths that there are not.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{MatchedPath, Request};
use axum::http::Method;
use axum::middleware::{self, Next};
use axum::response::Response;
use parking_lot::Mutex;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// Why a connection came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The TLS handshake failed or took too long: no certificate, one of another CA, an expired one.
    Handshake,
    /// It spoke HTTP where TLS is spoken.
    Plaintext,
    /// What it spoke is not HTTP, or its head is too long.
    Malformed,
}

impl Failure {
    fn name(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::Plaintext => "plaintext",
            Self::Malformed => "malformed",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfServer {
    server: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfFailure {
    server: &'static str,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfReload {
    server: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRoute {
    server: &'static str,
    route: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfError {
    server: &'static str,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRequest {
    server: &'static str,
    route: String,
    method: &'static str,
    status: u16,
}

/// All metrics of a process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    requests: Family<OfRequest, Counter>,
    errors: Family<OfError, Counter>,
    seconds: Family<OfRoute, Histogram>,
    connections: Family<OfServer, Gauge>,
    failures: Family<OfFailure, Counter>,
    reloads: Family<OfReload, Counter>,
    expiries: Family<OfServer, Gauge>,
}

impl Default for Metrics {
    fn default() -> Self {
        // From a millisecond to half a minute.
        let histogram = || Histogram::new(exponential_buckets(0.001, 2.0, 16));
        let metrics = Self {
            registry: Arc::default(),
            requests: Family::default(),
            errors: Family::default(),
            seconds: Family::new_with_constructor(histogram),
            connections: Family::default(),
            failures: Family::default(),
            reloads: Family::default(),
            expiries: Family::default(),
        };
        metrics.register(|registry| {
            let Self {
                requests,
                errors,
                seconds,
                connections,
                failures,
                reloads,
                expiries,
                registry: _,
            } = metrics.clone();
            registry.register("sarcenet_http_requests", "Requests answered", requests);
            registry.register("sarcenet_http_errors", "Answers with an error", errors);
            registry.register_with_unit(
                "sarcenet_http_request",
                "Time from a request to its answer",
                Unit::Seconds,
                seconds,
            );
            registry.register("sarcenet_http_connections", "Connections open now", connections);
            registry.register(
                "sarcenet_http_failed_connections",
                "Connections that came to nothing",
                failures,
            );
            registry.register("sarcenet_http_tls_reloads", "Changed TLS files", reloads);
            registry.register_with_unit(
                "sarcenet_http_certificate_expiry",
                "When the server's certificate is over, since the epoch",
                Unit::Seconds,
                expiries,
            );
        });
        metrics
    }
}

impl Metrics {
    /// Adds metrics of another part of the process. Names say the unit and begin with `sarcenet_`.
    pub fn register(&self, add: impl FnOnce(&mut Registry)) {
        add(&mut self.registry.lock());
    }

    /// All of them as text.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut out = String::new();
        text::encode(&mut out, &self.registry.lock())?;
        Ok(out)
    }

    /// Those of one server.
    pub(super) fn server(&self, server: &'static str) -> ServerMetrics {
        ServerMetrics { server, metrics: self.clone() }
    }
}

/// The metrics of one server.
#[derive(Debug, Clone)]
pub(super) struct ServerMetrics {
    server: &'static str,
    metrics: Metrics,
}

/// Counts a connection for as long as it is open.
pub(super) struct Open(Gauge);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl ServerMetrics {
    pub(super) fn connection(&self) -> Open {
        let labels = OfServer { server: self.server };
        let gauge = self.metrics.connections.get_or_create_owned(&labels);
        gauge.inc();
        Open(gauge)
    }

    pub(super) fn failed(&self, why: Failure) {
        let labels = OfFailure { server: self.server, reason: why.name() };
        self.metrics.failures.get_or_create(&labels).inc();
    }

    /// When its certificate is over, in seconds since the epoch.
    pub(super) fn certificate(&self, expiry: i64) {
        self.metrics.expiries.get_or_create(&OfServer { server: self.server }).set(expiry);
    }

    pub(super) fn reloaded(&self, good: bool) {
        let result = if good { "good" } else { "bad" };
        let labels = OfReload { server: self.server, result };
        self.metrics.reloads.get_or_create(&labels).inc();
    }

    /// Counts the requests to `router` and their time.
    pub(super) fn observe(&self, router: Router) -> Router {
        let this = self.clone();
        router.layer(middleware::from_fn(move |request: Request, next: Next| {
            let this = this.clone();
            async move { this.request(request, next).await }
        }))
    }

    async fn request(self, request: Request, next: Next) -> Response {
        let route = request.extensions().get::<MatchedPath>();
        let route = route.map_or("none", MatchedPath::as_str).to_owned();
        let method = method_name(request.method());
        let begin = Instant::now();
        let response = next.run(request).await;
        let seconds = begin.elapsed().as_secs_f64();
        let Self { server, metrics } = self;
        let status = response.status().as_u16();
        if status >= 400 {
            metrics.errors.get_or_create(&OfError { server, status }).inc();
        }
        let labels = OfRequest { server, route: route.clone(), method, status };
        metrics.requests.get_or_create(&labels).inc();
        metrics.seconds.get_or_create(&OfRoute { server, route }).observe(seconds);
        response
    }
}

/// A bounded number of names: clients can make methods up.
fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        Method::PATCH => "PATCH",
        _ => "other",
    }
}
