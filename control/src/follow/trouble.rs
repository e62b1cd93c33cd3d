//! Saying what is wrong with a server: once when it begins, not at each try.

use std::fmt::Display;

use tracing::{info, warn};

use super::ask::FailureKind;

/// What is wrong now with something that a server is asked for.
#[derive(Debug)]
pub(super) struct Trouble {
    what: &'static str,
    now: Option<FailureKind>,
}

impl Trouble {
    /// Nothing yet with `what`: `policies`.
    pub(super) fn none(what: &'static str) -> Self {
        Self { what, now: None }
    }

    /// Takes note of a failure. Returns what it means, if that is news.
    pub(super) fn failed(&mut self, kind: FailureKind, error: &dyn Display) -> Option<String> {
        if self.now.replace(kind) == Some(kind) {
            return None;
        }
        let text = format!("{} stay as they were: {error}", self.what);
        warn!("{text}");
        Some(text)
    }

    /// Takes note that all is well. Returns whether that is news.
    pub(super) fn over(&mut self) -> bool {
        let news = self.now.take().is_some();
        if news {
            info!("{} are followed again", self.what);
        }
        news
    }
}
