//! How cells follow changes.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::world::{Backend, Options, World, short, with_both};

with_both!(
    who_knows_nothing_gets_everything_at_once,
    a_change_arrives_while_it_is_waited_for,
    when_nothing_changes_the_answer_says_so,
    a_cell_hears_of_its_own_apps_only,
    generations_that_nobody_knows_get_everything,
    seats_are_limited_and_free_again_when_a_cell_goes_away,
    cells_that_wait_do_not_hold_the_server_up,
);

fn path(query: &str) -> String {
    format!("/networking/v1/internal/policies?{query}")
}

async fn watch(world: &World, query: &str) -> Value {
    let answer = world.cell("GET", &path(query), "").await;
    assert_eq!(answer.status, 200, "{query}: {}", answer.body);
    answer.json()
}

fn list(answer: &Value, field: &str) -> Vec<String> {
    answer[field].as_array().unwrap_or_else(|| panic!("{answer}")).iter().map(short).collect()
}

async fn now(world: &World) -> i64 {
    world.database.last_updated().await.unwrap()
}

async fn who_knows_nothing_gets_everything_at_once(on: Backend) {
    let world = World::new(on).await;
    world.create(&[("a", "b", 1, 1), ("b", "x", 2, 2)]).await;
    let generation = now(&world).await;
    for _ in 0..2 {
        let answer = watch(&world, "watch=0").await;
        assert_eq!(answer["generation"], generation);
        assert_eq!(list(&answer, "policies"), ["a b 1-1", "b x 2-2"]);
        assert_eq!(answer["policies"][0]["source"], json!({"id": "a", "tag": "0001"}));
        assert_eq!(answer.as_object().unwrap().len(), 2);
    }
    let answer = watch(&world, "watch=0&id=x,y").await;
    assert_eq!(list(&answer, "policies"), ["b x 2-2"]);
    world.create(&[("c", "d", 3, 3)]).await;
    let answer = watch(&world, "watch=0").await;
    assert_eq!(list(&answer, "policies").len(), 3);
    assert_eq!(answer["generation"], now(&world).await);
}

async fn a_change_arrives_while_it_is_waited_for(on: Backend) {
    let world = World::new(on).await;
    world.create(&[("a", "b", 1, 1)]).await;
    let generation = now(&world).await;
    let query = format!("watch={generation}&timeout=300");
    // Whichever comes first, the answer is the same.
    let (answer, ()) = tokio::join!(watch(&world, &query), world.create(&[("a", "x", 2, 2)]));
    assert_eq!(answer["since"], generation);
    assert_eq!(answer["generation"], now(&world).await);
    assert_eq!(
        (list(&answer, "added"), list(&answer, "removed")),
        (vec!["a x 2-2".into()], vec![])
    );

    let query = format!("watch={}&timeout=300", now(&world).await);
    let (answer, ()) = tokio::join!(watch(&world, &query), world.delete(&[("a", "b", 1, 1)]));
    assert_eq!(
        (list(&answer, "added"), list(&answer, "removed")),
        (vec![], vec!["a b 1-1".into()])
    );
    assert_eq!(answer["removed"][0]["destination"]["tag"], "0002");

    // What was missed meanwhile comes at once, and in one piece.
    let answer = watch(&world, &format!("watch={generation}&timeout=300")).await;
    assert_eq!(
        (list(&answer, "added"), list(&answer, "removed")),
        (vec!["a x 2-2".into()], vec!["a b 1-1".into()])
    );
}

async fn when_nothing_changes_the_answer_says_so(on: Backend) {
    let world = World::new(on).await;
    let generation = now(&world).await;
    let nothing =
        json!({"generation": generation, "since": generation, "added": [], "removed": []});
    for timeout in ["0", "1", "-5"] {
        let query = format!("watch={generation}&timeout={timeout}");
        assert_eq!(watch(&world, &query).await, nothing);
    }
    // Changes that cancel each other out are none.
    world.create(&[("a", "b", 1, 1)]).await;
    let between = now(&world).await;
    world.delete(&[("a", "b", 1, 1)]).await;
    let answer = watch(&world, &format!("watch={generation}&timeout=0")).await;
    assert_eq!((list(&answer, "added").len(), list(&answer, "removed").len()), (0, 0));
    assert_eq!(answer["generation"], now(&world).await);
    let answer = watch(&world, &format!("watch={between}&timeout=300")).await;
    assert_eq!(list(&answer, "removed"), ["a b 1-1"]);
}

