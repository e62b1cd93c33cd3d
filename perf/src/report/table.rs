//! The table in the terminal.

use comfy_table::{Attribute, Cell, CellAlignment, Color, ContentArrangement, Table, presets};

use super::Results;
use crate::outcome::{Outcome, middle, number};
use crate::scenario::ALL;

/// Machine, table, bars, and what failed. comfy-table leaves colours out where there is no
/// terminal.
pub(crate) fn print(results: &Results) {
    println!("{}", results.machine.line());
    for link in &results.machine.links {
        println!("  {link}");
    }
    println!("{}", numbers(&results.scenarios));
    println!("{}.", results.method.line());
    println!("{}", bars(&results.scenarios));
    for failure in &results.failures {
        println!("{} FAILED: {}", failure.scenario, failure.error);
    }
}

/// All scenarios.
pub(crate) fn list() {
    let mut table = empty();
    table.set_header(["scenario", "what", "results", "bars for a release"]);
    for scenario in ALL {
        let rows = || scenario.rows.iter();
        let bars = rows().filter_map(|row| Some(row.bar?.words(row.better, row.unit)));
        table.add_row([
            Cell::new(scenario.id),
            Cell::new(scenario.title),
            Cell::new(
                rows()
                    .map(|r| format!("{}{}", scenario.id, r.suffix))
                    .collect::<Vec<_>>()
                    .join("\n"),
            ),
            Cell::new(bars.collect::<Vec<_>>().join("\n")),
        ]);
    }
    println!("{table}");
}

fn numbers(outcomes: &[Outcome]) -> Table {
    let mut table = empty();
    table.set_header([
        "scenario",
        "what",
        "ours",
        "kernel",
        "reference",
        "unit",
        "ratio",
        "range",
        "CPU ours",
        "kernel",
        "per",
    ]);
    for outcome in outcomes {
        let range = outcome.ratio_min.zip(outcome.ratio_max);
        let ratio = right(outcome.ratio_median);
        table.add_row([
            Cell::new(&outcome.id),
            Cell::new(&outcome.title),
            right(middle(&outcome.ours)).add_attribute(Attribute::Bold),
            right(middle(&outcome.kernel)),
            right(middle(&outcome.reference)),
            Cell::new(outcome.unit),
            match outcome.passed {
                Some(true) => ratio.fg(Color::Green),
                Some(false) => ratio.fg(Color::Red),
                None => ratio,
            },
            Cell::new(
                range.map_or_else(String::new, |(a, b)| format!("{} to {}", number(a), number(b))),
            ),
            right(outcome.cpu.ours),
            right(outcome.cpu.kernel),
            Cell::new(outcome.cpu.unit.unwrap_or_default().trim_start_matches("CPU ")),
        ]);
    }
    table
}

fn bars(outcomes: &[Outcome]) -> Table {
    let mut table = empty();
    table.set_header(["bar", "for a release", "goal", "measured", ""]);
    for outcome in outcomes {
        let (Some(bar), Some(passed)) = (outcome.bar, outcome.passed) else { continue };
        table.add_row([
            Cell::new(&outcome.id),
            Cell::new(bar.words(outcome.better, outcome.unit)),
            Cell::new(bar.goal),
            right(outcome.against_bar()),
            Cell::new(outcome.verdict()).fg(if passed { Color::Green } else { Color::Red }),
        ]);
    }
    table
}

fn empty() -> Table {
    let mut table = Table::new();
    table
        .load_preset(presets::UTF8_FULL_CONDENSED)
        .set_content_arrangement(ContentArrangement::Dynamic);
    table
}

fn right(value: Option<f64>) -> Cell {
    Cell::new(value.map(number).unwrap_or_default()).set_alignment(CellAlignment::Right)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::tests::sample;

    #[test]
    fn only_rows_with_a_bar_are_in_the_table_of_bars() {
        let outcomes = [sample("tcp-1", &[5.0], &[10.0]), sample("tcp-16", &[5.0], &[10.0])];
        let text = bars(&outcomes).to_string();
        assert!(text.contains("tcp-1 ") && text.contains("missed") && !text.contains("tcp-16"));
        assert!(numbers(&outcomes).to_string().contains("tcp-16"));
    }
}
