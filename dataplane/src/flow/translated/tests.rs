mod properties;

use super::*;
use crate::flow::tracking::{ICMP, TCP, UDP};
use crate::flow::{TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN};
use crate::nat::Nat;
use std::collections::{HashMap, HashSet};

const CELL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 61);
const GRE: u8 = 47;

/// Container `n`'s conversation from its port with the remote end number `remote`.
fn key(n: u16, port: u16, remote: u32, protocol: u8) -> FlowKey {
    FlowKey {
        source: Ipv4Addr::from(0x0aff_3700 + u32::from(n)),
        destination: Ipv4Addr::from(0xc633_6400 + (remote >> 1)),
        source_port: port,
        destination_port: if protocol == ICMP { port } else { 443 + (remote & 1) as u16 },
        protocol,
    }
}

fn source(n: u16, port: u16, remote: u32, protocol: u8) -> NewFlow {
    NewFlow {
        key: key(n, port, remote, protocol),
        from: Via::Container(PortId(n)),
        to: Via::Host,
        tag: n,
        rule: None,
        generation: 1,
        nat: Nat::Source,
    }
}

/// A conversation that a remote end begins with the cell's port, which leads to container `n`.
fn destination(n: u16, remote_port: u16, cell_port: u16) -> NewFlow {
    NewFlow {
        key: FlowKey {
            source: Ipv4Addr::new(198, 51, 100, 9),
            destination: Ipv4Addr::from(0x0aff_3700 + u32::from(n)),
            source_port: remote_port,
            destination_port: 8080,
            protocol: TCP,
        },
        from: Via::Host,
        to: Via::Container(PortId(n)),
        nat: Nat::Destination { cell_port },
        ..source(n, 0, 0, TCP)
    }
}

fn range(first: u16, last: u16) -> PortRange {
    PortRange { first, last }
}

fn table(capacity: usize, first: u16, last: u16) -> FlowTable {
    let table = FlowTable::new(capacity).unwrap();
    assert_eq!(table.set_cell(CELL, Some(range(first, last))), 0);
    table
}

fn insert<'g>(table: &'g FlowTable, new: &NewFlow, guard: &'g Guard) -> Hit<'g> {
    table.insert(new, 0, guard).unwrap()
}

/// Entries in the index, twice as many as translated flows.
fn entries(table: &FlowTable) -> usize {
    table.store.index.count()
}

#[test]
fn either_view_finds_the_flow_and_says_what_to_write() {
    let table = table(100, 61_000, 61_999);
    let guard = table.pin();
    let new = source(2, 40_000, 0, TCP);
    let hit = insert(&table, &new, &guard);
    assert!(hit.created && hit.forward);
    let (side, port) = hit.flow.translated().unwrap();
    assert!(side == Side::Source && (61_000..=61_999).contains(&port));
    let outer = FlowKey { source: CELL, source_port: port, ..new.key };
    for (view, forward) in
        [(new.key, true), (outer, true), (new.key.reversed(), false), (outer.reversed(), false)]
    {
        let found = table.lookup(&view, &guard).unwrap();
        assert!(std::ptr::eq(found.flow, hit.flow) && found.forward == forward, "{view:?}");
        let mut batch = [None];
        table.lookup_batch(&[view], &mut batch, &guard);
        assert_eq!(batch[0].map(|hit| hit.forward), Some(forward));
    }
    assert_eq!(hit.flow.key(), new.key);
    assert_eq!(
        table.translation(hit.flow, true),
        Some(Translation { side: Side::Source, address: CELL, port })
    );
    let address = new.key.source;
    assert_eq!(
        table.translation(hit.flow, false),
        Some(Translation { side: Side::Destination, address, port: 40_000 })
    );
    let (flows, _) = table.page(0, 10, 0);
    assert_eq!(flows[0].nat, Some(std::net::SocketAddrV4::new(CELL, port)));
    assert!(!insert(&table, &new, &guard).created, "the conversation is there");
    for near in [
        FlowKey { source_port: port, ..new.key },
        FlowKey { source: CELL, ..new.key },
        FlowKey { protocol: UDP, ..outer },
        FlowKey { destination_port: 444, ..outer },
    ] {
        assert!(table.lookup(&near, &guard).is_none(), "{near:?}");
    }
    table.remove(hit.flow, &guard);
    assert!(table.lookup(&new.key, &guard).is_none() && table.lookup(&outer, &guard).is_none());
    assert_eq!((entries(&table), table.source_nat_count(PortId(2))), (0, 0));
}

