//! The database of the servers: policies and their tags, security groups, leases.
//!
//! SQLite in a file (nothing to install) or PostgreSQL (several replicas at once), by the URL.
//! All of it goes through sqlx's `Any`: one pool type, one row type and one text for each
//! statement. Two pools behind an enum would have every statement twice. What the price is: only
//! texts and 64-bit numbers as values (flags are 0 and 1, lists are JSON, see `rows`), and two
//! functions of SQLite that PostgreSQL is taught when its schema is made.
//!
//! Every operation is one transaction. Writers of one kind are in a queue over all replicas;
//! readers see one moment and wait for nobody. Time is the database's.

mod adoption;
mod changes;
mod error;
mod leadership;
mod leases;
mod location;
mod metrics;
mod migrations;
mod policies;
mod rows;
mod security_groups;
mod session;
mod statistics;
mod tags;
mod watcher;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::{Duration, Instant};

use sqlx::AnyPool;
use sqlx::any::AnyPoolOptions;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;
use tracing::{info, warn};

pub use changes::{PolicyChange, PolicyChanges, PolicySnapshot};
pub use error::DatabaseError;
pub use leases::LeaseCounts;
pub use location::{PostgresServer, PostgresTls};
pub use security_groups::SecurityGroupSnapshot;
pub use statistics::{DatabaseStatistics, OperationStatistics};

use error::{Fault, Meaning};
use location::Location;
use session::{Access, statement, work};
use statistics::Counters;
use watcher::{LATEST, Told, Topic};

/// How long to wait for a connection; who asks over HTTP has given up after that.
const CONNECTING: Duration = Duration::from_secs(5);

/// Where the database is and how it is used.
#[derive(Debug, Clone)]
pub struct DatabaseSettings {
    /// `sqlite:PATH`, or `postgres://USER:PASSWORD@HOST:PORT/NAME`, where
    /// `?sslmode=verify-full&sslrootcert=FILE` asks for TLS with a verified server.
    pub url: String,
    /// Most connections at a time.
    pub max_connections: u32,
    /// How long an operation may take, its waits included.
    pub operation_timeout: Duration,
    /// How long to wait at the start for a database that is not there yet.
    pub start_timeout: Duration,
    /// How many bits a tag has, 1 to 24 (contract section 3.2); VXLAN-GBP has room for 16.
    pub tag_bits: u8,
    /// How long a released tag is given to nobody else: longer than cells take to forget it.
    pub tag_quarantine: Duration,
    /// How many changes of policies are kept for those who ask what is new.
    pub change_log: u32,
    /// How often to look for new generations where nobody tells of it: other processes on a
    /// SQLite file, or PostgreSQL while notifications are lost.
    pub poll_interval: Duration,
    /// Whose time counts.
    pub clock: Clock,
}

impl DatabaseSettings {
    /// The usual ones for the database at `url`.
    pub fn new(url: impl Into<String>) -> Self {
        let url = url.into();
        // The file of SQLite has one machine's processes at it, and reading it costs next to
        // nothing. A poll of PostgreSQL makes up for a notification that was lost.
        let poll_interval = Duration::from_secs(if url.starts_with("sqlite:") { 1 } else { 5 });
        Self {
            url,
            max_connections: 20,
            operation_timeout: Duration::from_secs(30),
            start_timeout: Duration::from_mins(10),
            tag_bits: 16,
            tag_quarantine: Duration::from_mins(10),
            change_log: 10_000,
            poll_interval,
            clock: Clock::Database,
        }
    }

    /// Whether they can be right, as far as can be told without the database.
    pub fn check(&self) -> Result<(), DatabaseError> {
        self.location().map(drop)
    }

    fn location(&self) -> Result<Location, DatabaseError> {
        let location = Location::parse(&self.url)?;
        if !(1..=24).contains(&self.tag_bits) {
            let reason = format!("a tag has 1 to 24 bits, not {}", self.tag_bits);
            return Err(DatabaseError::Settings { place: location.name(), reason });
        }
        Ok(location)
    }
}

/// Whose time counts.
#[derive(Debug, Clone)]
pub enum Clock {
    /// The database's, which all replicas share.
    Database,
    /// This one, in nanoseconds since the epoch: for tests.
    Manual(Arc<AtomicI64>),
}

/// The database. Clones share one pool of connections.
#[derive(Clone)]
pub struct Database {
    inner: Arc<Inner>,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Database").field(&self.inner.location.name()).finish()
    }
}

