//! How long things of the same kind took, and whether that is good enough.

use serde::Serialize;

use crate::stats::percentile;

/// What times of the same kind were like, in milliseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Spread {
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    max_ms: f64,
    samples: usize,
}

impl Spread {
    /// From nanoseconds.
    pub(crate) fn of(nanoseconds: &[u64]) -> Self {
        let mut sorted = nanoseconds.to_vec();
        sorted.sort_unstable();
        let at = |percent| percentile(&sorted, percent) as f64 * 1e-6;
        Self { p50_ms: at(50.0), p99_ms: at(99.0), max_ms: at(100.0), samples: sorted.len() }
    }

    /// A line for people.
    pub(crate) fn line(self, what: &str) -> String {
        let Self { p50_ms, p99_ms, max_ms, samples } = self;
        format!(
            "{what:<36} p50 {p50_ms:8.2} ms  p99 {p99_ms:8.2} ms  max {max_ms:8.2} ms  ({samples})"
        )
    }
}

/// Whether a bar was reached, for people.
pub(crate) fn verdict(passed: bool) -> &'static str {
    if passed { "pass" } else { "missed" }
}
