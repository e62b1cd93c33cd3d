//! What a scenario's row gave, and whether that is enough.

use serde::Serialize;

use crate::scenario::{Bar, Better, Measure, Row, Scenario};
use crate::side::Kind;
use crate::stats::{median, range, ratios};

/// The numbers of one side in the order they were measured, pair by pair.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Column {
    /// One list for each row of the scenario.
    pub(crate) values: Vec<Vec<f64>>,
    /// Processor time per unit of work.
    pub(crate) cpu: Vec<f64>,
}

/// What one row gave.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Outcome {
    pub(crate) id: String,
    /// The scenario that it belongs to.
    pub(crate) scenario: &'static str,
    pub(crate) title: String,
    pub(crate) unit: &'static str,
    pub(crate) better: Better,
    pub(crate) ours: Vec<f64>,
    pub(crate) kernel: Vec<f64>,
    pub(crate) reference: Vec<f64>,
    /// Of ours / kernel, pair by pair. None where only ours is measured, or where the numbers
    /// are differences, which have no ratio.
    pub(crate) ratio_median: Option<f64>,
    pub(crate) ratio_min: Option<f64>,
    pub(crate) ratio_max: Option<f64>,
    pub(crate) cpu: Cpu,
    pub(crate) bar: Option<Bar>,
    /// Whether the release bar is reached; none without a bar.
    pub(crate) passed: Option<bool>,
}

/// Median processor time of the whole machine per unit of work.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Cpu {
    pub(crate) unit: Option<&'static str>,
    pub(crate) ours: Option<f64>,
    pub(crate) kernel: Option<f64>,
    pub(crate) reference: Option<f64>,
}

impl Outcome {
    /// The outcome of the scenario's row with this number. Columns come in the order of
    /// [`crate::scenario::Sides::kinds`]; those that were not measured are empty.
    pub(crate) fn new(scenario: &Scenario, row: usize, columns: &[(Kind, Column)]) -> Self {
        let Row { suffix, title, unit, better, bar } = scenario.rows[row];
        let column = |kind| columns.iter().find(|(k, _)| *k == kind).map(|(_, column)| column);
        let values = |kind| {
            column(kind).and_then(|column| column.values.get(row)).cloned().unwrap_or_default()
        };
        let cpu = |kind| {
            let cpu = &column(kind)?.cpu;
            (!cpu.is_empty()).then(|| median(cpu))
        };
        let (ours, kernel) = (values(Kind::Ours), values(Kind::Kernel));
        let ratios = if unit == "%" { Vec::new() } else { ratios(&ours, &kernel) };
        let of_ratios = |f: fn(&[f64]) -> f64| (!ratios.is_empty()).then(|| f(&ratios));
        let ratio_median = of_ratios(median);
        let mut outcome = Self {
            id: format!("{}{suffix}", scenario.id),
            scenario: scenario.id,
            title: if title.is_empty() {
                scenario.title.to_owned()
            } else {
                format!("{}: {title}", scenario.title)
            },
            unit,
            better,
            ratio_median,
            ratio_min: of_ratios(|ratios| range(ratios).0),
            ratio_max: of_ratios(|ratios| range(ratios).1),
            cpu: Cpu {
                unit: scenario.work.cpu_unit(),
                ours: cpu(Kind::Ours),
                kernel: cpu(Kind::Kernel),
                reference: cpu(Kind::Reference),
            },
            bar,
            passed: None,
            ours,
            kernel,
            reference: values(Kind::Reference),
        };
        outcome.passed =
            bar.zip(outcome.against_bar()).map(|(bar, got)| bar.is_reached(better, got));
        outcome
    }

    /// The number that is compared with the bar.
    pub(crate) fn against_bar(&self) -> Option<f64> {
        match self.bar?.of {
            Measure::Ratio => self.ratio_median,
            Measure::Value => middle(&self.ours),
        }
    }

    /// `pass`, `missed`, or nothing.
    pub(crate) fn verdict(&self) -> &'static str {
        match self.passed {
            Some(true) => "pass",
            Some(false) => "missed",
            None => "",
        }
    }
}

impl Bar {
    fn is_reached(self, better: Better, got: f64) -> bool {
        match better {
            Better::Higher => got >= self.release,
            Better::Lower => got <= self.release,
        }
    }

    /// Its numbers in words: `at least 0.8 of the kernel's`.
    pub(crate) fn words(self, better: Better, unit: &str) -> String {
        let bound = match better {
            Better::Higher => "at least",
            Better::Lower => "at most",
        };
        match self.of {
            Measure::Ratio => format!("{bound} {} of the kernel's", self.release),
            Measure::Value => format!("{bound} {} {unit}", self.release),
        }
    }
}

/// A number with as many digits as say something.
pub(crate) fn number(value: f64) -> String {
    let magnitude = if value == 0.0 { 0.0 } else { value.abs().log10().floor() };
    let digits = (2.0 - magnitude).clamp(0.0, if magnitude < -1.0 { 8.0 } else { 2.0 });
    format!("{value:.0$}", digits as usize)
}

/// The median of a side that was measured.
pub(crate) fn middle(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| median(values))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::scenario::ALL;

    /// The outcome of a scenario of the catalogue with these numbers for its first row.
    pub(crate) fn sample(id: &str, ours: &[f64], kernel: &[f64]) -> Outcome {
        let scenario = ALL.iter().find(|s| s.id == id).expect("an id of the catalogue");
        let column = |values: &[f64]| Column { values: vec![values.to_vec()], cpu: vec![1.5] };
        Outcome::new(scenario, 0, &[(Kind::Ours, column(ours)), (Kind::Kernel, column(kernel))])
    }

    #[test]
    fn a_bar_of_throughput_is_reached_from_below() {
        let outcome = sample("tcp-1", &[9.0, 8.0, 7.0], &[10.0, 10.0, 10.0]);
        assert_eq!(outcome.ratio_median, Some(0.8));
        assert_eq!((outcome.ratio_min, outcome.ratio_max), (Some(0.7), Some(0.9)));
        assert_eq!(outcome.passed, Some(true));
        assert_eq!(sample("tcp-1", &[7.9], &[10.0]).passed, Some(false));
    }

    #[test]
    fn a_bar_of_latency_is_reached_from_above() {
        let outcome = sample("rr-tcp", &[8.0], &[10.0]);
        assert_eq!((outcome.id.as_str(), outcome.passed), ("rr-tcp-p50", Some(true)));
        assert_eq!(sample("rr-tcp", &[8.1], &[10.0]).passed, Some(false));
    }

    #[test]
    fn a_bar_of_its_own_needs_no_kernel() {
        let outcome = sample("restart", &[40.0, 60.0], &[]);
        assert_eq!((outcome.ratio_median, outcome.passed), (None, Some(true)));
        assert_eq!(sample("rules-cost", &[4.0], &[900.0]).passed, Some(false));
        assert_eq!(sample("rules-cost", &[-1.0], &[900.0]).ratio_median, None);
    }

    #[test]
    fn numbers_are_short() {
        let shown: Vec<_> =
            [12_345.6, 123.45, 9.876, 0.0, 0.1234, 0.01234, -0.000_087_65].map(number).into();
        assert_eq!(shown, ["12346", "123", "9.88", "0.00", "0.12", "0.0123", "-0.0000877"]);
    }
}
