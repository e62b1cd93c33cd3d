//! The numbers, for people and for programs.

use serde::Serialize;

use super::storm::Took;
use crate::report::spread::{Spread, verdict};

/// Milliseconds in which all cells have a subnet.
const BAR: f64 = 5000.0;

/// All that was measured.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    cells: u16,
    storms: Vec<StormReport>,
    bar_ms: f64,
    passed: bool,
}

/// One storm.
#[derive(Debug, Serialize)]
pub(super) struct StormReport {
    database: &'static str,
    controllers: usize,
    /// Until each cell had its subnet.
    cell: Spread,
    /// Until all had.
    all_ms: f64,
}

impl StormReport {
    pub(super) fn new(database: &'static str, controllers: usize, took: &Took) -> Self {
        let all_ms = took.all as f64 * 1e-6;
        Self { database, controllers, cell: Spread::of(&took.each), all_ms }
    }
}

impl Report {
    pub(super) fn new(cells: u16, storms: Vec<StormReport>) -> Self {
        let passed = storms.iter().all(|storm| storm.all_ms < BAR);
        Self { cells, storms, bar_ms: BAR, passed }
    }

    pub(super) fn print(&self) {
        println!("{} cells ask at once", self.cells);
        for StormReport { database, controllers, cell, all_ms } in &self.storms {
            let many = if *controllers == 1 { "controller" } else { "controllers" };
            println!("{}", cell.line(&format!("{database}, {controllers} {many}")));
            println!(
                "  all have theirs after {all_ms:.0} ms; all distinct, the first one not given"
            );
            println!("  the first cell too many was refused (409)");
        }
        println!("bar: all have theirs within {BAR} ms: {}", verdict(self.passed));
    }
}
