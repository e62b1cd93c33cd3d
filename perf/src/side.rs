//! One side of a comparison: two cells of one kind with their containers and policies in place.

use std::cell::Cell as Slot;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use sarcenet_rig::outside::{OutsidePlan, network};
use sarcenet_rig::{
    AttachKind, Backend, Bulk, Cell, CellKind, Container, ContainerSpec, KernelCell, Namespace,
    OutsideHost, Plan, SarcenetCell, UplinkMode, World,
};
use serde::de::DeserializeOwned;

use crate::cpu::BusyTime;
use crate::cubic;
use crate::generator::{Both as _, Generator, Pair};
use crate::load::Seen;
use crate::loading::{Loading, SPACE, group};

/// First port on which generators listen; each run takes the next.
const FIRST_PORT: u16 = 7000;
/// Last of them.
const LAST_PORT: u16 = 9999;
/// Port of the sender's cell that leads to the sender: the first of those that Garden maps.
const HOST_PORT: u16 = 61_000;
/// Port of the sender that it leads to.
const APP_PORT: u16 = 8080;

/// Who moves the packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Sarcenet.
    Ours,
    /// The kernel, as Silk sets it up.
    Kernel,
    /// The kernel's routing without tunnel and rules.
    Reference,
}

/// Where the one who listens is, seen from the one who connects or sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Span {
    /// On the other cell.
    CrossCell,
    /// On the same cell.
    SameCell,
    /// Outside: the cell's address is on what comes there.
    Outside,
    /// Behind a mapped port of a cell, seen from outside.
    Mapped,
}

/// Both ends of traffic.
#[derive(Debug, Clone, Copy)]
struct Ends<'a> {
    /// Who connects or sends.
    from: &'a Namespace,
    /// Who listens.
    to: &'a Namespace,
    /// What it listens on.
    listen: SocketAddrV4,
    /// What leads there.
    target: SocketAddrV4,
}

/// Which of the two sends bulk data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// Who connects.
    There,
    /// Who listens.
    Back,
}

/// How sides are built.
#[derive(Debug, Clone)]
pub(crate) struct Building {
    /// What the kernel cells have for iptables.
    pub(crate) backend: Backend,
    /// How packets of our cells travel to each other.
    pub(crate) uplink: UplinkMode,
    /// What the interfaces of our containers are.
    pub(crate) attach: AttachKind,
    /// Further arguments of every `sarcenet-dataplane`.
    pub(crate) dataplane: Vec<String>,
}

/// The worlds that are there now. A scenario finds the one it needs, or it is built.
pub(crate) struct Worlds {
    building: Building,
    sides: BTreeMap<(Kind, Loading), Side>,
}

impl Worlds {
    pub(crate) fn new(building: Building) -> Self {
        Self { building, sides: BTreeMap::new() }
    }

    /// The world of this kind with this loading. Containers are only ever added: a world with
    /// more containers replaces the same with fewer.
    pub(crate) fn side(&mut self, kind: Kind, loading: Loading) -> Result<&Side> {
        let key = (kind, Loading { containers: 1, ..loading });
        if !self.sides.contains_key(&key) {
            let side = Side::new(kind, &self.building, key.1)
                .with_context(|| format!("build the cells of {kind:?}"))?;
            self.sides.insert(key, side);
        }
        let side = self.sides.get_mut(&key).context("a world that was just built")?;
        side.grow(loading).with_context(|| format!("put {loading:?} on the cells of {kind:?}"))?;
        Ok(side)
    }

    /// Removes all that no scenario to come needs.
    pub(crate) fn keep(&mut self, needed: &[Loading]) {
        self.sides.retain(|(_, have), _| {
            needed.iter().any(|need| Loading { containers: 1, ..*need } == *have)
        });
    }
}

/// Two cells of one kind.
pub(crate) struct Side {
    // Containers before the world: it removes what they lie in.
    sender: Container,
    near: Container,
    far: Container,
    neighbours: Vec<Container>,
    loading: Loading,
    next_port: Slot<u16>,
    world: World,
}

