//! All cells of a deployment at once, at two replicas of the subnet controller (contract sections
//! 4.2 to 4.4).

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use sarcenet_server::lease::Pools;
use sarcenet_server::leases::Settings;
use serde_json::{Value, json};

use crate::store::{Store, controller, with_both};
use crate::world::Running;

const EXPIRY: Duration = Duration::from_hours(168);

/// How many cells come at once.
const CELLS: u32 = 250;

with_both!(
    all_cells_have_a_subnet_of_their_own,
    a_lost_database_is_filled_up_by_renewals,
    a_lease_from_elsewhere_is_taken_over_and_never_leased_again,
);

fn settings() -> Settings {
    let pools = Pools::new("10.255.0.0/16".parse().unwrap(), 24).unwrap();
    Settings { pools, expiry: EXPIRY }
}

/// Two replicas.
async fn replicas(store: &Store) -> [Running; 2] {
    let other = store.replica().await;
    [controller(&store.database, settings()).await, controller(&other, settings()).await]
}

/// The underlay address of a cell.
fn cell(number: u32) -> String {
    format!("10.0.{}.{}", number / 200, number % 200 + 1)
}

async fn acquire(controller: &Running, number: u32) -> (u16, Value) {
    let body = json!({"underlay_ip": cell(number), "single_overlay_ip": false}).to_string();
    let answer = controller.ask("PUT", "/leases/acquire", &body).await;
    (answer.status, serde_json::from_str(&answer.body).unwrap())
}

async fn acquired(replicas: &[Running; 2]) -> Vec<Value> {
    let asked = (0..CELLS).map(|number| acquire(&replicas[number as usize % 2], number));
    let answers = join_all(asked).await.into_iter();
    answers.inspect(|(status, lease)| assert_eq!(*status, 200, "{lease}")).map(|it| it.1).collect()
}

fn subnets(leases: &[Value]) -> BTreeSet<&str> {
    leases.iter().map(|lease| lease["overlay_subnet"].as_str().unwrap()).collect()
}

async fn listed(controller: &Running) -> Vec<Value> {
    let answer = controller.ask("GET", "/leases", "").await;
    let mut body: Value = serde_json::from_str(&answer.body).unwrap();
    let Value::Array(mut leases) = body["leases"].take() else { panic!("{}", answer.body) };
    leases.sort_by_key(Value::to_string);
    leases
}

async fn all_cells_have_a_subnet_of_their_own(store: Store) {
    let replicas = replicas(&store).await;
    let mut leases = acquired(&replicas).await;
    let distinct = subnets(&leases);
    assert_eq!(distinct.len(), CELLS as usize);
    assert!(!distinct.contains("10.255.0.0/24"), "the first block is for single addresses");
    let blocks: BTreeSet<String> = (1..=255).map(|block| format!("10.255.{block}.0/24")).collect();
    assert!(distinct.iter().all(|subnet| blocks.contains(*subnet)));
    leases.sort_by_key(Value::to_string);
    for replica in &replicas {
        assert_eq!(listed(replica).await, leases);
    }

    let rest = join_all((CELLS..255).map(|number| acquire(&replicas[1], number))).await;
    assert!(rest.iter().all(|(status, _)| *status == 200), "{rest:?}");
    let (status, told) = acquire(&replicas[0], 255).await;
    assert_eq!((status, told), (409, json!({"error": "no lease available"})));

    // All leases but one are renewed; when that one is over, its subnet is for somebody else.
    let over = leases.pop().unwrap();
    store.pass(EXPIRY / 2);
    let rest = rest.into_iter().map(|(_, lease)| lease);
    for lease in leases.into_iter().chain(rest) {
        let answer = replicas[0].ask("PUT", "/leases/renew", &lease.to_string()).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "{}"));
    }
    store.pass(EXPIRY / 2);
    let (status, lease) = acquire(&replicas[1], 255).await;
    assert_eq!((status, &lease["overlay_subnet"]), (200, &over["overlay_subnet"]));
    let answer = replicas[0].ask("PUT", "/leases/renew", &over.to_string()).await;
    assert_eq!(answer.status, 409, "who comes back late has nothing any more");
}

async fn a_lost_database_is_filled_up_by_renewals(store: Store) {
    let replicas = replicas(&store).await;
    let mut leases = acquired(&replicas).await;
    store.change("DELETE FROM leases").await;
    assert_eq!(listed(&replicas[0]).await, Vec::<Value>::new());
    let renewals = leases.iter().enumerate().map(|(number, lease)| {
        let body = lease.to_string();
        let replica = &replicas[number % 2];
        async move { replica.ask("PUT", "/leases/renew", &body).await }
    });
    for answer in join_all(renewals).await {
        assert_eq!((answer.status, answer.body.as_str()), (200, "{}"));
    }
    leases.sort_by_key(Value::to_string);
    assert_eq!(listed(&replicas[1]).await, leases);
}

async fn a_lease_from_elsewhere_is_taken_over_and_never_leased_again(store: Store) {
    let [controller, other] = replicas(&store).await;
    // Outside the network, and a part of it that is no block.
    let lease = |number: u32, subnet: &str| {
        json!({"underlay_ip": cell(number), "overlay_subnet": subnet,
            "overlay_hardware_addr": format!("ee:ee:00:00:00:{number:02x}")})
    };
    let presented = [lease(1, "10.1.0.0/24"), lease(2, "10.255.128.0/17")];
    for lease in &presented {
        for controller in [&controller, &other] {
            let answer = controller.ask("PUT", "/leases/renew", &lease.to_string()).await;
            assert_eq!((answer.status, answer.body.as_str()), (200, "{}"), "{lease}");
        }
    }
    assert_eq!(listed(&other).await, presented);
    // Of the blocks 1 to 255 the upper 128 are taken.
    let answers = join_all((10..138).map(|number| acquire(&controller, number))).await;
    let given = answers.iter().filter(|(status, _)| *status == 200);
    assert_eq!(given.count(), 127);
}
