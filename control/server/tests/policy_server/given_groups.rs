//! Security groups that replicas are given, each its own.

use std::sync::Arc;
use std::time::Duration;

use sarcenet_server::database::Database;
use sarcenet_server::http::metrics::Metrics;
use sarcenet_server::policy::SecurityGroup;
use sarcenet_server::syncer::{Given, GivenSyncer, Leader, SyncMetrics, Synced};
use tokio::sync::watch;

use crate::world::{Backend, World, with_both};

with_both!(
    one_replica_brings_its_groups_and_the_others_stand_by,
    what_is_given_is_in_the_database_soon,
);

const HOLD: Duration = Duration::from_mins(10);

fn given(names: Option<&[&str]>) -> Given {
    let group = |name: &&str| SecurityGroup {
        row: 0,
        guid: (*name).into(),
        name: (*name).into(),
        rules: "[]".into(),
        staging_default: false,
        running_default: true,
        staging_spaces: Vec::new(),
        running_spaces: Vec::new(),
    };
    names.map(|names| Arc::new(names.iter().map(group).collect()))
}

async fn stored(database: &Database) -> Vec<String> {
    let (groups, _) = database.security_groups(&[], 0, 0).await.unwrap();
    groups.into_iter().map(|group| group.guid).collect()
}

/// A replica, which is given these.
struct Replica {
    leader: Leader,
    given: watch::Sender<Given>,
    syncer: GivenSyncer,
}

impl Replica {
    fn new(database: Database, first: Given) -> Self {
        let leader = Leader::new(database);
        let (given, groups) = watch::channel(first);
        Self { syncer: GivenSyncer::new(leader.clone(), groups), leader, given }
    }

    async fn sync(&mut self) -> Synced {
        self.syncer.sync(HOLD).await.unwrap()
    }
}

async fn one_replica_brings_its_groups_and_the_others_stand_by(on: Backend) {
    let world = World::new(on).await;
    let mut idle = Replica::new(world.replica().await, given(None));
    let mut first = Replica::new(world.database.clone(), given(Some(&["a", "b"])));
    let mut second = Replica::new(world.replica().await, given(Some(&["c"])));
    // Who has nothing to say does not keep those away who have.
    assert_eq!(idle.sync().await, Synced::Nothing);
    assert_eq!(first.sync().await, Synced::Compared(true));
    // Files that differ are no reason to undo each other's work.
    for _ in 0..3 {
        assert_eq!(second.sync().await, Synced::Elsewhere);
        assert_eq!(first.sync().await, Synced::Unchanged);
    }
    second.given.send_replace(given(Some(&["c", "d"])));
    assert_eq!(second.sync().await, Synced::Elsewhere);
    assert_eq!(stored(&world.database).await, ["a", "b"]);
    first.given.send_replace(given(Some(&["b"])));
    assert_eq!(first.sync().await, Synced::Compared(true));
    assert_eq!(stored(&world.database).await, ["b"]);
    // The same again is no change.
    first.given.send_replace(given(Some(&["b"])));
    assert_eq!(first.sync().await, Synced::Compared(false));
    // One that ends lets another one lead at once.
    first.leader.resign().await.unwrap();
    assert_eq!(second.sync().await, Synced::Compared(true));
    assert_eq!(stored(&world.database).await, ["c", "d"]);
    assert_eq!(first.sync().await, Synced::Elsewhere);
    // None at all are groups, too.
    second.given.send_replace(given(Some(&[])));
    assert_eq!(second.sync().await, Synced::Compared(true));
    assert_eq!(stored(&world.database).await, [""; 0]);
}

async fn what_is_given_is_in_the_database_soon(on: Backend) {
    let world = World::new(on).await;
    let Replica { given: give, mut syncer, .. } = Replica::new(world.database.clone(), given(None));
    let metrics = Metrics::default();
    let counted = SyncMetrics::new(&metrics);
    let until = async |wanted: &[&str]| {
        while stored(&world.database).await != wanted {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let changes = async {
        for names in [&["a"][..], &["a", "b"], &[], &["c"]] {
            give.send_replace(given(Some(names)));
            until(names).await;
        }
    };
    let run = async { syncer.run(&counted).await };
    let in_time = tokio::time::timeout(Duration::from_mins(1), async {
        tokio::select! {
            () = run => unreachable!("it runs until it is dropped"),
            () = changes => {}
        }
    });
    assert!(in_time.await.is_ok(), "never brought");
    let text = metrics.text().unwrap();
    assert!(text.contains("sarcenet_security_groups_synced_timestamp_seconds 1"), "{text}");
}
