//! Answers (contract section 0.2, items 2 to 5): the bytes that the shipped clients know.
//!
//! All bodies are `text/plain; charset=utf-8`, JSON too. Errors are `{"error": "..."}`; the text is
//! escaped, which the servers of Cloud Foundry omit, so the bytes differ from theirs only where
//! theirs would not be JSON.

use axum::Router;
use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;

/// The content type of every answer with a body.
pub const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// Longest message of an error, in bytes: it can quote what was sent.
const LONGEST_MESSAGE: usize = 4096;

/// An answer that says what went wrong.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{status}: {message}")]
pub struct ApiError {
    /// The status, 400 or above.
    pub status: StatusCode,
    /// What went wrong, for the client. [`ApiError::new`] cuts it off after 4,096 bytes.
    pub message: String,
    /// More about it.
    pub metadata: Option<Value>,
}

impl ApiError {
    /// An error with any status.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        let mut message = message.into();
        message.truncate(message.floor_char_boundary(LONGEST_MESSAGE));
        Self { status, message, metadata: None }
    }

    /// 400: the request cannot be understood.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// 401: nobody knows who asks. The answer carries `WWW-Authenticate: Bearer`.
    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, message)
    }

    /// 403: who asks may not.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, message)
    }

    /// 406: no such version of the API.
    pub fn not_acceptable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_ACCEPTABLE, message)
    }

    /// 409: the request is at odds with what is stored.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, message)
    }

    /// 500: the server, or one that it depends on, failed.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// The same with more about it.
    #[must_use]
    pub fn with_metadata(mut self, metadata: Value) -> Self {
        self.metadata = Some(metadata);
        self
    }

    fn body(&self) -> String {
        let error = Value::from(self.message.as_str());
        match &self.metadata {
            None => format!(r#"{{"error": {error}}}"#),
            Some(metadata) => format!(r#"{{"error": {error}, "metadata": {metadata}}}"#),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = text(self.body());
        *response.status_mut() = self.status;
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// 200 with this text.
pub fn text(body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    response.headers_mut().insert(CONTENT_TYPE, TEXT);
    response
}

/// 200 with this value as JSON, without spaces and without a newline at the end.
pub fn json<T: Serialize>(value: &T) -> Result<Response, ApiError> {
    match serde_json::to_vec(value) {
        Ok(body) => Ok(text(body)),
        Err(e) => Err(ApiError::internal(format!("marshal-response: {e}"))),
    }
}

/// Gives `router` the answers to paths that it does not have (404) and to methods that a path does
/// not have (405 with `Allow`). `HEAD` is there wherever `GET` is.
pub fn with_fallbacks<S: Clone + Send + Sync + 'static>(router: Router<S>) -> Router<S> {
    router
        .fallback(|| async { plain(StatusCode::NOT_FOUND, "404 page not found\n") })
        .method_not_allowed_fallback(|| async {
            plain(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n")
        })
}

fn plain(status: StatusCode, body: &'static str) -> Response {
    let mut response = text(body);
    *response.status_mut() = status;
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn errors_are_json_and_as_shipped_wherever_that_is_json() {
        let table = [
            (ApiError::conflict("no lease available"), r#"{"error": "no lease available"}"#),
            (
                ApiError::forbidden("provided scopes [] do not include [a b]"),
                r#"{"error": "provided scopes [] do not include [a b]"}"#,
            ),
            (ApiError::bad_request(r#"not "this""#), r#"{"error": "not \"this\""}"#),
            (ApiError::bad_request("zwölf\n\u{1}\\"), r#"{"error": "zwölf\n\u0001\\"}"#),
            (
                ApiError::bad_request("validate policies: bad port")
                    .with_metadata(json!({"bad_policy": {"source": {"id": "a"}}})),
                concat!(
                    r#"{"error": "validate policies: bad port", "#,
                    r#""metadata": {"bad_policy":{"source":{"id":"a"}}}}"#
                ),
            ),
        ];
        for (error, body) in table {
            assert_eq!(error.body(), body);
            let read: Value = serde_json::from_str(&error.body()).unwrap();
            assert_eq!(read["error"], error.message);
            let response = error.clone().into_response();
            assert_eq!(response.status(), error.status);
            assert_eq!(response.headers()[CONTENT_TYPE], TEXT);
        }
    }

    #[test]
    fn only_who_is_not_known_is_asked_for_a_token() {
        let asked =
            |error: ApiError| error.into_response().headers().get(WWW_AUTHENTICATE).cloned();
        assert_eq!(asked(ApiError::unauthorized("x")), Some(HeaderValue::from_static("Bearer")));
        assert_eq!(asked(ApiError::forbidden("x")), None);
    }
}
