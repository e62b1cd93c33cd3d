use std::net::Ipv4Addr;
use std::sync::atomic::AtomicU32;

use sarcenet_dataplane_api::{Container, Peer, Rule, RuleId, UplinkMode};

use super::*;
use crate::{
    control::{
        desired::fixtures::{cell, container, peer, rule},
        testing::{Event, FakeDoors, no_queue, queue},
    },
    flow::{FlowKey, FlowTable, NewFlow},
    nat::Nat,
};

fn engine() -> Engine<FakeDoors> {
    let shared = Arc::new(Shared::new(FlowTable::new(1024).unwrap()));
    Engine::new(Arc::clone(&shared), FakeDoors::new(shared))
}

fn first(host: bool) -> Update {
    Update {
        generation: 1,
        cell: Some(Cell { host, ..cell() }),
        peers: vec![peer("10.255.62.0/24")],
        containers: vec![container(1, 2), container(2, 3)],
        rules: vec![rule(1, 5, 2, 80, 80), rule(2, 5, 3, 7000, 8000)],
        ..Update::default()
    }
}

/// An engine with two containers, its log read.
fn furnished() -> Engine<FakeDoors> {
    let engine = engine();
    engine.update(&first(false), vec![queue(), queue()]).unwrap();
    engine.doors().take_log();
    engine
}

fn admitted(engine: &Engine<FakeDoors>, last: u8, port: u16) -> bool {
    let guard = engine.shared().flows.pin();
    engine.shared().policy.admit(5, [10, 255, 55, last].into(), 6, port, &guard).is_some()
}

fn uplink(mtu: u16) -> Event {
    let (underlay, mode) = ([192, 0, 2, 11].into(), UplinkMode::Udp);
    Event::Uplink(UplinkSettings { underlay, port: 4789, mtu, mode })
}

fn add(port: u16, mtu: u16, generation: u32, rules: usize) -> Event {
    Event::Add { port: PortId(port), mtu, generation, rules }
}

#[test]
fn rules_are_in_force_before_a_door_is_read() {
    let engine = engine();
    assert_eq!(engine.update(&first(true), vec![queue(), queue(), queue()]).unwrap(), 1);
    let expected = [uplink(1450), Event::Host(Some(1450)), add(1, 1450, 1, 2), add(2, 1450, 1, 2)];
    assert_eq!(engine.doors().take_log(), expected);
    assert_eq!(*engine.doors().peers.lock(), [Ipv4Addr::new(192, 0, 2, 62)]);
    assert!(admitted(&engine, 2, 80) && admitted(&engine, 3, 7500));
    let topology = engine.shared().topology();
    assert_eq!(topology.container_at([10, 255, 55, 3].into()).unwrap().port, PortId(2));
    assert_eq!(topology.peers().len(), 1);
}

#[test]
fn a_rule_comes_and_goes_without_touching_doors() {
    let engine = furnished();
    let new = vec![rule(3, 5, 2, 443, 443)];
    engine.update(&Update { generation: 7, rules: new, ..Update::default() }, vec![]).unwrap();
    assert!(admitted(&engine, 2, 443));
    let rules_gone = vec![rule(0, 5, 2, 443, 443).key];
    engine.update(&Update { generation: 8, rules_gone, ..Update::default() }, vec![]).unwrap();
    assert!(!admitted(&engine, 2, 443) && admitted(&engine, 2, 80));
    assert_eq!(engine.shared().topology().generation(), 8);
    assert_eq!(engine.doors().take_log(), []);
}

#[test]
fn a_rule_takes_another_name_and_stays_one_rule() {
    let engine = furnished();
    let rules = vec![rule(9, 5, 2, 80, 80)];
    engine.update(&Update { generation: 2, rules, ..Update::default() }, vec![]).unwrap();
    assert_eq!(engine.status().rules, 2);
    let rules_gone = vec![rule(9, 5, 2, 80, 80).key];
    engine.update(&Update { generation: 3, rules_gone, ..Update::default() }, vec![]).unwrap();
    assert!(!admitted(&engine, 2, 80));
}

