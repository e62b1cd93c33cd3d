//! What holds of translated flows whatever happens to them, one after the other and at once.

use super::*;
use proptest::prelude::*;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// No two live flows have the same outer view, and whatever is found under a guard is what was
/// asked for, while threads make, remove, expire and evict flows and the cell's range changes.
#[test]
fn many_threads_agree_on_both_views() {
    const REMOTES: u32 = 6;
    let table = table(400, 61_000, 61_127);
    table.set_half_open_limit(30);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for worker in 0..3_u32 {
            let (table, stop) = (&table, &stop);
            scope.spawn(move || {
                let mut random = worker + 1;
                let mut next = |below: u32| {
                    random ^= random << 13;
                    random ^= random >> 17;
                    random ^= random << 5;
                    random % below
                };
                let mut now = 0;
                while !stop.load(Relaxed) {
                    let guard = table.pin();
                    now += 1;
                    for _ in 0..64 {
                        let (n, port) = (next(4) as u16, next(64) as u16);
                        let new = match next(8) {
                            0 => destination(n, port, 30_000 + n),
                            1 => NewFlow { nat: Nat::None, ..source(n + 50, port, 0, UDP) },
                            _ => source(n, port, next(REMOTES), UDP),
                        };
                        match (table.lookup(&new.key, &guard), next(4)) {
                            (Some(hit), 0 | 1) => table.remove(hit.flow, &guard),
                            (Some(hit), _) => table.carry(hit.flow, hit.forward, None, 1, 100, now),
                            (None, _) => {
                                let _ = table.insert(&new, now, &guard);
                            }
                        }
                        let view = FlowKey {
                            source: CELL,
                            source_port: 61_000 + next(128) as u16,
                            ..key(0, 0, next(REMOTES), UDP)
                        };
                        if let Some(hit) = table.lookup(&view.reversed(), &guard) {
                            let (key, translated) = (hit.flow.key(), hit.flow.translated());
                            assert_eq!(translated, Some((Side::Source, view.source_port)));
                            assert_eq!(key.destination, view.destination);
                            assert!(
                                !hit.forward
                                    && hit.flow.from() == Via::Container(PortId(hit.flow.tag()))
                            );
                            if next(4) == 0 {
                                table.remove(hit.flow, &guard);
                            }
                        }
                    }
                    let _ = table.sweep(now, 16);
                }
            });
        }
        let until = Instant::now() + Duration::from_millis(1500);
        let mut turn = 0_u16;
        while Instant::now() < until {
            turn += 1;
            table.set_cell(CELL, Some(range(61_000 + turn % 2 * 32, 61_127)));
            if turn.is_multiple_of(8) {
                // Back at once: what the threads know of the address stays true.
                table.set_cell(Ipv4Addr::new(192, 0, 2, 62), Some(range(61_000, 61_127)));
                table.set_cell(CELL, Some(range(61_000, 61_127)));
            }
            std::thread::sleep(Duration::from_millis(3));
        }
        stop.store(true, Relaxed);
    });
    check(&table);
    let used = table.status().used as usize;
    assert_eq!(table.purge(|_| true), used);
    assert_eq!((table.status().used, entries(&table)), (0, 0));
    assert!((0..200).all(|n| table.source_nat_count(PortId(n)) == 0));
}

