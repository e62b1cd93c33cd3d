//! From Cloud Controller to cells.

use std::time::Duration;

use sarcenet_server::cloud_controller::SecurityGroupSource;
use sarcenet_server::outbound::OutboundSettings;
use sarcenet_server::syncer::{Leader, SyncError, Synced, Syncer};
use serde_json::{Value, json};

use crate::platform::Mood;
use crate::world::{Backend, World, with_both};

with_both!(
    groups_are_stored_as_cells_read_them,
    only_what_has_changed_is_listed_again,
    all_pages_are_read_and_a_list_that_changes_is_read_again,
    one_replica_does_it,
    what_is_stored_stays_while_cloud_controller_is_not_well,
);

const HOLD: Duration = Duration::from_mins(1);

fn syncer(world: &World) -> Syncer {
    let url = format!("http://{}", world.platform.address);
    let source = SecurityGroupSource::new(&url, &OutboundSettings::default()).unwrap();
    let leader = Leader::new(world.database.clone());
    Syncer::new(leader, world.cloud_controller.clone(), source)
}

fn group(guid: &str, rules: &Value) -> Value {
    json!({
        "guid": guid,
        "name": format!("name of {guid}"),
        "globally_enabled": {"running": true, "staging": false},
        "rules": rules,
        "relationships": {
            "running_spaces": {"data": [{"guid": "S1"}, {"guid": "S2"}]},
            "staging_spaces": {"data": []},
        },
    })
}

async fn stored(world: &World) -> Vec<String> {
    let (groups, next) = world.database.security_groups(&[], 0, 0).await.unwrap();
    assert_eq!(next, 0);
    groups.into_iter().map(|group| group.guid).collect()
}

async fn groups_are_stored_as_cells_read_them(on: Backend) {
    let world = World::new(on).await;
    let rules = json!([
        {"protocol": "tcp", "destination": "10.0.0.0/8", "ports": "80,443", "log": true},
        {"protocol": "icmp", "destination": "0.0.0.0/0", "type": -1, "code": 0, "ports": null,
         "description": "all of \"it\""},
    ]);
    world.platform.known.lock().groups = vec![group("G", &rules)];
    assert_eq!(syncer(&world).sync(HOLD).await.unwrap(), Synced::Compared(true));
    let (groups, _) = world.database.security_groups(&[], 0, 0).await.unwrap();
    assert_eq!(
        groups[0].rules,
        concat!(
            r#"[{"protocol":"tcp","destination":"10.0.0.0/8","ports":"80,443","type":0,"code":0,"#,
            r#""description":"","log":true},"#,
            r#"{"protocol":"icmp","destination":"0.0.0.0/0","ports":"","type":-1,"code":0,"#,
            r#""description":"all of \"it\"","log":false}]"#
        )
    );
    assert_eq!((groups[0].running_default, groups[0].staging_default), (true, false));
    assert_eq!((groups[0].running_spaces.len(), groups[0].staging_spaces.len()), (2, 0));
}

async fn only_what_has_changed_is_listed_again(on: Backend) {
    let world = World::new(on).await;
    let mut syncer = syncer(&world);
    let set = |latest: Option<&str>, guids: &[&str]| {
        let mut known = world.platform.known.lock();
        known.groups = guids.iter().map(|guid| group(guid, &json!([]))).collect();
        known.groups_latest = latest.map(ToOwned::to_owned);
    };
    set(Some("2030-01-01T00:00:00Z"), &["one", "two"]);
    assert_eq!(syncer.sync(HOLD).await.unwrap(), Synced::Compared(true));
    assert_eq!(stored(&world).await, ["one", "two"]);
    set(Some("2030-01-01T00:00:00Z"), &["one"]);
    assert_eq!(syncer.sync(HOLD).await.unwrap(), Synced::Unchanged);
    set(Some("2030-01-01T00:00:01+00:00"), &["one"]);
    assert_eq!(syncer.sync(HOLD).await.unwrap(), Synced::Compared(true));
    assert_eq!(stored(&world).await, ["one"]);
    // Where the time of the last change is not known, everything is compared every time.
    set(None, &["one"]);
    assert_eq!(syncer.sync(HOLD).await.unwrap(), Synced::Compared(false));
    assert_eq!(syncer.sync(HOLD).await.unwrap(), Synced::Compared(false));
}

async fn all_pages_are_read_and_a_list_that_changes_is_read_again(on: Backend) {
    let world = World::new(on).await;
    {
        let mut known = world.platform.known.lock();
        known.groups = (0..7).map(|n| group(&format!("G{n}"), &json!([]))).collect();
        known.groups_on_page = 3;
        known.groups_latest = Some("2029-01-01T00:00:00Z".into());
        known.groups_restless = 2;
    }
    let mut syncer = syncer(&world);
    assert_eq!(syncer.sync(HOLD).await.unwrap(), Synced::Compared(true));
    assert_eq!(stored(&world).await.len(), 7);
    assert_eq!(world.platform.asked("GET /v3/security_groups"), 1 + 1 + 3);
    world.platform.known.lock().groups_latest = Some("2031-01-01T00:00:00Z".into());
    world.platform.known.lock().groups_restless = 30;
    world.platform.known.lock().groups.clear();
    assert!(matches!(syncer.sync(HOLD).await, Err(SyncError::Unstable)));
    assert_eq!(stored(&world).await.len(), 7, "as before");
}

async fn one_replica_does_it(on: Backend) {
    let world = World::new(on).await;
    world.platform.known.lock().groups = vec![group("G", &json!([]))];
    let (mut first, mut second) = (syncer(&world), syncer(&world));
    assert_eq!(first.sync(HOLD).await.unwrap(), Synced::Compared(true));
    assert_eq!(second.sync(HOLD).await.unwrap(), Synced::Elsewhere);
    assert_eq!(first.sync(Duration::ZERO).await.unwrap(), Synced::Compared(false));
    assert_eq!(second.sync(HOLD).await.unwrap(), Synced::Compared(false), "the first let go");
    assert_eq!(first.sync(HOLD).await.unwrap(), Synced::Elsewhere);
}

async fn what_is_stored_stays_while_cloud_controller_is_not_well(on: Backend) {
    let world = World::new(on).await;
    world.platform.known.lock().groups = vec![group("G", &json!([]))];
    let mut syncer = syncer(&world);
    syncer.sync(HOLD).await.unwrap();
    for mood in [Mood::Failing, Mood::Garbage] {
        world.platform.known.lock().cloud_controller = mood;
        let error = syncer.sync(HOLD).await.unwrap_err().to_string();
        assert!(error.starts_with("cannot bring security groups up to date: "), "{error}");
        assert_eq!(stored(&world).await, ["G"]);
    }
    world.platform.known.lock().cloud_controller = Mood::Well;
    world.platform.known.lock().groups_latest = Some("yesterday".into());
    let error = syncer.sync(HOLD).await.unwrap_err().to_string();
    assert!(error.contains("look up when security groups changed"), "{error}");
    world.platform.known.lock().groups_latest = None;
    assert_eq!(syncer.sync(HOLD).await.unwrap(), Synced::Compared(false));
}
