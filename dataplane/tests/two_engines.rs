//! Two whole engines in one process: real TUNs, real sockets, a veth between two cells. Each test
//! in network namespaces of its own. Needs root.

mod support;

use std::net::{Ipv4Addr, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sarcenet_dataplane::flow::FlowTable;
use sarcenet_dataplane::pipeline::Shared;
use sarcenet_dataplane::topology::Topology;
use sarcenet_dataplane::wire::tunnel::vtep_mac;
use sarcenet_dataplane::worker::{UplinkSettings, WorkerConfig, Workers};
use sarcenet_dataplane_api::{
    Attach, Cell, Container, DropReason, Logging, Peer, PortId, PortRange, Protocol, Revoke, Rule,
    RuleId, RuleKey, Tracking, UplinkMode,
};
use support::namespace::Namespace;
use support::{attach, traffic, until};

const MTU: u16 = 1450;
const UNDERLAY: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 77, 0, 11), Ipv4Addr::new(10, 77, 0, 12)];
const SUBNET: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 255, 55, 0), Ipv4Addr::new(10, 255, 62, 0)];
/// The first container of each cell, and a second one of the first cell.
const ADDRESS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 255, 55, 2), Ipv4Addr::new(10, 255, 62, 2)];
const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(10, 255, 55, 3);
const TAG: u16 = 7;
const PORTS: PortRange = PortRange { first: 8000, last: 8010 };

fn settings(underlay: Ipv4Addr, mode: UplinkMode) -> UplinkSettings {
    UplinkSettings { underlay, port: 4789, mtu: MTU, mode }
}

/// One cell: its namespace, its engine, and a container.
struct Engine {
    shared: Arc<Shared>,
    workers: Arc<Workers>,
    container: Namespace,
    cell: Namespace,
}

fn container(port: u16, address: Ipv4Addr) -> Container {
    Container {
        port: PortId(port),
        address,
        tag: TAG,
        name: format!("container-{port}"),
        attach: Attach::Tun,
    }
}

fn rule(destination: Ipv4Addr, protocol: Protocol, id: u32) -> Rule {
    Rule { id: RuleId(id), key: RuleKey { source: TAG, destination, protocol, ports: PORTS } }
}

impl Engine {
    fn start(
        number: usize,
        cell: Namespace,
        containers: &[Container],
        workers: usize,
        mode: UplinkMode,
    ) -> Self {
        let shared = Arc::new(Shared::new(FlowTable::new(4096).unwrap()));
        let cell_state = Cell {
            underlay: UNDERLAY[number],
            subnet: format!("{}/24", SUBNET[number]).parse().unwrap(),
            overlay: "10.255.0.0/16".parse().unwrap(),
            vni: 1,
            tunnel_port: 4789,
            mtu: MTU,
            revoke: Revoke::Drain,
            uplink: mode,
            host: false,
            outside: None,
            logging: Logging::default(),
            tracking: Tracking::default(),
            tag: 0,
            open: false,
        };
        let other = 1 - number;
        let peer = Peer {
            subnet: format!("{}/24", SUBNET[other]).parse().unwrap(),
            underlay: UNDERLAY[other],
            mac: vtep_mac(SUBNET[other]),
        };
        let rules: Vec<_> = (1..)
            .zip(containers)
            .flat_map(|(id, container)| {
                [Protocol::Tcp, Protocol::Udp].map(|protocol| {
                    rule(container.address, protocol, id * 2 + u32::from(protocol.number() == 6))
                })
            })
            .collect();
        shared.policy.apply(&[], &rules);
        shared.publish(Topology::new(
            1,
            Some(cell_state),
            std::iter::once(peer),
            containers.iter().cloned(),
        ));
        let config = WorkerConfig { count: workers, ..WorkerConfig::default() };
        let workers = cell.run({
            let shared = Arc::clone(&shared);
            move || {
                let workers = Arc::new(Workers::start(&shared, config).unwrap());
                let obtained = workers.set_uplink(settings(UNDERLAY[number], mode)).unwrap();
                assert_eq!(obtained, shown(mode));
                workers.set_peers(vec![UNDERLAY[other]]);
                workers
            }
        });
        let container = Namespace::new();
        let fd = attach(&container, ADDRESS[number], MTU);
        workers.add_container(PortId(1), "container-1".to_owned(), Attach::Tun, fd, MTU).unwrap();
        Self { shared, workers, container, cell }
    }