#[test]
fn conversations_that_begin_at_the_cell() {
    let table = table(100, 61_000, 61_999);
    let guard = table.pin();
    let new = destination(2, 50_000, 30_080);
    let hit = insert(&table, &new, &guard);
    assert!(hit.created && table.source_nat_count(PortId(2)) == 0);
    let outer = FlowKey { destination: CELL, destination_port: 30_080, ..new.key };
    assert!(table.lookup(&outer, &guard).unwrap().forward);
    assert!(!table.lookup(&outer.reversed(), &guard).unwrap().forward);
    assert!(!table.lookup(&new.key.reversed(), &guard).unwrap().forward);
    let (address, port) = (new.key.destination, 8080);
    assert_eq!(
        table.translation(hit.flow, true),
        Some(Translation { side: Side::Destination, address, port })
    );
    assert_eq!(
        table.translation(hit.flow, false),
        Some(Translation { side: Side::Source, address: CELL, port: 30_080 })
    );
    assert!(!insert(&table, &new, &guard).created);
    // Another port of the cell that leads to the same port of the container: the replies could not
    // be told apart. Neither could those of another container behind the same port.
    for other in [destination(2, 50_000, 30_081), destination(3, 50_000, 30_080)] {
        assert_eq!(table.insert(&other, 0, &guard).unwrap_err(), InsertError::NatExhausted);
    }
    table.carry(hit.flow, true, Some(TCP_RST), 1, 40, 0);
    let next = insert(&table, &destination(2, 50_000, 30_081), &guard);
    assert!(next.created && table.lookup(&outer, &guard).is_none());
    table.carry(next.flow, true, Some(TCP_RST), 1, 40, 0);
    let moved = insert(&table, &destination(3, 50_000, 30_081), &guard);
    assert_eq!(moved.flow.to(), Via::Container(PortId(3)));
    assert_eq!((entries(&table), table.status().used), (2, 1));
}

#[test]
fn an_echo_has_one_identifier_and_others_have_none() {
    let table = table(100, 61_000, 61_000);
    let guard = table.pin();
    let ping = source(2, 7, 0, ICMP);
    let hit = insert(&table, &ping, &guard);
    assert_eq!(hit.flow.translated(), Some((Side::Source, 61_000)));
    let reply = FlowKey {
        source: ping.key.destination,
        destination: CELL,
        source_port: 61_000,
        destination_port: 61_000,
        protocol: ICMP,
    };
    assert!(!table.lookup(&reply, &guard).unwrap().forward);
    assert_eq!(table.translation(hit.flow, false).map(|to| to.port), Some(7));
    // One container has the remote end's GRE, until it is through with it.
    let tunnel = |n| {
        let new = source(n, 0, 0, GRE);
        NewFlow { key: FlowKey { destination_port: 0, ..new.key }, ..new }
    };
    let hit = insert(&table, &tunnel(2), &guard);
    assert_eq!(hit.flow.translated(), Some((Side::Source, 0)));
    assert_eq!(table.insert(&tunnel(3), 0, &guard).unwrap_err(), InsertError::NatExhausted);
    table.remove(hit.flow, &guard);
    assert!(insert(&table, &tunnel(3), &guard).created);
}

#[test]
fn a_range_of_one_and_of_two() {
    for ports in [1, 2_u16] {
        let table = table(1000, 61_000, 60_999 + ports);
        let guard = table.pin();
        let made: Vec<_> =
            (0..ports).map(|n| insert(&table, &source(n, 5, 0, TCP), &guard)).collect();
        let taken: HashSet<_> = made.iter().map(|hit| hit.flow.translated()).collect();
        assert_eq!(taken.len(), usize::from(ports));
        let late = source(9, 5, 0, TCP);
        assert_eq!(table.insert(&late, 0, &guard).unwrap_err(), InsertError::NatExhausted);
        assert_eq!(table.source_nat_count(PortId(9)), 0);
        // Other remote ends and protocols have all ports.
        assert!(insert(&table, &source(9, 5, 1, TCP), &guard).created);
        assert!(insert(&table, &source(9, 5, 2, TCP), &guard).created);
        assert!(insert(&table, &source(9, 5, 0, UDP), &guard).created);
        // TIME-WAIT keeps the port; its end gives it free.
        let first = made[0].flow;
        table.carry(first, true, Some(TCP_FIN | TCP_ACK), 1, 52, 0);
        table.carry(first, false, Some(TCP_FIN | TCP_ACK), 1, 52, 0);
        assert_eq!(table.sweep(1200, 1000), 1, "that of UDP");
        assert_eq!(table.insert(&late, 1200, &guard).unwrap_err(), InsertError::NatExhausted);
        assert_eq!(table.sweep(1201, 1000), 1);
        let hit = insert(&table, &late, &guard);
        assert_eq!(hit.flow.translated(), first.translated());
        assert_eq!(entries(&table), 2 * table.status().used as usize);
    }
}