impl Side {
    /// Builds the world and waits until its policies are in force.
    fn new(kind: Kind, building: &Building, loading: Loading) -> Result<Self> {
        let (label, cell) = match kind {
            Kind::Ours => ("perfs", CellKind::Sarcenet),
            Kind::Kernel => ("perfk", CellKind::Kernel(building.backend)),
            Kind::Reference => ("perfr", CellKind::Routed),
        };
        let apps = Loading::apps();
        // From a file: with tags, and numbers of policies, that are the same for the kernel's cells,
        // and with as little as possible between the cells and beside them.
        let mut plan = Plan::new(label, &[cell, cell])
            .from_files()
            .apps(apps.iter().map(|(id, tag)| (id.as_str(), *tag)))
            .uplink(building.uplink)
            .attach(building.attach);
        // Both cells share this machine's cores, so each gets its part of the workers.
        plan.dataplane_arguments = vec!["--workers".into(), workers_per_cell()?.to_string()];
        plan.dataplane_arguments.extend_from_slice(&building.dataplane);
        let mut client = ContainerSpec::app("client");
        if loading.outside.is_some() {
            // More than the flow table holds, so never reached unless flows that are gone still
            // count.
            let per_container = 1_100_000;
            plan = plan.outside(OutsidePlan { per_container, ..OutsidePlan::default() });
            client = client.space(SPACE).mapping(HOST_PORT, APP_PORT);
        }
        let world = World::new(plan)?;
        if let Some(rules) = loading.outside {
            world.bind(group(rules))?;
            cubic::use_in(world.outside()?.namespace())?;
        }
        let sender = world.attach_as(0, &client)?;
        let near = world.attach(0, Some("server"))?;
        let far = world.attach(1, Some("server"))?;
        for container in [&sender, &near, &far] {
            cubic::use_in(container.namespace())?;
        }
        world.enforce(&loading.policies())?;
        let next_port = Slot::new(FIRST_PORT);
        Ok(Self { sender, near, far, neighbours: Vec::new(), loading, next_port, world })
    }

    /// Adds containers until there are as many as wanted.
    fn grow(&mut self, loading: Loading) -> Result<()> {
        if loading == self.loading {
            return Ok(());
        }
        let neighbours = usize::from(loading.containers) - 1;
        ensure!(
            neighbours >= self.neighbours.len() && loading.rules == self.loading.rules,
            "a world with {:?} cannot become one with {loading:?}",
            self.loading
        );
        // Kernel cells write all rules again for each container.
        self.world.enforce(&Loading::BASE.policies())?;
        while self.neighbours.len() < neighbours {
            self.neighbours.push(self.world.attach(1, Some("neighbour"))?);
        }
        self.world.enforce(&loading.policies())?;
        self.loading = loading;
        Ok(())
    }

    /// The world.
    pub(crate) fn world(&self) -> &World {
        &self.world
    }

    /// The container that sends.
    pub(crate) fn sender(&self) -> &Container {
        &self.sender
    }

    /// The container on the other cell.
    pub(crate) fn far(&self) -> &Container {
        &self.far
    }