    /// Opens another uplink in the cell's namespace.
    fn set_uplink(&self, settings: UplinkSettings) -> Result<String, String> {
        let workers = Arc::clone(&self.workers);
        self.cell.run(move || workers.set_uplink(settings).map_err(|error| error.to_string()))
    }

    fn uplink(&self) -> String {
        self.workers.links()[0].mode.clone()
    }

    /// What ended here, other than packets for a cell whose MAC was not known yet.
    fn drops(&self) -> Vec<(DropReason, u64)> {
        let totals = self.workers.totals();
        let lost = totals.drops.iter().filter(|drops| drops.reason != DropReason::NextHopUnknown);
        lost.map(|drops| (drops.reason, drops.packets)).collect()
    }
}

/// What a mode is on a veth, which has no zero-copy, before super-packets have been tried.
fn shown(mode: UplinkMode) -> &'static str {
    match mode {
        UplinkMode::Xdp => "xdp generic copy 1 queue",
        UplinkMode::TunnelGso => "tunnel-gso, udp gso gro",
        UplinkMode::Udp | UplinkMode::Auto => "udp gso gro",
    }
}

/// Two cells with a veth between them.
fn world(workers: usize) -> [Engine; 2] {
    world_with(workers, UplinkMode::Udp)
}

fn world_with(workers: usize, mode: UplinkMode) -> [Engine; 2] {
    world_of(workers, [mode, mode])
}

/// The same, each cell with a mode of its own.
fn world_of(workers: usize, modes: [UplinkMode; 2]) -> [Engine; 2] {
    let cells = [Namespace::new(), Namespace::new()];
    join([&cells[0], &cells[1]]);
    let [one, other] = cells;
    let containers = [container(1, ADDRESS[0]), container(2, NEIGHBOUR)];
    [
        Engine::start(0, one, &containers, workers, modes[0]),
        Engine::start(1, other, &[container(1, ADDRESS[1])], workers, modes[1]),
    ]
}

/// Makes the veth pair.
fn join(cells: [&Namespace; 2]) {
    join_with(cells, "");
}

fn join_with(cells: [&Namespace; 2], properties: &str) {
    let other = cells[1].id;
    cells[0].ip(&format!(
        "link add underlay{properties} type veth peer name underlay{properties} netns {other}"
    ));
    for (cell, address) in cells.into_iter().zip(UNDERLAY) {
        cell.ip(&format!("addr add {address}/24 dev underlay"));
        cell.ip("link set underlay up");
    }
    cells[0].wait_for_carrier("underlay");
}

#[test]
fn tcp_bulk_between_cells_arrives_byte_by_byte() {
    bulk([UplinkMode::Udp; 2]);
}

#[test]
fn tcp_bulk_in_whole_super_packets_arrives_byte_by_byte() {
    bulk([UplinkMode::TunnelGso; 2]);
}

#[test]
fn tcp_bulk_at_the_card_arrives_byte_by_byte() {
    bulk([UplinkMode::Xdp; 2]);
}

/// What sockets send in one piece, and nobody cuts on the way, the other cell finds at its card.
#[test]
fn tcp_bulk_from_sockets_to_the_card_and_back() {
    bulk([UplinkMode::Udp, UplinkMode::Xdp]);
    bulk([UplinkMode::TunnelGso, UplinkMode::Xdp]);
    let [a, b] = world_of(1, [UplinkMode::Xdp, UplinkMode::Udp]);
    traffic::tcp(&a.container, &b.container, ADDRESS[1], 8000, 16 << 20);
}

