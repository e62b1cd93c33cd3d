//! How cells hear of changes of security groups.

use std::net::SocketAddr;
use std::time::Duration;

use sarcenet_server::policy::SecurityGroup;
use serde_json::{Value, json};

use crate::replicas::Replica;
use crate::world::{Backend, Options, World, with_both};

with_both!(
    who_has_another_generation_is_told_at_once,
    a_change_is_told_while_it_is_waited_for,
    a_cell_sleeps_through_changes_of_other_spaces,
    when_nothing_changes_the_answer_says_so,
    what_changes_at_one_replica_is_told_at_the_other,
    seats_are_limited_and_nobody_holds_the_server_up,
    a_database_that_cannot_be_read_is_told,
);

fn group(guid: &str, spaces: &[&str]) -> SecurityGroup {
    SecurityGroup {
        row: 0,
        guid: guid.into(),
        name: guid.into(),
        rules: "[]".into(),
        staging_default: false,
        running_default: spaces.is_empty(),
        staging_spaces: Vec::new(),
        running_spaces: spaces.iter().map(ToString::to_string).collect(),
    }
}

fn path(query: &str) -> String {
    format!("/networking/v1/internal/security_groups_last_updated?{query}")
}

async fn watch_at(world: &World, at: SocketAddr, query: &str) -> Value {
    let answer = world.request(at, "GET", &path(query), &[], "").await;
    assert_eq!(answer.status, 200, "{query}: {}", answer.body);
    answer.json()
}

async fn watch(world: &World, query: &str) -> Value {
    watch_at(world, world.internal, query).await
}

async fn put(world: &World, groups: &[SecurityGroup]) {
    assert!(world.database.replace_security_groups(groups).await.unwrap());
}

async fn now(world: &World) -> i64 {
    world.database.security_groups_last_updated().await.unwrap()
}

fn changed(generation: i64) -> Value {
    json!({"generation": generation, "changed": true})
}

async fn who_has_another_generation_is_told_at_once(on: Backend) {
    let world = World::new(on).await;
    put(&world, &[group("a", &[])]).await;
    let generation = now(&world).await;
    for other in [0, 1, -1, generation - 1, generation + 1, i64::MAX, i64::MIN] {
        let query = format!("watch={other}&timeout=300&space_guids=s");
        assert_eq!(watch(&world, &query).await, changed(generation), "{other}");
    }
    // Without the question the answer is what it was.
    let plain = world.cell("GET", &path(""), "").await;
    assert_eq!((plain.status, plain.body), (200, generation.to_string()));
    for query in ["watch=x", "watch=1.5", "watch=1&timeout=soon"] {
        let answer = world.cell("GET", &path(query), "").await;
        let name = if query.contains("soon") { "timeout" } else { "watch" };
        let told = format!(r#"{{"error": "invalid value for '{name}' parameter"}}"#);
        assert_eq!((answer.status, answer.body), (400, told), "{query}");
    }
}

async fn a_change_is_told_while_it_is_waited_for(on: Backend) {
    let world = World::new(on).await;
    let steps = [
        vec![group("all", &[])],
        vec![group("all", &[]), group("of-s", &["s"])],
        vec![SecurityGroup { rules: "[{}]".into(), ..group("all", &[]) }, group("of-s", &["s"])],
        vec![group("of-s", &["s"])],
        vec![group("of-s", &["t"])],
        vec![],
    ];
    for (step, spaces) in steps.iter().zip(["", "s", "", "", "s", "t"]) {
        let generation = now(&world).await;
        let query = format!("watch={generation}&timeout=300&space_guids={spaces}");
        // Whichever comes first, the answer is the same.
        let (answer, ()) = tokio::join!(watch(&world, &query), put(&world, step));
        assert!(now(&world).await > generation);
        assert_eq!(answer, changed(now(&world).await), "{step:?}");
    }
}

async fn a_cell_sleeps_through_changes_of_other_spaces(on: Backend) {
    let world = World::new(on).await;
    let mine = group("of-s", &["s"]);
    let slept = async {
        put(&world, std::slice::from_ref(&mine)).await;
        for number in 0.. {
            let query = format!("watch={}&timeout=1&space_guids=s,x", now(&world).await);
            let other = group(&format!("other{number}"), &["t"]);
            let change = async {
                while waiting(&world) == 0 {
                    tokio::task::yield_now().await;
                }
                put(&world, &[mine.clone(), other]).await;
            };
            let (answer, ()) = tokio::join!(watch(&world, &query), change);
            // What the cell has is as good as that of a later generation. It is told something else
            // when the change came before the server had looked, or too late.
            if answer == json!({"generation": now(&world).await, "changed": false}) {
                return;
            }
        }
    };
    let slept = tokio::time::timeout(Duration::from_mins(1), slept).await;
    assert!(slept.is_ok(), "it is always woken");
}

/// How many wait.
fn waiting(world: &World) -> u64 {
    let text = world.metrics.text().unwrap();
    let find = |line: &str| line.strip_prefix("sarcenet_waiting_group_watchers ")?.parse().ok();
    text.lines().find_map(find).unwrap()
}

async fn when_nothing_changes_the_answer_says_so(on: Backend) {
    let world = World::new(on).await;
    put(&world, &[group("of-s", &["s"])]).await;
    let generation = now(&world).await;
    let nothing = json!({"generation": generation, "changed": false});
    for timeout in ["0", "1", "-5"] {
        let query = format!("watch={generation}&timeout={timeout}&space_guids=s");
        assert_eq!(watch(&world, &query).await, nothing);
    }
}

async fn what_changes_at_one_replica_is_told_at_the_other(on: Backend) {
    let world = World::new(on).await;
    let other = Replica::of(&world).await;
    let mut generation = now(&world).await;
    for guid in ["a", "b", "c"] {
        let query = format!("watch={generation}&timeout=300&space_guids=");
        let change = [group(guid, &[])];
        let (answer, ()) =
            tokio::join!(watch_at(&world, other.address, &query), put(&world, &change));
        generation = now(&world).await;
        assert_eq!(answer, changed(generation));
        // What one replica says is known at the other.
        let query = format!("watch={generation}&timeout=0&space_guids=");
        assert_eq!(watch(&world, &query).await["changed"], false);
        assert_eq!(watch_at(&world, other.address, &query).await["changed"], false);
    }
}

async fn seats_are_limited_and_nobody_holds_the_server_up(on: Backend) {
    let mut options = Options::default();
    options.internal.watchers = 1;
    let world = World::with(on, options).await;
    let generation = now(&world).await;
    let waits = format!("watch={generation}&timeout=300");
    let stop = async {
        while waiting(&world) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let answer = world.cell("GET", &path(&format!("watch={generation}&timeout=0")), "").await;
        assert_eq!((answer.status, &*answer.body), (503, r#"{"error": "too many watchers"}"#));
        assert_eq!(answer.header("retry-after"), Some("5"));
        // Those who wait for policies have seats of their own.
        let policies = "/networking/v1/internal/policies?watch=0";
        assert_eq!(world.cell("GET", policies, "").await.status, 200);
        world.stopper.stop();
    };
    let (answer, ()) = tokio::join!(watch(&world, &waits), stop);
    assert_eq!(answer, json!({"generation": generation, "changed": false}));
    for server in world.servers {
        server.finished().await;
    }
}

async fn a_database_that_cannot_be_read_is_told(on: Backend) {
    let world = World::new(on).await;
    world.break_database().await;
    let answer = world.cell("GET", &path("watch=0"), "").await;
    assert_eq!((answer.status, &*answer.body), (500, r#"{"error": "database read failed"}"#));
}
