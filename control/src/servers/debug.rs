//! What can be changed while a server runs, on the port for those who look for mistakes (contract
//! section 0.2, item 9).

use axum::Router;
use axum::body::to_bytes;
use axum::extract::Request;
use axum::routing::post;
use tracing::info;

use crate::cli::log;

/// Longest body that is looked at.
const LONGEST: usize = 16;

/// Adds `POST /log-level` to the routes of that port. The answer is always 200, also when the level is
/// not known and nothing changes.
pub(crate) fn with_log_level(router: Router) -> Router {
    router.route("/log-level", post(change))
}

async fn change(request: Request) {
    let body = to_bytes(request.into_body(), LONGEST).await.unwrap_or_default();
    if let Some(level) = level(&body) {
        log::change(level);
        info!(level, "the level of the log was changed");
    }
}

/// The level of a name, of which there are four for each.
fn level(name: &[u8]) -> Option<&'static str> {
    match name {
        b"debug" | b"DEBUG" | b"d" | b"0" => Some("debug"),
        b"info" | b"INFO" | b"i" | b"1" => Some("info"),
        // Nothing is more than an error here.
        b"error" | b"ERROR" | b"e" | b"2" | b"fatal" | b"FATAL" | b"f" | b"3" => Some("error"),
        _ => None,
    }
}