fn flow(engine: &Engine<FakeDoors>, from: Via, to: Via, port: u16) {
    let key = FlowKey {
        source: Ipv4Addr::new(10, 255, 62, 9),
        destination: Ipv4Addr::new(10, 255, 55, 2),
        source_port: port,
        destination_port: 80,
        protocol: 6,
    };
    let new =
        NewFlow { key, from, to, tag: 5, rule: Some(RuleId(1)), generation: 1, nat: Nat::None };
    let guard = engine.shared().flows.pin();
    engine.shared().flows.insert(&new, 0, &guard).unwrap();
}

#[test]
fn a_container_leaves_with_its_flows_before_its_address_is_another_ones() {
    let engine = furnished();
    let tunnel = Via::Tunnel([192, 0, 2, 62].into());
    flow(&engine, tunnel, Via::Container(PortId(1)), 1);
    flow(&engine, Via::Container(PortId(1)), Via::Container(PortId(2)), 2);
    flow(&engine, tunnel, Via::Container(PortId(2)), 3);
    // The same port and address, but another container.
    let next = Container { name: "next".into(), ..container(1, 2) };
    let update = Update {
        generation: 2,
        containers: vec![next],
        rules_gone: vec![rule(1, 5, 2, 80, 80).key],
        rules: vec![rule(3, 6, 2, 80, 80)],
        ..Update::default()
    };
    engine.update(&update, vec![queue()]).unwrap();
    let removed = Event::Remove { port: PortId(1), still_there: false };
    assert_eq!(engine.doors().take_log(), [removed, add(1, 1450, 2, 2)]);
    assert_eq!(engine.status().flows.used, 1);

    let gone = Update { generation: 3, containers_gone: vec![PortId(1)], ..Update::default() };
    engine.update(&gone, vec![]).unwrap();
    let removed = Event::Remove { port: PortId(1), still_there: false };
    assert_eq!(engine.doors().take_log(), [removed]);
    assert!(engine.shared().topology().container(PortId(1)).is_none());
}

#[test]
fn flows_of_a_dataplane_before_go_with_containers_that_have_gone() {
    let engine = engine();
    let tunnel = Via::Tunnel([192, 0, 2, 62].into());
    flow(&engine, tunnel, Via::Container(PortId(1)), 1);
    flow(&engine, Via::Container(PortId(1)), Via::Host, 2);
    flow(&engine, tunnel, Via::Container(PortId(2)), 3);
    let rest = Update { generation: 1, containers: vec![container(2, 3)], ..Update::default() };
    let own = Update { generation: 1, cell: Some(cell()), ..Update::default() };
    engine.complete(staged(vec![(own, 0), (rest, 1)])).unwrap();
    assert_eq!(engine.status().flows.used, 1);
}

#[test]
fn a_changed_mtu_reaches_every_door() {
    let engine = engine();
    engine.update(&first(true), vec![queue(), queue(), queue()]).unwrap();
    engine.doors().take_log();
    let larger = Cell { mtu: 8950, host: true, ..cell() };
    let update = Update { generation: 2, cell: Some(larger), ..Update::default() };
    engine.update(&update, vec![queue()]).unwrap();
    let expected = [uplink(8950), Event::Host(Some(8950)), add(1, 8950, 2, 2), add(2, 8950, 2, 2)];
    assert_eq!(engine.doors().take_log(), expected);

    let update = Update { generation: 3, cell: Some(cell()), ..Update::default() };
    engine.update(&update, vec![]).unwrap();
    let expected = [uplink(1450), Event::Host(None), add(1, 1450, 3, 2), add(2, 1450, 3, 2)];
    assert_eq!(engine.doors().take_log(), expected);
}

