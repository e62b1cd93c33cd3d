//! The packet tables through real links: a whole engine, TUN devices in network namespaces, and
//! tunnel sockets on an underlay. Needs root.

mod doors;
mod segments;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sarcenet_dataplane::flow::FlowTable;
use sarcenet_dataplane::packet::Via;
use sarcenet_dataplane::pipeline::{Shared, Totals};
use sarcenet_dataplane::worker::{UplinkSettings, WorkerConfig, Workers};
use sarcenet_dataplane_api::UplinkMode;

use crate::expectation::{Cell, Left, check_answer, difference, expected_totals, play};
use crate::namespace::Namespace;
use crate::table::world::{MTU, World};
use crate::table::{Leaving, Outcome, PipelineOnly, Row, Sent, rows};
use doors::Door;
use segments::segments;

/// A cell with everybody around it.
struct LinkCell {
    shared: Arc<Shared>,
    workers: Workers,
    doors: Vec<Door>,
    generation: u32,
    /// How long the cell may take to count a packet.
    patience: Duration,
    // They go last.
    _namespaces: [Namespace; 3],
}

/// How long the cell may take to count a packet on a busy machine, and how long a packet that must
/// not end as in memory is waited for.
const PATIENCE: Duration = Duration::from_secs(20);
const IMPATIENCE: Duration = Duration::from_secs(2);

/// Largest packet of the devices at the doors' far sides. Whoever owns a container's namespace can
/// set what he likes there.
const FAR_MTU: u16 = u16::MAX;

/// Carries the largest tunnel packet that any row sends.
const UNDERLAY_MTU: u16 = 9100;

/// Underlay addresses of peers, known and unknown: `10.77.0.x`.
const PEERS: [u8; 4] = [12, 13, 44, 99];

/// TUN devices of the containers with the ports 1 to 5.
const CONTAINERS: [&str; 5] = ["port1", "port2", "port3", "port4", "port5"];

impl LinkCell {
    fn new(workers: usize, mode: UplinkMode) -> Self {
        let world = World::default();
        let cell = world.cell.as_ref().expect("the default state has a cell");
        let own = SocketAddrV4::new(cell.underlay, cell.tunnel_port);
        let [inside, outside, containers] = std::array::from_fn(|_| Namespace::new());
        let veth = format!("link add underlay mtu {UNDERLAY_MTU} type veth");
        inside.ip(&format!("{veth} peer name underlay mtu {UNDERLAY_MTU} netns {}", outside.id));
        inside.ip(&format!("addr add {}/24 dev underlay", own.ip()));
        inside.ip("link set underlay up");
        outside.ip("link set underlay up");
        let peers = PEERS.map(|last| Ipv4Addr::new(10, 77, 0, last));
        for address in peers {
            outside.ip(&format!("addr add {address}/24 dev underlay"));
        }
        inside.wait_for_carrier("underlay");

        let shared = Arc::new(Shared::new(FlowTable::new(1024).expect("a small flow table")));
        let config = WorkerConfig { count: workers, ..WorkerConfig::default() };
        let workers = inside.run({
            let shared = Arc::clone(&shared);
            move || {
                let workers = Workers::start(&shared, config).unwrap();
                let (underlay, port) = (*own.ip(), own.port());
                let settings = UplinkSettings { underlay, port, mtu: MTU, mode };
                workers.set_peers(peers.to_vec());
                let obtained = workers.set_uplink(settings).unwrap();
                let expected = match mode {
                    UplinkMode::Xdp => "xdp generic copy 1 queue",
                    _ => "udp gso gro",
                };
                assert_eq!(obtained, expected);
                workers
            }
        });
        let host = inside.tun("host", FAR_MTU);
        let mut doors = vec![Door::tun(&inside, "host", &host, Via::Host)];
        workers.set_host(Some((host, MTU))).unwrap();
        for (container, name) in world.containers.iter().zip(CONTAINERS) {
            let fd = containers.tun(name, FAR_MTU);
            doors.push(Door::tun(&containers, name, &fd, Via::Container(container.port)));
            workers
                .add_container(container.port, container.name.clone(), container.attach, fd, MTU)
                .unwrap();
        }
        for address in peers {
            doors.push(Door::peer(&outside, address, own));
        }
        Self {
            shared,
            workers,
            doors,
            generation: 0,
            patience: PATIENCE,
            _namespaces: [inside, outside, containers],
        }
    }

    /// Plays a row, without the conversations of those before. What a row that fails leaves
    /// behind is cleared away.
    fn play(&mut self, row: &Row) -> Result<(), String> {
        self.shared.flows.purge(|_| true);
        play(row, self).inspect_err(|_| while self.is_silent().is_err() {})
    }

