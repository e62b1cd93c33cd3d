//! Flags as Go's programs take them: one or two hyphens, the value after `=` or as the next word.

use std::ffi::OsString;
use std::path::PathBuf;

/// What a command line says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Flags {
    /// Where the configuration is.
    File(PathBuf),
    /// Only how to use the program.
    Help,
    /// Nothing that makes sense, and why not.
    Wrong(String),
}

/// Reads a command line whose only flag is `flag`. The last one counts.
pub(super) fn parse(flag: &str, words: Vec<OsString>) -> Flags {
    let mut file = None;
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let Some(text) = word.to_str() else {
            return Flags::Wrong(format!("{} is not UTF-8", word.display()));
        };
        let name = text.strip_prefix("--").or_else(|| text.strip_prefix('-'));
        let Some(name) = name.filter(|name| !name.is_empty()) else {
            return Flags::Wrong(format!("unexpected argument: {text}"));
        };
        let (name, value) = match name.split_once('=') {
            Some((name, value)) => (name, Some(OsString::from(value))),
            None => (name, None),
        };
        if matches!(name, "h" | "help") {
            return Flags::Help;
        }
        if name != flag {
            return Flags::Wrong(format!("flag provided but not defined: -{name}"));
        }
        let Some(value) = value.or_else(|| words.next()) else {
            return Flags::Wrong(format!("flag needs an argument: -{flag}"));
        };
        file = Some(PathBuf::from(value));
    }
    match file {
        Some(file) => Flags::File(file),
        None => Flags::Wrong(format!("flag missing: -{flag}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_written_in_many_ways() {
        let file = |path: &str| Flags::File(path.into());
        let wrong = |reason: &str| Flags::Wrong(reason.into());
        for (line, expected) in [
            ("-config=/a", file("/a")),
            ("--config=/a=b", file("/a=b")),
            ("-config /a", file("/a")),
            ("--config -a", file("-a")),
            ("-config=/a -config /b", file("/b")),
            ("-config=/a -h", Flags::Help),
            ("--help", Flags::Help),
            ("", wrong("flag missing: -config")),
            ("-config", wrong("flag needs an argument: -config")),
            ("-config-file=/a", wrong("flag provided but not defined: -config-file")),
            ("config", wrong("unexpected argument: config")),
            ("-", wrong("unexpected argument: -")),
            ("--", wrong("unexpected argument: --")),
        ] {
            let words = line.split_whitespace().map(OsString::from).collect();
            assert_eq!(parse("config", words), expected, "{line}");
        }
    }
}
