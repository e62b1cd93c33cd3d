//! One transaction: how it begins, is tried again, and ends.

use std::pin::Pin;
use std::time::{Duration, Instant};

use sqlx::any::{AnyArguments, AnyRow};
use sqlx::pool::PoolConnection;
use sqlx::query::Query;
use sqlx::{Any, Row};

use super::error::{DatabaseError, Fault};
use super::location::Location;
use super::watcher::Topic;
use super::{Clock, Database, Inner};

/// How often a transaction is tried when others are in its way.
const TRIES: u32 = 6;

/// A statement with its values.
pub(super) type Statement = Query<'static, Any, AnyArguments>;

/// A statement; the text is the same for both databases.
pub(super) fn statement(sql: &'static str) -> Statement {
    sqlx::query(sql)
}

/// What is done in a transaction. What it borrows lives as long as what the session borrows.
pub(super) type Work<'s, T> = Pin<Box<dyn Future<Output = Result<T, Fault>> + Send + 's>>;

/// Puts work into a box: of an `async` closure Rust cannot tell yet that what it borrows may be
/// used by another thread, and servers need that.
pub(super) fn work<'s, T>(
    future: impl Future<Output = Result<T, Fault>> + Send + 's,
) -> Work<'s, T> {
    Box::pin(future)
}

/// What a transaction does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// It reads, all of it from one moment.
    Read,
    /// It writes policies and tags.
    Policies,
    /// It writes security groups.
    SecurityGroups,
    /// It writes leases.
    Leases,
    /// It changes the tables themselves.
    Schema,
}

impl Access {
    /// The number of its lock in PostgreSQL: `SARC` and what is written. Writers of one kind stand
    /// in a queue, over all replicas, so that what a transaction has read holds until it commits.
    pub(super) fn lock(self) -> Option<i64> {
        const BASE: i64 = 0x5341_5243 << 32;
        match self {
            Self::Read => None,
            Self::Policies => Some(BASE + 1),
            Self::SecurityGroups => Some(BASE + 2),
            Self::Leases => Some(BASE + 3),
            Self::Schema => Some(BASE + 4),
        }
    }

    /// The statement that begins it.
    fn begin(self, location: &Location) -> &'static str {
        match (location, self) {
            (Location::Sqlite(_), Self::Read) => "BEGIN",
            (Location::Sqlite(_), _) => "BEGIN IMMEDIATE",
            (Location::Postgres(_), Self::Read) => {
                "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY"
            }
            // Each statement sees what was committed before it began, so before the lock was had.
            (Location::Postgres(_), _) => "BEGIN ISOLATION LEVEL READ COMMITTED",
        }
    }
}

/// A transaction under way. One that is dropped before its end (its caller is gone) closes its
/// connection, which undoes it.
pub(super) struct Session<'a> {
    connection: PoolConnection<Any>,
    inner: &'a Inner,
    ended: bool,
}

