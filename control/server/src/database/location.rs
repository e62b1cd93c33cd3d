//! Where a database is: a file of SQLite, or a server of PostgreSQL.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::Duration;

use sqlx::any::AnyConnectOptions;
use sqlx::{ConnectOptions, Connection};

use super::error::DatabaseError;
use crate::access::Secret;

/// A database of PostgreSQL by its parts, of which [`url`](Self::url) makes one text.
#[derive(Clone)]
pub struct PostgresServer {
    /// Name or address of the server, or the directory of its socket.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// As whom to connect.
    pub user: String,
    /// The user's password; it may be empty.
    pub password: Secret,
    /// The name of the database.
    pub name: String,
    /// TLS, if it is asked for.
    pub tls: Option<PostgresTls>,
}

/// How a server of PostgreSQL is known.
#[derive(Debug, Clone)]
pub struct PostgresTls {
    /// PEM file of the CA of its certificate; none: those of the system.
    pub ca: Option<PathBuf>,
    /// Whether the certificate must be for the server's name.
    pub verify_name: bool,
}

impl PostgresServer {
    /// The URL, with the password in it.
    pub fn url(&self) -> String {
        let Self { host, port, user, password, name, tls } = self;
        let escaped = |text: &str| escaped(text.as_bytes(), b"");
        let (host, socket) = match host.strip_prefix('/') {
            Some(_) => ("localhost", format!("&host={}", escaped(host))),
            None => (host.as_str(), String::new()),
        };
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let mode = match tls {
            None => "disable",
            Some(PostgresTls { verify_name: false, .. }) => "verify-ca",
            Some(_) => "verify-full",
        };
        let ca = tls.as_ref().and_then(|tls| tls.ca.as_deref()).map(|ca| {
            format!("&sslrootcert={}", self::escaped(ca.as_os_str().as_encoded_bytes(), b"/-_."))
        });
        format!(
            "postgres://{}:{}@{host}:{port}/{}?sslmode={mode}{}{socket}",
            escaped(user),
            escaped(password.text()),
            escaped(name),
            ca.unwrap_or_default()
        )
    }
}

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
            Self::Sqlite(path) => {
                format!("sqlite://{}?mode=rw", escaped(path.as_os_str().as_encoded_bytes(), b"/-_"))
            }
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

/// A text as a URL carries it: letters, digits and what is to be `kept` are as they were.
fn escaped(text: &[u8], kept: &[u8]) -> String {
    let as_is = |byte: u8| byte.is_ascii_alphanumeric() || kept.contains(&byte);
    let escape = |&byte: &u8| {
        if as_is(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }
    };
    text.iter().map(escape).collect()
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
        assert_eq!(escaped(b"/a b/c?d=#%.db", b"/-_"), "/a%20b/c%3Fd%3D%23%25%2Edb");
    }

    #[test]
    fn parts_make_a_url_that_has_them_all() {
        let server = |host: &str, tls| PostgresServer {
            host: host.into(),
            port: 5524,
            user: "network policy".into(),
            password: "a/b:c@d?e&f%g".into(),
            name: "network_policy".into(),
            tls,
        };
        let tls = |ca: Option<&str>, verify_name| {
            Some(PostgresTls { ca: ca.map(PathBuf::from), verify_name })
        };
        let begin = "postgres://network%20policy:a%2Fb%3Ac%40d%3Fe%26f%25g@";
        for (host, tls, end) in [
            ("sql", None, "sql:5524/network%5Fpolicy?sslmode=disable"),
            ("::1", tls(None, true), "[::1]:5524/network%5Fpolicy?sslmode=verify-full"),
            (
                "sql",
                tls(Some("/var/ca.crt"), false),
                "sql:5524/network%5Fpolicy?sslmode=verify-ca&sslrootcert=/var/ca.crt",
            ),
            ("/run/sql", None, "localhost:5524/network%5Fpolicy?sslmode=disable&host=%2Frun%2Fsql"),
        ] {
            let url = server(host, tls).url();
            assert_eq!(url.strip_prefix(begin), Some(end));
            let options: sqlx::postgres::PgConnectOptions = url.parse().unwrap();
            assert_eq!(options.get_username(), "network policy");
            assert_eq!(options.get_database(), Some("network_policy"));
        }
    }
}
