//! Two cells with the same containers, security groups, policies and mappings are sent the same
//! packets, by containers and from outside, and must do the same with each: let it through or not,
//! refuse it or stay silent, under the same addresses, and bring back the same answers.
//!
//! Rules and packets are random, but the same in each run, so that a change fails for what it
//! changes. `SARCENET_DIFFERENTIAL_SEED` makes others (`random`: ones that nobody has seen),
//! `SARCENET_DIFFERENTIAL_SECONDS` sets how long a run takes. What differs and is meant to is in
//! `docs/differences.md` and [`known`].
#![forbid(unsafe_code)]

mod known;
mod packet;
mod probe;
mod random;
mod report;
mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result};
use sarcenet_rig::{
    AttachKind, Backend, Capture, CellKind, Container, HttpServer, Namespace, Outcome, OutsidePlan,
    Plan, SecurityGroup, World,
};

use packet::{Content, Seen};
use probe::{Cell, Place, Probe, Sightings};
use random::Random;
use report::Report;
use rules::{HOST_PORTS, Rules, SERVED};

/// Environment variables; see the module.
const SEED: &str = "SARCENET_DIFFERENTIAL_SEED";
const SECONDS: &str = "SARCENET_DIFFERENTIAL_SECONDS";
/// Packets that are on their way at a time.
const BATCH: usize = 250;
/// Batches for one set of rules.
const BATCHES: usize = 2;
/// Connections that are made for one set of rules.
const CONVERSATIONS: usize = 12;
/// Sets of rules for the same containers.
const ROUNDS: usize = 4;
/// Nothing more comes when nothing has come for this long.
const QUIET: Duration = Duration::from_millis(120);
/// How often packets are sent again whose fates differ: a busy machine loses some.
const AGAIN: usize = 3;
/// How long a connection may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Distance between the markers of two packets.
const MARKER_STEP: u32 = 0x0001_0100;
/// First and last source port of probes; containers' own sockets use others.
const PORTS: std::ops::Range<u16> = 1025..30_000;

/// The two cells, and what their containers are.
struct Bench {
    world: World,
    random: Random,
    apps: Vec<String>,
    port: u16,
    /// The last port of the cells that is mapped to a container.
    last_mapped: u16,
    marker: u32,
    /// Conversations without ports that were had: protocols and outside addresses.
    without_ports: BTreeSet<(u8, Ipv4Addr)>,
}

/// Containers of both cells, and what is served in them.
struct Population {
    containers: [Vec<Container>; 2],
    /// Mapped ports, and which container each of them leads to.
    mapped: Vec<(u16, usize)>,
    spaces: [String; 2],
    _servers: Vec<HttpServer>,
}

impl Population {
    fn mapped_ports(&self) -> Vec<u16> {
        self.mapped.iter().map(|&(port, _)| port).collect()
    }

    /// The container that a port of the cell leads to.
    fn behind(&self, port: u16) -> Option<Place> {
        let (_, number) = self.mapped.iter().find(|(mapped, _)| *mapped == port)?;
        Some(Place::Container(*number))
    }
}

/// A Sarcenet cell does what a kernel cell does.
#[test]
fn sarcenet_cell_agrees() {
    differ([CellKind::KERNEL, CellKind::Sarcenet], AttachKind::Tun, Duration::from_secs(45));
}

/// So it does with containers on veths.
#[test]
fn sarcenet_cell_with_veths_agrees() {
    differ([CellKind::KERNEL, CellKind::Sarcenet], AttachKind::Veth, Duration::from_secs(15));
}

/// Kernel cells with both kinds of iptables do the same: the test asks for nothing that depends on
/// chance.
#[test]
fn kernel_cells_agree() {
    let cells = [CellKind::KERNEL, CellKind::Kernel(Backend::Nft)];
    differ(cells, AttachKind::Veth, Duration::from_secs(10));
}