fn bulk(modes: [UplinkMode; 2]) {
    let [a, b] = world_of(1, modes);
    traffic::tcp(&a.container, &b.container, ADDRESS[1], 8000, 64 << 20);
    let status = &a.workers.links()[0];
    assert_eq!((status.name.as_str(), status.mode.as_str()), ("uplink", shown(modes[0])));
    let mean = status.tx_bytes / status.tx_packets;
    assert!(mean > 8_000, "super-packets stay whole up to the uplink: {mean} bytes each");
    let received = &b.workers.links()[0];
    let mean = received.rx_bytes / received.rx_packets;
    assert!(mean > 8_000, "segments are put together again: {mean} bytes each");
    assert_eq!(b.workers.links()[1].mode, "tun vnet-hdr csum tso uso");
    assert_eq!((a.drops(), b.drops()), (vec![], vec![]));
    assert!(a.shared.flows.status().created > 0);
}

/// Several queues, read by one worker and by two; their number changes under way, as the tending
/// thread sees it.
#[test]
fn tcp_bulk_at_a_card_with_several_queues() {
    for workers in [1, 2] {
        let [a, b] = world_of(workers, [UplinkMode::Udp; 2]);
        a.cell.ip("link del underlay");
        join_with([&a.cell, &b.cell], " numrxqueues 4 numtxqueues 4");
        for (port, queues) in [(8000, 2), (8001, 4), (8002, 3)] {
            let mut obtained = Vec::new();
            for (engine, underlay) in [(&a, UNDERLAY[0]), (&b, UNDERLAY[1])] {
                // The kernel takes no queue away that has a socket.
                if queues < obtained_queues(engine) {
                    engine.set_uplink(settings(underlay, UplinkMode::Udp)).unwrap();
                }
                set_queues(engine, queues);
                assert!(!engine.uplink().starts_with("xdp") || !engine.workers.has_uplink());
                obtained.push(engine.set_uplink(settings(underlay, UplinkMode::Xdp)));
                assert!(engine.workers.has_uplink());
            }
            let expected = format!("xdp generic copy {queues} queues");
            assert_eq!(obtained, [Ok(expected.clone()), Ok(expected)]);
            traffic::tcp(&a.container, &b.container, ADDRESS[1], port, 16 << 20);
            traffic::tcp(&b.container, &a.container, ADDRESS[0], port, 16 << 20);
        }
        let readers = &b.workers.links()[0].readers;
        assert_eq!(readers.iter().collect::<std::collections::BTreeSet<_>>().len(), workers);
    }
}