/// Every flow is found by its views, no view by two, and what is counted is what is there.
fn check(table: &FlowTable) {
    let guard = table.pin();
    let mut views = HashSet::new();
    let mut counts = HashMap::new();
    let mut waiting = HashMap::new();
    let (mut used, mut translated) = (0, 0);
    let places = 0..table.store.slab.high_water() as u32;
    for flow in places.filter_map(|place| table.store.slab.get(place)) {
        if !flow.status().is_live() {
            continue;
        }
        used += 1;
        *waiting.entry(flow.from()).or_insert(0) += u32::from(!flow.established());
        let key = flow.key();
        let mut own = vec![key];
        if let Some((side, port)) = flow.translated() {
            translated += 1;
            own.push(outer_view(&key, side, table.store.cell(), port));
            if side == Side::Source {
                *counts.entry(flow.tag()).or_insert(0) += 1;
            }
        }
        for view in own {
            let there = table.lookup(&view, &guard).unwrap();
            let back = table.lookup(&view.reversed(), &guard).unwrap();
            assert!(std::ptr::eq(there.flow, flow) && std::ptr::eq(back.flow, flow));
            assert!(views.insert(view) && views.insert(view.reversed()), "{view:?}");
        }
    }
    assert_eq!((used, entries(table)), (table.status().used as usize, used + translated));
    for n in 0..100 {
        assert_eq!(table.source_nat_count(PortId(n)), counts.get(&n).copied().unwrap_or(0));
        let (door, count) = (Via::Container(PortId(n)), |door| table.store.half_open.count(door));
        let counted = count(door).unwrap().load(Relaxed);
        assert_eq!(counted, waiting.get(&door).copied().unwrap_or(0));
    }
}

#[derive(Debug, Clone)]
enum Step {
    Insert(NewFlow),
    Remove(prop::sample::Index),
    Reset(prop::sample::Index),
    Answer(prop::sample::Index),
    Sweep(u32),
    Range(u16, u16),
}

fn step() -> impl Strategy<Value = Step> {
    let protocol = || prop::sample::select(vec![TCP, UDP, ICMP, GRE]);
    prop_oneof![
        6 => (0_u16..4, 0_u16..20, 0_u32..3, protocol())
            .prop_map(|(n, port, remote, protocol)| Step::Insert(source(n, port, remote, protocol))),
        2 => (0_u16..4, 0_u16..6, 0_u16..6)
            .prop_map(|(n, port, cell)| Step::Insert(destination(n, port, cell))),
        2 => any::<prop::sample::Index>().prop_map(Step::Remove),
        1 => any::<prop::sample::Index>().prop_map(Step::Reset),
        1 => any::<prop::sample::Index>().prop_map(Step::Answer),
        1 => (0_u32..700).prop_map(Step::Sweep),
        1 => (0_u16..8, 0_u16..8).prop_map(|(first, size)| Step::Range(61_000 + first, 61_000 + first + size)),
    ]
}

proptest! {
    /// While flows live, NAT is a bijection, whatever happens to them.
    #[test]
    fn nat_is_a_bijection(steps in prop::collection::vec(step(), 1..120)) {
        let table = table(40, 61_000, 61_006);
        table.set_half_open_limit(9);
        let mut made = Vec::new();
        for step in steps {
            let guard = table.pin();
            let flow = |at: prop::sample::Index, made: &[FlowKey]| {
                (!made.is_empty()).then(|| table.lookup(at.get(made), &guard)).flatten()
            };
            match step {
                Step::Insert(new) => {
                    if table.insert(&new, 0, &guard).is_ok_and(|hit| hit.created) {
                        made.push(new.key);
                    }
                }
                Step::Remove(at) => {
                    if let Some(hit) = flow(at, &made) {
                        table.remove(hit.flow, &guard);
                    }
                }
                Step::Reset(at) => {
                    if let Some(hit) = flow(at, &made).filter(|hit| hit.flow.key().protocol == TCP) {
                        table.carry(hit.flow, true, Some(TCP_RST), 1, 40, 0);
                    }
                }
                Step::Answer(at) => {
                    if let Some(hit) = flow(at, &made) {
                        let flags = (hit.flow.key().protocol == TCP).then_some(TCP_SYN | TCP_ACK);
                        table.carry(hit.flow, false, flags, 1, 40, 0);
                    }
                }
                Step::Sweep(now) => drop(table.sweep(now, 100)),
                Step::Range(first, last) => drop(table.set_cell(CELL, Some(range(first, last)))),
            }
            check(&table);
        }
    }
}
