//! The whole server over its real socket, with doors that lead nowhere.

use std::{
    io::{IoSlice, Read},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use sarcenet_dataplane_api::{
    EventKind, Logging, PortId, Reply, Request, Role, TraceFilter, Update, VERSION,
    client::{Client, ClientError, Events, Snapshot},
    codec::{MAX_FRAME, encode},
    transport::{Connection, Listener, MAX_FDS, TransportError},
};
use tempfile::TempDir;

use super::{
    Engine, MAX_CONNECTIONS, Server,
    desired::fixtures::{cell, container, peer, rule},
    testing::{FakeDoors, no_queue, queue},
};
use crate::{
    events::Subject,
    flow::{FlowKey, FlowTable, NewFlow},
    nat::Nat,
    packet::Via,
    pipeline::Shared,
};

/// A server with a directory of its own.
struct World {
    path: PathBuf,
    engine: Arc<Engine<FakeDoors>>,
    server: Server,
    _directory: TempDir,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("dataplane.sock");
        let shared = Arc::new(Shared::new(FlowTable::new(2048).unwrap()));
        let engine = Arc::new(Engine::new(Arc::clone(&shared), FakeDoors::new(shared)));
        let listener = Listener::bind(&path, 0o600).unwrap();
        let server = Server::start(listener, Arc::clone(&engine)).unwrap();
        Self { path, engine, server, _directory: directory }
    }

    fn client(&self, role: Role) -> Client {
        Client::connect(&self.path, role).unwrap()
    }

    fn raw(&self) -> Connection {
        let connection = Connection::connect(&self.path).unwrap();
        connection.set_timeouts(Some(Duration::from_secs(10)), None).unwrap();
        connection
    }

    /// A connection that has said hello.
    fn greeted(&self, role: Role) -> Connection {
        let connection = self.raw();
        connection.send(&Request::Hello { version: VERSION, role }, &[]).unwrap();
        assert!(matches!(answer(&connection), Reply::Hello { .. }));
        connection
    }

    /// A controller that has given a cell with one container and one rule, generation 1.
    fn furnished(&self) -> Client {
        let mut client = self.client(Role::Controller);
        let queue = queue();
        let snapshot = Snapshot {
            cell: Some((cell(), None)),
            peers: vec![peer("10.255.62.0/24")],
            containers: vec![(container(1, 2), queue.as_fd())],
            rules: vec![rule(1, 5, 2, 80, 80)],
            ..Snapshot::default()
        };
        assert_eq!(client.snapshot(&snapshot).unwrap(), 1);
        client
    }

    fn assert_generation_and_rules(&self, generation: u64, rules: u64) {
        let status = self.engine.status();
        assert_eq!((status.generation, status.rules), (generation, rules));
    }
}

fn answer(connection: &Connection) -> Reply {
    connection.recv().unwrap().expect("an answer, not the end").0
}

fn refusal(connection: &Connection) -> String {
    match answer(connection) {
        Reply::Error { message } => message,
        other => panic!("{other:?} instead of a refusal"),
    }
}

fn assert_closed(connection: &Connection) {
    assert!(connection.recv::<Reply>().unwrap().is_none());
}

fn send_raw(connection: &Connection, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
    let fds: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&fds)];
    let rights = if fds.is_empty() { &rights[..0] } else { &rights };
    let socket = connection.as_fd().as_raw_fd();
    sendmsg::<()>(socket, &[IoSlice::new(bytes)], rights, MsgFlags::MSG_NOSIGNAL, None).unwrap();
}

fn refused(result: Result<u64, ClientError>) -> String {
    match result {
        Err(ClientError::Refused(why)) => why,
        other => panic!("{other:?} instead of a refusal"),
    }
}

/// Waits for something that another thread does soon.
fn eventually(what: &str, done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(30), "never happened: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_controller_is_obeyed_and_everybody_may_look() {
    let world = World::new();
    let mut controller = world.furnished();
    let update = Update { rules: vec![rule(2, 6, 2, 1, 99)], ..Update::default() };
    assert_eq!(controller.apply(update, &[]).unwrap(), 2);

    let mut observer = world.client(Role::Observer);
    assert_eq!(observer.generation(), 2);
    let status = observer.status().unwrap();
    assert_eq!((status.generation, status.rules, status.peers), (2, 2, 1));
    let ports = observer.ports().unwrap();
    assert_eq!(ports.len(), 1);
    assert_eq!(ports[0].0.address, container(1, 2).address);
    world.server.stop();
    assert!(observer.status().is_err());
    assert!(!world.path.exists());
}