/// Gives the card so many queues, as soon as the kernel has closed the sockets of those that go: it
/// does that in a thread of its own after the last worker has let go of them.
fn set_queues(engine: &Engine, queues: usize) {
    let patience = Instant::now() + Duration::from_secs(20);
    let is_set = || {
        engine.cell.run(move || {
            let number = queues.to_string();
            let arguments = ["-L", "underlay", "rx", &number, "tx", &number];
            let ethtool = Command::new("ethtool").args(arguments).output();
            ethtool.expect("ethtool is installed").status.success()
        })
    };
    while !is_set() {
        assert!(Instant::now() < patience, "the card keeps its queues");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// How many queues of the card it reads.
fn obtained_queues(engine: &Engine) -> usize {
    let mode = engine.uplink();
    mode.split(' ').nth(3).and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[test]
fn modes_change_while_the_engine_runs() {
    let engines = world_with(2, UplinkMode::Udp);
    let [a, b] = &engines;
    let order = [UplinkMode::Xdp, UplinkMode::TunnelGso, UplinkMode::Xdp, UplinkMode::Auto];
    for (port, mode) in (8000..).zip(order) {
        for (engine, underlay) in engines.iter().zip(UNDERLAY) {
            assert_eq!(engine.set_uplink(settings(underlay, mode)).as_deref(), Ok(shown(mode)));
        }
        traffic::tcp(&a.container, &b.container, ADDRESS[1], port, 4 << 20);
        traffic::tcp(&b.container, &a.container, ADDRESS[0], port, 4 << 20);
    }
}

#[test]
fn an_uplink_that_cannot_be_had_leaves_the_one_before() {
    let [a, b] = world(1);
    let elsewhere = Ipv4Addr::new(10, 77, 0, 99);
    for before in [UplinkMode::Udp, UplinkMode::Xdp] {
        assert_eq!(a.set_uplink(settings(UNDERLAY[0], before)).as_deref(), Ok(shown(before)));
        let error = a.set_uplink(settings(elsewhere, UplinkMode::Xdp)).unwrap_err();
        assert!(error.contains("no interface has that address"), "{error}");
        assert_eq!(a.uplink(), shown(before));
        traffic::tcp(&a.container, &b.container, ADDRESS[1], 8000, 1 << 20);
    }
}

/// Another process has the card. That is waited for, a few seconds, and nobody else has to.
#[test]
fn links_are_shown_while_the_card_is_waited_for() {
    let [a, b] = world_of(1, [UplinkMode::Xdp, UplinkMode::Udp]);
    let shared = Arc::new(Shared::new(FlowTable::new(1024).unwrap()));
    let config = WorkerConfig { count: 1, ..WorkerConfig::default() };
    let second = Arc::new(a.cell.run(move || Workers::start(&shared, config).unwrap()));
    let in_use = UplinkSettings { port: 4790, ..settings(UNDERLAY[0], UplinkMode::Udp) };
    let wanted = UplinkSettings { mode: UplinkMode::Xdp, ..in_use };
    let set = |settings| {
        let workers = Arc::clone(&second);
        move || workers.set_uplink(settings).map_err(|error| error.to_string())
    };
    assert_eq!(a.cell.run(set(in_use)).as_deref(), Ok("udp gso gro"));
    let asked = set(wanted);
    let refused = std::thread::scope(|scope| {
        let changing = scope.spawn(|| a.cell.run(asked));
        let mut looks = 0;
        while !changing.is_finished() {
            assert_eq!(second.links()[0].mode, "udp gso gro");
            std::thread::sleep(Duration::from_millis(1));
            looks += 1;
        }
        assert!(looks >= 100, "it was looked at {looks} times in seconds");
        changing.join().unwrap()
    });
    let error = refused.unwrap_err();
    assert!(error.contains("underlay") && error.contains("another XDP program"), "{error}");
    assert_eq!(second.links()[0].mode, "udp gso gro");
    traffic::tcp(&a.container, &b.container, ADDRESS[1], 8000, 1 << 20);
}

/// The interface goes, with the address, and comes back.
#[test]
fn an_interface_that_is_gone_and_back() {
    let [a, b] = world_with(2, UplinkMode::Xdp);
    traffic::tcp(&a.container, &b.container, ADDRESS[1], 8000, 1 << 20);
    a.cell.ip("link del underlay");
    until("both see it", || !a.workers.has_uplink() && !b.workers.has_uplink());
    assert_eq!(a.uplink(), "xdp gone");
    let error = a.set_uplink(settings(UNDERLAY[0], UplinkMode::Xdp)).unwrap_err();
    assert!(error.contains("no interface"), "{error}");
    assert_eq!(a.uplink(), "xdp gone");
    join([&a.cell, &b.cell]);
    for (engine, underlay) in [&a, &b].into_iter().zip(UNDERLAY) {
        let obtained = engine.set_uplink(settings(underlay, UplinkMode::Xdp));
        assert_eq!(obtained.as_deref(), Ok("xdp generic copy 1 queue"));
        assert!(engine.workers.has_uplink());
    }
    traffic::tcp(&a.container, &b.container, ADDRESS[1], 8001, 1 << 20);
}

#[test]
fn tcp_bulk_with_two_workers_a_cell() {
    let [a, b] = world(2);
    traffic::tcp(&b.container, &a.container, ADDRESS[0], 8001, 16 << 20);
    assert_eq!(a.workers.workers().len(), 2);
}

#[test]
fn tcp_bulk_on_one_cell() {
    let [a, _b] = world(1);
    let neighbour = Namespace::new();
    let fd = attach(&neighbour, NEIGHBOUR, MTU);
    a.workers.add_container(PortId(2), "container-2".to_owned(), Attach::Tun, fd, MTU).unwrap();
    traffic::tcp(&a.container, &neighbour, NEIGHBOUR, 8002, 64 << 20);
    assert_eq!(a.drops(), []);
}

#[test]
fn datagrams_come_back_as_they_were_sent() {
    let [a, b] = world(1);
    traffic::udp_echo(&a.container, &b.container, ADDRESS[1], 8003, 100);
    traffic::udp_segments(&a.container, &b.container, ADDRESS[1], 8004);
    assert_eq!((a.drops(), b.drops()), (vec![], vec![]));
}

#[test]
fn an_underlay_without_offloads_works() {
    let [a, b] = world(1);
    for engine in [&a, &b] {
        engine.cell.run(|| {
            let status = std::process::Command::new("ethtool")
                .args(["-K", "underlay", "tso", "off", "gso", "off", "tx-udp-segmentation", "off"])
                .args(["gro", "off", "tx", "off"])
                .status()
                .expect("ethtool");
            assert!(status.success());
        });
    }
    traffic::tcp(&a.container, &b.container, ADDRESS[1], 8005, 16 << 20);
    traffic::udp_echo(&b.container, &a.container, ADDRESS[0], 8006, 20);
}

#[test]
fn garbage_through_every_door_ends_counted() {
    let [a, b] = world(1);
    // Any bytes to the tunnel port, from the other cell.
    b.cell.run(|| {
        let socket = UdpSocket::bind((UNDERLAY[1], 0)).unwrap();
        let mut bytes = [0; 300];
        for len in 0..300_usize {
            support::pattern(len as u64 * 8, &mut bytes[..len]);
            socket.send_to(&bytes[..len], (UNDERLAY[0], 4789)).unwrap();
        }
    });
    until("300 datagrams are dropped", || {
        a.drops().iter().map(|&(_, packets)| packets).sum::<u64>() >= 300
    });
    traffic::tcp(&a.container, &b.container, ADDRESS[1], 8007, 1 << 20);
}

#[test]
fn a_container_that_is_gone_does_not_disturb_others() {
    let [a, b] = world(1);
    let neighbour = Namespace::new();
    let fd = attach(&neighbour, NEIGHBOUR, MTU);
    a.workers.add_container(PortId(2), "container-2".to_owned(), Attach::Tun, fd, MTU).unwrap();
    let mode = |workers: &Workers| {
        let links = workers.links();
        links.iter().find(|link| link.port == Some(PortId(2))).map(|link| link.mode.clone())
    };
    assert_eq!(mode(&a.workers).as_deref(), Some("tun vnet-hdr csum tso uso"));
    neighbour.ip("link del eth0");
    until("the worker notices", || mode(&a.workers).as_deref() == Some("tun gone"));
    traffic::tcp(&a.container, &b.container, ADDRESS[1], 8008, 1 << 20);
    a.workers.remove_container(PortId(2));
    assert_eq!(mode(&a.workers), None);
    assert!(a.workers.port_fd(PortId(1)).is_some());
    assert!(a.workers.port_fd(PortId(2)).is_none());
    drop(a);
}

#[test]
fn an_idle_engine_sleeps() {
    let [a, _b] = world(1);
    // Whatever IPv6 autoconfiguration says at first is over, or is not; then nothing wakes it.
    let sleeps = || a.workers.workers()[0].sleeps;
    until("a second without waking up", || {
        let before = sleeps();
        std::thread::sleep(Duration::from_secs(1));
        sleeps() <= before + 1
    });
}
