//! Results for people and for programs.

pub(crate) mod markdown;
pub(crate) mod plot;
mod scale;
pub(crate) mod spread;
pub(crate) mod table;

use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::machine::Machine;
use crate::outcome::Outcome;

/// All of a run.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Results {
    pub(crate) machine: Machine,
    pub(crate) method: Method,
    pub(crate) scenarios: Vec<Outcome>,
    /// What could not be measured, and why.
    pub(crate) failures: Vec<Failure>,
}

/// How it was measured.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Method {
    /// Pairs of each scenario.
    pub(crate) pairs: usize,
    /// Seconds counted in each run.
    pub(crate) seconds: f64,
    /// Whether some sizes were reduced.
    pub(crate) quick: bool,
}

/// A scenario that gave nothing.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Failure {
    pub(crate) scenario: &'static str,
    pub(crate) error: String,
}

impl Method {
    /// In one sentence.
    pub(crate) fn line(self) -> String {
        let Self { pairs, seconds, quick } = self;
        let reduced = if quick { "; a quick run, with coarser searches" } else { "" };
        format!(
            "{pairs} runs of each side, ours and the kernel's alternating, {seconds} s each{reduced}. \
             Medians; the ratio is ours / kernel of each pair, then the median of these"
        )
    }
}

/// Writes results as JSON to the file for them, if there is to be one.
pub(crate) fn write_json(results: &impl Serialize, path: Option<&Path>) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    let text = serde_json::to_string_pretty(results).context("write the results as JSON")?;
    std::fs::write(path, text + "\n")
        .with_context(|| format!("write the results to {}", path.display()))
}