/// Tries for so long, or for as long as the environment says; every unknown difference is shown.
fn differ(cells: [CellKind; 2], attach: AttachKind, duration: Duration) {
    let number = |name: &str, text: String| {
        text.parse::<u64>().unwrap_or_else(|e| panic!("{name}={text}: {e}"))
    };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seed = match std::env::var(SEED) {
        Ok(text) if text == "random" => now.as_nanos() as u64,
        Ok(text) => number(SEED, text),
        Err(_) => 1,
    };
    let duration =
        std::env::var(SECONDS).map_or(duration, |text| Duration::from_secs(number(SECONDS, text)));
    println!("{SEED}={seed}");
    let mut bench = Bench::new(cells, attach, seed).unwrap_or_else(|error| panic!("{error:#}"));
    let report = bench.run(duration);
    match report {
        Ok(report) => println!("{report}"),
        Err(error) => panic!("{}\nseed {seed}: {error:#}", bench.world.logs()),
    }
}

impl Bench {
    fn new(cells: [CellKind; 2], attach: AttachKind, seed: u64) -> Result<Self> {
        let plan = Plan::new("d", &cells).attach(attach).outside(OutsidePlan::default());
        let world = World::new(plan)?;
        let apps = (0..rules::CONTAINERS)
            .map(|_| world.take_app().map(|app| app.id))
            .collect::<Result<Vec<_>>>()?;
        Ok(Self {
            world,
            random: Random::new(seed),
            apps,
            port: PORTS.start,
            last_mapped: HOST_PORTS,
            marker: MARKER_STEP,
            without_ports: BTreeSet::new(),
        })
    }