struct Inner {
    location: Location,
    settings: DatabaseSettings,
    pool: AnyPool,
    /// Whose turn it is to write, where the database has no queue of its own.
    writer: Mutex<()>,
    counters: Arc<Counters>,
    told: Told,
    watcher: JoinHandle<()>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

impl Database {
    /// Opens the database, waits for it up to `start_timeout` if it is not there yet, and brings
    /// its tables up to date. Replicas may do this at the same time.
    ///
    /// Refused are: a URL that names none, wrong credentials, a database of a newer release, a
    /// damaged file, and one of another program.
    pub async fn open(settings: &DatabaseSettings) -> Result<Self, DatabaseError> {
        sqlx::any::install_default_drivers();
        let location = settings.location()?;
        location.prepare()?;
        migrate(&location, settings).await?;

        let (for_each, limit) = (location.clone(), settings.operation_timeout);
        let pool = AnyPoolOptions::new()
            .max_connections(settings.max_connections.max(1))
            .acquire_timeout(settings.operation_timeout.min(CONNECTING))
            .after_connect(move |connection, _| {
                let location = for_each.clone();
                Box::pin(async move { location.set_up(connection, limit).await })
            })
            .connect_lazy_with(location.options()?);
        let told = Told::default();
        let counters = Arc::new(Counters::default());
        let watcher = watcher::start(&location, &pool, settings.poll_interval, &told);
        let inner = Inner {
            location,
            settings: settings.clone(),
            pool,
            writer: Mutex::new(()),
            counters,
            told,
            watcher,
        };
        let database = Self { inner: Arc::new(inner) };
        database.fit_tags().await?;
        database.read_generations().await?;
        Ok(database)
    }

    /// Whether the database answers (contract section 2.5).
    pub async fn check(&self) -> Result<(), DatabaseError> {
        self.run("check database", Access::Read, move |session| {
            work(async move {
                session.number(statement("SELECT last_updated FROM policies_info")).await?;
                Ok(())
            })
        })
        .await
    }

    /// Ends all connections once they are idle, for a stop that leaves nothing behind. Operations
    /// fail from now on.
    pub async fn close(&self) {
        self.inner.watcher.abort();
        self.inner.pool.close().await;
    }

    /// What the database has cost since it was opened.
    pub fn statistics(&self) -> DatabaseStatistics {
        self.inner.counters.read(self.inner.pool.size())
    }

    /// The latest generation of the policies that is known here, whoever made it; see
    /// [`last_updated`](Self::last_updated). The receiver ends with the last clone of this.
    pub fn changes(&self) -> watch::Receiver<i64> {
        self.inner.told.of(Topic::Policies).subscribe()
    }

    /// The same of the security groups; see
    /// [`security_groups_last_updated`](Self::security_groups_last_updated).
    pub fn security_group_changes(&self) -> watch::Receiver<i64> {
        self.inner.told.of(Topic::SecurityGroups).subscribe()
    }

    async fn read_generations(&self) -> Result<(), DatabaseError> {
        let told = &self.inner.told;
        self.run("read generations", Access::Read, move |session| {
            work(async move { Ok(told.publish_all(&session.row(statement(LATEST)).await?)?) })
        })
        .await
    }

    fn publish(&self, topic: Topic, generation: i64) {
        self.inner.told.publish(topic, generation);
    }
}

/// Connects once and migrates, again and again while the database is not there.
async fn migrate(location: &Location, settings: &DatabaseSettings) -> Result<(), DatabaseError> {
    const OPERATION: &str = "open database";
    let begun = Instant::now();
    let mut told = false;
    loop {
        let left = settings.start_timeout.saturating_sub(begun.elapsed());
        let attempt = async {
            let mut connection = location.connect(settings.operation_timeout).await?;
            migrations::run(location, &mut connection, &settings.clock).await
        };
        // Somebody else's migration may take its time.
        let limit = left.max(settings.operation_timeout);
        let fault = match tokio::time::timeout(limit, attempt).await {
            Ok(Ok(version)) => {
                info!(place = location.name(), version, "the database is open");
                return Ok(());
            }
            Ok(Err(fault)) => fault,
            Err(_) => Fault::TimedOut,
        };
        let may_pass = match &fault {
            Fault::Sql(error) => matches!(
                (location, error::meaning(error)),
                (_, Meaning::Collision) | (Location::Postgres(_), Meaning::Unavailable)
            ),
            Fault::TimedOut => true,
            Fault::Refused(_) | Fault::Stored(_) => false,
        };
        if !may_pass || begun.elapsed() >= settings.start_timeout {
            return Err(fault.of(OPERATION));
        }
        if !std::mem::replace(&mut told, true) {
            warn!(place = location.name(), "waiting for the database: {}", fault.of(OPERATION));
        }
        let pause = Duration::from_millis(500 + session::random() % 500);
        tokio::time::sleep(pause.min(left)).await;
    }
}
