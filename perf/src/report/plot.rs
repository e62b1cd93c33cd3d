//! One SVG plot for each scenario: every run of every side as a point, and the medians.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::Results;
use super::scale::Scale;
use crate::machine::Machine;
use crate::outcome::{Outcome, number};
use crate::scenario::Better;
use crate::stats::median;

// All in pixels.
const WIDTH: f64 = 860.0;
const LEFT: f64 = 96.0;
const RIGHT: f64 = 120.0;
const TITLE: f64 = 62.0;
const SUBTITLE: f64 = 30.0;
const LANE: f64 = 40.0;
const AXIS: f64 = 56.0;
const FOOT: f64 = 20.0;

const OURS: &str = "#0b6e6e";
const KERNEL: &str = "#b3541e";
const REFERENCE: &str = "#5a5f73";

/// Writes one file a scenario into a directory, which is made.
pub(crate) fn write(results: &Results, directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory)
        .with_context(|| format!("make {} for the plots", directory.display()))?;
    for rows in results.scenarios.chunk_by(|a, b| a.scenario == b.scenario) {
        let Some(first) = rows.first() else { continue };
        let path = directory.join(format!("{}.svg", first.scenario));
        std::fs::write(&path, svg(rows, &results.machine))
            .with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// The plot of a scenario's rows, one below the other.
fn svg(rows: &[Outcome], machine: &Machine) -> String {
    let heights = rows.iter().map(|row| SUBTITLE + LANE * lanes(row).len() as f64 + AXIS);
    let height = TITLE + heights.sum::<f64>() + FOOT;
    let title = rows.first().map_or(String::new(), |row| {
        let title = row.title.split(": ").next().unwrap_or_default();
        format!("{}: {}", row.scenario, if rows.len() > 1 { title } else { &row.title })
    });
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"13\" \
         fill=\"#1a1a1a\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    text(&mut svg, Anchor::Start, 16.0, 28.0, "font-size=\"17\" font-weight=\"bold\"", &title);
    text(&mut svg, Anchor::Start, 16.0, 48.0, "fill=\"#555\" font-size=\"12\"", &machine.line());
    let mut top = TITLE;
    for row in rows {
        top = panel(&mut svg, row, top, rows.len() > 1);
    }
    svg.push_str("</svg>\n");
    svg
}

/// Sides that were measured: name, colour, values.
fn lanes(row: &Outcome) -> Vec<(&'static str, &'static str, &[f64])> {
    [
        ("Sarcenet", OURS, &row.ours),
        ("kernel", KERNEL, &row.kernel),
        ("reference", REFERENCE, &row.reference),
    ]
    .into_iter()
    .filter(|(_, _, values)| !values.is_empty())
    .map(|(name, color, values)| (name, color, values.as_slice()))
    .collect()
}

/// Draws one row from `top` down; returns where it ends.
fn panel(svg: &mut String, row: &Outcome, top: f64, titled: bool) -> f64 {
    let lanes = lanes(row);
    let scale = Scale::new(lanes.iter().flat_map(|(_, _, values)| values.iter().copied()));
    let x = |value: f64| LEFT + scale.place(value) * (WIDTH - LEFT - RIGHT);
    let (first, last) = (top + SUBTITLE, top + SUBTITLE + LANE * lanes.len() as f64);
    text(svg, Anchor::Start, LEFT, top + 18.0, "font-size=\"12\"", &subtitle(row, titled));
    for tick in scale.ticks() {
        let x = x(tick);
        let _ = writeln!(
            svg,
            "<line x1=\"{x:.1}\" y1=\"{first}\" x2=\"{x:.1}\" y2=\"{last}\" stroke=\"#ddd\"/>"
        );
        text(svg, Anchor::Middle, x, last + 18.0, "font-size=\"12\"", &scale.text(tick));
    }
    let better = match row.better {
        Better::Higher => "higher is better",
        Better::Lower => "lower is better",
    };
    let axis = format!("{} ({better})", row.unit);
    text(svg, Anchor::Middle, x(scale.middle()), last + 38.0, "font-size=\"12\"", &axis);
    for ((name, color, values), n) in lanes.iter().zip(0_u32..) {
        let middle = first + LANE * (f64::from(n) + 0.5);
        let fill = format!("fill=\"{color}\"");
        text(svg, Anchor::End, LEFT - 10.0, middle + 4.0, &fill, name);
        // Runs from top to bottom in the order they were made, so that none hides another.
        let gap = (LANE - 14.0) / (values.len().max(2) - 1) as f64;
        for (&value, run) in values.iter().zip(0_u32..) {
            let y = middle + (f64::from(run) - (values.len() - 1) as f64 / 2.0) * gap;
            let _ = writeln!(
                svg,
                "<circle cx=\"{:.1}\" cy=\"{y:.1}\" r=\"3.5\" {fill} fill-opacity=\"0.6\"/>",
                x(value)
            );
        }
        let median = median(values);
        let _ = writeln!(
            svg,
            "<line x1=\"{0:.1}\" y1=\"{1:.1}\" x2=\"{0:.1}\" y2=\"{2:.1}\" stroke=\"{color}\" \
             stroke-width=\"2.5\"/>",
            x(median),
            middle - LANE / 2.0 + 3.0,
            middle + LANE / 2.0 - 3.0,
        );
        let label = format!("median {}", number(median));
        text(svg, Anchor::Start, WIDTH - RIGHT + 14.0, middle + 4.0, &fill, &label);
    }
    last + AXIS
}

