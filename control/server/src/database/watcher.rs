//! Who is told of a new generation: everybody in this process, whichever replica made it.

use std::time::Duration;

use sqlx::AnyPool;
use sqlx::Row;
use sqlx::any::AnyRow;
use sqlx::postgres::PgListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tracing::{debug, warn};

use super::location::Location;
use super::session::{random, statement};

/// How long to wait before listening again after the connection is lost; half of it at least.
const PAUSE: Duration = Duration::from_secs(2);

/// What has generations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Topic {
    /// Policies and tags.
    Policies,
    /// Security groups.
    SecurityGroups,
}

impl Topic {
    const ALL: [Self; 2] = [Self::Policies, Self::SecurityGroups];

    /// The channel of PostgreSQL on which replicas tell each other.
    pub(super) fn channel(self) -> &'static str {
        match self {
            Self::Policies => "sarcenet_policies",
            Self::SecurityGroups => "sarcenet_security_groups",
        }
    }
}

/// The latest generations that are known here, and those who are told of later ones. Clones are the
/// same.
#[derive(Debug, Clone, Default)]
pub(super) struct Told {
    policies: watch::Sender<i64>,
    security_groups: watch::Sender<i64>,
}

impl Told {
    /// Tells the generations of this.
    pub(super) fn of(&self, topic: Topic) -> &watch::Sender<i64> {
        match topic {
            Topic::Policies => &self.policies,
            Topic::SecurityGroups => &self.security_groups,
        }
    }

    /// Tells a generation unless a later one has been told.
    pub(super) fn publish(&self, topic: Topic, generation: i64) {
        self.of(topic).send_if_modified(|latest| {
            let later = generation > *latest;
            *latest = generation.max(*latest);
            later
        });
    }

    /// Tells those of a row of [`LATEST`].
    pub(super) fn publish_all(&self, row: &AnyRow) -> Result<(), sqlx::Error> {
        for (column, topic) in Topic::ALL.into_iter().enumerate() {
            self.publish(topic, row.try_get(column)?);
        }
        Ok(())
    }
}

/// The latest generations of all topics, in their order.
pub(super) const LATEST: &str = "SELECT policies_info.last_updated, \
    security_groups_info.last_updated FROM policies_info CROSS JOIN security_groups_info";

/// Watches the database for generations that others make, until the task is aborted.
///
/// SQLite says in no way that another process has written (`data_version` of one connection is
/// changed by the others of our own pool too), so the generation is read every `interval`. So it
/// is with PostgreSQL, in case that a notification is lost with its connection.
pub(super) fn start(
    location: &Location,
    pool: &AnyPool,
    interval: Duration,
    told: &Told,
) -> JoinHandle<()> {
    let (pool, told, location) = (pool.clone(), told.clone(), location.clone());
    tokio::spawn(async move {
        match location {
            Location::Sqlite(_) => poll(&pool, interval, &told).await,
            Location::Postgres(url) => {
                tokio::join!(poll(&pool, interval, &told), listen(&url, &pool, &told));
            }
        }
    })
}

async fn poll(pool: &AnyPool, interval: Duration, told: &Told) {
    let mut ticks = tokio::time::interval(interval.max(Duration::from_millis(10)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        read(pool, told).await;
    }
}

async fn read(pool: &AnyPool, told: &Told) {
    let row = statement(LATEST).fetch_one(pool).await;
    match row.and_then(|row| told.publish_all(&row)) {
        Ok(()) => {}
        // Whoever asks for something is told the same; it is no news here.
        Err(error) => debug!("cannot read the generations: {error}"),
    }
}

async fn listen(url: &str, pool: &AnyPool, told: &Told) {
    loop {
        if let Err(error) = listen_once(url, pool, told).await {
            warn!("not told of changes by other replicas, and looking for them instead: {error}");
        }
        // A server that comes back is not asked by all replicas at the same moment.
        tokio::time::sleep(PAUSE / 2 + PAUSE.mul_f64((random() % 512) as f64 / 1024.)).await;
    }
}

/// Listens until the connection is lost.
async fn listen_once(url: &str, pool: &AnyPool, told: &Told) -> Result<(), sqlx::Error> {
    let mut listener = PgListener::connect(url).await?;
    listener.listen_all(Topic::ALL.map(Topic::channel)).await?;
    // What was told before is lost.
    read(pool, told).await;
    while let Some(notification) = listener.try_recv().await? {
        let topic = Topic::ALL.into_iter().find(|topic| topic.channel() == notification.channel());
        match (topic, notification.payload().parse()) {
            (Some(topic), Ok(generation)) => told.publish(topic, generation),
            _ => read(pool, told).await,
        }
    }
    Ok(())
}
