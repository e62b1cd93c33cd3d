//! Counting what is in the database, for metrics.

use std::time::Duration;

use tracing::warn;

use crate::database::DatabaseError;
use crate::http::Stop;

/// How often (contract section 1.9).
const INTERVAL: Duration = Duration::from_secs(30);

/// Counts again and again until it is time to stop; `what` is counted is for the log.
pub(crate) async fn follow<F>(what: &'static str, stop: &Stop, count: impl Fn() -> F)
where
    F: Future<Output = Result<(), DatabaseError>>,
{
    loop {
        if let Err(e) = count().await {
            warn!("{what} cannot be counted: {e}");
        }
        if stop.within(INTERVAL).await {
            return;
        }
    }
}