#[test]
fn pages_of_ports_and_flows_are_put_together() {
    let world = World::new();
    let mut controller = world.client(Role::Controller);
    let queue = queue();
    let snapshot = Snapshot {
        cell: Some((cell(), None)),
        containers: (1..=200).map(|n| (container(n, n as u8), queue.as_fd())).collect(),
        ..Snapshot::default()
    };
    controller.snapshot(&snapshot).unwrap();
    let ports: Vec<u16> = controller.ports().unwrap().iter().map(|(info, _)| info.port.0).collect();
    assert_eq!(ports, (1..=200).collect::<Vec<_>>());

    let shared = world.engine.shared();
    for source_port in 0..1500 {
        let key = FlowKey {
            source: [10, 255, 55, 1].into(),
            destination: [10, 255, 62, 1].into(),
            source_port,
            destination_port: 80,
            protocol: 17,
        };
        let new = NewFlow {
            key,
            from: Via::Host,
            to: Via::Host,
            tag: 0,
            rule: None,
            generation: 1,
            nat: Nat::None,
        };
        shared.flows.insert(&new, 0, &shared.flows.pin()).unwrap();
    }
    let mut sources: Vec<u16> =
        controller.flows().map(|flow| flow.unwrap().source.port()).collect();
    sources.sort_unstable();
    assert!(sources.iter().copied().eq(0..1500), "{} flows", sources.len());
    world.server.stop();
}

#[test]
fn strangers_to_the_protocol_are_told_and_left() {
    let world = World::new();
    let other = Request::Hello { version: VERSION + 1, role: Role::Observer };
    let unknown_role = [0, VERSION as u8, 2];
    let too_long = vec![0; MAX_FRAME + 1];
    let half = &encode(&Request::Update(Box::new(Update {
        rules: vec![rule(1, 1, 1, 1, 1)],
        ..Update::default()
    })))
    .unwrap()[..7];
    for (bytes, words) in [
        (&encode(&other).unwrap()[..], format!("asks speaks {}", VERSION + 1)),
        (&encode(&Request::Status).unwrap(), "first message must be hello".into()),
        (&unknown_role, "cannot decode".into()),
        (&[0xff; 100], "cannot decode".into()),
        (&too_long, "longer than a frame".into()),
        (half, "cannot decode".into()),
    ] {
        let connection = world.raw();
        send_raw(&connection, bytes, &[]);
        let why = refusal(&connection);
        assert!(why.contains(&words), "{words:?} not in {why:?}");
        assert_closed(&connection);
        // And the same from somebody who was polite before.
        if words.contains("decode") || words.contains("longer") {
            let connection = world.greeted(Role::Observer);
            send_raw(&connection, bytes, &[]);
            assert!(refusal(&connection).contains(&words));
            assert_closed(&connection);
        }
    }
    eventually("all connections end", || world.server.connections() == 0);
    world.server.stop();
}

#[test]
fn what_is_out_of_place_is_refused_without_harm() {
    let world = World::new();
    let mut controller = world.furnished();
    let mut observer = world.client(Role::Observer);
    let update = Request::Update(Box::new(Update { generation: 9, ..Update::default() }));
    for request in [Request::SnapshotBegin, Request::SnapshotEnd, update] {
        let why = observer.request(&request, &[]).unwrap_err().to_string();
        assert!(why.contains("only a controller"), "{why}");
    }
    let again = Request::Hello { version: VERSION, role: Role::Controller };
    assert!(observer.request(&again, &[]).is_err());
    assert!(controller.request(&Request::SnapshotEnd, &[]).is_err());
    assert!(controller.request(&Request::Trace(TraceFilter::default()), &[]).is_err());
    assert!(controller.request(&Request::Events, &[]).is_err());
    let with_fd = controller.request(&Request::Status, &[queue().as_fd()]).unwrap_err();
    assert!(with_fd.to_string().contains("needs 0 file descriptors, 1 came"), "{with_fd}");
    // Everybody is still there.
    assert_eq!(controller.status().unwrap().generation, 1);
    assert_eq!(observer.status().unwrap().rules, 1);
    world.server.stop();
}

#[test]
fn links_are_told_in_pages() {
    let world = World::new();
    let mut controller = world.furnished();
    let queue = queue();
    let containers: Vec<_> = (3..=250).map(|port| container(port, port as u8)).collect();
    let queues = vec![queue.as_fd(); containers.len()];
    controller.apply(Update { containers, ..Update::default() }, &queues).unwrap();
    let told = world.client(Role::Observer).status().unwrap().links;
    let told: Vec<_> = told.iter().filter_map(|link| link.port).map(|port| port.0).collect();
    assert_eq!(told, std::iter::once(1).chain(3..=250).collect::<Vec<_>>());
    world.server.stop();
}

