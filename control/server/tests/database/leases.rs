//! Leases: contract sections 4.2 to 4.6.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use sarcenet_server::database::{Database, LeaseCounts};
use sarcenet_server::lease::{Lease, LeaseRequest, Renewal};

use crate::world::{EXPIRY, World, lease, nearly, request, with_both};

with_both!(
    a_cell_keeps_its_lease_and_acquiring_does_not_renew_it,
    blocks_run_out_and_the_one_that_is_over_longest_is_given_again,
    single_addresses_come_from_the_first_block,
    a_lease_outside_of_the_pools_is_replaced,
    what_was_presented_is_not_given_to_others,
    renewals_know_create_and_refuse,
    leases_are_listed_until_they_are_over,
);

fn cell(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 16, number)
}

async fn acquire(database: &Database, request: &LeaseRequest) -> Option<Lease> {
    database.acquire_lease(request).await.unwrap()
}

async fn a_cell_keeps_its_lease_and_acquiring_does_not_renew_it(world: World) {
    let database = world.open().await;
    let wanted = request(cell(1), "10.255.0.0/16");
    let given = acquire(&database, &wanted).await.unwrap();
    assert_eq!(given, lease("10.0.16.1", &given.subnet.to_string()));
    assert_ne!(given.subnet, "10.255.0.0/24".parse().unwrap());
    assert_eq!(database.leases(EXPIRY).await.unwrap(), std::slice::from_ref(&given));

    // Of another kind, and when it is over: it is the same one, and goes on being over.
    world.pass(EXPIRY);
    let single = LeaseRequest { single: true, ..wanted.clone() };
    for again in [&wanted, &single] {
        assert_eq!(acquire(&database, again).await.as_ref(), Some(&given));
    }
    assert_eq!(database.leases(EXPIRY).await.unwrap(), []);
    assert_eq!(database.lease_of(cell(1)).await.unwrap(), Some(given));
    assert_eq!(database.lease_of(cell(2)).await.unwrap(), None);

    database.release_lease(cell(1)).await.unwrap();
    database.release_lease(cell(1)).await.unwrap();
    assert_eq!(database.lease_of(cell(1)).await.unwrap(), None);
}

async fn blocks_run_out_and_the_one_that_is_over_longest_is_given_again(world: World) {
    let database = world.open().await;
    let mut given = Vec::new();
    for number in 1..=3 {
        let lease = acquire(&database, &request(cell(number), "10.255.0.0/22")).await.unwrap();
        given.push(lease);
        world.pass(Duration::from_secs(1));
    }
    let subnets: HashSet<_> = given.iter().map(|lease| lease.subnet.to_string()).collect();
    let all = ["10.255.1.0/24", "10.255.2.0/24", "10.255.3.0/24"].map(String::from);
    assert_eq!(subnets, HashSet::from(all));
    assert_eq!(acquire(&database, &request(cell(4), "10.255.0.0/22")).await, None);

    // The second cell renews; the third lease is over by now, and after it the second.
    world.pass(Duration::from_secs(EXPIRY.as_secs() - 1));
    assert_eq!(database.renew_lease(&given[0]).await.unwrap(), Renewal::Renewed);
    let fourth = acquire(&database, &request(cell(4), "10.255.0.0/22")).await.unwrap();
    assert_eq!(fourth, Lease { underlay: cell(4), ..given[1].clone() });
    assert_eq!(database.lease_of(cell(2)).await.unwrap(), None);
    let fifth = acquire(&database, &request(cell(5), "10.255.0.0/22")).await.unwrap();
    assert_eq!(fifth, Lease { underlay: cell(5), ..given[2].clone() });
    assert_eq!(acquire(&database, &request(cell(6), "10.255.0.0/22")).await, None);
}

async fn single_addresses_come_from_the_first_block(world: World) {
    let database = world.open().await;
    let mut seen = HashSet::new();
    for number in 0..=254 {
        let wanted = LeaseRequest { single: true, ..request(cell(number), "10.255.0.0/16") };
        let given = acquire(&database, &wanted).await.unwrap();
        let [a, b, c, d] = given.subnet.addr().octets();
        assert_eq!(([a, b, c], given.subnet.prefix_len()), ([10, 255, 0], 32));
        assert_eq!(given.mac, [0xee, 0xee, a, b, c, d]);
        assert!(d != 0 && seen.insert(d), "{d}");
    }
    let one_more = LeaseRequest { single: true, ..request(cell(255), "10.255.0.0/16") };
    assert_eq!(acquire(&database, &one_more).await, None);
    // Blocks are another matter, and a block that is over is not cut into addresses.
    let block = request(cell(255), "10.255.0.0/16");
    assert!(acquire(&database, &block).await.is_some());
}

