//! What can go wrong with a database, and whether it is worth another try.

/// Why an operation was not done. Nothing of it is in the database then, except after
/// [`Unavailable`](Self::Unavailable), where the answer to the last step may have been lost.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The settings name no database that can be used.
    #[error("cannot use {place} as the database: {reason}")]
    Settings {
        /// The database, without a password.
        place: String,
        /// What is wrong with it, and what to write instead.
        reason: String,
    },
    /// The database is of a newer program.
    #[error(
        "the database {place} has schema version {found}, this program knows versions up to \
         {known}: it was opened by a newer release before"
    )]
    Newer {
        /// The database.
        place: String,
        /// Its version.
        found: i64,
        /// The newest version known here.
        known: i64,
    },
    /// What is stored cannot be read, or makes no sense.
    #[error("{operation}: the database is damaged ({reason}); restore it or start with a new one")]
    Damaged {
        /// What was to be done.
        operation: &'static str,
        /// What does not fit.
        reason: String,
    },
    /// All tags are in use (contract section 3.3).
    #[error(
        "no free tag for {id:?}: all {tags} are in use by apps that have policies; remove policies"
    )]
    NoFreeTag {
        /// Who was to get one.
        id: String,
        /// How many there are.
        tags: u32,
    },
    /// An id has a tag of another type already (contract section 2.3).
    #[error("{id:?} has a tag of type {existing:?} already and cannot have one of type {wanted:?}")]
    TagType {
        /// Whose tag it is.
        id: String,
        /// What it was asked to be.
        wanted: String,
        /// What it is.
        existing: String,
    },
    /// A text that cannot be stored.
    #[error("{what} cannot be stored: {reason}")]
    Text {
        /// Which text.
        what: &'static str,
        /// Why.
        reason: &'static str,
    },
    /// The database cannot be reached, is busy or out of space. The operation may be tried again.
    #[error("{operation}: the database is not available for now: {reason}")]
    Unavailable {
        /// What was to be done.
        operation: &'static str,
        /// What is in the way.
        reason: String,
    },
    /// The database refuses; the same operation will fail again.
    #[error("{operation}: {source}")]
    Failed {
        /// What was to be done.
        operation: &'static str,
        /// What the database said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl DatabaseError {
    /// Whether the same operation may succeed later without anybody changing anything here.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

/// What ends the work of one transaction.
#[derive(Debug)]
pub(super) enum Fault {
    /// The database said so.
    Sql(sqlx::Error),
    /// We say so.
    Refused(DatabaseError),
    /// What is stored makes no sense.
    Stored(String),
    /// It took too long.
    TimedOut,
}

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<DatabaseError> for Fault {
    fn from(error: DatabaseError) -> Self {
        Self::Refused(error)
    }
}

/// What a failure means for who wanted something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Another transaction was in the way, and this one is undone: try again at once.
    Collision,
    /// Try again when the cause is gone.
    Unavailable,
    /// The database's files are damaged.
    Damaged,
    /// It will fail again.
    Final,
}