    fn door(&self, via: Via) -> Result<&Door, String> {
        let door = self.doors.iter().find(|door| door.via() == via);
        door.ok_or_else(|| format!("nobody is behind {via:?}"))
    }

    /// Waits until this is counted, and no more than this.
    fn wait_for_totals(&self, expected: &Totals) -> Result<(), String> {
        let start = Instant::now();
        loop {
            let totals = self.workers.totals();
            if totals == *expected {
                return Ok(());
            }
            if start.elapsed() > self.patience {
                return Err(format!("counted {totals:?} instead of {expected:?}"));
            }
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    /// Nothing has come out of any door.
    fn is_silent(&self) -> Result<(), String> {
        match self.doors.iter().find_map(Door::look) {
            None => Ok(()),
            Some(Left { door, bytes, .. }) => {
                Err(format!("{} bytes too many leave by {door:?}: {bytes:02x?}", bytes.len()))
            }
        }
    }
}

impl Cell for LinkCell {
    fn put_in_force(&mut self, world: &World) {
        self.generation += 1;
        self.shared.policy.replace(&world.rules);
        self.shared.publish(world.topology(self.generation));
    }

    fn wait(&mut self, time: Duration) {
        std::thread::sleep(time);
    }

    fn send(&mut self, sent: &Sent) -> Result<(), String> {
        let before = self.workers.totals();
        let door = self.door(sent.packet.door)?;
        door.send(&sent.packet).map_err(|errno| format!("it cannot be sent: {errno}"))?;
        let expected = expected_totals(sent, &before);
        self.wait_for_totals(&expected)?;
        if let Outcome::Forward(via, packets) = &sent.outcome {
            for (n, packet) in packets.iter().enumerate() {
                comes_out(self.door(*via)?, n, packet)?;
            }
        }
        if let Some(answer) = sent.answer {
            let left = door.receive().ok_or("no answer comes")?;
            check_answer(&sent.packet, answer, &left)?;
        }
        let totals = self.workers.totals();
        if totals != expected {
            return Err(format!("counted {totals:?} in the end instead of {expected:?}"));
        }
        self.is_silent()
    }
}

/// Packet `n` comes out of a door: of the tunnel as the datagrams that it is cut into, of a TUN in
/// one piece.
fn comes_out(door: &Door, n: usize, packet: &Leaving) -> Result<(), String> {
    let header_len = if let Via::Tunnel(_) = door.via() { 22 } else { 0 };
    let (header, ip) = packet.bytes.split_at(header_len);
    let expected: Vec<_> = segments(ip, packet.offload)
        .into_iter()
        .map(|segment| [header, &segment].concat())
        .collect();
    let mut seen = Vec::new();
    let mut pieces = 0;
    while seen.len() < expected.len() {
        let Some(left) = door.receive() else {
            return Err(format!("of packet {n}, {} segments come", seen.len()));
        };
        pieces += 1;
        seen.extend(segments(&left.bytes, left.offload));
    }
    if header_len == 0 && pieces > 1 {
        return Err(format!("packet {n} comes in {pieces} pieces"));
    }
    for (expected, seen) in expected.iter().zip(&seen) {
        if expected != seen {
            return Err(difference(n, expected, seen));
        }
    }
    if seen.len() > expected.len() {
        return Err(format!("of packet {n}, {} segments come", seen.len()));
    }
    Ok(())
}

/// Plays every row on a cell with this many workers and this uplink.
fn every_row(workers: usize, mode: UplinkMode) {
    let mut cell = LinkCell::new(workers, mode);
    let (apart, rows): (Vec<_>, Vec<_>) =
        rows().into_iter().partition(|row| row.pipeline_only.is_some());
    assert!(rows.len() >= 60, "only {} rows", rows.len());
    let failures: Vec<String> = rows.iter().filter_map(|row| cell.play(row).err()).collect();
    assert!(
        failures.is_empty(),
        "{} of {} rows failed:\n{}",
        failures.len(),
        rows.len(),
        failures.join("\n")
    );
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(cell.is_silent(), Ok(()));

    cell.patience = IMPATIENCE;
    for row in apart.iter().filter(|row| row.pipeline_only == Some(PipelineOnly::KernelIntervenes))
    {
        assert!(cell.play(row).is_err(), "{:?} can be played here as well", row.name);
    }
}

/// Through real links every row ends as it does in memory: the same bytes at the same door, the
/// same answers, the same counters.
#[test]
fn every_row_through_real_links() {
    every_row(1, UplinkMode::Udp);
}

#[test]
fn every_row_through_real_links_of_two_workers() {
    every_row(2, UplinkMode::Udp);
}

#[test]
fn every_row_through_an_af_xdp_uplink() {
    every_row(1, UplinkMode::Xdp);
}