async fn a_lease_outside_of_the_pools_is_replaced(world: World) {
    let database = world.open().await;
    for (number, odd) in (1..).zip([
        "10.254.1.0/24",
        "10.255.0.0/24",
        "10.255.0.0/32",
        "10.255.4.0/25",
        "10.255.8.1/24",
        "10.255.8.7/32",
    ]) {
        let odd = lease(&cell(number).to_string(), odd);
        assert_eq!(database.renew_lease(&odd).await.unwrap(), Renewal::Created, "{odd:?}");
        let wanted = request(cell(number), "10.255.0.0/16");
        let given = acquire(&database, &wanted).await.unwrap();
        assert_ne!(given, odd);
        assert_eq!(acquire(&database, &wanted).await, Some(given));
        database.release_lease(cell(number)).await.unwrap();
    }
}

async fn what_was_presented_is_not_given_to_others(world: World) {
    let database = world.open().await;
    // Half of the first free block, and a stranger that has the MAC of the second.
    let half = lease("10.0.16.1", "10.255.1.128/25");
    let stranger =
        Lease { mac: [0xee, 0xee, 10, 255, 2, 0], ..lease("10.0.16.2", "172.16.0.0/24") };
    for presented in [&half, &stranger] {
        assert_eq!(database.renew_lease(presented).await.unwrap(), Renewal::Created);
    }
    let third = acquire(&database, &request(cell(3), "10.255.0.0/22")).await.unwrap();
    assert_eq!(third, lease("10.0.16.3", "10.255.3.0/24"));
    assert_eq!(acquire(&database, &request(cell(4), "10.255.0.0/22")).await, None);
    // What is over and was never ours to give is not given either.
    world.pass(EXPIRY);
    let fourth = acquire(&database, &request(cell(4), "10.255.0.0/22")).await.unwrap();
    assert_eq!(fourth, lease("10.0.16.4", "10.255.3.0/24"));
    assert_eq!(acquire(&database, &request(cell(5), "10.255.0.0/22")).await, None);
}

async fn renewals_know_create_and_refuse(world: World) {
    let database = world.open().await;
    let own = lease("10.0.16.1", "10.255.30.0/24");
    let other = lease("10.0.16.2", "10.255.31.0/24");
    for (presented, expected) in [
        (own.clone(), Renewal::Created),
        (own.clone(), Renewal::Renewed),
        (lease("10.0.16.1", "10.255.32.0/24"), Renewal::Mismatch),
        (Lease { mac: [1; 6], ..own.clone() }, Renewal::Mismatch),
        (other.clone(), Renewal::Created),
        (Lease { underlay: cell(3), ..own.clone() }, Renewal::Conflict),
        (Lease { underlay: cell(3), mac: [1; 6], ..own.clone() }, Renewal::Conflict),
        (Lease { mac: own.mac, ..lease("10.0.16.3", "10.255.33.0/24") }, Renewal::Conflict),
        (lease("10.0.16.3", "192.168.0.0/20"), Renewal::Created),
        (lease("10.0.16.4", "10.255.0.9/32"), Renewal::Created),
    ] {
        assert_eq!(database.renew_lease(&presented).await.unwrap(), expected, "{presented:?}");
    }
    let listed = database.leases(EXPIRY).await.unwrap();
    assert_eq!(listed.len(), 4);
    assert_eq!(listed[..2], [own, other]);
}

async fn leases_are_listed_until_they_are_over(world: World) {
    let database = world.open().await;
    let [first, second] = [lease("10.0.16.1", "10.255.1.0/24"), lease("10.0.16.2", "10.1.0.0/24")];
    let counts = async |total, stale| {
        let counts = database.lease_counts(Duration::from_hours(1)).await.unwrap();
        assert_eq!(counts, LeaseCounts { total, stale });
    };
    counts(0, 0).await;
    database.renew_lease(&first).await.unwrap();
    world.pass(Duration::from_secs(1));
    database.renew_lease(&second).await.unwrap();
    world.pass(nearly(EXPIRY).checked_sub(Duration::from_secs(1)).unwrap());
    assert_eq!(database.leases(EXPIRY).await.unwrap(), [first.clone(), second.clone()]);
    world.pass(Duration::from_nanos(1));
    assert_eq!(database.leases(EXPIRY).await.unwrap(), std::slice::from_ref(&second));
    counts(2, 2).await;
    // It is not lost: who has it may go on.
    assert_eq!(database.renew_lease(&first).await.unwrap(), Renewal::Renewed);
    assert_eq!(database.leases(EXPIRY).await.unwrap(), [first, second]);
    counts(2, 1).await;
    assert_eq!(database.leases(Duration::MAX).await.unwrap().len(), 2);
    assert_eq!(database.leases(Duration::ZERO).await.unwrap(), []);
}