async fn a_cell_hears_of_its_own_apps_only(on: Backend) {
    let world = World::new(on).await;
    let generation = now(&world).await;
    let query = format!("watch={generation}&timeout=300&id=x,y");
    let changes = async {
        world.create(&[("a", "b", 1, 1)]).await;
        world.create(&[("b", "a", 2, 2), ("a", "x", 3, 3)]).await;
    };
    let (answer, ()) = tokio::join!(watch(&world, &query), changes);
    assert_eq!(list(&answer, "added"), ["a x 3-3"]);
    let last = now(&world).await;
    world.create(&[("a", "b", 4, 4)]).await;
    let answer = watch(&world, &format!("watch={last}&timeout=0&id=x")).await;
    assert_eq!(list(&answer, "added").len(), 0);
    assert_eq!(answer["generation"], now(&world).await, "it need not hear of this again");
}

async fn generations_that_nobody_knows_get_everything(on: Backend) {
    let world = World::new(on).await;
    world.create(&[("a", "b", 1, 1)]).await;
    for generation in [1, -1, now(&world).await + 1, i64::MAX, i64::MIN] {
        let answer = watch(&world, &format!("watch={generation}&timeout=300")).await;
        assert_eq!(list(&answer, "policies"), ["a b 1-1"], "{generation}");
    }
    for query in ["watch=x", "watch=1.5", "watch=1&timeout=soon", "watch=99999999999999999999"] {
        let answer = world.cell("GET", &path(query), "").await;
        let name = if query.contains("soon") { "timeout" } else { "watch" };
        let told = format!(r#"{{"error": "invalid value for '{name}' parameter"}}"#);
        assert_eq!((answer.status, answer.body), (400, told), "{query}");
    }
}

fn one_seat() -> Options {
    let mut options = Options::default();
    options.internal.watchers = 1;
    options
}

/// Waits until all seats are taken.
async fn taken(world: &World, query: &str) {
    loop {
        let answer = world.cell("GET", &path(query), "").await;
        if answer.status == 503 {
            assert_eq!(answer.body, r#"{"error": "too many watchers"}"#);
            assert_eq!(answer.header("retry-after"), Some("5"));
            return;
        }
    }
}

async fn seats_are_limited_and_free_again_when_a_cell_goes_away(on: Backend) {
    let world = World::with(on, one_seat()).await;
    let generation = now(&world).await;
    let at_once = format!("watch={generation}&timeout=0");
    let mut cell = TcpStream::connect(world.internal).await.unwrap();
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: x\r\n\r\n",
        path(&format!("watch={generation}&timeout=300"))
    );
    cell.write_all(request.as_bytes()).await.unwrap();
    taken(&world, &at_once).await;
    let plain = world.cell("GET", "/networking/v1/internal/policies", "").await;
    assert_eq!(plain.status, 200, "others are not concerned");
    drop(cell);
    while world.cell("GET", &path(&at_once), "").await.status != 200 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn cells_that_wait_do_not_hold_the_server_up(on: Backend) {
    let world = World::with(on, one_seat()).await;
    let generation = now(&world).await;
    let waiting = format!("watch={generation}&timeout=300");
    let stop = async {
        taken(&world, &format!("watch={generation}&timeout=0")).await;
        world.stopper.stop();
    };
    let (answer, ()) = tokio::join!(watch(&world, &waiting), stop);
    assert_eq!(answer["generation"], generation);
    assert_eq!(list(&answer, "added").len(), 0);
    for server in world.servers {
        server.finished().await;
    }
}
