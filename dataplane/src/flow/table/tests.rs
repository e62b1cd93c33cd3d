mod file;

use super::*;
use crate::flow::tracking::{ICMP, TCP, UDP};
use crate::flow::window::tests::bare;
use crate::flow::{TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN};
use sarcenet_dataplane_api::{FlowState, PortId};
use std::net::Ipv4Addr;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

impl FlowTable {
    /// Packets of a flow are carried, of which nothing but their flags matters.
    pub(in crate::flow) fn carry(
        &self,
        flow: &Flow,
        forward: bool,
        tcp_flags: Option<u8>,
        packets: u32,
        bytes: u32,
        now: u32,
    ) {
        let segment = tcp_flags.map(bare);
        let hit = Hit { flow, forward, created: false };
        self.track(&hit, Admission::Continue, segment.as_ref(), packets, bytes, now);
    }
}

const PEER: Via = Via::Tunnel(Ipv4Addr::new(10, 77, 0, 12));

fn key(n: u32, protocol: u8) -> FlowKey {
    FlowKey {
        source: Ipv4Addr::from(0x0aff_0000 | n >> 12),
        destination: Ipv4Addr::new(10, 255, 200, 1),
        source_port: (n & 0xfff) as u16 + 1024,
        destination_port: 8080,
        protocol,
    }
}

fn new_flow(n: u32, protocol: u8) -> NewFlow {
    NewFlow {
        key: key(n, protocol),
        from: PEER,
        to: Via::Container(PortId(3)),
        tag: (n as u16).wrapping_mul(3) | 1,
        rule: Some(RuleId(n + 1)),
        generation: 9,
        nat: Nat::None,
    }
}

#[test]
fn both_directions_find_the_flow() {
    let table = FlowTable::new(100).unwrap();
    let guard = table.pin();
    let made = table.insert(&new_flow(1, TCP), 5, &guard).unwrap();
    assert!(made.created && made.forward);
    let there = table.lookup(&key(1, TCP), &guard).unwrap();
    assert!(there.forward && !there.created && std::ptr::eq(there.flow, made.flow));
    let back = table.lookup(&key(1, TCP).reversed(), &guard).unwrap();
    assert!(!back.forward && std::ptr::eq(back.flow, made.flow));
    for other in [
        key(2, TCP),
        key(1, UDP),
        FlowKey { destination_port: 8081, ..key(1, TCP) },
        FlowKey { source: Ipv4Addr::new(10, 255, 9, 9), ..key(1, TCP) },
        // Ports exchanged, addresses not.
        FlowKey { source_port: 8080, destination_port: 1025, ..key(1, TCP) },
    ] {
        assert!(table.lookup(&other, &guard).is_none(), "{other:?}");
    }
    let flow = made.flow;
    assert_eq!(flow.key(), key(1, TCP));
    assert_eq!((flow.from(), flow.to()), (PEER, Via::Container(PortId(3))));
    assert_eq!((flow.tag(), flow.rule(), flow.generation()), (3, Some(RuleId(2)), 9));
    assert_eq!((flow.state(), flow.established()), (FlowState::New, false));
}

#[test]
fn the_second_to_insert_gets_the_first_ones_flow() {
    let table = FlowTable::new(100).unwrap();
    let guard = table.pin();
    let first = table.insert(&new_flow(1, UDP), 0, &guard).unwrap();
    let reply = NewFlow { key: key(1, UDP).reversed(), tag: 77, ..new_flow(1, UDP) };
    let second = table.insert(&reply, 1, &guard).unwrap();
    assert!(!second.created && !second.forward && std::ptr::eq(first.flow, second.flow));
    assert_eq!(first.flow.tag(), 3, "as the first one said");
    assert_eq!((table.status().used, table.status().created), (1, 1));
}

#[test]
fn removed_once_and_gone() {
    let table = FlowTable::new(100).unwrap();
    let guard = table.pin();
    let hit = table.insert(&new_flow(1, TCP), 0, &guard).unwrap();
    table.remove(hit.flow, &guard);
    table.remove(hit.flow, &guard);
    assert!(table.lookup(&key(1, TCP), &guard).is_none());
    assert_eq!(table.status().used, 0);
    assert_eq!(hit.flow.key(), key(1, TCP), "still as it was, for whoever looks at it");
    let again = table.insert(&new_flow(1, TCP), 0, &guard).unwrap();
    assert!(again.created && !std::ptr::eq(again.flow, hit.flow));
}

#[test]
fn batches_of_any_length_answer_as_single_look_ups() {
    let table = FlowTable::new(3000).unwrap();
    let guard = table.pin();
    for n in (0..2000).filter(|n| n % 3 != 0) {
        table.insert(&new_flow(n, UDP), 0, &guard).unwrap();
    }
    for count in [0, 1, 31, 32, 33, 64, 100, 2000] {
        let turn = |n: u32| if n.is_multiple_of(2) { key(n, UDP) } else { key(n, UDP).reversed() };
        let keys: Vec<FlowKey> = (0..count).map(turn).collect();
        let mut hits = vec![None; keys.len()];
        table.lookup_batch(&keys, &mut hits, &guard);
        for (n, (key, hit)) in keys.iter().zip(&hits).enumerate() {
            let single = table.lookup(key, &guard);
            assert_eq!(hit.is_some(), n % 3 != 0);
            assert_eq!(
                hit.map(|hit| (std::ptr::from_ref(hit.flow), hit.forward)),
                single.map(|hit| (std::ptr::from_ref(hit.flow), hit.forward)),
            );
        }
    }
}

