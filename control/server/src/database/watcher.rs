//! Who is told of a new generation: everybody in this process, whichever replica made it.

use std::time::Duration;

use sqlx::AnyPool;
use sqlx::Row;
use sqlx::postgres::PgListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tracing::{debug, warn};

use super::location::Location;
use super::session::{random, statement};

/// How long to wait before listening again after the connection is lost; half of it at least.
const PAUSE: Duration = Duration::from_secs(2);

/// Tells a generation unless a later one has been told.
pub(super) fn publish(told: &watch::Sender<i64>, generation: i64) {
    told.send_if_modified(|latest| {
        let later = generation > *latest;
        *latest = generation.max(*latest);
        later
    });
}

/// Watches the database for generations that others make, until the task is aborted.
///
/// SQLite says in no way that another process has written (`data_version` of one connection is
/// changed by the others of our own pool too), so the generation is read every `interval`. So it
/// is with PostgreSQL, in case that a notification is lost with its connection.
pub(super) fn start(
    location: &Location,
    pool: &AnyPool,
    interval: Duration,
    told: &watch::Sender<i64>,
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

async fn poll(pool: &AnyPool, interval: Duration, told: &watch::Sender<i64>) {
    let mut ticks = tokio::time::interval(interval.max(Duration::from_millis(10)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        read(pool, told).await;
    }
}

async fn read(pool: &AnyPool, told: &watch::Sender<i64>) {
    let query = statement("SELECT last_updated FROM policies_info").fetch_one(pool);
    match query.await.and_then(|row| row.try_get(0)) {
        Ok(generation) => publish(told, generation),
        // Whoever asks for something is told the same; it is no news here.
        Err(error) => debug!("cannot read the generation of the policies: {error}"),
    }
}

async fn listen(url: &str, pool: &AnyPool, told: &watch::Sender<i64>) {
    loop {
        if let Err(error) = listen_once(url, pool, told).await {
            warn!("not told of changes by other replicas, and looking for them instead: {error}");
        }
        // A server that comes back is not asked by all replicas at the same moment.
        tokio::time::sleep(PAUSE / 2 + PAUSE.mul_f64((random() % 512) as f64 / 1024.)).await;
    }
}

/// Listens until the connection is lost.
async fn listen_once(
    url: &str,
    pool: &AnyPool,
    told: &watch::Sender<i64>,
) -> Result<(), sqlx::Error> {
    let mut listener = PgListener::connect(url).await?;
    listener.listen("sarcenet_policies").await?;
    // What was told before is lost.
    read(pool, told).await;
    while let Some(notification) = listener.try_recv().await? {
        match notification.payload().parse() {
            Ok(generation) => publish(told, generation),
            Err(_) => read(pool, told).await,
        }
    }
    Ok(())
}
