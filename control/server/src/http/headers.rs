//! Headers that all answers of a server have.

use axum::extract::Request;
use axum::http::HeaderValue;
use axum::http::header::{
    CONTENT_SECURITY_POLICY, HeaderName, STRICT_TRANSPORT_SECURITY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS, X_XSS_PROTECTION,
};
use axum::middleware::Next;
use axum::response::Response;
use uuid::Uuid;

/// Names a request in answers and logs (contract section 0.2, item 6).
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-vcap-request-id");

/// Longest name of a request that is taken over from the client, in bytes.
const LONGEST_ID: usize = 512;

/// `X-VCAP-Request-ID` of a request, in its extensions when [`request_id`] is a layer of the
/// router: for logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(pub String);

/// A layer for [`axum::middleware::from_fn`]: gives each request a [`RequestId`] and its answer the
/// header; one that the request has already goes before it, as `<incoming>::<new>`.
pub async fn request_id(mut request: Request, next: Next) -> Response {
    let new = Uuid::new_v4();
    let incoming = request.headers().get(REQUEST_ID).and_then(|id| id.to_str().ok());
    let id = match incoming {
        Some(incoming) if !incoming.is_empty() && incoming.len() <= LONGEST_ID => {
            format!("{incoming}::{new}")
        }
        _ => new.to_string(),
    };
    let header = HeaderValue::from_str(&id);
    request.extensions_mut().insert(RequestId(id));
    let mut response = next.run(request).await;
    if let Ok(header) = header {
        response.headers_mut().insert(REQUEST_ID, header);
    }
    response
}

/// A layer for [`axum::middleware::from_fn`]: what the external API says to browsers
/// (contract section 1.2).
pub async fn security(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("deny"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("frame-ancestors 'none'"));
    headers.insert(X_XSS_PROTECTION, HeaderValue::from_static("1; mode=block"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// A layer for [`axum::middleware::from_fn`]: `Strict-Transport-Security`, for servers with
/// TLS (contract sections 1.2 and 2).
pub async fn transport_security(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let year = HeaderValue::from_static("max-age=31536000");
    response.headers_mut().insert(STRICT_TRANSPORT_SECURITY, year);
    response
}
