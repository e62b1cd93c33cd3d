//! Saying what is wrong with a server: once when it begins, not at each try.

use std::fmt::Display;

use tracing::{info, warn};

use super::ask::FailureKind;
use super::policy_metrics::PolicyMetrics;

/// What is wrong now with something that a server is asked for.
#[derive(Debug)]
pub(super) struct Trouble {
    what: &'static str,
    label: &'static str,
    metrics: PolicyMetrics,
    now: Option<FailureKind>,
}

impl Trouble {
    /// Nothing yet with `what`, as the log calls it, which `metrics` know by its `label`.
    pub(super) fn none(what: &'static str, label: &'static str, metrics: PolicyMetrics) -> Self {
        Self { what, label, metrics, now: None }
    }

    /// Counts how a question went. If there is news of that it is logged, and handed to `show`:
    /// what is wrong, or that nothing is any more.
    pub(super) fn heard(
        &mut self,
        problem: Option<(FailureKind, &dyn Display)>,
        show: impl FnOnce(Option<String>),
    ) {
        let Self { what, label, metrics, now } = self;
        let before = std::mem::replace(now, problem.map(|(kind, _)| kind));
        if let Some((kind, error)) = problem {
            metrics.failed(label, kind);
            if before != *now {
                let text = format!("{what} stay as they were: {error}");
                warn!("{text}");
                show(Some(text));
            }
        } else {
            metrics.answered(label);
            if before.is_some() {
                info!("{what} are followed again");
                show(None);
            }
        }
    }
}
