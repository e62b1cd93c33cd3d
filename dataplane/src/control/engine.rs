//! Puts desired state in force, step by step, so that at no moment a packet is admitted that
//! neither the old nor the new state admits, or refused that both admit.

use std::{
    collections::HashMap,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use sarcenet_dataplane_api::{
    Attach, Cell, Container, PortId, PortInfo, Protocol, Reply, Status, Update,
};
use tracing::{info, warn};

use super::{
    desired::{Access, Desired, Invalid, Places, Plan, RuleChange},
    doors::{DoorError, Doors},
    grants::GrantBook,
};
use crate::{
    packet::Via,
    pipeline::Shared,
    topology::Topology,
    worker::{OutsideSettings, TakenPorts, UplinkSettings},
};

/// How long a change waits for workers that are in the middle of a batch. Batches take less than
/// a millisecond; a worker that takes this long is stuck in the kernel, and the change goes on.
const BATCH_PATIENCE: Duration = Duration::from_millis(200);

/// Why a change was refused. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The state contradicts itself.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The uplink cannot be opened.
    #[error("cannot open the uplink: {0}")]
    Uplink(#[source] DoorError),
    /// A descriptor is not what its container's way of attaching needs.
    #[error("cannot use the descriptor that came for {what}: {source}")]
    Queue {
        /// Whose it should be.
        what: String,
        /// What was found.
        source: DoorError,
    },
}

/// A snapshot as it comes in, piece by piece. Dropped without effect unless it is completed.
#[derive(Debug, Default)]
pub struct Staged {
    desired: Desired,
    generation: u64,
    host: Option<OwnedFd>,
    queues: HashMap<PortId, OwnedFd>,
}

impl Staged {
    /// Adds a piece. An error spoils nothing but the piece.
    pub fn add(&mut self, piece: &Update, fds: Vec<OwnedFd>) -> Result<(), Invalid> {
        let (host, queues) = sort_descriptors(piece, fds)?;
        self.desired.add_piece(piece)?;
        self.generation = self.generation.max(piece.generation);
        if piece.cell.is_some() {
            self.host = host;
        }
        self.queues.extend(queues);
        Ok(())
    }
}

/// Descriptors in the order of the message: the host's first, then one for each container.
fn sort_descriptors(
    update: &Update,
    fds: Vec<OwnedFd>,
) -> Result<(Option<OwnedFd>, HashMap<PortId, OwnedFd>), Invalid> {
    let with_host = update.cell.as_ref().is_some_and(|cell| cell.host);
    let expected = usize::from(with_host) + update.containers.len();
    if fds.len() != expected {
        return Err(Invalid::Descriptors { expected, got: fds.len() });
    }
    let mut fds = fds.into_iter();
    let host = if with_host { fds.next() } else { None };
    Ok((host, update.containers.iter().map(|container| container.port).zip(fds).collect()))
}

#[derive(Default)]
struct InForce {
    desired: Desired,
    generation: u64,
    grants: GrantBook,
    outside: Taken,
}

/// What was last taken from the kernel for the way to the outside.
#[derive(Debug, Default, PartialEq, Eq)]
enum Taken {
    /// Whatever a dataplane before this one has left.
    #[default]
    Unknown,
    /// This; nothing without settings.
    This(Option<OutsideSettings>),
}

/// What is said about the state in force, also while it is being changed.
#[derive(Debug, Clone, Copy, Default)]
struct Summary {
    generation: u64,
    peers: u64,
}

/// A checked change, ready to be put in force.
struct Change {
    generation: u64,
    plan: Plan,
    host: Option<OwnedFd>,
    queues: HashMap<PortId, OwnedFd>,
}

/// The state in force and everything that follows from it.
pub struct Engine<D> {
    shared: Arc<Shared>,
    doors: D,
    /// Held while the state changes, which can take seconds when a socket has to be waited for.
    in_force: Mutex<InForce>,
    summary: Mutex<Summary>,
    batch_patience: Duration,
}

impl<D: Doors> Engine<D> {
    /// With no state yet.
    pub fn new(shared: Arc<Shared>, doors: D) -> Self {
        let in_force = Mutex::new(InForce::default());
        let summary = Mutex::default();
        Self { shared, doors, in_force, summary, batch_patience: BATCH_PATIENCE }
    }

    /// What workers share.
    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// The doors.
    pub fn doors(&self) -> &D {
        &self.doors
    }

    /// Ends the engine; the doors are left to the caller.
    pub fn into_doors(self) -> D {
        self.doors
    }

    /// Generation in force, 0 before the first state.
    pub fn generation(&self) -> u64 {
        self.summary.lock().generation
    }

    /// Puts a change in force. Returns the generation then in force.
    pub fn update(&self, update: &Update, fds: Vec<OwnedFd>) -> Result<u64, ApplyError> {
        let (host, queues) = sort_descriptors(update, fds)?;
        let mut in_force = self.in_force.lock();
        check_generation(in_force.generation, update.generation)?;
        let plan = in_force.desired.plan(update)?;
        let generation = update.generation;
        self.put_in_force(&mut in_force, Change { generation, plan, host, queues })
    }

    /// Puts a whole state in force; what it does not mention goes.
    pub fn complete(&self, staged: Staged) -> Result<u64, ApplyError> {
        let mut in_force = self.in_force.lock();
        // A snapshot without any piece has no generation of its own.
        let generation =
            if staged.generation == 0 { in_force.generation + 1 } else { staged.generation };
        check_generation(in_force.generation, generation)?;
        let Staged { desired, host, queues, .. } = staged;
        let plan = in_force.desired.plan_towards(desired)?;
        let is_first = in_force.generation == 0;
        let generation =
            self.put_in_force(&mut in_force, Change { generation, plan, host, queues })?;
        if is_first {
            // Flows that live on from a dataplane before may be of containers that do not.
            let containers = &in_force.desired.places.containers;
            let gone = |via| matches!(via, Via::Container(port) if !containers.contains_key(&port));
            self.shared.flows.purge(|flow| gone(flow.from()) || gone(flow.to()));
        }
        Ok(generation)
    }

    fn put_in_force(&self, now: &mut InForce, change: Change) -> Result<u64, ApplyError> {
        let Change { generation, plan, host, queues } = change;
        let begun = Instant::now();
        // All that can fail, first.
        if let Some(places) = &plan.places {
            self.check_queues(places, host.as_ref(), &queues)?;
            self.move_uplink(now.desired.places.cell.as_ref(), places.cell.as_ref())?;
        }

        // A container that goes is gone for all workers before its address can mean another one.
        // The generation stays, so that whatever is decided in between is decided once more.
        let leaving =
            plan.places.as_ref().map_or_else(Vec::new, |new| leaving(&now.desired.places, new));
        if !leaving.is_empty() {
            let mut rest = now.desired.places.clone();
            for port in &leaving {
                rest.containers.remove(port);
            }
            self.shared.publish(topology(now.generation, &rest, &now.grants));
            self.wait_for_batches();
            for &port in &leaving {
                self.doors.remove_container(port);
            }
            let gone = |via: Via| matches!(via, Via::Container(port) if leaving.contains(&port));
            self.shared.flows.purge(|flow| gone(flow.from()) || gone(flow.to()));
        }

        self.change_rules(now.desired.rules.len(), &plan.rules);
        let (before, moved) = (now.desired.places.cell.clone(), plan.places.is_some());
        let (rules_new, rules_gone) = (plan.rules.new.len(), plan.rules.gone.len());
        if let Some(access) = &plan.access {
            now.grants.change(now.desired.access.towards(access), self.doors.now_ns());
        }
        now.desired.accept(plan);
        now.generation = generation;
        if moved {
            let peers = now.desired.places.peers.values();
            self.doors.set_peers(peers.map(|peer| peer.underlay).collect());
        }
        self.shared.publish(topology(generation, &now.desired.places, &now.grants));
        if moved {
            self.open_doors(&now.desired.places, before.as_ref(), host, queues);
        }
        self.open_outside(now);
        self.wait_for_batches();
        let peers = now.desired.places.peers.len() as u64;
        *self.summary.lock() = Summary { generation, peers };
        info!(
            generation,
            rules_new,
            rules_gone,
            containers = now.desired.places.containers.len(),
            peers = now.desired.places.peers.len(),
            took_us = begun.elapsed().as_micros() as u64,
            "state in force"
        );
        Ok(generation)
    }

    /// Changes the rules in force, of which there are `before`. What both states admit is admitted
    /// all the time, either way.
    fn change_rules(&self, before: usize, change: &RuleChange) {
        if before == change.gone.len() {
            self.shared.policy.replace(&change.new);
        } else {
            self.shared.policy.apply(&change.gone, &change.new);
        }
    }

    fn check_queues(
        &self,
        places: &Places,
        host: Option<&OwnedFd>,
        queues: &HashMap<PortId, OwnedFd>,
    ) -> Result<(), ApplyError> {
        let check = |fd: &OwnedFd, attach, what: &dyn Fn() -> String| {
            let checked = self.doors.check_queue(fd.as_fd(), attach);
            checked.map_err(|source| ApplyError::Queue { what: what(), source })
        };
        if let Some(host) = host {
            check(host, Attach::Tun, &|| "the host".into())?;
        }
        for container in places.containers.values() {
            if let Some(queue) = queues.get(&container.port) {
                check(queue, container.attach, &|| format!("container {}", container.name))?;
            }
        }
        Ok(())
    }

    fn move_uplink(&self, old: Option<&Cell>, new: Option<&Cell>) -> Result<(), ApplyError> {
        let Some(new) = new.map(uplink_of).filter(|new| old.map(uplink_of) != Some(*new)) else {
            return Ok(());
        };
        self.open_uplink(new).map_err(ApplyError::Uplink)
    }

    fn open_uplink(&self, settings: UplinkSettings) -> Result<(), DoorError> {
        let obtained = self.doors.set_uplink(settings)?;
        let UplinkSettings { underlay, port, mtu, mode } = settings;
        info!(%underlay, port, mtu, %mode, obtained, "uplink open");
        Ok(())
    }

    /// Opens the uplink again if its interface is gone or has other queues. Returns whether there was nothing to do.
    ///
    /// # Errors
    /// It cannot be opened yet.
    pub fn tend_uplink(&self) -> Result<bool, DoorError> {
        if self.doors.has_uplink() {
            return Ok(true);
        }
        let in_force = self.in_force.lock();
        let Some(cell) = &in_force.desired.places.cell else { return Ok(true) };
        self.open_uplink(uplink_of(cell)).map(|()| false)
    }

    /// Hands queues to the workers, once everything about their packets is in force.
    fn open_doors(
        &self,
        places: &Places,
        before: Option<&Cell>,
        host: Option<OwnedFd>,
        mut queues: HashMap<PortId, OwnedFd>,
    ) {
        let new_mtu = |cell: &Cell| before.is_some_and(|before| before.mtu != cell.mtu);
        let new_host = match places.cell.as_ref().filter(|cell| cell.host) {
            Some(cell) => host
                .or_else(|| self.doors.host_fd().filter(|_| new_mtu(cell)))
                .map(|fd| Some((fd, cell.mtu))),
            None => before.is_some_and(|before| before.host).then_some(None),
        };
        if let Some(host) = new_host
            && let Err(e) = self.doors.set_host(host)
        {
            warn!("cannot change the host's door: {e}");
        }
        let Some(cell) = &places.cell else { return };
        for container in places.containers.values() {
            let queue = queues
                .remove(&container.port)
                .or_else(|| self.doors.port_fd(container.port).filter(|_| new_mtu(cell)));
            let Some(queue) = queue else { continue };
            let Container { port, name, attach, .. } = container;
            let opened = self.doors.add_container(*port, name, *attach, queue, cell.mtu);
            if let Err(e) = opened {
                warn!(container = name, "cannot use the container's queue: {e}");
            }
        }
    }

    /// Takes from the kernel what belongs to containers, or leaves it to the kernel. When that
    /// cannot be done yet, it is tried again later: containers reach each other meanwhile.
    fn open_outside(&self, now: &mut InForce) {
        let cell = now.desired.places.cell.as_ref();
        let settings = cell.and_then(|cell| outside_of(cell, &now.desired.access));
        let wanted = Taken::This(settings.clone());
        if now.outside == wanted {
            return;
        }
        if let Err(e) = self.doors.set_outside(settings) {
            warn!("cannot take the traffic of the outside from the kernel yet: {e}");
        }
        now.outside = wanted;
    }

    /// Returns when every worker has begun a new batch or sleeps, so that none works with what
    /// was in force before. Workers hold an epoch for the length of a batch: a deferred function
    /// runs once all that were held when it was deferred are let go of.
    fn wait_for_batches(&self) {
        let passed = Arc::new(AtomicBool::new(false));
        let signal = Arc::clone(&passed);
        self.shared.flows.pin().defer(move || signal.store(true, Ordering::Release));
        let begun = Instant::now();
        let mut looks = 0_u32;
        loop {
            self.shared.flows.pin().flush();
            if passed.load(Ordering::Acquire) {
                return;
            }
            if begun.elapsed() > self.batch_patience {
                warn!("a worker has been busy with one batch for over {:?}", self.batch_patience);
                return;
            }
            // Idle workers are passed at once, and the shortest sleep takes longer than a batch.
            looks += 1;
            if looks < 32 {
                thread::yield_now();
            } else {
                thread::sleep(Duration::from_micros(200));
            }
        }
    }

    /// How everything is.
    pub fn status(&self) -> Status {
        let totals = self.doors.totals();
        let Summary { generation, peers } = *self.summary.lock();
        Status {
            program: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s: self.doors.now_ns() / 1_000_000_000,
            generation,
            transmitted: totals.transmitted,
            answered: totals.answered,
            answers_suppressed: totals.answers_suppressed,
            drops: totals.drops,
            flows: self.shared.flows.status(),
            rules: self.shared.policy.len() as u64,
            peers,
            links: self.doors.links(),
            workers: self.doors.workers(),
        }
    }

    /// A page of links behind that of a container, at most `limit`.
    pub fn links(&self, after: Option<PortId>, limit: usize) -> Reply {
        let links = self.doors.links().into_iter();
        let mut behind = links.filter(|link| after.is_none_or(|after| link.port > Some(after)));
        let page = behind.by_ref().take(limit).collect();
        Reply::Links { links: page, more: behind.next().is_some() }
    }

    /// A page of container ports behind `after`, at most `limit`, with their queues.
    pub fn ports(&self, after: Option<PortId>, limit: usize) -> (Reply, Vec<OwnedFd>) {
        let in_force = self.in_force.lock();
        let mut held = (in_force.desired.places.containers.values())
            .filter(|container| after.is_none_or(|after| container.port > after))
            .filter_map(|container| {
                let info = PortInfo { port: container.port, address: container.address };
                Some((info, self.doors.port_fd(container.port)?))
            });
        let (ports, fds): (Vec<_>, Vec<_>) = held.by_ref().take(limit).unzip();
        (Reply::Ports { ports, more: held.next().is_some() }, fds)
    }

    /// The host TUN, with a duplicate of its queue.
    pub fn host(&self) -> (Reply, Vec<OwnedFd>) {
        let queue = self.doors.host_fd();
        (Reply::Host { held: queue.is_some() }, queue.into_iter().collect())
    }

    /// A page of flows.
    pub fn flows(&self, cursor: u64, limit: usize) -> Reply {
        let now = (self.doors.now_ns() / 100_000_000) as u32;
        let (flows, next) = self.shared.flows.page(cursor, limit, now);
        Reply::Flows { flows, next }
    }
}

fn uplink_of(cell: &Cell) -> UplinkSettings {
    UplinkSettings {
        underlay: cell.underlay,
        port: cell.tunnel_port,
        mtu: cell.mtu,
        mode: cell.uplink,
    }
}

fn outside_of(cell: &Cell, access: &Access) -> Option<OutsideSettings> {
    let outside = cell.outside.as_ref()?;
    let mapped = |protocol| {
        let mappings = access.settings.values().flat_map(|settings| &settings.mappings);
        mappings
            .filter(|mapping| mapping.protocol == protocol)
            .map(|mapping| mapping.cell)
            .collect()
    };
    Some(OutsideSettings {
        underlay: cell.underlay,
        subnet: cell.subnet,
        snat_ports: outside.snat_ports,
        mapped: TakenPorts { tcp: mapped(Protocol::Tcp), udp: mapped(Protocol::Udp) },
    })
}

fn check_generation(current: u64, got: u64) -> Result<(), Invalid> {
    if got > current { Ok(()) } else { Err(Invalid::Generation { current, got }) }
}

fn topology(generation: u64, places: &Places, grants: &GrantBook) -> Topology {
    Topology::new(
        generation as u32,
        places.cell.clone(),
        places.peers.values().copied(),
        places.containers.values().cloned(),
    )
    .with_grants(grants.grants())
}

/// Ports whose container goes, or whose next one is another.
fn leaving(old: &Places, new: &Places) -> Vec<PortId> {
    let same = |port: &PortId| {
        let (old, new) = (&old.containers[port], new.containers.get(port));
        new.is_some_and(|new| new.address == old.address && new.name == old.name)
    };
    old.containers.keys().filter(|port| !same(port)).copied().collect()
}

#[cfg(test)]
mod tests;
