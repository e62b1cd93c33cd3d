//! Which pages of other origins may use the API (contract section 1.2).

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::HeaderValue;
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ORIGIN,
};
use axum::middleware::Next;
use axum::response::Response;

/// The origins of pages that may use the API.
#[derive(Debug)]
pub(super) struct Cors {
    allowed: Vec<HeaderValue>,
}

impl Cors {
    /// What cannot be the value of a header is no origin of any page.
    pub(super) fn new(domains: &[String]) -> Self {
        Self { allowed: domains.iter().filter_map(|domain| domain.parse().ok()).collect() }
    }

    /// Answers and says whether the page that asked may read it.
    pub(super) async fn mark(self: Arc<Self>, request: Request, next: Next) -> Response {
        let allowed = request.headers().get(ORIGIN).and_then(|origin| self.allowed(origin));
        let mut response = next.run(request).await;
        if let Some(allowed) = allowed {
            response.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
        }
        response
    }

    /// The first entry of the settings that fits.
    fn allowed(&self, origin: &HeaderValue) -> Option<HeaderValue> {
        self.allowed.iter().find(|allowed| *allowed == origin || *allowed == "*").cloned()
    }
}

/// The answer to a browser that asks before the request itself.
pub(super) fn preflight(methods: &str) -> Response {
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    if let Ok(methods) = methods.parse() {
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, methods);
    }
    let authorization = HeaderValue::from_static("authorization");
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, authorization);
    response
}
