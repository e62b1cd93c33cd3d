//! Tables for people, JSON for programs.

use std::io::{self, IsTerminal, Write};

use anyhow::Result;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use owo_colors::{OwoColorize, Stream};
use serde::Serialize;

/// Prints one JSON document, indented.
pub(super) fn json(value: &impl Serialize) -> Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value)?;
    writeln!(out)?;
    Ok(())
}

/// Prints one JSON document as one line, at once.
pub(super) fn json_line(value: &impl Serialize) -> Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, value)?;
    writeln!(out)?;
    out.flush()?;
    Ok(())
}

/// Prints text and flushes.
pub(super) fn text(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()?;
    Ok(())
}

/// Whether an error only means that the program behind the pipe has read enough.
pub(super) fn reader_is_gone(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let io = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        let json =
            cause.downcast_ref::<serde_json::Error>().and_then(serde_json::Error::io_error_kind);
        io.or(json) == Some(io::ErrorKind::BrokenPipe)
    })
}

/// An error and its causes, each said once: many say theirs themselves.
pub(crate) fn explain(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |said, cause| {
        match (said.is_empty(), said.contains(&cause)) {
            (true, _) => cause,
            (false, true) => said,
            (false, false) => format!("{said}: {cause}"),
        }
    })
}

/// A table without lines; the columns numbered in `right` are aligned right.
pub(super) fn table(header: &[&str], right: &[usize]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header.iter().copied());
    if io::stdout().is_terminal() {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if right.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// The table as text without trailing spaces.
pub(super) fn plain(table: &Table) -> String {
    table.trim_fmt()
}

pub(super) fn good(text: &str) -> String {
    text.if_supports_color(Stream::Stdout, |text| text.green()).to_string()
}

pub(super) fn bad(text: &str) -> String {
    text.if_supports_color(Stream::Stdout, |text| text.red()).to_string()
}

pub(super) fn heading(text: &str) -> String {
    text.if_supports_color(Stream::Stdout, |text| text.bold()).to_string()
}

/// `1 rule`, `2 rules`.
pub(super) fn count(number: u64, one: &str) -> String {
    if number == 1 {
        return format!("1 {one}");
    }
    match one.strip_suffix('y') {
        Some(stem) => format!("{number} {stem}ies"),
        None if one.ends_with('s') => format!("{number} {one}es"),
        None => format!("{number} {one}s"),
    }
}

/// Seconds as people say them.
pub(super) fn duration(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds / 60),
        7_200..=172_799 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plurals() {
        let said = [count(0, "policy"), count(1, "rule"), count(2, "address"), count(3, "cell")];
        assert_eq!(said, ["0 policies", "1 rule", "2 addresses", "3 cells"]);
    }

    #[test]
    fn tables_have_no_trailing_spaces() {
        let mut two = table(&["NAME", "BYTES"], &[1]);
        two.add_row(["a", "7"]);
        assert_eq!(plain(&two), "NAME  BYTES\na         7");
    }
}
