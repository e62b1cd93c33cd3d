//! What a server says about itself: health, time since its start, metrics (contract sections 1.1,
//! 2.5, 4.1).

use std::fmt::{self, Display};
use std::future::Future;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::time::timeout;
use tracing::warn;

use super::metrics::Metrics;
use super::reply::{self, ApiError};

/// How long the database may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// `GET /health`: 200 without a body as long as the database answers `check`.
pub async fn health<E: Display>(check: impl Future<Output = Result<(), E>>) -> Response {
    let error = match timeout(PATIENCE, check).await {
        Ok(Ok(())) => return Response::new(Body::empty()),
        Ok(Err(e)) => e.to_string(),
        Err(_) => format!("no answer within {} seconds", PATIENCE.as_secs()),
    };
    warn!("check database failed: {error}");
    ApiError::internal("check database failed").into_response()
}

/// `GET /`: how long it has been up, as Cloud Foundry's policy server says it.
pub fn uptime(since: Instant) -> Response {
    reply::text(format!("Network policy server, up for {}\n", GoDuration(since.elapsed())))
}

/// The routes of a server's own listener on the loopback interface: `/`, `/health` and `/metrics`.
pub fn routes<F, C, E>(check: F, metrics: Metrics) -> Router
where
    F: Fn() -> C + Clone + Send + Sync + 'static,
    C: Future<Output = Result<(), E>> + Send,
    E: Display,
{
    let since = Instant::now();
    let router = Router::new()
        .route("/", get(move || async move { uptime(since) }))
        .route("/health", get(move || async move { health(check()).await }))
        .route("/metrics", get(move || async move { self::metrics(&metrics) }));
    reply::with_fallbacks(router)
}

/// `GET /metrics`: all of them, in the text form of OpenMetrics.
pub fn metrics(metrics: &Metrics) -> Result<Response, ApiError> {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let text = metrics
        .text()
        .map_err(|e| ApiError::internal(format!("metrics cannot be written: {e}")))?;
    let mut response = reply::text(text);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(OPEN_METRICS));
    Ok(response)
}

/// A time as Go writes it: `1h2m3.5s`, `1.5ms`, `0s`.
struct GoDuration(Duration);

impl Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos();
        // Below a second the unit is the largest that leaves something before the point.
        let (whole, fraction, digits, unit) = match nanos {
            0 => return f.write_str("0s"),
            1..1_000 => (nanos, 0, 0, "ns"),
            1_000..1_000_000 => (nanos / 1_000, nanos % 1_000, 3, "µs"),
            1_000_000..1_000_000_000 => (nanos / 1_000_000, nanos % 1_000_000, 6, "ms"),
            _ => {
                let seconds = self.0.as_secs();
                let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
                if hours > 0 {
                    write!(f, "{hours}h")?;
                }
                if seconds >= 60 {
                    write!(f, "{minutes}m")?;
                }
                (u128::from(seconds % 60), u128::from(self.0.subsec_nanos()), 9, "s")
            }
        };
        write!(f, "{whole}")?;
        if fraction > 0 {
            let fraction = format!("{fraction:0digits$}");
            write!(f, ".{}", fraction.trim_end_matches('0'))?;
        }
        f.write_str(unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_go_writes_them() {
        let table = [
            (0, "0s"),
            (1, "1ns"),
            (1_100, "1.1µs"),
            (2_200_000, "2.2ms"),
            (1_000_000, "1ms"),
            (999_999_999, "999.999999ms"),
            (3_300_000_000, "3.3s"),
            (60_000_000_000, "1m0s"),
            (245_000_000_000, "4m5s"),
            (245_001_000_000, "4m5.001s"),
            (3_600_000_000_000, "1h0m0s"),
            (18_367_001_000_000, "5h6m7.001s"),
            (360_000_000_000_001, "100h0m0.000000001s"),
        ];
        for (nanos, text) in table {
            assert_eq!(GoDuration(Duration::from_nanos(nanos)).to_string(), text);
        }
    }
}
