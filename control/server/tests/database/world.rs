//! A database of a test, its clock, and what is put into it.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use sarcenet_server::database::{Clock, Database, DatabaseSettings};
use sarcenet_server::lease::{Lease, LeaseRequest, Pools};
use sarcenet_server::policy::{Policy, PolicyFilter, Protocol};
use tempfile::TempDir;

use sarcenet_test_postgres::SHARED;

/// When tests begin, in nanoseconds since the epoch.
pub(crate) const BEGIN: i64 = 1_700_000_000_000_000_000;

/// How long tests quarantine tags.
pub(crate) const QUARANTINE: Duration = Duration::from_mins(10);

/// After how long leases of tests are over.
pub(crate) const EXPIRY: Duration = Duration::from_hours(168);

/// A nanosecond less.
pub(crate) fn nearly(time: Duration) -> Duration {
    time.checked_sub(Duration::from_nanos(1)).unwrap()
}

/// An empty database, and the time in it.
pub(crate) struct World {
    pub(crate) url: String,
    clock: Arc<AtomicI64>,
    directory: Option<TempDir>,
}

impl World {
    pub(crate) fn at(url: String) -> Self {
        Self { url, clock: Arc::new(AtomicI64::new(BEGIN)), directory: None }
    }

    pub(crate) fn sqlite() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", directory.path().join("a b?.db").display());
        Self { directory: Some(directory), ..Self::at(url) }
    }

    pub(crate) fn postgres() -> Self {
        Self::at(SHARED.database())
    }

    /// The directory of the file of SQLite.
    pub(crate) fn directory(&self) -> &std::path::Path {
        self.directory.as_ref().unwrap().path()
    }

    pub(crate) fn settings(&self) -> DatabaseSettings {
        DatabaseSettings {
            max_connections: 8,
            start_timeout: Duration::from_mins(1),
            tag_quarantine: QUARANTINE,
            poll_interval: Duration::from_millis(50),
            clock: Clock::Manual(Arc::clone(&self.clock)),
            ..DatabaseSettings::new(&self.url)
        }
    }

    /// A replica's handle on the database.
    pub(crate) async fn open(&self) -> Database {
        Database::open(&self.settings()).await.unwrap()
    }

    /// One with settings of its own.
    pub(crate) async fn open_with(&self, change: impl FnOnce(&mut DatabaseSettings)) -> Database {
        let mut settings = self.settings();
        change(&mut settings);
        Database::open(&settings).await.unwrap()
    }

    /// Lets time pass.
    pub(crate) fn pass(&self, time: Duration) {
        self.clock.fetch_add(time.as_nanos() as i64, Ordering::SeqCst);
    }

    /// Sets the time, in nanoseconds since the epoch.
    pub(crate) fn set_clock(&self, time: i64) {
        self.clock.store(time, Ordering::SeqCst);
    }
}

/// Makes of each function two tests: with SQLite and with PostgreSQL.
macro_rules! with_both {
    ($($test:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::$test(crate::world::World::sqlite()).await;
            })+
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::$test(crate::world::World::postgres()).await;
            })+
        }
    };
}
pub(crate) use with_both;

/// A policy for one TCP port.
pub(crate) fn policy(source: &str, destination: &str, port: u32) -> Policy {
    Policy {
        source: source.into(),
        destination: destination.into(),
        protocol: Protocol::Tcp,
        first_port: port,
        last_port: port,
    }
}

/// All policies, as `source(tag) destination(tag) protocol first-last`.
pub(crate) async fn listed(database: &Database) -> Vec<String> {
    let policies = database.policies(&PolicyFilter::All).await.unwrap();
    let text = policies.iter().map(|tagged| {
        let policy = &tagged.policy;
        format!(
            "{}({}) {}({}) {} {}-{}",
            policy.source,
            tagged.source_tag.0,
            policy.destination,
            tagged.destination_tag.0,
            policy.protocol,
            policy.first_port,
            policy.last_port
        )
    });
    text.collect()
}

/// All tags, as `number id type`.
pub(crate) async fn tags(database: &Database) -> Vec<String> {
    let tags = database.tags().await.unwrap();
    tags.iter().map(|tag| format!("{} {} {}", tag.number.0, tag.id, tag.kind)).collect()
}

/// A lease from its texts: underlay, subnet.
pub(crate) fn lease(underlay: &str, subnet: &str) -> Lease {
    let subnet: ipnet::Ipv4Net = subnet.parse().unwrap();
    let [a, b, c, d] = subnet.network().octets();
    Lease { underlay: underlay.parse().unwrap(), subnet, mac: [0xee, 0xee, a, b, c, d] }
}

/// A cell's request from an overlay with blocks of 256 addresses.
pub(crate) fn request(underlay: Ipv4Addr, overlay: &str) -> LeaseRequest {
    let pools = Pools { overlay: overlay.parse().unwrap(), block_prefix: 24 };
    LeaseRequest { underlay, single: false, expiry: EXPIRY, pools }
}