#[test]
fn refused_changes_leave_the_state_and_the_connection() {
    let world = World::new();
    let mut controller = world.furnished();
    let new_rule = || Update { rules: vec![rule(7, 7, 2, 7, 7)], ..Update::default() };
    let twice = Update { containers: vec![container(3, 2)], ..new_rule() };
    let no_tun = Update { containers: vec![container(3, 4)], ..new_rule() };
    let overlap = Update { peers: vec![peer("10.255.62.128/25")], ..new_rule() };
    assert!(refused(controller.apply(twice, &[queue().as_fd()])).contains("container c1-2"));
    assert!(refused(controller.apply(no_tun, &[no_queue().as_fd()])).contains("c3-4"));
    assert!(refused(controller.apply(overlap, &[])).contains("overlaps the peer"));

    // Descriptors that do not go with the message, past the client's own check.
    let update = Update { generation: 2, containers: vec![container(3, 4)], ..new_rule() };
    let request = Request::Update(Box::new(update));
    for fds in [0, 2, MAX_FDS] {
        let queue = queue();
        let why = controller.request(&request, &vec![queue.as_fd(); fds]).unwrap_err();
        assert!(why.to_string().contains(&format!("{fds} came with it")), "{why}");
    }
    world.assert_generation_and_rules(1, 1);
    assert_eq!(controller.apply(new_rule(), &[]).unwrap(), 2);
    world.assert_generation_and_rules(2, 2);
    world.server.stop();
}

#[test]
fn surplus_descriptors_do_not_stay_open() {
    let world = World::new();
    let connection = world.greeted(Role::Controller);
    let (mut reader, writer) = std::io::pipe().unwrap();
    let status = encode(&Request::Status).unwrap();
    send_raw(&connection, &status, &vec![writer.as_fd(); MAX_FDS + 1]);
    drop(writer);
    assert!(refusal(&connection).contains("65 file descriptors"));
    // End of file: the server holds none of them.
    assert_eq!(reader.read(&mut [0]).unwrap(), 0);
    world.server.stop();
}

#[test]
fn half_a_snapshot_is_nothing() {
    let world = World::new();
    drop(world.furnished());
    let (mut reader, writer) = std::io::pipe().unwrap();
    let writer = OwnedFd::from(writer);
    let connection = world.greeted(Role::Controller);
    let piece = Update {
        generation: 2,
        cell: Some(cell()),
        containers: vec![container(8, 8)],
        rules: vec![rule(8, 8, 8, 8, 8)],
        ..Update::default()
    };
    connection.send(&Request::SnapshotBegin, &[]).unwrap();
    assert!(matches!(answer(&connection), Reply::Ack { generation: 1 }));
    connection.send(&Request::Update(Box::new(piece.clone())), &[writer.as_fd()]).unwrap();
    assert!(matches!(answer(&connection), Reply::Ack { generation: 1 }));
    world.assert_generation_and_rules(1, 1);
    drop((connection, writer));
    // Its descriptors go with it.
    assert_eq!(reader.read(&mut [0]).unwrap(), 0);
    world.assert_generation_and_rules(1, 1);

    // A spoiled one: what follows the refused piece is not taken for a change.
    let connection = world.greeted(Role::Controller);
    let queue = queue();
    let bad = Update { rules: vec![rule(8, 0, 8, 8, 8)], ..piece.clone() };
    connection.send(&Request::SnapshotBegin, &[]).unwrap();
    connection.send(&Request::Update(Box::new(bad)), &[queue.as_fd()]).unwrap();
    connection.send(&Request::Update(Box::new(piece)), &[queue.as_fd()]).unwrap();
    connection.send(&Request::SnapshotEnd, &[]).unwrap();
    assert!(matches!(answer(&connection), Reply::Ack { .. }));
    assert!(refusal(&connection).contains("tag 0"));
    assert!(refusal(&connection).contains("begin again"));
    assert!(refusal(&connection).contains("begin again"));
    world.assert_generation_and_rules(1, 1);
    world.server.stop();
}

