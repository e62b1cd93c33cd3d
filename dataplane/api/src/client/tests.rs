use std::{fs::File, net::Ipv4Addr, thread};

use proptest::prelude::*;

use super::*;
use crate::{
    Attach, ConnectionLimit, EgressRule, HostService, Logging, MAX_LISTED, MAX_MAPPINGS, Mapping,
    Outside, PortId, PortRange, Protocol, Rate, Revoke, RuleId, RuleKey, SetId, Tracking, Traffic,
    UplinkMode, codec,
};

/// A range whose ports take the most bytes.
const WIDE: PortRange = PortRange { first: u16::MAX - 1, last: u16::MAX };

fn rule(n: u32) -> Rule {
    let destination = Ipv4Addr::from(u32::MAX - n);
    let key = RuleKey { source: u16::MAX, destination, protocol: Protocol::Udp, ports: WIDE };
    Rule { id: RuleId(u32::MAX - n), key }
}

fn container(n: u16, name: &str) -> Container {
    let address = Ipv4Addr::new(10, 255, 1, n as u8);
    Container {
        port: PortId(u16::MAX - n),
        address,
        tag: u16::MAX,
        name: name.to_owned(),
        attach: Attach::Veth { container: [0xff; 6], gateway: [0xff; 6] },
    }
}

fn outside(listed: usize) -> Outside {
    let address = Ipv4Addr::BROADCAST;
    Outside {
        snat_ports: Some(WIDE),
        snat_per_container: u32::MAX,
        not_masqueraded: vec![address.into(); listed],
        local: vec![address; listed],
        services: vec![HostService { address, protocol: Protocol::Udp, port: u16::MAX }; listed],
    }
}

fn egress(id: u32, rules: u32) -> EgressSet {
    let rule = |n| EgressRule {
        id: RuleId(u32::MAX - n),
        first: Ipv4Addr::BROADCAST,
        last: Ipv4Addr::BROADCAST,
        traffic: Traffic::Udp(WIDE),
        log: true,
    };
    EgressSet { id: SetId(u32::MAX - id), from: 0, rules: (0..rules).map(rule).collect() }
}

fn settings(n: u16, mappings: usize) -> Settings {
    let rate = Some(Rate { bits_per_second: u64::MAX, burst_bits: u64::MAX });
    Settings {
        port: PortId(u16::MAX - n),
        denied: Some(SetId(u32::MAX)),
        allowed: Some(SetId(u32::MAX)),
        mappings: vec![
            Mapping { protocol: Protocol::Udp, cell: WIDE, container: u16::MAX };
            mappings
        ],
        send: rate,
        receive: rate,
        connections: Some(ConnectionLimit {
            per_second: u32::MAX,
            burst: u32::MAX,
            dry_run: true,
            log: true,
        }),
    }
}

/// Pieces of sets put together; each must go on where the one before ended.
fn put_together(sets: &mut Vec<EgressSet>, pieces: Vec<EgressSet>) {
    for piece in pieces {
        match sets.iter_mut().find(|set| set.id == piece.id) {
            None => {
                assert_eq!(piece.from, 0);
                sets.push(piece);
            }
            Some(set) => {
                assert_eq!(piece.from as usize, set.rules.len());
                set.rules.extend(piece.rules);
            }
        }
    }
}

fn cell() -> Cell {
    Cell {
        underlay: Ipv4Addr::new(192, 0, 2, 1),
        subnet: "10.255.1.0/24".parse().unwrap(),
        overlay: "10.255.0.0/16".parse().unwrap(),
        vni: 0xff_ffff,
        tunnel_port: 4789,
        mtu: 1450,
        revoke: Revoke::Drain,
        uplink: UplinkMode::Udp,
        host: true,
        outside: Some(outside(MAX_LISTED)),
        logging: Logging {
            overlay: true,
            egress: true,
            denied_per_second: u32::MAX,
            accepted_udp_per_second: u32::MAX,
        },
        tracking: Tracking::default(),
        tag: 0,
        open: false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn pieces_fit_frames_and_lose_nothing(
        rules in 0..9_000_u32,
        gone in 0..9_000_u32,
        containers in 0..255_u16,
        name in "[a-z]{0,400}",
        peers in 0..5_000_u32,
        sets in prop::collection::vec(0..5_000_u32, 0..4),
        mappings in 0..=MAX_MAPPINGS,
    ) {
        let peer = |n: u32| Peer {
            subnet: ipnet::Ipv4Net::new(Ipv4Addr::from(n << 8), 24).unwrap(),
            underlay: Ipv4Addr::from(n),
            mac: [0xff; 6],
        };
        let update = Update {
            cell: Some(cell()),
            peers: (0..peers).map(peer).collect(),
            peers_gone: (0..peers).map(|n| peer(n).subnet).collect(),
            containers: (0..containers).map(|n| container(n, &name)).collect(),
            containers_gone: (0..containers).map(PortId).collect(),
            rules: (0..rules).map(rule).collect(),
            rules_gone: (0..gone).map(|n| rule(n).key).collect(),
            egress: sets.iter().zip(0..).map(|(&rules, id)| egress(id, rules)).collect(),
            egress_gone: (0..gone).map(|n| SetId(u32::MAX - n)).collect(),
            settings: (0..containers.min(3)).map(|n| settings(n, mappings)).collect(),
            ..Update::default()
        };
        let mut whole = Update::default();
        for piece in pieces::cut(update.clone()) {
            prop_assert!(pieces::descriptors(&piece) <= 32);
            let frame = codec::encode(&Request::Update(Box::new(piece.clone()))).unwrap();
            prop_assert!(frame.len() <= 64 * 1024 + 128, "{} bytes", frame.len());
            // Settings name containers before them, and no set that is gone before them.
            prop_assert!(whole.egress_gone.is_empty() || piece.settings.is_empty());
            prop_assert!(whole.settings.is_empty() || piece.containers.is_empty());
            whole.egress_gone.extend(piece.egress_gone);
            whole.settings.extend(piece.settings);
            whole.cell = whole.cell.or(piece.cell);
            whole.peers.extend(piece.peers);
            whole.peers_gone.extend(piece.peers_gone);
            whole.containers.extend(piece.containers);
            whole.containers_gone.extend(piece.containers_gone);
            whole.rules.extend(piece.rules);
            whole.rules_gone.extend(piece.rules_gone);
            put_together(&mut whole.egress, piece.egress);
        }
        prop_assert_eq!(whole, update);
    }
}

/// A server that answers hello and then whatever `answer` says.
fn serve(
    connection: Connection,
    mut answer: impl FnMut(Request, usize) -> Reply + Send + 'static,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        while let Ok(Some((request, fds))) = connection.recv::<Request>() {
            let reply = match request {
                Request::Hello { .. } => Reply::Hello { version: VERSION, generation: 41 },
                other => answer(other, fds.len()),
            };
            connection.send(&reply, &[]).unwrap();
        }
    })
}

