//! Lists as values of statements, and numbers in columns.
//!
//! A statement takes a list of any length as one value: JSON text, an array of objects, which
//! `json_each($1)` makes rows of. The statement's text is the same for every length (so that it
//! is prepared once), and no list is longer than a statement may have values.

use serde::Serialize;
use sqlx::Row;
use sqlx::any::AnyRow;

use super::error::{DatabaseError, Fault};

/// Longest name (GUID, type, space) that is stored, in bytes. The index of PostgreSQL takes
/// entries of 2.7 kB, and a policy's row has two names.
const LONGEST_NAME: usize = 1024;

/// A list of objects as JSON text.
pub(super) fn list<T: Serialize>(items: &[T]) -> Result<String, Fault> {
    serde_json::to_string(items)
        .map_err(|error| Fault::Stored(format!("a list cannot be written as JSON: {error}")))
}

/// A name in a list.
#[derive(Debug, Serialize)]
pub(super) struct Name<'a> {
    name: &'a str,
}

/// Those of `names` that can be in the database at all, as a list.
pub(super) fn names<T: AsRef<str>>(names: &[T]) -> Result<String, Fault> {
    let names = names.iter().map(AsRef::as_ref).filter(|name| check_name("name", name).is_ok());
    list(&names.map(|name| Name { name }).collect::<Vec<_>>())
}

/// Refuses what PostgreSQL cannot store: the character NUL.
pub(super) fn check_text(what: &'static str, text: &str) -> Result<(), DatabaseError> {
    if text.contains('\0') {
        return Err(DatabaseError::Text { what, reason: "it has the character NUL" });
    }
    Ok(())
}

/// Refuses a text that cannot be a key.
pub(super) fn check_name(what: &'static str, name: &str) -> Result<(), DatabaseError> {
    if name.len() > LONGEST_NAME {
        return Err(DatabaseError::Text { what, reason: "it is longer than 1024 bytes" });
    }
    check_text(what, name)
}

/// A number that must fit what it stands for.
pub(super) fn narrow<T: TryFrom<i64>>(row: &AnyRow, column: usize) -> Result<T, Fault> {
    let number: i64 = row.try_get(column)?;
    T::try_from(number).map_err(|_| {
        Fault::Stored(format!("the number {number} is out of range in column {column}"))
    })
}
