//! A database of a test, on either backend, and subnet controllers over it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use sarcenet_server::database::{Clock, Database, DatabaseSettings};
use sarcenet_server::http::Limits;
use sarcenet_server::leases::{self, Settings};
use sarcenet_test_postgres::SHARED;
use sqlx::{AnyConnection, Connection};
use tempfile::TempDir;

use crate::world::Running;

/// An empty database, and its time.
pub(crate) struct Store {
    url: String,
    clock: Arc<AtomicI64>,
    pub(crate) database: Database,
    _directory: Option<TempDir>,
}

impl Store {
    pub(crate) async fn sqlite() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", directory.path().join("leases.db").display());
        Self::at(url, Some(directory)).await
    }

    pub(crate) async fn postgres() -> Self {
        Self::at(SHARED.database(), None).await
    }

    async fn at(url: String, directory: Option<TempDir>) -> Self {
        let clock = Arc::new(AtomicI64::new(1_800_000_000_000_000_000));
        let database = open(&url, &clock).await;
        Self { url, clock, database, _directory: directory }
    }

    /// Another replica's handle on the database.
    pub(crate) async fn replica(&self) -> Database {
        open(&self.url, &self.clock).await
    }

    /// Lets time pass.
    pub(crate) fn pass(&self, time: Duration) {
        self.clock.fetch_add(time.as_nanos() as i64, Ordering::SeqCst);
    }

    /// Changes its tables behind its back.
    pub(crate) async fn change(&self, statement: &'static str) {
        let mut connection =
            AnyConnection::connect(&self.url.replace("sqlite:", "sqlite://")).await.unwrap();
        if self.url.starts_with("postgres") {
            sqlx::raw_sql("SET search_path TO sarcenet").execute(&mut connection).await.unwrap();
        }
        sqlx::raw_sql(statement).execute(&mut connection).await.unwrap();
    }
}

async fn open(url: &str, clock: &Arc<AtomicI64>) -> Database {
    let clock = Clock::Manual(Arc::clone(clock));
    Database::open(&DatabaseSettings { clock, ..DatabaseSettings::new(url) }).await.unwrap()
}

/// A controller over a replica's handle.
pub(crate) async fn controller(database: &Database, settings: Settings) -> Running {
    Running::mutual(leases::routes(database.clone(), settings), Limits::default()).await
}

/// Makes of each function two tests: with SQLite and with PostgreSQL.
macro_rules! with_both {
    ($($test:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::$test(crate::store::Store::sqlite().await).await;
            })+
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::$test(crate::store::Store::postgres().await).await;
            })+
        }
    };
}
pub(crate) use with_both;
