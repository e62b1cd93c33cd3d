//! The command line, with flags as Go's programs take them: one or two hyphens, the value after
//! `=` or as the next word (contract section 8.1).

use std::ffi::OsString;

/// What a command line says. What is not said is empty.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Arguments {
    pub(crate) action: String,
    pub(crate) handle: String,
    pub(crate) config_file: String,
    /// What follows the flags.
    pub(crate) extra: Vec<String>,
}

/// What is wrong with a command line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ArgumentError {
    #[error("flag provided but not defined: -{0}")]
    Undefined(String),
    #[error("flag needs an argument: -{0}")]
    NoValue(String),
    #[error("bad flag syntax: {0}")]
    Syntax(String),
    #[error("flag: help requested")]
    Help,
    #[error("{} is not UTF-8", .0.display())]
    Encoding(OsString),
    #[error("missing required flag '{0}'")]
    Missing(&'static str),
    #[error("unexpected extra args: [{}]", .0.join(" "))]
    Extra(Vec<String>),
}

impl Arguments {
    /// Reads the words after the program's name. Flags end at the first word that is none, or
    /// after `--`; of a flag that is repeated the last one counts.
    pub(crate) fn parse(words: Vec<OsString>) -> Result<Self, ArgumentError> {
        let words: Result<Vec<_>, _> = words.into_iter().map(OsString::into_string).collect();
        let mut words = words.map_err(ArgumentError::Encoding)?.into_iter();
        let mut arguments = Self::default();
        while let Some(word) = words.next() {
            let Some(name) = word.strip_prefix('-').filter(|name| !name.is_empty()) else {
                arguments.extra.push(word);
                break;
            };
            let name = name.strip_prefix('-').unwrap_or(name);
            if name.is_empty() {
                break;
            }
            if name.starts_with(['-', '=']) {
                return Err(ArgumentError::Syntax(word));
            }
            let (name, value) = match name.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (name, None),
            };
            let field = match name {
                "action" => &mut arguments.action,
                "handle" => &mut arguments.handle,
                "configFile" => &mut arguments.config_file,
                "h" | "help" => return Err(ArgumentError::Help),
                _ => return Err(ArgumentError::Undefined(name.to_owned())),
            };
            *field = match value.or_else(|| words.next()) {
                Some(value) => value,
                None => return Err(ArgumentError::NoValue(name.to_owned())),
            };
        }
        arguments.extra.extend(words);
        Ok(arguments)
    }

    /// What is needed before the configuration can be read.
    pub(crate) fn check_config_file(&self) -> Result<(), ArgumentError> {
        required("configFile", &self.config_file)
    }

    /// What else is needed. The configuration is read before, so that its prefix is in front.
    pub(crate) fn check(&self) -> Result<(), ArgumentError> {
        if !self.extra.is_empty() {
            return Err(ArgumentError::Extra(self.extra.clone()));
        }
        required("handle", &self.handle)?;
        required("action", &self.action)
    }
}

fn required(flag: &'static str, value: &str) -> Result<(), ArgumentError> {
    if value.is_empty() { Err(ArgumentError::Missing(flag)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_written_in_many_ways() {
        let read = |action: &str, handle: &str, extra: &[&str]| {
            Ok(Arguments {
                action: action.into(),
                handle: handle.into(),
                config_file: "/c".into(),
                extra: extra.iter().map(ToString::to_string).collect(),
            })
        };
        let wrong = |error: &str| Err(error.to_owned());
        for (line, expected) in [
            ("--configFile=/c --action up --handle h", read("up", "h", &[])),
            ("-configFile /c -action=up -handle=h", read("up", "h", &[])),
            ("--configFile=/c --action up --action down", read("down", "", &[])),
            ("--configFile=/c --handle --action", read("", "--action", &[])),
            ("--configFile=/c --handle=a=b", read("", "a=b", &[])),
            ("--configFile=/c x --action up", read("", "", &["x", "--action", "up"])),
            ("--configFile=/c -- --action", read("", "", &["--action"])),
            ("--configFile=/c - y", read("", "", &["-", "y"])),
            ("--configFile=/c -banana", wrong("flag provided but not defined: -banana")),
            ("--configFile=/c --banana=1", wrong("flag provided but not defined: -banana")),
            ("--configFile=/c --handle", wrong("flag needs an argument: -handle")),
            ("---x", wrong("bad flag syntax: ---x")),
            ("-=x", wrong("bad flag syntax: -=x")),
            ("--configFile=/c --help", wrong("flag: help requested")),
        ] {
            let words = line.split_whitespace().map(OsString::from).collect();
            let parsed = Arguments::parse(words).map_err(|error| error.to_string());
            assert_eq!(parsed, expected, "{line}");
        }
    }
}