    /// The ends of traffic that takes so many ports of the one who listens, in a row.
    fn ends(&self, span: Span, ports: u16) -> Result<Ends<'_>> {
        let sender = self.sender.namespace();
        let to = |to, address: Ipv4Addr| {
            let address = SocketAddrV4::new(address, self.take_ports(ports));
            Ends { from: sender, to, listen: address, target: address }
        };
        Ok(match span {
            Span::CrossCell => to(self.far.namespace(), self.far.address()),
            Span::SameCell => to(self.near.namespace(), self.near.address()),
            Span::Outside => {
                let host = self.world.outside()?.namespace();
                to(host, OutsideHost::address(network::PLAIN, 1))
            }
            Span::Mapped => Ends {
                from: self.world.outside()?.namespace(),
                to: sender,
                listen: SocketAddrV4::new(self.sender.address(), APP_PORT),
                target: SocketAddrV4::new(self.world.cells()[0].plan().underlay, HOST_PORT),
            },
        })
    }

    /// The Sarcenet cell that traffic passes last, or alone; none on the other sides.
    pub(crate) fn deciding(&self, span: Span) -> Option<&SarcenetCell> {
        let mut cells = self.sarcenet().into_iter();
        match span {
            Span::CrossCell => cells.next_back(),
            Span::SameCell | Span::Outside | Span::Mapped => cells.next(),
        }
    }

    /// Its Sarcenet cells, the sender's first; none on the other sides.
    pub(crate) fn sarcenet(&self) -> Vec<&SarcenetCell> {
        self.world.sarcenet_cells().collect()
    }

    /// The kernel's cell of the receiver.
    pub(crate) fn kernel(&self) -> Result<&KernelCell> {
        match self.world.cells() {
            [_, Cell::Kernel(cell)] => Ok(cell),
            _ => bail!("this needs a kernel cell"),
        }
    }

    /// Makes the kernel of its cells forget all conversations.
    pub(crate) fn forget_conversations(&self) -> Result<()> {
        for cell in self.world.cells() {
            if matches!(cell, Cell::Kernel(_)) {
                cell.namespace().checked(Command::new("conntrack").arg("-F"))?;
            }
        }
        Ok(())
    }

    /// What its links really are, one line each; empty for the kernel.
    pub(crate) fn modes(&self) -> Result<Vec<String>> {
        let mut modes = Vec::new();
        for cell in self.world.sarcenet_cells() {
            for link in cell.dataplane()?.status()?.links {
                let name = link.port.map_or(link.name, |_| "container".to_owned());
                modes.push(format!("{} {name}: {}", cell.plan().name, link.mode));
            }
        }
        modes.sort();
        modes.dedup();
        Ok(modes)
    }

    /// Runs iperf3 and returns what its receiver saw. Processor time is that of the whole run, so
    /// it is related to the bytes of the second that iperf3 does not count, too.
    pub(crate) fn iperf3(
        &self,
        span: Span,
        direction: Direction,
        streams: u8,
        seconds: f64,
    ) -> Result<Seen> {
        let duration = Duration::from_secs_f64(seconds.max(1.0));
        let Ends { from, to, listen, target } = self.ends(span, 1)?;
        let (port, streams, reverse) =
            (listen.port(), streams.into(), direction == Direction::Back);
        let busy = BusyTime::now()?;
        let result = Bulk { from, to, port, target, streams, reverse, duration }.run()?;
        let counted = duration.as_secs() as f64;
        Ok(Seen {
            bytes: (result.bits_per_second * counted / 8.0) as u64,
            packets: 0,
            seconds: counted,
            cpu_seconds: busy.elapsed()? * counted / (counted + 1.0),
        })
    }

    /// So many ports in a row, at most all that there are, that no run before has used for long;
    /// the first of them.
    pub(crate) fn take_ports(&self, count: u16) -> u16 {
        let next = self.next_port.get();
        let port = if count > LAST_PORT + 1 - next { FIRST_PORT } else { next };
        self.next_port.set(port + count);
        port
    }

    /// Runs a generator that listens, then one against it, and returns what the listening one
    /// saw; the other is ended then. Both are arguments of `sarcenet-perf load`, the address
    /// aside.
    pub(crate) fn received<T: DeserializeOwned>(
        &self,
        span: Span,
        listening: &str,
        sending: &str,
    ) -> Result<T> {
        let (receiver, sender) = self.start(span, listening, sending)?;
        let seen = receiver.seen(self);
        drop(sender);
        seen
    }

    /// The same for what the other one saw; the listening one is ended then.
    pub(crate) fn asked<T: DeserializeOwned>(
        &self,
        span: Span,
        listening: &str,
        asking: &str,
    ) -> Result<T> {
        let (server, client) = self.start(span, listening, asking)?;
        let seen = client.seen(self);
        drop(server);
        seen
    }

    /// The same for what both saw; both end by themselves.
    pub(crate) fn both<S: DeserializeOwned, R: DeserializeOwned>(
        &self,
        span: Span,
        listening: &str,
        sending: &str,
    ) -> Result<(S, R)> {
        self.start(span, listening, sending)?.both(self)
    }

    /// Starts both. They end when dropped, at the latest.
    pub(crate) fn start(&self, span: Span, listening: &str, sending: &str) -> Result<Pair> {
        self.start_on_ports(1, span, listening, sending)
    }

    /// The same with more than one port for the listening one: those from its address's on.
    pub(crate) fn start_on_ports(
        &self,
        ports: u16,
        span: Span,
        listening: &str,
        sending: &str,
    ) -> Result<Pair> {
        let Ends { from, to, listen, target } = self.ends(span, ports)?;
        let mut receiver = Generator::start(to, listening, Some(listen))?;
        receiver.wait_ready()?;
        Ok((receiver, Generator::start(from, sending, Some(target))?))
    }
}

fn workers_per_cell() -> Result<usize> {
    Ok((std::thread::available_parallelism()?.get() / 2).max(1))
}
