//! What the policy server counts besides requests.

use std::time::Duration;

use sarcenet_server::policies::PolicyMetrics;

use crate::world::{Backend, World};

async fn counted(world: &World, line: &str) {
    while !world.metrics.text().unwrap().lines().any(|have| have == line) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn callers_who_are_refused_are_counted_by_reason() {
    let world = World::new(Backend::Sqlite).await;
    let tags = "/networking/v1/external/tags";
    for (token, status, reason) in [
        (None, 401, "missing"),
        (Some("Bearer nobody"), 401, "uaa"),
        (Some("Bearer dev"), 403, "scope"),
    ] {
        assert_eq!(world.ask("GET", tags, token, "").await.status, status);
        counted(&world, &format!("sarcenet_refused_callers_total{{reason=\"{reason}\"}} 1")).await;
    }
    assert_eq!(world.ask("GET", tags, Some("Bearer admin"), "").await.status, 200);
    let total = world.metrics.text().unwrap().matches("sarcenet_refused_callers_total{").count();
    assert_eq!(total, 3);
}

#[tokio::test]
async fn policies_and_those_who_wait_for_them() {
    let world = World::new(Backend::Sqlite).await;
    let metrics = PolicyMetrics::new(&world.metrics);
    world.create(&[("a", "b", 1, 1), ("a", "b", 2, 2)]).await;
    metrics.count(&world.database).await.unwrap();
    counted(&world, "sarcenet_policies 2").await;
    counted(&world, "sarcenet_waiting_watchers 0").await;
    let generation = world.database.last_updated().await.unwrap();
    let path = format!("/networking/v1/internal/policies?watch={generation}&timeout=300");
    let change = async {
        counted(&world, "sarcenet_waiting_watchers 1").await;
        world.create(&[("a", "x", 3, 3)]).await;
    };
    let (answer, ()) = tokio::join!(world.cell("GET", &path, ""), change);
    assert_eq!(answer.status, 200);
    counted(&world, "sarcenet_waiting_watchers 0").await;
}
