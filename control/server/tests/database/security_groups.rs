//! Security groups: contract sections 1.10, 2.4 and 16.1.

use sarcenet_server::database::{Database, DatabaseError};
use sarcenet_server::policy::SecurityGroup;

use crate::world::{BEGIN, World, with_both};

with_both!(
    groups_are_replaced_by_guid_and_keep_their_rows,
    groups_are_found_by_space_and_page,
    what_stays_the_same_is_not_news,
);

pub(crate) fn group(guid: &str, staging: &[&str], running: &[&str]) -> SecurityGroup {
    let owned = |spaces: &[&str]| spaces.iter().map(|space| (*space).to_owned()).collect();
    SecurityGroup {
        row: 0,
        guid: guid.into(),
        name: format!("name of {guid}"),
        rules: r#"[{"protocol":"all","destination":"0.0.0.0-9.255.255.255"}]"#.into(),
        staging_default: false,
        running_default: false,
        staging_spaces: owned(staging),
        running_spaces: owned(running),
    }
}

/// All groups that hold for `spaces`.
async fn found(database: &Database, spaces: &[&str]) -> Vec<SecurityGroup> {
    let spaces: Vec<_> = spaces.iter().map(|space| (*space).to_owned()).collect();
    let (groups, next) = database.security_groups(&spaces, 0, 0).await.unwrap();
    assert_eq!(next, 0);
    groups
}

async fn groups_are_replaced_by_guid_and_keep_their_rows(world: World) {
    let database = world.open().await;
    let mut one = group("one", &["s2", "s1", "s2"], &[]);
    let two = group("two", &[], &["s1"]);
    let three = SecurityGroup { running_default: true, ..group("three", &[], &[]) };
    let first = [one.clone(), two.clone(), three.clone()];
    assert!(database.replace_security_groups(&first).await.unwrap());
    let at = |row, group: &SecurityGroup| SecurityGroup { row, ..group.clone() };
    assert_eq!(found(&database, &["s1"]).await, [at(1, &one), at(2, &two), at(3, &three)]);

    one.rules = "[]".into();
    one.staging_spaces = vec!["s3".into()];
    one.staging_default = true;
    let four = group("four", &["s1"], &["s1"]);
    // The later one of two with the same GUID counts.
    let second = [group("four", &[], &[]), four.clone(), three.clone(), one.clone()];
    assert!(database.replace_security_groups(&second).await.unwrap());
    assert_eq!(found(&database, &["s1"]).await, [at(1, &one), at(3, &three), at(4, &four)]);
    assert_eq!(found(&database, &[]).await, [at(1, &one), at(3, &three)]);

    assert!(database.replace_security_groups(&[]).await.unwrap());
    assert_eq!(found(&database, &["s1", "s2", "s3"]).await, []);
    let nul = SecurityGroup { name: "\0".into(), ..two };
    let refused = database.replace_security_groups(&[nul]).await.unwrap_err();
    assert!(matches!(refused, DatabaseError::Text { .. }), "{refused}");
}

async fn groups_are_found_by_space_and_page(world: World) {
    let database = world.open().await;
    let mut groups: Vec<_> = (1..=6).map(|n| group(&format!("g{n}"), &[], &[])).collect();
    groups[0].running_spaces = vec!["a".into(), "b".into()];
    groups[1].staging_spaces = vec!["b".into()];
    groups[3].staging_default = true;
    groups[4].running_default = true;
    groups[5].running_spaces = vec!["a".into()];
    database.replace_security_groups(&groups).await.unwrap();
    for (spaces, from, limit, rows, next) in [
        (&["a", "b"][..], 0, 0, &[1, 2, 4, 5, 6][..], 0),
        (&["a"], 0, 0, &[1, 4, 5, 6], 0),
        (&["b", "b", "nowhere"], 0, 0, &[1, 2, 4, 5], 0),
        (&[], 0, 0, &[4, 5], 0),
        (&["a"], 0, 2, &[1, 4], 5),
        (&["a"], 5, 2, &[5, 6], 0),
        (&["a"], 2, 1, &[4], 5),
        (&["a"], 7, 1, &[], 0),
        (&["a"], -3, -1, &[1, 4, 5, 6], 0),
        (&["a"], i64::MIN, i64::MAX, &[1, 4, 5, 6], 0),
        (&["a"], i64::MAX, i64::MIN, &[], 0),
    ] {
        let asked: Vec<_> = spaces.iter().map(|space| (*space).to_owned()).collect();
        let (found, following) = database.security_groups(&asked, from, limit).await.unwrap();
        let found: Vec<_> = found.iter().map(|group| group.row).collect();
        assert_eq!((&*found, following), (rows, next), "{spaces:?} {from} {limit}");
    }
}

async fn what_stays_the_same_is_not_news(world: World) {
    let database = world.open().await;
    let updated = async || database.security_groups_last_updated().await.unwrap();
    assert_eq!(updated().await, BEGIN);
    let groups = [group("one", &["s"], &[]), group("two", &[], &["s"])];
    assert!(database.replace_security_groups(&groups).await.unwrap());
    assert_eq!(updated().await, BEGIN + 1);
    assert!(!database.replace_security_groups(&groups).await.unwrap());
    let [one, two] = groups;
    assert!(!database.replace_security_groups(&[two.clone(), one]).await.unwrap());
    assert_eq!(updated().await, BEGIN + 1);
    world.pass(std::time::Duration::from_secs(3));
    assert!(database.replace_security_groups(&[two]).await.unwrap());
    assert_eq!(updated().await, BEGIN + 3_000_000_000);
}