#[test]
fn nothing_is_translated_without_an_address_or_range() {
    let table = FlowTable::new(100).unwrap();
    let guard = table.pin();
    let (out, into) = (source(2, 5, 0, TCP), destination(2, 5, 80));
    assert_eq!(table.insert(&out, 0, &guard).unwrap_err(), InsertError::NatExhausted);
    assert_eq!(table.insert(&into, 0, &guard).unwrap_err(), InsertError::NatExhausted);
    table.set_cell(CELL, None);
    assert_eq!(table.insert(&out, 0, &guard).unwrap_err(), InsertError::NatExhausted);
    assert!(insert(&table, &into, &guard).created);
}

#[test]
fn another_address_or_range_removes_what_has_the_old_one() {
    let table = table(1000, 61_000, 61_099);
    let guard = table.pin();
    let plain = NewFlow { nat: Nat::None, ..source(1, 1, 9, TCP) };
    insert(&table, &plain, &guard);
    insert(&table, &destination(2, 50_000, 80), &guard);
    for n in 0..75 {
        insert(&table, &source(3, n, 0, TCP), &guard);
    }
    assert_eq!(table.set_cell(CELL, Some(range(61_000, 61_099))), 0, "nothing new");
    let low = |flow: &Flow| flow.translated().is_some_and(|(_, port)| port > 61_049);
    let outside = (0..75).filter(|&n| low(table.lookup(&key(3, n, 0, TCP), &guard).unwrap().flow));
    let outside = outside.count();
    assert!(outside > 0);
    assert_eq!(table.set_cell(CELL, Some(range(61_000, 61_049))), outside);
    assert_eq!(table.source_nat_count(PortId(3)) as usize, 75 - outside);
    let next = Ipv4Addr::new(192, 0, 2, 99);
    assert_eq!(table.set_cell(next, Some(range(61_000, 61_049))), 76 - outside);
    assert_eq!((table.status().used, entries(&table)), (1, 1), "only the plain one is left");
    let hit = insert(&table, &source(3, 1, 0, TCP), &guard);
    assert_eq!(table.translation(hit.flow, true).map(|to| to.address), Some(next));
    insert(&table, &destination(2, 50_000, 80), &guard);
    assert_eq!(table.set_cell(next, None), 1, "destination NAT needs no range");
    assert_eq!(table.set_cell(Ipv4Addr::UNSPECIFIED, None), 1);
    assert_eq!((table.status().used, entries(&table)), (1, 1));
}

#[test]
fn a_container_has_no_more_than_its_limit() {
    let table = table(1000, 61_000, 61_999);
    table.set_source_nat_limit(10);
    let guard = table.pin();
    let hits: Vec<_> = (0..10).map(|n| insert(&table, &source(2, n, 0, UDP), &guard)).collect();
    let late = source(2, 10, 0, UDP);
    assert_eq!(table.insert(&late, 0, &guard).unwrap_err(), InsertError::NatExhausted);
    assert_eq!(table.source_nat_count(PortId(2)), 10);
    assert!(insert(&table, &source(3, 10, 0, UDP), &guard).created);
    table.remove(hits[4].flow, &guard);
    assert!(insert(&table, &late, &guard).created);
    table.set_source_nat_limit(0);
    assert!(insert(&table, &source(2, 11, 0, UDP), &guard).created);
    assert_eq!(table.purge(|flow| flow.from() == Via::Container(PortId(2))), 11);
    assert_eq!((table.source_nat_count(PortId(2)), table.source_nat_count(PortId(3))), (0, 1));
}

#[test]
fn one_container_leaves_ports_to_others() {
    let table = table(1000, 61_000, 61_099);
    let guard = table.pin();
    let greedy = (0..200).filter(|&n| table.insert(&source(2, n, 0, TCP), 0, &guard).is_ok());
    assert_eq!(greedy.count(), 75);
    // At least one of these has another quarter to do without.
    let others = (3..35).filter(|&n| table.insert(&source(n, 1, 0, TCP), 0, &guard).is_ok());
    assert!(others.count() >= 1);
}

/// 200,000 conversations with four remote ends, and as many behind four ports.
#[test]
fn one_address_carries_more_than_there_are_ports() {
    let mut seen = HashSet::new();
    let mut fill = |table: &FlowTable, new: &dyn Fn(u32) -> NewFlow| {
        seen.clear();
        for n in 0..200_000 {
            let guard = table.pin();
            // A container whose ports are used up towards this end is not the only one.
            let hit = insert(table, &new(n), &guard);
            let port = hit.flow.translated().unwrap().1;
            let key = hit.flow.key();
            assert!(seen.insert((key.destination, key.destination_port, port)), "{key:?}");
        }
        assert_eq!(entries(table), 400_000);
        for n in (0..200_000).step_by(7) {
            let guard = table.pin();
            let hit = table.lookup(&new(n).key, &guard).unwrap();
            let to = table.translation(hit.flow, true).unwrap();
            let outer = FlowKey { source: to.address, source_port: to.port, ..hit.flow.key() };
            assert!(std::ptr::eq(table.lookup(&outer, &guard).unwrap().flow, hit.flow));
        }
        assert_eq!(table.purge(|_| true), 200_000);
        assert_eq!(entries(table), 0);
    };
    let wide = table(200_000, 1, u16::MAX);
    fill(&wide, &|n| source((n / 4 % 100) as u16, (n / 400) as u16, n % 4, TCP));
    let narrow = table(200_000, 61_000, 61_003);
    fill(&narrow, &|n| source(7, 5, n, UDP).with_remote(n / 3, n % 3));
    assert_eq!((0..200).map(|n| wide.source_nat_count(PortId(n))).sum::<u32>(), 0);
}

