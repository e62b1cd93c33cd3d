//! Many at once, through two handles, as two replicas have them.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use sarcenet_server::database::Database;
use sarcenet_server::policy::{Policy, PolicyFilter};
use tokio::task::JoinSet;

use crate::world::{World, listed, policy, request, tags, with_both};

with_both!(
    two_hundred_and_fifty_cells_acquire_at_once,
    creating_and_deleting_the_same_policies_at_once_leaves_a_consistent_list,
    replicas_open_a_new_database_at_once,
    each_change_has_a_generation_of_its_own,
    an_operation_that_nobody_waits_for_is_undone,
);

async fn two_hundred_and_fifty_cells_acquire_at_once(world: World) {
    let replicas = [world.open().await, world.open().await];
    let cell = |number: u32| Ipv4Addr::from_bits(0x0a00_1000 + number);
    let mut cells = JoinSet::new();
    for number in 0..250 {
        let database = replicas[number as usize % 2].clone();
        let wanted = request(cell(number), "10.255.0.0/16");
        cells.spawn(async move { database.acquire_lease(&wanted).await });
    }
    let mut subnets = HashSet::new();
    while let Some(lease) = cells.join_next().await {
        let lease = lease.unwrap().unwrap().expect("there are 255");
        assert_ne!(lease.subnet, "10.255.0.0/24".parse().unwrap());
        assert!(subnets.insert(lease.subnet), "{} was given twice", lease.subnet);
    }
    for number in 250..255 {
        let wanted = request(cell(number), "10.255.0.0/16");
        let lease = replicas[0].acquire_lease(&wanted).await.unwrap().unwrap();
        assert!(subnets.insert(lease.subnet));
    }
    let late = request(cell(255), "10.255.0.0/16");
    assert_eq!(replicas[1].acquire_lease(&late).await.unwrap(), None);
}

/// The apps of one snapshot by their tags, none of which may be of two.
async fn owners(database: &Database) -> HashMap<u32, String> {
    let snapshot = database.snapshot(&PolicyFilter::All).await.unwrap();
    let mut owners: HashMap<u32, String> = HashMap::new();
    for tagged in snapshot.policies {
        for (tag, id) in [
            (tagged.source_tag, tagged.policy.source),
            (tagged.destination_tag, tagged.policy.destination),
        ] {
            let owner = owners.entry(tag.0).or_insert_with(|| id.clone());
            assert_eq!(*owner, id, "tag {} is of two apps", tag.0);
        }
    }
    owners
}

async fn creating_and_deleting_the_same_policies_at_once_leaves_a_consistent_list(world: World) {
    // Without quarantine, so that tags change hands.
    let open = || world.open_with(|settings| settings.tag_quarantine = Duration::ZERO);
    let replicas = [open().await, open().await];
    let mut tasks = JoinSet::new();
    for task in 0..32_usize {
        let database = replicas[task % 2].clone();
        tasks.spawn(async move {
            let policies: Vec<_> = (0..6)
                .map(|n| policy(&format!("a{}", (task + n) % 5), &format!("b{}", n % 3), 1))
                .collect();
            for round in 0..4 {
                if (task + round) % 2 == 0 {
                    database.create_policies(&policies).await.unwrap();
                } else {
                    database.delete_policies(&policies).await.unwrap();
                }
                owners(&database).await;
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }

    // Both see the same, each app in it has a tag, and no other app has.
    assert_eq!(listed(&replicas[0]).await, listed(&replicas[1]).await);
    let mut expected: Vec<_> = owners(&replicas[0]).await.into_iter().collect();
    expected.sort();
    let expected: Vec<_> = expected.iter().map(|(tag, id)| format!("{tag} {id} app")).collect();
    assert_eq!(tags(&replicas[1]).await, expected);

    // The log tells the same story from its beginning as the list does at its end.
    let changes = replicas[0].changes_since(crate::world::BEGIN).await.unwrap().unwrap();
    let mut replayed: HashMap<Policy, (u32, u32)> = HashMap::new();
    for change in changes.changes {
        let tags = (change.policy.source_tag.0, change.policy.destination_tag.0);
        let before = if change.added {
            replayed.insert(change.policy.policy.clone(), tags).is_none()
        } else {
            replayed.remove(&change.policy.policy) == Some(tags)
        };
        assert!(before, "out of order: {:?} {}", change.policy, change.added);
    }
    let policies = replicas[1].policies(&PolicyFilter::All).await.unwrap();
    assert_eq!(policies.len(), replayed.len());
    for tagged in policies {
        let tags = (tagged.source_tag.0, tagged.destination_tag.0);
        assert_eq!(replayed.get(&tagged.policy), Some(&tags));
    }
    assert_eq!(changes.generation, crate::world::BEGIN + 32 * 4);
}

async fn replicas_open_a_new_database_at_once(world: World) {
    let mut opening = JoinSet::new();
    for _ in 0..6 {
        let settings = world.settings();
        opening.spawn(async move { Database::open(&settings).await });
    }
    while let Some(database) = opening.join_next().await {
        database.unwrap().unwrap().check().await.unwrap();
    }
}

async fn each_change_has_a_generation_of_its_own(world: World) {
    let replicas = [world.open().await, world.open().await];
    let mut tasks = JoinSet::new();
    for task in 0..20_u32 {
        let database = replicas[task as usize % 2].clone();
        tasks.spawn(async move {
            database.create_policies(&[policy("a", "b", task + 1)]).await.unwrap();
        });
    }
    tasks.join_all().await;
    let changes = replicas[0].changes_since(crate::world::BEGIN).await.unwrap().unwrap();
    let generations: HashSet<_> = changes.changes.iter().map(|change| change.generation).collect();
    assert_eq!(generations.len(), 20);
    let in_order = changes.changes.iter().map(|change| change.generation);
    assert!(in_order.is_sorted());
}

async fn an_operation_that_nobody_waits_for_is_undone(world: World) {
    let database = world.open_with(|settings| settings.max_connections = 2).await;
    let many: Vec<_> = (1..3000).map(|port| policy("a", "b", port)).collect();
    // Dropped at any moment of it, more often than there are connections.
    for step in 0..30 {
        let creating = database.create_policies(&many);
        let patience = Duration::from_micros(step * 300);
        if tokio::time::timeout(patience, creating).await.is_ok() {
            database.delete_policies(&many).await.unwrap();
        }
        let left = database.policy_count().await.unwrap();
        assert!(left == 0 || left == many.len() as u64, "{left}");
        database.delete_policies(&many).await.unwrap();
    }
}
