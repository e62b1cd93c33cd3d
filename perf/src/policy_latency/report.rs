//! The numbers, for people and for programs.

use serde::Serialize;

use super::cells;
use super::changes::{Changes, Latencies};
use crate::control::Usage;
use crate::report::spread::{Spread, verdict};

/// Milliseconds in which 99 of 100 have a change (p99).
const BAR: f64 = 1000.0;

/// The same for whole cells.
const CELLS_BAR: f64 = 100.0;

/// What was measured with whole cells.
#[derive(Debug, Serialize)]
pub(super) struct CellsReport {
    policies: u32,
    changes: usize,
    /// From the answer until the connecting container's own cell goes by the change.
    own: Spread,
    /// Until the other cell does.
    other: Spread,
    bar_p99_ms: f64,
    passed: bool,
}

impl CellsReport {
    pub(super) fn new(policies: u32, latencies: &cells::Latencies) -> Self {
        let (own, other) = (Spread::of(&latencies.own), Spread::of(&latencies.other));
        let passed = own.p99_ms < CELLS_BAR && other.p99_ms < CELLS_BAR;
        let changes = latencies.own.len();
        Self { policies, changes, own, other, bar_p99_ms: CELLS_BAR, passed }
    }

    pub(super) fn print(&self) {
        println!("{} other policies, {} changes, two cells", self.policies, self.changes);
        println!("{}", self.own.line("until the own cell goes by it"));
        println!("{}", self.other.line("until the other cell goes by it"));
        println!("bar: p99 on both cells below {CELLS_BAR} ms: {}", verdict(self.passed));
    }
}

/// All that was measured.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    policies: u32,
    observers: usize,
    changes: u32,
    /// From the answer of the external API to each observer.
    observer: Spread,
    /// From there to the last observer of each change.
    last: Spread,
    /// The request itself.
    request: Spread,
    server: Server,
    bar_p99_ms: f64,
    passed: bool,
}

/// What the servers took during the changes.
#[derive(Debug, Serialize)]
struct Server {
    processor_seconds: f64,
    processor_ms_per_change: f64,
    resident_mb_before: f64,
    resident_mb_after: f64,
}

impl Report {
    pub(super) fn new(
        policies: u32,
        changes: Changes,
        latencies: &Latencies,
        before: Usage,
        after: Usage,
    ) -> Self {
        let observer = Spread::of(&latencies.observer);
        let processor = after.processor.saturating_sub(before.processor).as_secs_f64();
        Self {
            policies,
            observers: changes.observers,
            changes: changes.count,
            observer,
            last: Spread::of(&latencies.last),
            request: Spread::of(&latencies.request),
            server: Server {
                processor_seconds: processor,
                processor_ms_per_change: processor * 1e3 / f64::from(changes.count),
                resident_mb_before: before.resident as f64 * 1e-6,
                resident_mb_after: after.resident as f64 * 1e-6,
            },
            bar_p99_ms: BAR,
            passed: observer.p99_ms < BAR,
        }
    }

    pub(super) fn print(&self) {
        let Self { policies, observers, changes, server, .. } = self;
        println!("{policies} policies, {observers} observers, {changes} changes");
        println!("{}", self.observer.line("from the answer to each observer"));
        println!("{}", self.last.line("from the answer to the last observer"));
        println!("{}", self.request.line("the request itself"));
        println!(
            "server: {:.2} CPU s, {:.2} ms for each change; {:.0} MB of memory, {:.0} MB before",
            server.processor_seconds,
            server.processor_ms_per_change,
            server.resident_mb_after,
            server.resident_mb_before
        );
        println!("bar: p99 to each observer below {BAR} ms: {}", verdict(self.passed));
    }
}
