//! Several policy servers over one database, and a database that goes away and comes back.

use std::net::SocketAddr;
use std::time::Duration;

use sarcenet_server::http::{Server, Stopper, stop};
use sarcenet_server::policies::{Internal, InternalSettings, internal_router};
use sarcenet_test_postgres::Postgres;
use serde_json::Value;

use crate::world::{Answer, Backend, Options, World, serve, short, v1, with_both};

with_both!(what_changes_at_one_is_told_to_watchers_of_the_other);

const POLICIES: &str = "/networking/v1/external/policies";

/// A replica of the internal API.
pub(crate) struct Replica {
    pub(crate) address: SocketAddr,
    _server: Server,
    _stopper: Stopper,
}

impl Replica {
    pub(crate) async fn of(world: &World) -> Self {
        let database = world.replica().await;
        let (stopper, stop) = stop();
        let internal = Internal::new(&InternalSettings::default(), &database, stop.clone());
        let server = serve(internal_router(&internal), stop).await;
        Self { address: server.address(), _server: server, _stopper: stopper }
    }
}

async fn watch(world: &World, at: SocketAddr, generation: i64) -> Value {
    let answer = ask(world, at, generation).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()
}

async fn ask(world: &World, at: SocketAddr, generation: i64) -> Answer {
    let path = format!("/networking/v1/internal/policies?watch={generation}&timeout=300");
    world.request(at, "GET", &path, &[], "").await
}

/// As an agent does it: who is told of an error asks again.
async fn watch_on(world: &World, at: SocketAddr, generation: i64) -> Value {
    loop {
        let answer = ask(world, at, generation).await;
        if answer.status == 200 {
            return answer.json();
        }
        assert_eq!((answer.status, &*answer.body), (500, r#"{"error": "database read failed"}"#));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn added(answer: &Value) -> Vec<String> {
    answer["added"].as_array().unwrap_or_else(|| panic!("{answer}")).iter().map(short).collect()
}

async fn what_changes_at_one_is_told_to_watchers_of_the_other(on: Backend) {
    let world = World::new(on).await;
    let other = Replica::of(&world).await;
    let mut generation = world.database.last_updated().await.unwrap();
    for port in 1..=5 {
        let change = [("a", "b", port, port)];
        let (answer, ()) =
            tokio::join!(watch(&world, other.address, generation), world.create(&change));
        assert_eq!(added(&answer), [format!("a b {port}-{port}")]);
        generation = answer["generation"].as_i64().unwrap();
        // The same generation is known here.
        assert_eq!(generation, world.database.last_updated().await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_go_on_when_the_database_is_back() {
    const ADMIN: Option<&str> = Some("Bearer admin");
    let postgres = tokio::task::spawn_blocking(Postgres::start).await.unwrap();
    let world = World::over(postgres.database(), Options::default()).await;
    world.create(&[("a", "b", 1, 1)]).await;
    let generation = world.database.last_updated().await.unwrap();
    let watching = watch_on(&world, world.internal, generation);
    let change = async {
        // The watcher may be waiting already or come in the middle of it.
        postgres.kill();
        let failed = world.ask("POST", POLICIES, ADMIN, v1(&[("a", "b", 2, 2)])).await;
        let told = r#"{"error": "database create failed"}"#;
        assert_eq!((failed.status, failed.body.as_str()), (500, told));
        let health = world.ask("GET", "/health", None, "").await;
        assert_eq!((health.status, &*health.body), (500, r#"{"error": "check database failed"}"#));
        postgres.restart();
        while world.ask("GET", "/health", None, "").await.status != 200 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        world.create(&[("a", "x", 3, 3)]).await;
    };
    let (answer, ()) = tokio::join!(watching, change);
    assert_eq!(added(&answer), ["a x 3-3"]);
    assert_eq!(world.listed().await, ["a b 1-1", "a x 3-3"]);
}