impl Session<'_> {
    async fn begin(inner: &Inner, access: Access) -> Result<Session<'_>, sqlx::Error> {
        let connection = inner.pool.acquire().await?;
        let mut session = Session { connection, inner, ended: false };
        session.plain(access.begin(&inner.location)).await?;
        if let (Location::Postgres(_), Some(lock)) = (&inner.location, access.lock()) {
            session.rows(statement("SELECT pg_advisory_xact_lock($1)").bind(lock)).await?;
        }
        Ok(session)
    }

    /// Runs a text without values.
    pub(super) async fn plain(&mut self, sql: &'static str) -> Result<(), sqlx::Error> {
        let running = self.inner.counters.query();
        let result = sqlx::raw_sql(sql).execute(&mut *self.connection).await;
        running.ended(result.map(|_| ()))
    }

    /// The rows that a statement returns.
    pub(super) async fn rows(&mut self, statement: Statement) -> Result<Vec<AnyRow>, sqlx::Error> {
        let running = self.inner.counters.query();
        running.ended(statement.fetch_all(&mut *self.connection).await)
    }

    /// The one row that a statement returns.
    pub(super) async fn row(&mut self, statement: Statement) -> Result<AnyRow, sqlx::Error> {
        self.rows(statement).await?.pop().ok_or(sqlx::Error::RowNotFound)
    }

    /// The one number that a statement returns.
    pub(super) async fn number(&mut self, statement: Statement) -> Result<i64, sqlx::Error> {
        self.row(statement).await?.try_get(0)
    }

    /// How many rows a statement has written.
    pub(super) async fn execute(&mut self, statement: Statement) -> Result<u64, sqlx::Error> {
        let running = self.inner.counters.query();
        let result = statement.execute(&mut *self.connection).await;
        running.ended(result.map(|done| done.rows_affected()))
    }

    /// The time, in nanoseconds since the epoch: of the database, not of this replica.
    pub(super) async fn now(&mut self) -> Result<i64, sqlx::Error> {
        match &self.inner.settings.clock {
            Clock::Database => {
                // Both databases know microseconds at best.
                const NOW: &str = "SELECT CAST(unixepoch('subsec') * 1000000 AS BIGINT) * 1000";
                self.number(statement(NOW)).await
            }
            Clock::Manual(clock) => Ok(clock.load(std::sync::atomic::Ordering::SeqCst)),
        }
    }

    /// Tells the other replicas, when this transaction commits, that the generation is a new one.
    pub(super) async fn notify(
        &mut self,
        topic: Topic,
        generation: i64,
    ) -> Result<(), sqlx::Error> {
        if let Location::Postgres(_) = self.inner.location {
            let notify = statement("SELECT pg_notify($1, $2)").bind(topic.channel());
            self.rows(notify.bind(generation.to_string())).await?;
        }
        Ok(())
    }

    async fn end(mut self, how: &'static str) -> Result<(), sqlx::Error> {
        self.plain(how).await?;
        self.ended = true;
        Ok(())
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.connection.close_on_drop();
        }
    }
}

impl Database {
    /// Does `work` in one transaction and counts it as `operation`. When another transaction was
    /// in the way, `work` is done again from its beginning, a bounded number of times.
    pub(super) async fn run<'a, T>(
        &'a self,
        operation: &'static str,
        access: Access,
        work: impl for<'s> Fn(&'s mut Session<'a>) -> Work<'s, T> + Sync,
    ) -> Result<T, DatabaseError> {
        let begun = Instant::now();
        let mut tries = 1;
        let result = loop {
            let left = self.inner.settings.operation_timeout.saturating_sub(begun.elapsed());
            let attempt = tokio::time::timeout(left, self.attempt(access, &work)).await;
            match attempt.unwrap_or(Err(Fault::TimedOut)) {
                Err(fault) if fault.is_collision() && tries < TRIES => {
                    // Those who collided do not meet again at the same moment.
                    let pause = Duration::from_millis(5 * (1 << tries) + random() % 20);
                    tokio::time::sleep(pause.min(left)).await;
                    tries += 1;
                }
                result => break result.map_err(|fault| fault.of(operation)),
            }
        };
        self.inner.counters.operation(operation, begun.elapsed(), result.is_ok());
        result
    }

    async fn attempt<'a, T>(
        &'a self,
        access: Access,
        work: &(impl for<'s> Fn(&'s mut Session<'a>) -> Work<'s, T> + Sync),
    ) -> Result<T, Fault> {
        let inner = &*self.inner;
        // SQLite has one writer at a time and lets the others poll, the unlucky ones for long;
        // here they stand in a queue.
        let _turn = match (&inner.location, access) {
            (Location::Sqlite(_), access) if access != Access::Read => {
                Some(inner.writer.lock().await)
            }
            _ => None,
        };
        let mut session = Session::begin(inner, access).await?;
        match work(&mut session).await {
            Ok(value) => {
                session.end("COMMIT").await?;
                Ok(value)
            }
            Err(fault) => {
                // A connection that cannot even do this is closed.
                let _ = session.end("ROLLBACK").await;
                Err(fault)
            }
        }
    }
}

/// A number that nobody can foretell.
pub(super) fn random() -> u64 {
    uuid::Uuid::new_v4().as_u128() as u64
}
