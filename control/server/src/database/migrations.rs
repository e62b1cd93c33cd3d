//! The tables, and how they came about: forward only, by one program at a time.

use std::sync::atomic::Ordering;

use sqlx::{AnyConnection, Row};

use super::error::{DatabaseError, Fault};
use super::location::Location;
use super::session::{Access, statement};
use super::{Clock, adoption};

/// What makes version 1, 2, ... of the tables. What has been released is never changed.
///
/// Flags are 0 and 1, times and generations nanoseconds since the epoch.
const MIGRATIONS: &[&str] = &[
    // A tag is in use while `released_at` is null. Numbers are given out from 1 up and rows stay,
    // so the numbers of all rows are 1 to their count.
    "CREATE TABLE tags (
        number BIGINT NOT NULL PRIMARY KEY CHECK (number > 0),
        id TEXT NOT NULL UNIQUE,
        kind TEXT NOT NULL,
        released_at BIGINT
    );
    CREATE INDEX tags_released ON tags (number) WHERE released_at IS NOT NULL;

    CREATE TABLE policies (
        source BIGINT NOT NULL REFERENCES tags (number),
        destination BIGINT NOT NULL REFERENCES tags (number),
        protocol TEXT NOT NULL,
        first_port BIGINT NOT NULL,
        last_port BIGINT NOT NULL,
        PRIMARY KEY (source, destination, protocol, first_port, last_port)
    );
    CREATE INDEX policies_destination ON policies (destination);

    CREATE TABLE policies_info (
        last_updated BIGINT NOT NULL,
        changes BIGINT NOT NULL,
        forgotten BIGINT NOT NULL
    );

    CREATE TABLE policy_changes (
        position BIGINT NOT NULL PRIMARY KEY,
        generation BIGINT NOT NULL,
        added BIGINT NOT NULL,
        source TEXT NOT NULL,
        source_tag BIGINT NOT NULL,
        destination TEXT NOT NULL,
        destination_tag BIGINT NOT NULL,
        protocol TEXT NOT NULL,
        first_port BIGINT NOT NULL,
        last_port BIGINT NOT NULL
    );
    CREATE INDEX policy_changes_generation ON policy_changes (generation);

    CREATE TABLE security_groups_info (last_updated BIGINT NOT NULL);

    CREATE TABLE security_groups (
        position BIGINT NOT NULL PRIMARY KEY,
        guid TEXT NOT NULL UNIQUE,
        name TEXT NOT NULL,
        rules TEXT NOT NULL,
        staging_default BIGINT NOT NULL,
        running_default BIGINT NOT NULL
    );

    CREATE TABLE security_group_spaces (
        security_group BIGINT NOT NULL REFERENCES security_groups (position) ON DELETE CASCADE,
        running BIGINT NOT NULL,
        position BIGINT NOT NULL,
        space TEXT NOT NULL,
        PRIMARY KEY (security_group, running, position)
    );
    CREATE INDEX security_group_spaces_space ON security_group_spaces (space);

    CREATE TABLE leases (
        underlay TEXT NOT NULL PRIMARY KEY,
        subnet TEXT NOT NULL UNIQUE,
        mac TEXT NOT NULL UNIQUE,
        renewed_at BIGINT NOT NULL
    );",
    "CREATE TABLE leaders (
        name TEXT NOT NULL PRIMARY KEY,
        holder TEXT NOT NULL,
        until BIGINT NOT NULL
    );",
];

/// What PostgreSQL needs before all tables: a place apart from tables of others in the same
/// database, and the two functions of SQLite that statements use.
const POSTGRES_FUNCTIONS: &str = "
    CREATE FUNCTION sarcenet.json_each(list TEXT) RETURNS TABLE (value JSON)
        LANGUAGE SQL IMMUTABLE AS 'SELECT json_array_elements(list::json)';
    CREATE FUNCTION sarcenet.unixepoch(modifier TEXT) RETURNS DOUBLE PRECISION
        LANGUAGE SQL VOLATILE
        AS 'SELECT extract(epoch FROM clock_timestamp())::double precision';";

