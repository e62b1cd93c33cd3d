//! What can be wrong with a file, and the nearest right word.

use std::fmt;
use std::path::Path;

use super::tree::Place;

/// One mistake in a configuration file, with its place and its cure.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mistake {
    /// Line, from 1.
    pub line: u32,
    /// Column, from 1.
    pub column: u32,
    /// What is wrong, and what to write instead.
    pub message: String,
}

impl Mistake {
    pub(super) fn at(place: Place, message: impl Into<String>) -> Self {
        Self { line: place.line, column: place.column, message: message.into() }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.message)
    }
}

/// Why a configuration file cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read {path}: {error}")]
    Read {
        /// The file.
        path: String,
        /// What the system said.
        error: String,
    },
    /// It has mistakes.
    #[error("{}", lines(.path, .mistakes))]
    Mistakes {
        /// The file.
        path: String,
        /// All of them, in the order of the file.
        mistakes: Vec<Mistake>,
    },
}

impl ConfigError {
    pub(super) fn read(path: &Path, error: &std::io::Error) -> Self {
        Self::Read { path: path.display().to_string(), error: error.to_string() }
    }

    /// One line for each mistake, `file:line:column: what`.
    pub fn lines(&self) -> Vec<String> {
        match self {
            Self::Read { .. } => vec![self.to_string()],
            Self::Mistakes { path, mistakes } => {
                mistakes.iter().map(|mistake| format!("{path}:{mistake}")).collect()
            }
        }
    }
}

fn lines(path: &str, mistakes: &[Mistake]) -> String {
    mistakes.iter().map(|mistake| format!("{path}:{mistake}")).collect::<Vec<_>>().join("\n")
}

/// `; did you mean ...?` when one of `known` is near to `word`, else nothing.
pub(super) fn suggestion<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let limit = (word.chars().count() / 3).max(1);
    known
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map_or_else(String::new, |(_, candidate)| format!("; did you mean `{candidate}`?"))
}

/// Edits (insert, delete, replace, swap neighbours) between two words: optimal string alignment.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.len().abs_diff(b.len()) > 8 {
        return usize::MAX;
    }
    let mut rows = vec![(0..=b.len()).collect::<Vec<_>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_found() {
        let known = ["overlay", "cells", "apps", "policies", "port"];
        assert_eq!(suggestion("polices", known), "; did you mean `policies`?");
        assert_eq!(suggestion("overaly", known), "; did you mean `overlay`?");
        assert_eq!(suggestion("pport", known), "; did you mean `port`?");
        assert_eq!(suggestion("routes", known), "");
        assert_eq!(suggestion("", known), "");
    }
}