#[test]
fn the_newer_controller_wins() {
    let world = World::new();
    let mut first = world.furnished();
    let mut second = world.client(Role::Controller);
    assert_eq!(second.generation(), 1);
    let update = || Update { rules: vec![rule(3, 3, 2, 3, 3)], ..Update::default() };
    assert!(matches!(
        first.apply(update(), &[]),
        Err(ClientError::Transport(TransportError::Closed) | ClientError::Refused(_))
    ));
    world.assert_generation_and_rules(1, 1);
    assert_eq!(second.apply(update(), &[]).unwrap(), 2);
    // The state outlives its controller.
    drop(second);
    eventually("the connections end", || world.server.connections() == 0);
    world.assert_generation_and_rules(2, 2);
    world.server.stop();
}

#[test]
fn there_is_room_for_so_many_and_no_more() {
    let world = World::new();
    let mut all: Vec<Client> = (0..MAX_CONNECTIONS).map(|_| world.client(Role::Observer)).collect();
    for _ in 0..6 {
        let why = Client::connect(&world.path, Role::Observer).unwrap_err().to_string();
        assert!(why.contains("64 connections already"), "{why}");
    }
    assert!(all.iter_mut().all(|client| client.status().is_ok()));
    all.pop();
    eventually("a place is free", || Client::connect(&world.path, Role::Observer).is_ok());
    world.server.stop();
    assert!(all.iter_mut().all(|client| client.status().is_err()));
}

#[test]
fn who_never_reads_holds_nobody_up() {
    let world = World::new();
    let _controller = world.furnished();
    let deaf = world.greeted(Role::Observer);
    deaf.set_timeouts(None, Some(Duration::from_millis(20))).unwrap();
    // Ask and never read the answers, until no more questions fit either.
    let stuck = (0..100_000).find_map(|_| deaf.send(&Request::Status, &[]).err());
    assert!(matches!(stuck, Some(TransportError::TimedOut { .. } | TransportError::Closed)));
    assert_eq!(world.client(Role::Observer).status().unwrap().generation, 1);
    // After its patience the server lets go.
    eventually("the deaf one is dropped", || world.server.connections() == 1);
    world.server.stop();
}

#[test]
fn traces_end_with_their_readers() {
    let world = World::new();
    let trace = world.client(Role::Observer).trace(TraceFilter::default()).unwrap();
    let other = world.client(Role::Observer).trace(TraceFilter::default()).unwrap();
    drop(trace);
    eventually("a trace ends", || world.server.connections() == 1);
    let stopper = std::thread::spawn(move || world.server.stop());
    assert_eq!(other.map(Result::unwrap).count(), 0);
    stopper.join().unwrap();
}

#[test]
fn events_reach_every_observer_until_it_goes() {
    let world = World::new();
    let log = &world.engine.shared().events;
    let refused = |source_port| {
        let key = FlowKey {
            source: [10, 255, 1, 2].into(),
            destination: [192, 0, 2, 1].into(),
            source_port,
            destination_port: 80,
            protocol: 6,
        };
        let subject = Subject {
            port: PortId(source_port),
            container: key.source,
            tag: 0,
            key: &key,
            rule: None,
            asked: true,
        };
        log.record(&Logging::default(), 0, EventKind::EgressDenied, &subject);
    };
    refused(1);
    let (mut one, mut two) = (
        world.client(Role::Observer).events().unwrap(),
        world.client(Role::Observer).events().unwrap(),
    );
    refused(2);
    refused(3);
    let next = |of: &mut Events, expected: &[u16]| {
        let mut ports = Vec::new();
        while ports.len() < expected.len() {
            let (events, lost) = of.next().unwrap().unwrap();
            assert_eq!(lost, 0);
            // The doors' clock stands at 0: events happen when they are told.
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
            let age = |at_ns: u64| Duration::from_nanos(now.saturating_sub(at_ns));
            assert!(events.iter().all(|event| age(event.at_ns) < Duration::from_mins(1)));
            ports.extend(events.iter().map(|event| event.port.0));
        }
        assert_eq!(ports, expected);
    };
    next(&mut one, &[2, 3]);
    next(&mut two, &[2, 3]);
    drop(one);
    eventually("one is gone", || world.server.connections() == 1);
    refused(4);
    next(&mut two, &[4]);
    // Who comes back is told what happens from then on.
    drop(two);
    eventually("both are gone", || world.server.connections() == 0);
    refused(5);
    let mut again = world.client(Role::Observer).events().unwrap();
    refused(6);
    next(&mut again, &[6]);
    let stopper = std::thread::spawn(move || world.server.stop());
    assert!(again.next().is_none());
    stopper.join().unwrap();
}