/// Reads the code of a failure: `SQLSTATE` of PostgreSQL (five characters), or the extended
/// result code of SQLite (a number whose last byte is the primary code).
pub(super) fn meaning(error: &sqlx::Error) -> Meaning {
    match error {
        sqlx::Error::Database(error) => {
            let code = error.code().unwrap_or_default();
            // A SQLSTATE of digits alone has five of them; no code of SQLite is that long.
            match (code.len(), code.parse::<u32>()) {
                (..5, Ok(code)) => sqlite_meaning(code),
                _ => postgres_meaning(&code),
            }
        }
        // A server whose certificate is not to be trusted; waiting does not make it so.
        sqlx::Error::Io(error) if error.kind() == std::io::ErrorKind::InvalidData => Meaning::Final,
        sqlx::Error::Io(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed => Meaning::Unavailable,
        _ => Meaning::Final,
    }
}

fn sqlite_meaning(code: u32) -> Meaning {
    const BUSY: u32 = 5;
    const LOCKED: u32 = 6;
    const NO_MEMORY: u32 = 7;
    const READ_ONLY: u32 = 8;
    const INPUT_OUTPUT: u32 = 10;
    const CORRUPT: u32 = 11;
    const FULL: u32 = 13;
    const CANNOT_OPEN: u32 = 14;
    const NOT_A_DATABASE: u32 = 26;
    match code & 0xff {
        BUSY | LOCKED => Meaning::Collision,
        NO_MEMORY | READ_ONLY | INPUT_OUTPUT | FULL | CANNOT_OPEN => Meaning::Unavailable,
        CORRUPT | NOT_A_DATABASE => Meaning::Damaged,
        _ => Meaning::Final,
    }
}

fn postgres_meaning(state: &str) -> Meaning {
    match state {
        // Serialization failure, deadlock, lock not available.
        "40001" | "40P01" | "55P03" => Meaning::Collision,
        // Query cancelled (a statement timeout), idle for too long in a transaction, a standby that
        // is read only, the database does not exist (yet).
        "57014" | "25P03" | "25006" | "3D000" => Meaning::Unavailable,
        "XX001" | "XX002" => Meaning::Damaged,
        // Connection lost; out of disk, memory or connections; shutting down or starting.
        _ if ["08", "53", "57P"].iter().any(|class| state.starts_with(class)) => {
            Meaning::Unavailable
        }
        _ => Meaning::Final,
    }
}

impl Fault {
    /// Whether the transaction is undone because of another one.
    pub(super) fn is_collision(&self) -> bool {
        matches!(self, Self::Sql(error) if meaning(error) == Meaning::Collision)
    }

    /// As the caller of `operation` sees it.
    pub(super) fn of(self, operation: &'static str) -> DatabaseError {
        let error = match self {
            Self::Sql(error) => error,
            Self::Refused(error) => return error,
            Self::Stored(reason) => return DatabaseError::Damaged { operation, reason },
            Self::TimedOut => {
                let reason = "it did not answer in time".to_owned();
                return DatabaseError::Unavailable { operation, reason };
            }
        };
        match meaning(&error) {
            Meaning::Collision | Meaning::Unavailable => {
                let reason = match error {
                    sqlx::Error::PoolTimedOut => {
                        "no connection: it does not answer, or too many use it at once".to_owned()
                    }
                    error => error.to_string(),
                };
                DatabaseError::Unavailable { operation, reason }
            }
            Meaning::Damaged => DatabaseError::Damaged { operation, reason: error.to_string() },
            Meaning::Final => DatabaseError::Failed { operation, source: error.into() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_both_databases_say_whether_to_try_again() {
        use Meaning::{Collision, Damaged, Final, Unavailable};
        // SQLITE_BUSY, SQLITE_BUSY_SNAPSHOT, SQLITE_IOERR_WRITE, SQLITE_FULL, SQLITE_CORRUPT,
        // SQLITE_NOTADB, SQLITE_CONSTRAINT_UNIQUE, SQLITE_ERROR.
        for (code, expected) in [
            (5, Collision),
            (517, Collision),
            (778, Unavailable),
            (13, Unavailable),
            (11, Damaged),
            (26, Damaged),
            (2067, Final),
            (1, Final),
        ] {
            assert_eq!(sqlite_meaning(code), expected, "{code}");
        }
        for (state, expected) in [
            ("40001", Collision),
            ("40P01", Collision),
            ("08006", Unavailable),
            ("53100", Unavailable),
            ("57P01", Unavailable),
            ("57P03", Unavailable),
            ("XX001", Damaged),
            ("23505", Final),
            ("42601", Final),
            ("28P01", Final),
        ] {
            assert_eq!(postgres_meaning(state), expected, "{state}");
        }
    }
}
