//! The generated part of a Markdown file, between two comments. What people wrote around it
//! stays.

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use super::Results;
use crate::outcome::{middle, number};

const BEGIN: &str = "<!-- results: begin (written by `sarcenet-perf run --markdown`) -->";
const END: &str = "<!-- results: end -->";

/// Writes the results into a file: in place of what is between its two marks, or as a new file.
pub(crate) fn write(results: &Results, path: &Path) -> Result<()> {
    let old = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == ErrorKind::NotFound => format!("# Results\n\n{BEGIN}\n{END}\n"),
        Err(e) => return Err(e).with_context(|| format!("read {}", path.display())),
    };
    let new = replace(&old, &text(results))
        .with_context(|| format!("put the results into {}", path.display()))?;
    std::fs::write(path, new).with_context(|| format!("write {}", path.display()))
}

/// Puts `part` between the marks of `text`.
fn replace(text: &str, part: &str) -> Result<String> {
    let Some((before, rest)) = text.split_once(BEGIN) else {
        bail!("it has no line `{BEGIN}`; write it where the results should be, and `{END}` below");
    };
    let Some((_, after)) = rest.split_once(END) else {
        bail!("the line `{BEGIN}` is not followed by one `{END}`");
    };
    Ok(format!("{before}{BEGIN}\n\n{part}\n{END}{after}"))
}

fn text(results: &Results) -> String {
    let mut text = format!("{}.\n\n{}.\n\n", results.machine.line(), results.method.line());
    text.push_str("Modes of our links:\n\n");
    for link in &results.machine.links {
        let _ = writeln!(text, "* {link}");
    }
    text.push_str(
        "\n| scenario | what | ours | kernel | reference | unit | ratio (range) | release bar | goal | | processor time, ours / kernel |\n\
         | --- | --- | --: | --: | --: | --- | --- | --- | --: | --- | --- |\n",
    );
    for outcome in &results.scenarios {
        let show = |value: Option<f64>| value.map(number).unwrap_or_default();
        let ratio = match (outcome.ratio_median, outcome.ratio_min, outcome.ratio_max) {
            (Some(median), Some(min), Some(max)) => {
                format!("**{}** ({} to {})", number(median), number(min), number(max))
            }
            _ => String::new(),
        };
        let (bar, goal) = outcome.bar.map_or_else(Default::default, |bar| {
            (bar.words(outcome.better, outcome.unit), bar.goal.to_string())
        });
        let cpu = match (outcome.cpu.ours, outcome.cpu.kernel, outcome.cpu.unit) {
            (Some(ours), Some(kernel), Some(unit)) => {
                format!("{} / {} {unit}", number(ours), number(kernel))
            }
            _ => String::new(),
        };
        let _ = writeln!(
            text,
            "| `{}` | {} | {} | {} | {} | {} | {ratio} | {bar} | {goal} | {} | {cpu} |",
            outcome.id,
            outcome.title,
            show(middle(&outcome.ours)),
            show(middle(&outcome.kernel)),
            show(middle(&outcome.reference)),
            outcome.unit,
            outcome.verdict(),
        );
    }
    for failure in &results.failures {
        let error = failure.error.lines().next().unwrap_or_default();
        let _ = writeln!(text, "\n`{}` could not be measured: {error}", failure.scenario);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_wrote_stays() -> Result<()> {
        let old = format!("# Title\n{BEGIN}\nold\n{END}\n\n## Mine\n");
        let new = replace(&old, "new\n")?;
        assert_eq!(new, format!("# Title\n{BEGIN}\n\nnew\n\n{END}\n\n## Mine\n"));
        assert_eq!(replace(&new, "new\n")?, new);
        Ok(())
    }

    #[test]
    fn a_file_without_marks_is_not_touched() {
        assert!(replace("# Title\n", "new").is_err());
        assert!(replace(&format!("{BEGIN}\n"), "new").is_err());
    }
}
