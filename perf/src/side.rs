//! One side of a comparison: two cells of one kind with their containers and policies in place.

use std::cell::Cell as Slot;
use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use sarcenet_rig::{
    AttachKind, Backend, Cell, CellKind, Container, KernelCell, Plan, SarcenetCell, UplinkMode,
    World, bulk_transfer,
};
use serde::de::DeserializeOwned;

use crate::cpu::BusyTime;
use crate::cubic;
use crate::generator::{Both as _, Generator, Pair};
use crate::load::Seen;
use crate::loading::Loading;

/// First port on which generators listen; each run takes the next.
const FIRST_PORT: u16 = 7000;
/// Last of them.
const LAST_PORT: u16 = 9999;

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

/// Where the receiver is, seen from the sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Span {
    /// On the other cell.
    CrossCell,
    /// On the same cell.
    SameCell,
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
        let mut plan = Plan::new(label, &[cell, cell])
            .apps(apps.iter().map(|(id, tag)| (id.as_str(), *tag)))
            .uplink(building.uplink)
            .attach(building.attach);
        // Both cells share this machine's cores, so each gets its part of the workers.
        plan.dataplane_arguments = vec!["--workers".into(), workers_per_cell()?.to_string()];
        plan.dataplane_arguments.extend_from_slice(&building.dataplane);
        let world = World::new(plan)?;
        let sender = world.attach(0, Some("client"))?;
        let near = world.attach(0, Some("server"))?;
        let far = world.attach(1, Some("server"))?;
        for container in [&sender, &near, &far] {
            cubic::use_in(container)?;
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

    /// The container that receives.
    pub(crate) fn receiver(&self, span: Span) -> &Container {
        match span {
            Span::CrossCell => &self.far,
            Span::SameCell => &self.near,
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
    pub(crate) fn iperf3(&self, span: Span, streams: u8, seconds: f64) -> Result<Seen> {
        let duration = Duration::from_secs_f64(seconds.max(1.0));
        let (port, streams) = (self.take_ports(1), streams.into());
        let busy = BusyTime::now()?;
        let result = bulk_transfer(&self.sender, self.receiver(span), port, streams, duration)?;
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
        listening: &str,
        sending: &str,
    ) -> Result<(S, R)> {
        self.start(Span::CrossCell, listening, sending)?.both(self)
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
        let address = SocketAddrV4::new(self.receiver(span).address(), self.take_ports(ports));
        let mut receiver = Generator::start(self.receiver(span), listening, Some(address))?;
        receiver.wait_ready()?;
        Ok((receiver, Generator::start(&self.sender, sending, Some(address))?))
    }
}

fn workers_per_cell() -> Result<usize> {
    Ok((std::thread::available_parallelism()?.get() / 2).max(1))
}