/// Brings the tables up to date; returns their version. The lock is let go with the transaction,
/// also when this program dies in the middle, and nothing is half done then.
pub(super) async fn run(
    location: &Location,
    connection: &mut AnyConnection,
    clock: &Clock,
) -> Result<i64, Fault> {
    if let Location::Sqlite(_) = location {
        check_file(location, connection).await?;
    }
    sqlx::raw_sql(match location {
        Location::Sqlite(_) => "BEGIN IMMEDIATE",
        Location::Postgres(_) => "BEGIN ISOLATION LEVEL READ COMMITTED",
    })
    .execute(&mut *connection)
    .await?;
    if let (Location::Postgres(_), Some(lock)) = (location, Access::Schema.lock()) {
        let locked = statement("SELECT pg_advisory_xact_lock($1)").bind(lock);
        locked.execute(&mut *connection).await?;
    }
    // An error leaves the transaction to the connection's end, which undoes it.
    let version = apply(location, connection, clock).await?;
    sqlx::raw_sql("COMMIT").execute(connection).await?;
    Ok(version)
}

/// Refuses a damaged file, and makes readers and the writer independent of each other.
async fn check_file(location: &Location, connection: &mut AnyConnection) -> Result<(), Fault> {
    let found = statement("PRAGMA quick_check(1)").fetch_one(&mut *connection).await?;
    let found: String = found.try_get(0)?;
    if found != "ok" {
        return Err(Fault::Stored(format!("{}: {found}", location.name())));
    }
    sqlx::raw_sql("PRAGMA journal_mode = WAL").execute(connection).await?;
    Ok(())
}

async fn apply(
    location: &Location,
    connection: &mut AnyConnection,
    clock: &Clock,
) -> Result<i64, Fault> {
    let exists = match location {
        Location::Sqlite(_) => "SELECT COUNT(*) FROM sqlite_master WHERE name = 'versions'",
        Location::Postgres(_) => {
            "SELECT COUNT(*) FROM pg_tables WHERE schemaname = 'sarcenet' AND tablename = 'versions'"
        }
    };
    let is_new = number(connection, exists).await? == 0;
    if is_new {
        found(location, connection).await?;
    }
    let known = MIGRATIONS.len() as i64;
    let version = number(connection, "SELECT COALESCE(MAX(version), 0) FROM versions").await?;
    if version > known {
        let place = location.name();
        return Err(DatabaseError::Newer { place, found: version, known }.into());
    }
    let now = match clock {
        Clock::Database => {
            number(connection, "SELECT CAST(unixepoch('subsec') * 1000000 AS BIGINT) * 1000")
                .await?
        }
        Clock::Manual(clock) => clock.load(Ordering::SeqCst),
    };
    for (version, migration) in (1_i64..).zip(MIGRATIONS).skip(version as usize) {
        sqlx::raw_sql(*migration).execute(&mut *connection).await?;
        if version == 1 {
            // A new database is newer than anything that anybody remembers of an old one.
            for sql in [
                "INSERT INTO policies_info (last_updated, changes, forgotten) VALUES ($1, 0, $1)",
                "INSERT INTO security_groups_info (last_updated) VALUES ($1)",
            ] {
                statement(sql).bind(now).execute(&mut *connection).await?;
            }
        }
        let written = statement("INSERT INTO versions (version, applied_at) VALUES ($1, $2)");
        written.bind(version).bind(now).execute(&mut *connection).await?;
    }
    if let (true, Location::Postgres(_)) = (is_new, location) {
        adoption::adopt(connection).await?;
    }
    Ok(known)
}

/// Begins a new database.
async fn found(location: &Location, connection: &mut AnyConnection) -> Result<(), Fault> {
    match location {
        Location::Sqlite(_) => {
            if number(connection, "SELECT COUNT(*) FROM sqlite_master").await? > 0 {
                let reason = "the file is the database of another program".to_owned();
                return Err(DatabaseError::Settings { place: location.name(), reason }.into());
            }
        }
        Location::Postgres(_) => {
            // An administrator may have made it: then we need no right to make one.
            const THERE: &str = "SELECT COUNT(*) FROM pg_namespace WHERE nspname = 'sarcenet'";
            if number(connection, THERE).await? == 0 {
                sqlx::raw_sql("CREATE SCHEMA sarcenet").execute(&mut *connection).await?;
            }
            sqlx::raw_sql(POSTGRES_FUNCTIONS).execute(&mut *connection).await?;
        }
    }
    const VERSIONS: &str = "CREATE TABLE versions (
        version BIGINT NOT NULL PRIMARY KEY,
        applied_at BIGINT NOT NULL
    )";
    sqlx::raw_sql(VERSIONS).execute(connection).await?;
    Ok(())
}

async fn number(connection: &mut AnyConnection, sql: &'static str) -> Result<i64, sqlx::Error> {
    statement(sql).fetch_one(connection).await?.try_get(0)
}