#[test]
fn a_snapshot_of_many_pieces_takes_its_descriptors_along() {
    let (ours, theirs) = Connection::pair().unwrap();
    let (heard, log) = std::sync::mpsc::channel();
    let server = serve(theirs, move |request, fds| {
        let generation = match &request {
            Request::Update(update) => update.generation,
            _ => 42,
        };
        heard.send((request, fds)).unwrap();
        Reply::Ack { generation }
    });
    let null = File::open("/dev/null").unwrap();
    let snapshot = Snapshot {
        cell: Some((cell(), Some(null.as_fd()))),
        peers: Vec::new(),
        containers: (0..100).map(|n| (container(n, "app"), null.as_fd())).collect(),
        rules: (0..5_000).map(rule).collect(),
        egress: vec![egress(1, 5_000)],
        settings: vec![settings(1, 1)],
    };
    let mut client = Client::over(ours, Role::Controller).unwrap();
    assert_eq!(client.generation(), 41);
    assert_eq!(client.snapshot(&snapshot).unwrap(), 42);
    drop(client);
    server.join().unwrap();

    let log: Vec<_> = log.iter().collect();
    assert!(matches!(log.first(), Some((Request::SnapshotBegin, 0))));
    assert!(matches!(log.last(), Some((Request::SnapshotEnd, 0))));
    let pieces = &log[1..log.len() - 1];
    assert!(pieces.len() > 3);
    let (mut fds_seen, mut sets, mut settings_seen) = (0, Vec::new(), 0);
    for (request, fds) in pieces {
        let Request::Update(update) = request else { panic!("{request:?} inside a snapshot") };
        assert_eq!(update.generation, 42);
        assert_eq!(pieces::descriptors(update), *fds);
        fds_seen += fds;
        put_together(&mut sets, update.egress.clone());
        settings_seen += update.settings.len();
    }
    assert_eq!((fds_seen, settings_seen), (101, 1));
    assert_eq!(sets, [egress(1, 5_000)]);
}

#[test]
fn wrong_numbers_of_descriptors_are_not_even_sent() {
    let (ours, theirs) = Connection::pair().unwrap();
    let server = serve(theirs, |_, _| Reply::Ack { generation: 0 });
    let mut client = Client::over(ours, Role::Controller).unwrap();
    let update = Update { containers: vec![container(1, "app")], ..Update::default() };
    let refused = client.apply(update, &[]).unwrap_err();
    assert_eq!(refused.to_string(), "an update needs 1 file descriptors, not 0");
    drop(client);
    server.join().unwrap();
}

#[test]
fn answers_that_do_not_fit_are_errors() {
    let (ours, theirs) = Connection::pair().unwrap();
    let server = serve(theirs, |request, _| match request {
        Request::Status => Reply::Ack { generation: 3 },
        Request::Ports { .. } => Reply::Ports { ports: Vec::new(), more: true },
        _ => Reply::Error { message: "not today".into() },
    });
    let mut client = Client::over(ours, Role::Observer).unwrap();
    assert_eq!(
        client.status().unwrap_err().to_string(),
        "the dataplane sent Ack in answer to status"
    );
    assert!(client.ports().is_err());
    let flows: Vec<_> = client.flows().collect();
    assert_eq!(flows.len(), 1);
    assert!(matches!(&flows[0], Err(ClientError::Refused(why)) if why == "not today"));
    drop(client);
    server.join().unwrap();
}

#[test]
fn another_version_is_named() {
    let (ours, theirs) = Connection::pair().unwrap();
    let server = thread::spawn(move || {
        theirs.recv::<Request>().unwrap();
        theirs.send(&Reply::Hello { version: VERSION + 1, generation: 0 }, &[]).unwrap();
    });
    let refused = Client::over(ours, Role::Observer).unwrap_err().to_string();
    assert!(refused.contains(&format!("version {}", VERSION + 1)), "{refused}");
    server.join().unwrap();
}