impl NewFlow {
    /// The conversation from another port with another remote end.
    fn with_remote(self, remote: u32, port: u32) -> Self {
        Self { key: key(7, port as u16, remote, self.key.protocol), ..self }
    }
}

/// A full table makes room by removing both views of a flow.
#[test]
fn eviction_and_expiry_take_both_views() {
    let table = table(2000, 1024, 60_000);
    for n in 0..10_000_u32 {
        while table.insert(&source(1, n as u16, n % 8, UDP), 0, &table.pin()).is_err() {
            std::thread::yield_now();
        }
    }
    let status = table.status();
    assert_eq!((status.used, status.evicted), (2000, 8000));
    assert_eq!((entries(&table), table.source_nat_count(PortId(1))), (4000, 2000));
    assert_eq!(table.sweep(301, usize::MAX), 2000);
    assert_eq!((entries(&table), table.source_nat_count(PortId(1))), (0, 0));
}

#[test]
fn both_views_outlive_the_table_in_their_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("flows");
    let ports: HashMap<u16, u16> = {
        let (table, _) = FlowTable::open(&path, 1000).unwrap();
        table.set_cell(CELL, Some(range(61_000, 61_999)));
        let guard = table.pin();
        insert(&table, &destination(3, 50_000, 80), &guard);
        (0..300)
            .map(|n| {
                (n, insert(&table, &source(2, n, 0, TCP), &guard).flow.translated().unwrap().1)
            })
            .collect()
    };
    // One flow again, in the entry of another one: the same outer view, another inner one.
    {
        use std::os::unix::fs::FileExt;
        let file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
        let mut entry = [0; 64];
        file.read_exact_at(&mut entry, 4096 + 64 * 5).unwrap();
        entry[..2].copy_from_slice(&9_999_u16.to_le_bytes());
        file.write_all_at(&entry, 4096 + 64 * 6).unwrap();
    }
    let (table, adopted) = FlowTable::open(&path, 1000).unwrap();
    assert_eq!((adopted, table.source_nat_count(PortId(2)), entries(&table)), (300, 299, 600));
    assert_eq!(table.set_cell(CELL, Some(range(61_000, 61_999))), 0, "as it was");
    let guard = table.pin();
    assert!(table.lookup(&key(2, 9_999, 0, TCP), &guard).is_none());
    for (n, port) in ports {
        let view = FlowKey { source: CELL, source_port: port, ..key(2, n, 0, TCP) }.reversed();
        let Some(hit) = table.lookup(&view, &guard) else {
            assert_eq!(n, 5, "only the one that was overwritten is gone");
            continue;
        };
        assert_eq!(table.translation(hit.flow, false).map(|to| to.port), Some(n));
    }
    assert_eq!(table.set_cell(Ipv4Addr::new(192, 0, 2, 62), Some(range(61_000, 61_999))), 300);
    assert_eq!((table.status().used, entries(&table)), (0, 0));
    drop(table);
    // Without the address nothing says what the outer views are.
    {
        let (table, _) = FlowTable::open(&path, 1000).unwrap();
        insert(&table, &source(2, 1, 0, TCP), &table.pin());
        table.store.slab.cell().store(0, Relaxed);
    }
    let (table, adopted) = FlowTable::open(&path, 1000).unwrap();
    assert_eq!((adopted, entries(&table)), (0, 0));
    assert!(table.insert(&source(2, 1, 0, TCP), 0, &table.pin()).is_err());
}

#[test]
fn translated_flows_fit_as_often_as_others() {
    let table = table(100_000, 1, u16::MAX);
    let refused = (0..100_000_u32)
        .filter(|&n| {
            let new = source((n % 50) as u16, (n / 50) as u16, n % 1000, TCP);
            let guard = table.pin();
            let hit = table.insert(&new, 0, &guard);
            hit.map(|hit| table.carry(hit.flow, true, Some(TCP_SYN), 1, 60, 0)).is_err()
        })
        .count();
    assert_eq!((refused, table.status().evicted), (0, 0));
    assert_eq!(entries(&table), 200_000);
}