/// Which number it is, ratio and bar.
fn subtitle(row: &Outcome, titled: bool) -> String {
    let mut parts = Vec::new();
    if titled {
        parts.push(row.title.rsplit(": ").next().unwrap_or_default().to_owned());
    }
    if let (Some(median), Some(min), Some(max)) = (row.ratio_median, row.ratio_min, row.ratio_max) {
        let (median, min, max) = (number(median), number(min), number(max));
        parts.push(format!("Sarcenet / kernel {median} ({min} to {max})"));
    }
    if let Some(bar) = row.bar {
        parts.push(format!("bar: {}, {}", bar.words(row.better, row.unit), row.verdict()));
    }
    parts.join("; ")
}

#[derive(Clone, Copy)]
enum Anchor {
    Start,
    Middle,
    End,
}

fn text(svg: &mut String, anchor: Anchor, x: f64, y: f64, style: &str, content: &str) {
    let anchor = match anchor {
        Anchor::Start => "start",
        Anchor::Middle => "middle",
        Anchor::End => "end",
    };
    let content = escape(content);
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" {style}>{content}</text>"
    );
}

/// Text as XML character data.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::tests::sample;

    fn machine() -> Machine {
        Machine {
            processor: "A & B <fast>".into(),
            cores: 2,
            kernel: "Linux 6.18".into(),
            iptables: "legacy",
            links: Vec::new(),
        }
    }

    /// Attribute values of all elements with this name.
    fn attributes(svg: &str, element: &str, attribute: &str) -> Vec<f64> {
        svg.lines()
            .filter(|line| line.starts_with(&format!("<{element} ")))
            .filter_map(|line| line.split_once(&format!(" {attribute}=\""))?.1.split_once('"'))
            .filter_map(|(value, _)| value.parse().ok())
            .collect()
    }

    #[test]
    fn text_is_escaped() {
        let svg = svg(&[sample("tcp-1", &[9.0], &[10.0])], &machine());
        assert!(svg.contains("A &amp; B &lt;fast&gt;") && !svg.contains("<fast>"));
    }

    #[test]
    fn every_run_is_a_point_inside_the_plot() {
        let svg = svg(&[sample("tcp-1", &[9.0, 8.0, 1e9], &[10.0, 11.0])], &machine());
        let xs = attributes(&svg, "circle", "cx");
        assert_eq!(xs.len(), 5);
        assert!(xs.iter().all(|x| (LEFT..=WIDTH - RIGHT).contains(x)), "{xs:?}");
    }

    #[test]
    fn points_lie_in_the_order_of_their_values() {
        let svg = svg(&[sample("tcp-1", &[2.0, 4.0, 8.0], &[])], &machine());
        let xs = attributes(&svg, "circle", "cx");
        assert!(xs[0] < xs[1] && xs[1] < xs[2]);
        // On an axis from zero, twice the value is twice as far.
        assert!(((xs[2] - LEFT) / (xs[1] - LEFT) - 2.0).abs() < 0.01, "{xs:?}");
    }

    #[test]
    fn rows_stand_below_each_other() {
        let row = sample("rr-tcp", &[20.0], &[30.0]);
        let one = attributes(&svg(std::slice::from_ref(&row), &machine()), "svg", "height");
        let three = svg(&[row.clone(), row.clone(), row], &machine());
        let ys = attributes(&three, "circle", "cy");
        assert!(ys.is_sorted() && ys.len() == 6, "{ys:?}");
        assert!(attributes(&three, "svg", "height")[0] > one[0] * 2.0);
    }
}