#[test]
fn sweeping_removes_the_silent_and_only_those() {
    let table = FlowTable::new(1000).unwrap();
    assert_eq!(table.sweep(1_000_000, 100), 0);
    let guard = table.pin();
    for n in 0..100 {
        table.insert(&new_flow(n, UDP), 0, &guard).unwrap();
        let hit = table.insert(&new_flow(n, TCP), 0, &guard).unwrap();
        table.carry(hit.flow, true, Some(TCP_SYN), 1, 60, 0);
        table.carry(hit.flow, false, Some(TCP_SYN | TCP_ACK), 1, 60, 0);
        table.carry(hit.flow, true, Some(TCP_ACK), 1, 52, 0);
    }
    // A packet for one of them, at 20 s. Timeouts are exceeded, not met, at 30 s.
    let flow = table.lookup(&key(7, UDP), &guard).unwrap().flow;
    table.carry(flow, true, None, 1, 100, 200);
    assert_eq!(table.sweep(300, 1000), 0);
    // A step looks at no more places than it is allowed to.
    let steps: Vec<usize> = (0..25).map(|_| table.sweep(301, 8)).collect();
    assert!(steps.iter().all(|&removed| removed <= 8));
    assert_eq!(steps.iter().sum::<usize>(), 99);
    assert!(table.lookup(&key(7, UDP), &guard).is_some());
    assert!(table.lookup(&key(8, UDP), &guard).is_none());
    assert_eq!((table.status().used, table.status().expired), (101, 99));
    // Two days later nothing is left.
    assert_eq!(table.sweep(2 * 864_000, 1000), 101);
    assert_eq!(table.status().used, 0);
}

#[test]
fn timeouts_can_be_set() {
    let table = FlowTable::new(100).unwrap();
    let guard = table.pin();
    table.insert(&new_flow(1, UDP), 0, &guard).unwrap();
    table.set_timeouts(Timeouts { udp_new: 300, ..Timeouts::default() });
    assert_eq!(table.sweep(3000, 100), 0);
    table.set_timeouts(Timeouts { udp_new: 1, ..Timeouts::default() });
    assert_eq!((table.sweep(10, 100), table.sweep(11, 100)), (0, 1));
}

#[test]
fn pages_show_every_flow_once() {
    let table = FlowTable::new(1000).unwrap();
    let guard = table.pin();
    for n in 0..100 {
        table.insert(&new_flow(n, ICMP), 10, &guard).unwrap();
    }
    table.remove(table.lookup(&key(5, ICMP), &guard).unwrap().flow, &guard);
    let flow = table.lookup(&key(6, ICMP), &guard).unwrap().flow;
    table.carry(flow, true, None, 2, 168, 20);
    table.carry(flow, false, None, 1, 84, 30);
    let (mut seen, mut cursor) = (Vec::new(), 0);
    loop {
        let (page, next) = table.page(cursor, 7, 60);
        assert!(page.len() <= 7);
        seen.extend(page);
        match next {
            Some(next) => cursor = next,
            None => break,
        }
    }
    assert_eq!(seen.len(), 99);
    let ports: std::collections::HashSet<u16> = seen.iter().map(|f| f.source.port()).collect();
    assert_eq!(ports.len(), 99);
    let info = seen.iter().find(|flow| flow.source.port() == 1024 + 6).unwrap();
    assert_eq!((info.packets, info.bytes, info.idle_s), ([2, 1], [168, 84], 3));
    assert_eq!((info.state, info.protocol), (FlowState::Established, ICMP));
    assert_eq!((info.rule, info.tag, info.generation), (Some(RuleId(7)), 19, 9));
    assert_eq!(table.page(u64::MAX, 7, 60), (Vec::new(), None));
}

#[test]
fn purging_takes_what_is_picked() {
    let table = FlowTable::new(1000).unwrap();
    let guard = table.pin();
    for n in 0..100 {
        table.insert(&new_flow(n, UDP), 0, &guard).unwrap();
    }
    assert_eq!(table.purge(|flow| flow.key().source_port < 1024 + 40), 40);
    assert!(table.lookup(&key(39, UDP), &guard).is_none());
    assert!(table.lookup(&key(40, UDP), &guard).is_some());
    assert_eq!(table.status().used, 60);
}