#[test]
fn refused_changes_change_nothing() {
    let engine = furnished();
    let before = engine.in_force.lock().desired.clone();
    let change = Update { generation: 2, rules: vec![rule(7, 7, 2, 1, 1)], ..Update::default() };
    let containers = |containers| Update { containers, ..change.clone() };
    let moved = Cell { underlay: [192, 0, 2, 99].into(), ..cell() };
    for (update, fds, words) in [
        (Update { generation: 1, ..change.clone() }, vec![], "generation 1 is in force"),
        (containers(vec![container(3, 4)]), vec![], "needs 1 file descriptors, 0 came"),
        (change.clone(), vec![queue()], "needs 0 file descriptors, 1 came"),
        (containers(vec![container(3, 2)]), vec![queue()], "that of container"),
        (containers(vec![container(3, 4)]), vec![no_queue()], "that came for container c3-4"),
        (Update { cell: Some(moved), ..change.clone() }, vec![], "cannot open the uplink"),
    ] {
        engine.doors().uplink_fails.store(true, Ordering::Relaxed);
        let message = engine.update(&update, fds).unwrap_err().to_string();
        assert!(message.contains(words), "{words:?} not in {message:?}");
        assert_eq!(engine.in_force.lock().desired, before);
        assert_eq!((engine.generation(), engine.status().rules), (1, 2));
        assert_eq!(engine.doors().take_log(), []);
    }
}

fn staged(pieces: Vec<(Update, usize)>) -> Staged {
    let mut staged = Staged::default();
    for (piece, fds) in pieces {
        staged.add(&piece, (0..fds).map(|_| queue()).collect()).unwrap();
    }
    staged
}

#[test]
fn what_a_snapshot_does_not_mention_is_gone() {
    let engine = furnished();
    let cell = Update { generation: 2, cell: Some(cell()), ..Update::default() };
    let rest = Update {
        generation: 2,
        containers: vec![container(2, 3)],
        rules: vec![rule(2, 5, 3, 7000, 8000), rule(4, 5, 3, 22, 22)],
        ..Update::default()
    };
    assert_eq!(engine.complete(staged(vec![(cell, 0), (rest, 1)])).unwrap(), 2);
    let removed = Event::Remove { port: PortId(1), still_there: false };
    assert_eq!(engine.doors().take_log(), [removed, add(2, 1450, 2, 2)]);
    assert!(!admitted(&engine, 2, 80) && admitted(&engine, 3, 22) && admitted(&engine, 3, 7000));
    assert_eq!((engine.status().peers, engine.status().rules), (0, 2));
}

#[test]
fn an_empty_snapshot_takes_everything() {
    let engine = furnished();
    assert_eq!(engine.complete(Staged::default()).unwrap(), 2);
    assert!(engine.shared().topology().cell().is_none());
    assert_eq!((engine.status().rules, engine.status().links.len()), (0, 0));
}

#[test]
fn a_contradictory_snapshot_changes_nothing() {
    let engine = furnished();
    let homeless = Update { generation: 2, containers: vec![container(1, 2)], ..Update::default() };
    assert!(engine.complete(staged(vec![(homeless, 1)])).is_err());
    let old = Update { generation: 1, cell: Some(cell()), ..Update::default() };
    assert!(engine.complete(staged(vec![(old, 0)])).is_err());
    assert_eq!((engine.generation(), engine.status().rules), (1, 2));
    assert_eq!(engine.doors().take_log(), []);
}

