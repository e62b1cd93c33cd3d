//! Where a database is: a file of SQLite, or a server of PostgreSQL.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::any::AnyConnectOptions;
use sqlx::{ConnectOptions, Connection};

use super::error::DatabaseError;

/// The place that a URL of the settings names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Location {
    /// `sqlite:PATH`.
    Sqlite(PathBuf),
    /// `postgres://USER:PASSWORD@HOST:PORT/NAME?sslmode=verify-full&sslrootcert=FILE`.
    Postgres(String),
}

impl Location {
    /// Reads `sqlite:PATH` (`sqlite:///PATH` too) or `postgres://...`. The path is taken as it is
    /// written: nothing in it is an option or an escape.
    pub(super) fn parse(url: &str) -> Result<Self, DatabaseError> {
        let wrong = |reason: String| DatabaseError::Settings { place: without_secret(url), reason };
        if let Some(path) = url.strip_prefix("sqlite:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            if path.is_empty() || path == ":memory:" {
                return Err(wrong("write sqlite: and the path of a file".into()));
            }
            let path = std::path::absolute(path).map_err(|error| wrong(error.to_string()))?;
            return Ok(Self::Sqlite(path));
        }
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            url.parse::<sqlx::postgres::PgConnectOptions>()
                .map_err(|error| wrong(error.to_string()))?;
            return Ok(Self::Postgres(url.to_owned()));
        }
        Err(wrong("write sqlite:PATH or postgres://USER:PASSWORD@HOST:PORT/NAME".into()))
    }

    /// As messages name it: without password and options.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Sqlite(path) => path.display().to_string(),
            Self::Postgres(url) => without_secret(url),
        }
    }

    /// How to connect. The file of SQLite must be there.
    pub(super) fn options(&self) -> Result<AnyConnectOptions, DatabaseError> {
        let url = match self {
            Self::Sqlite(path) => format!("sqlite://{}?mode=rw", escaped(path)),
            Self::Postgres(url) => url.clone(),
        };
        let options: AnyConnectOptions = url.parse().map_err(|error: sqlx::Error| {
            DatabaseError::Settings { place: self.name(), reason: error.to_string() }
        })?;
        // What is slow or fails is counted and told by who asked.
        Ok(options.disable_statement_logging())
    }

    /// Makes the file of a SQLite database that is not there, for its owner alone; SQLite gives
    /// its journal and index the same mode. Refuses certificates for PostgreSQL that cannot be
    /// read, which would look as if the server were not there.
    pub(super) fn prepare(&self) -> Result<(), DatabaseError> {
        let path = match self {
            Self::Sqlite(path) => path,
            Self::Postgres(url) => return self.check_certificates(url),
        };
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(DatabaseError::Settings {
                place: self.name(),
                reason: match error.kind() {
                    ErrorKind::NotFound => "its directory does not exist".into(),
                    _ => format!("cannot make the file: {error}"),
                },
            }),
        }
    }

    fn check_certificates(&self, url: &str) -> Result<(), DatabaseError> {
        let options = url.split_once('?').map_or("", |(_, options)| options);
        for (key, file) in options.split('&').filter_map(|option| option.split_once('=')) {
            // A file whose name is escaped is read when the connection is made.
            if !["sslrootcert", "sslcert", "sslkey"].contains(&key) || file.contains('%') {
                continue;
            }
            if let Err(error) = std::fs::read(file) {
                let reason = format!("cannot read {file}: {error}");
                return Err(DatabaseError::Settings { place: self.name(), reason });
            }
        }
        Ok(())
    }

    /// One connection, for operations that take `limit` at most.
    pub(super) async fn connect(
        &self,
        limit: Duration,
    ) -> Result<sqlx::AnyConnection, sqlx::Error> {
        let options = self.options().map_err(|error| sqlx::Error::Configuration(error.into()))?;
        let mut connection = sqlx::AnyConnection::connect_with(&options).await?;
        self.set_up(&mut connection, limit).await?;
        Ok(connection)
    }

    /// Sets what each connection needs. Waits for others end in the database before they end
    /// here: otherwise connections that were given up would pile up there.
    pub(super) async fn set_up(
        &self,
        connection: &mut sqlx::AnyConnection,
        limit: Duration,
    ) -> Result<(), sqlx::Error> {
        let limit = limit.as_millis().clamp(2, i32::MAX as u128);
        let settings = match self {
            // Busy are other processes; in this one writers stand in a queue.
            Self::Sqlite(_) => format!(
                "PRAGMA busy_timeout = {}; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON",
                limit / 2
            ),
            // Names of ours come before those of the system and of others in the same database.
            // A replica whose machine dies in a transaction does not keep its locks for hours.
            Self::Postgres(_) => format!(
                "SET search_path TO sarcenet, pg_catalog; SET statement_timeout TO {0}; \
                 SET idle_in_transaction_session_timeout TO {1}",
                limit * 9 / 10,
                limit
            ),
        };
        // The numbers are ours, and the texts have no place for anything else.
        sqlx::raw_sql(sqlx::AssertSqlSafe(settings)).execute(connection).await?;
        Ok(())
    }
}

/// A path as a URL carries it.
fn escaped(path: &Path) -> String {
    let as_is = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_".contains(&byte);
    let bytes = path.as_os_str().as_encoded_bytes().iter();
    let escape = |&byte: &u8| {
        if as_is(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }
    };
    bytes.map(escape).collect()
}

/// A URL without user, password and options, for messages.
fn without_secret(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let rest = rest.split('?').next().unwrap_or_default();
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    format!("{scheme}://{host}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_a_file_or_a_server() {
        let file = |path: &str| Ok(Location::Sqlite(path.into()));
        for (url, expected) in [
            ("sqlite:/var/lib/a.db", file("/var/lib/a.db")),
            ("sqlite:///var/lib/a.db", file("/var/lib/a.db")),
            ("sqlite:/a b?mode=ro#%20", file("/a b?mode=ro#%20")),
            (
                "postgres://me:secret@db:5433/name",
                Ok(Location::Postgres("postgres://me:secret@db:5433/name".into())),
            ),
            ("sqlite:", Err("cannot use sqlite: as the database: write sqlite: and the path")),
            ("sqlite::memory:", Err("cannot use sqlite::memory: as the database: write sqlite:")),
            ("mysql://root:secret@db/x", Err("cannot use mysql://db/x as the database: write")),
            ("postgres://me:secret@db:99999/x", Err("cannot use postgres://db:99999/x as the")),
            ("", Err("cannot use  as the database")),
        ] {
            match (Location::parse(url), expected) {
                (Ok(location), Ok(expected)) => assert_eq!(location, expected, "{url}"),
                (Err(error), Err(expected)) => {
                    assert!(error.to_string().starts_with(expected), "{url}: {error}");
                }
                (is, expected) => panic!("{url}: {is:?} instead of {expected:?}"),
            }
        }
    }

    #[test]
    fn messages_name_a_server_without_its_password() {
        let location = Location::parse("postgres://me:se%40cret@db:5433/name?password=x").unwrap();
        assert_eq!(location.name(), "postgres://db:5433/name");
    }

    #[test]
    fn a_path_with_any_sign_is_the_file_that_is_opened() {
        assert_eq!(escaped(Path::new("/a b/c?d=#%.db")), "/a%20b/c%3Fd%3D%23%25%2Edb");
    }
}