#[test]
fn when_full_the_finished_go_first_then_the_unanswered() {
    const CAPACITY: u32 = 4096;
    let table = FlowTable::new(CAPACITY as usize).unwrap();
    // A quarter finished, a quarter unanswered, half established.
    for n in 0..CAPACITY {
        let guard = table.pin();
        let flow = table.insert(&new_flow(n, TCP), 0, &guard).unwrap().flow;
        table.carry(flow, true, Some(TCP_SYN), 1, 60, 0);
        if n % 4 != 1 {
            table.carry(flow, false, Some(TCP_SYN | TCP_ACK), 1, 60, 0);
            table.carry(flow, true, Some(TCP_ACK), 1, 52, 0);
        }
        if n % 4 == 0 {
            table.carry(flow, true, Some(TCP_RST), 1, 40, 0);
        }
    }
    // A flood as large as the table, three times over.
    for n in CAPACITY..4 * CAPACITY {
        // All spare places may wait for the other tests' threads to let go.
        while table.insert(&new_flow(n, UDP), 10, &table.pin()).is_err() {
            std::thread::yield_now();
        }
        let status = table.status();
        assert!(status.used <= u64::from(CAPACITY));
    }
    let guard = table.pin();
    let left = |rest: u32| {
        let all = (0..CAPACITY).filter(|n| n % 4 == rest || rest == 2 && n % 4 == 3);
        all.filter(|&n| table.lookup(&key(n, TCP), &guard).is_some()).count()
    };
    assert_eq!(left(2), CAPACITY as usize / 2, "no established conversation was evicted");
    assert!(left(0) < 40, "{} finished ones are left", left(0));
    assert!(left(1) < 200, "{} unanswered ones are left", left(1));
    assert_eq!(table.status().evicted, u64::from(3 * CAPACITY));
}

#[test]
fn the_smallest_table_goes_on() {
    let table = FlowTable::new(1).unwrap();
    for n in 0..5_000 {
        let guard = table.pin();
        match table.insert(&new_flow(n, UDP), n, &guard) {
            Ok(_) => assert!(table.lookup(&key(n, UDP), &guard).is_some()),
            // All its places may wait for the other tests' threads to let go.
            Err(_) => std::thread::yield_now(),
        }
        assert!(table.status().used <= 1);
    }
    assert!(FlowTable::new(0).is_err());
    assert!(FlowTable::new(usize::MAX).is_err());
}

#[test]
fn a_million_flows_stay_under_a_hundred_megabytes() {
    assert_eq!(size_of::<Flow>(), 64);
    // The index has both views of each flow; spare places are touched only under pressure.
    let index_bytes = (2_000_000_usize + 2_000_000 / 3).div_ceil(8).next_power_of_two() * 64;
    assert!(1_000_000 * 64 + index_bytes < 100_000_000);
    assert!(places(1_000_000).unwrap() * 64 + index_bytes < 105_000_000);
    // Sequence numbers come to that, for TCP connections only.
    let windows = window::WORDS * size_of::<u64>();
    assert!(places(1_000_000).unwrap() * (64 + windows) + index_bytes < 136_000_000);
}

#[test]
fn many_threads_agree() {
    const KEYS: u32 = 2_000;
    let table = FlowTable::new(1_500).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for worker in 0..3_u32 {
            let (table, stop) = (&table, &stop);
            scope.spawn(move || {
                let mut random = worker + 1;
                let mut next = || {
                    random ^= random << 13;
                    random ^= random >> 17;
                    random ^= random << 5;
                    random
                };
                let mut now = 0;
                while !stop.load(Relaxed) {
                    let guard = table.pin();
                    now += 1;
                    for _ in 0..64 {
                        let n = next() % KEYS;
                        let key = key(n, UDP);
                        let key = if next() % 2 == 0 { key } else { key.reversed() };
                        match (table.lookup(&key, &guard), next() % 4) {
                            (Some(hit), 0) => table.remove(hit.flow, &guard),
                            (Some(hit), _) => table.carry(hit.flow, hit.forward, None, 1, 100, now),
                            (None, 0) => {}
                            (None, _) => {
                                let _ = table.insert(&new_flow(n, UDP), now, &guard);
                            }
                        }
                        // Whatever others do meanwhile, a flow found under this guard stays the
                        // conversation that was asked for.
                        if let Some(hit) = table.lookup(&key, &guard) {
                            let found = hit.flow.key();
                            assert_eq!(found, if hit.forward { key } else { key.reversed() });
                            assert_eq!(hit.flow.rule(), Some(RuleId(n + 1)));
                        }
                    }
                    let _ = table.sweep(now, 16);
                }
            });
        }
        let until = Instant::now() + Duration::from_millis(1500);
        while Instant::now() < until {
            let status = table.status();
            // Each worker may have reserved one more that it gives back at once.
            assert!(status.used <= status.capacity + 3, "{status:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
        stop.store(true, Relaxed);
    });
    let found = {
        let guard = table.pin();
        (0..KEYS).filter(|&n| table.lookup(&key(n, UDP), &guard).is_some()).count()
    };
    assert_eq!(table.status().used, found as u64, "what is counted is what is there");
    assert_eq!(table.page(0, usize::MAX, 0).0.len(), found);
    assert_eq!(table.purge(|_| true), found);
    assert_eq!(table.status().used, 0);
    let guard = table.pin();
    assert!((0..KEYS).all(|n| table.lookup(&key(n, UDP), &guard).is_none()));
}