/// Rules that stay are admitted all the time, others as soon and as long as they may.
#[test]
fn nothing_flickers_while_rules_change() {
    const LOOKS: u32 = 200;
    let engine = Arc::new(furnished());
    let stop = Arc::new(AtomicBool::new(false));
    let looks = Arc::new(AtomicU32::new(0));
    let reader = {
        let (engine, stop, looks) = (Arc::clone(&engine), Arc::clone(&stop), Arc::clone(&looks));
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                assert!(admitted(&engine, 2, 80), "a rule that stays was not in force");
                assert!(admitted(&engine, 3, 7500), "both states admit this");
                assert!(!admitted(&engine, 3, 9000), "no state admits this");
                looks.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    let wide: Rule = rule(2, 5, 3, 7000, 8000);
    let wider: Rule = rule(3, 5, 3, 6000, 8500);
    // As many changes as it takes until the reader has looked often enough between them.
    for generation in 2.. {
        let looked = looks.load(Ordering::Relaxed) >= LOOKS && generation > 200;
        if looked || reader.is_finished() {
            break;
        }
        let (new, gone) = if generation % 2 == 0 { (wider, wide) } else { (wide, wider) };
        let update = Update {
            generation,
            rules: vec![new],
            rules_gone: vec![gone.key],
            ..Update::default()
        };
        engine.update(&update, vec![]).unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    reader.join().unwrap();
}

/// Whoever holds an epoch from before a change is waited for.
#[test]
fn a_change_waits_for_batches_under_way() {
    let engine = Arc::new(Engine { batch_patience: Duration::MAX, ..furnished() });
    let guard = engine.shared().flows.pin();
    let done = Arc::new(AtomicBool::new(false));
    let changer = {
        let (engine, done) = (Arc::clone(&engine), Arc::clone(&done));
        thread::spawn(move || {
            let peers: Vec<Peer> = vec![peer("10.255.99.0/24")];
            let update = Update { generation: 2, peers, ..Update::default() };
            engine.update(&update, vec![]).unwrap();
            done.store(true, Ordering::Release);
        })
    };
    while engine.shared().topology().generation() != 2 {
        thread::yield_now();
    }
    thread::sleep(Duration::from_millis(30));
    assert!(!done.load(Ordering::Acquire), "acknowledged while a batch was under way");
    drop(guard);
    changer.join().unwrap();
    assert!(done.load(Ordering::Acquire));
}

/// But not for ever: a worker may be stuck in the kernel.
#[test]
fn a_stuck_batch_does_not_stop_changes() {
    let engine = Engine { batch_patience: Duration::from_millis(5), ..furnished() };
    let _guard = engine.shared().flows.pin();
    let update = Update { generation: 2, peers: vec![peer("10.255.99.0/24")], ..Update::default() };
    assert_eq!(engine.update(&update, vec![]).unwrap(), 2);
}

/// An uplink that takes seconds to be opened keeps nobody from looking.
#[test]
fn status_is_told_while_an_uplink_is_being_opened() {
    let engine = Arc::new(furnished());
    let doors = engine.doors();
    let busy = doors.uplink_busy.lock();
    let before = doors.uplink_asked.load(Ordering::Relaxed);
    let changer = {
        let engine = Arc::clone(&engine);
        let moved = Cell { underlay: [192, 0, 2, 99].into(), ..cell() };
        let update = Update { generation: 2, cell: Some(moved), ..Update::default() };
        thread::spawn(move || engine.update(&update, vec![]))
    };
    while doors.uplink_asked.load(Ordering::Relaxed) == before {
        thread::yield_now();
    }
    let (told, status) = std::sync::mpsc::channel();
    let observer = {
        let engine = Arc::clone(&engine);
        thread::spawn(move || drop(told.send((engine.status(), engine.generation()))))
    };
    let (status, generation) =
        status.recv_timeout(Duration::from_secs(20)).expect("status, while the uplink is opened");
    assert_eq!((status.generation, generation, status.peers), (1, 1, 1));
    drop(busy);
    observer.join().unwrap();
    assert_eq!(changer.join().unwrap().unwrap(), 2);
    assert_eq!(engine.status().generation, 2);
}

/// Tried until it succeeds, and not without a cell or a reason.
#[test]
fn an_uplink_that_is_gone_is_opened_again() {
    let engine = engine();
    let gone = &engine.doors().uplink_gone;
    gone.store(true, Ordering::Relaxed);
    assert!(engine.tend_uplink().unwrap(), "there is no cell yet");
    engine.update(&first(false), vec![queue(), queue()]).unwrap();
    engine.doors().take_log();
    assert!(engine.tend_uplink().unwrap());
    assert_eq!(engine.doors().take_log(), []);
    gone.store(true, Ordering::Relaxed);
    engine.doors().uplink_fails.store(true, Ordering::Relaxed);
    assert!(engine.tend_uplink().is_err());
    engine.doors().uplink_fails.store(false, Ordering::Relaxed);
    assert!(!engine.tend_uplink().unwrap());
    assert_eq!(engine.doors().take_log(), [uplink(1450)]);
}