    fn run(&mut self, duration: Duration) -> Result<String> {
        let host = self.world.outside()?.namespace().clone();
        let _servers = SERVED
            .map(|port| host.serve_http("outside", SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port)))
            .into_iter()
            .collect::<Result<Vec<_>>>()?;
        let deadline = Instant::now() + duration;
        let mut report = Report::default();
        while Instant::now() < deadline && !report.is_full() {
            let population = self.populate()?;
            for _ in 0..ROUNDS {
                if Instant::now() < deadline && !report.is_full() {
                    self.round(&population, &mut report)?;
                }
            }
        }
        report.finish()
    }

    /// Sends packets and makes connections under new rules.
    fn round(&mut self, population: &Population, report: &mut Report) -> Result<()> {
        report.rounds += 1;
        let rules = Rules::random(&mut self.random, &self.apps);
        self.put_in_force(population, &rules)?;
        for _ in 0..BATCHES {
            let probes: Vec<Probe> =
                (0..BATCH).map(|_| self.probe(&rules, &population.mapped_ports())).collect();
            report.packets += probes.len();
            for (probe, fates) in self.compare(population, probes, &mut report.fates)? {
                let meant = known::reason(&probe, &fates).filter(|_| self.sarcenet());
                // What is not known is tried again by itself: a busy machine loses some.
                let mut alone = || self.compare(population, vec![probe], &mut BTreeMap::new());
                if meant.is_some() || !alone()?.is_empty() {
                    report.differs(meant, format!("{probe:?}"), &rules, fates);
                }
            }
        }
        for _ in 0..CONVERSATIONS {
            report.connections += 1;
            let probe = Probe::random(&mut self.random, &rules, &population.mapped_ports());
            let port = match probe.content {
                Content::Tcp(port, _) | Content::Udp(port) if self.random.chance(60) => port,
                _ => *self.random.pick(&SERVED),
            };
            if let Some(fates) = self.converse(population, &probe, port)? {
                let behind = population.behind(port);
                let meant = known::about_connection(&probe, behind, &fates);
                let what = format!("connection to port {port} instead of {probe:?}");
                report.differs(meant.filter(|_| self.sarcenet()), what, &rules, fates);
            }
        }
        Ok(())
    }

    /// A random probe. All that is sent without ports between the cell's address and another one is
    /// one conversation, and whose it is depends on everything that was sent before. So there is
    /// one packet at most.
    fn probe(&mut self, rules: &Rules, mapped: &[u16]) -> Probe {
        loop {
            let probe = Probe::random(&mut self.random, rules, mapped);
            match probe.without_ports() {
                Some(conversation) if !self.without_ports.insert(conversation) => {}
                _ => return probe,
            }
        }
    }

    /// Whether one of the cells is a Sarcenet cell, which differs in what is known.
    fn sarcenet(&self) -> bool {
        self.world.sarcenet_cells().next().is_some()
    }

    /// Makes new containers on both cells.
    fn populate(&mut self) -> Result<Population> {
        let number = self.marker;
        let spaces = [format!("space-{number}a"), format!("space-{number}b")];
        let specs = rules::containers(&mut self.random, &mut self.last_mapped, &self.apps, &spaces);
        let mapped = specs.iter().enumerate();
        let mapped = mapped.flat_map(|(n, spec)| spec.mappings.iter().map(move |m| (m.host, n)));
        let mapped = mapped.collect();
        let mut containers = [Vec::new(), Vec::new()];
        let mut servers = Vec::new();
        for (cell, containers) in containers.iter_mut().enumerate() {
            for spec in &specs {
                let container = self.world.attach_as(cell, spec)?;
                for port in [80, 8080] {
                    servers.push(container.serve_http(port)?);
                }
                containers.push(container);
            }
        }
        Ok(Population { containers, mapped, spaces, _servers: servers })
    }

    fn put_in_force(&self, population: &Population, rules: &Rules) -> Result<()> {
        for (number, (group, space)) in rules.groups.iter().zip(&population.spaces).enumerate() {
            self.world.bind(SecurityGroup::running(&format!("group-{number}"), space, group))?;
        }
        self.world.enforce(&rules.policies)
    }

    fn cells(&self, population: &Population) -> [Cell; 2] {
        let addresses = population
            .containers
            .each_ref()
            .map(|all| all.iter().map(Container::address).collect::<Vec<_>>());
        [0, 1].map(|cell| {
            let (plan, other) =
                (self.world.cells()[cell].plan(), self.world.cells()[1 - cell].plan());
            Cell {
                underlay: plan.underlay,
                subnet: plan.subnet,
                other: other.underlay,
                containers: addresses[cell].clone(),
                remote: addresses[1 - cell].clone(),
                sarcenet: plan.kind == CellKind::Sarcenet,
            }
        })
    }

    /// Sends the probes on both cells; those whose fates differ, again. Counts fates.
    fn compare(
        &mut self,
        population: &Population,
        mut probes: Vec<Probe>,
        count: &mut BTreeMap<String, u32>,
    ) -> Result<Vec<(Probe, [String; 2])>> {
        let mut differences = Vec::new();
        for attempt in 0..AGAIN {
            let fates = self.fates(population, &probes)?;
            differences = std::mem::take(&mut probes)
                .into_iter()
                .zip(fates)
                .inspect(|(_, [first, _])| {
                    if attempt == 0 {
                        *count.entry(first.clone()).or_default() += 1;
                    }
                })
                .filter(|(_, [first, second])| first != second)
                .collect();
            if differences.is_empty() {
                break;
            }
            probes = differences.iter().map(|(probe, _)| *probe).collect();
        }
        Ok(differences)
    }

    /// What becomes of probes on each cell.
    fn fates(&mut self, population: &Population, probes: &[Probe]) -> Result<Vec<[String; 2]>> {
        let cells = self.cells(population);
        let host = self.world.outside()?.namespace();
        let outside = [Capture::start(host, "wide")?, Capture::start(host, "narrow")?];
        let mut inside = [Vec::new(), Vec::new()];
        for (captures, containers) in inside.iter_mut().zip(&population.containers) {
            for container in containers {
                captures.push(Capture::start(container.namespace(), "eth0")?);
            }
        }
        let mut sent = Vec::new();
        for probe in probes {
            sent.push([0, 1].map(|cell: usize| {
                // Answers to TCP segments have numbers that follow theirs.
                self.marker = self.marker.wrapping_add(MARKER_STEP);
                self.port = if self.port + 1 < PORTS.end { self.port + 1 } else { PORTS.start };
                cells[cell].outgoing(probe, self.port, self.marker)
            }));
        }
        for cell in 0..2 {
            let packets = |from: &dyn Fn(Place) -> bool| -> Vec<Vec<u8>> {
                let mine = probes.iter().zip(&sent).filter(|(probe, _)| from(probe.from));
                mine.map(|(_, sent)| sent[cell].bytes()).collect()
            };
            host.send_packets(&packets(&|place| matches!(place, Place::Outside(_))))?;
            for (number, container) in population.containers[cell].iter().enumerate() {
                let from = |place| place == Place::Container(number);
                container.namespace().send_packets(&packets(&from))?;
            }
        }
        settle(&outside.iter().chain(inside.iter().flatten()).collect::<Vec<_>>());
        let read = |capture: &Capture| {
            let frames = capture.frames();
            frames.iter().filter_map(|frame| Seen::read(&frame.bytes)).collect::<Vec<_>>()
        };
        let outside: Vec<_> = outside.iter().flat_map(read).collect();
        let inside = inside.map(|captures| captures.iter().flat_map(read).collect::<Vec<_>>());
        let sightings = [0, 1].map(|cell: usize| {
            let mut sightings = Sightings::default();
            sightings.add("outside", outside.iter().cloned());
            sightings.add("container", inside[cell].iter().cloned());
            sightings.add("remote", inside[1 - cell].iter().cloned());
            sightings
        });
        Ok(probes
            .iter()
            .zip(&sent)
            .map(|(probe, sent)| {
                [0, 1].map(|cell: usize| {
                    let fate = sightings[cell].fate(&cells[cell], probe, &sent[cell]);
                    match fate.len() {
                        0 => "silence".to_owned(),
                        _ => fate.into_iter().collect::<Vec<_>>().join("; "),
                    }
                })
            })
            .collect())
    }

    /// Makes the same connection on both cells; what becomes of it if that differs.
    fn converse(
        &self,
        population: &Population,
        probe: &Probe,
        port: u16,
    ) -> Result<Option<[String; 2]>> {
        let cells = self.cells(population);
        let host = self.world.outside()?.namespace();
        let mut fates = [String::new(), String::new()];
        for _ in 0..AGAIN {
            for (cell, fate) in fates.iter_mut().enumerate() {
                let sent = cells[cell].outgoing(probe, 0, 0);
                let from = match probe.from {
                    Place::Container(number) => population.containers[cell][number].namespace(),
                    _ => host,
                };
                *fate = conversation(from, sent.destination, port, &cells[cell])?;
            }
            if fates[0] == fates[1] {
                return Ok(None);
            }
        }
        Ok(Some(fates))
    }
}

/// What becomes of a connection.
fn conversation(from: &Namespace, to: Ipv4Addr, port: u16, cell: &Cell) -> Result<String> {
    let to = SocketAddrV4::new(to, port);
    Ok(match from.connect(to, PATIENCE)? {
        Outcome::Connected(_) => match from.http(to, PATIENCE)?.greeting() {
            Ok(greeting) => {
                let seen = greeting.trim().rsplit(' ').next().unwrap_or_default();
                let seen = seen.parse::<Ipv4Addr>().context("a greeting without an address")?;
                format!("greeted as {}", cell.name(seen))
            }
            Err(_) => "connected without a greeting".to_owned(),
        },
        Outcome::Refused(_) => "refused".to_owned(),
        Outcome::TimedOut => "timed out".to_owned(),
        Outcome::Failed(errno) => format!("failed: {errno}"),
    })
}

/// Waits until nothing more comes.
fn settle(captures: &[&Capture]) {
    let count = || captures.iter().map(|capture| capture.len()).sum::<usize>();
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut before = usize::MAX;
    while Instant::now() < deadline {
        let now = count();
        if now == before {
            break;
        }
        before = now;
        std::thread::sleep(QUIET);
    }
}
