//! A dataplane that keeps what it is told and carries no packet.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use nix::sys::eventfd::{EfdFlags, EventFd};
use parking_lot::Mutex;
use sarcenet_dataplane_api::transport::{Connection, Listener};
use sarcenet_dataplane_api::{
    Cell, Container, EgressRule, EgressSet, Event, Peer, PortId, PortInfo, Reply, Request, RuleId,
    RuleKey, SetId, Settings, Update, VERSION,
};

/// What it was told, the descriptors included.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) generation: u64,
    pub(crate) cell: Option<Cell>,
    pub(crate) host: Option<OwnedFd>,
    pub(crate) peers: BTreeMap<String, Peer>,
    pub(crate) containers: BTreeMap<PortId, (Container, OwnedFd)>,
    pub(crate) rules: BTreeMap<RuleKey, RuleId>,
    pub(crate) sets: BTreeMap<SetId, Vec<EgressRule>>,
    pub(crate) settings: BTreeMap<PortId, Settings>,
    pub(crate) snapshots: usize,
    /// Updates outside of snapshots, in order.
    pub(crate) updates: Vec<Update>,
    /// Refuse whatever changes something, with this text.
    pub(crate) refuse: Option<String>,
    /// Who follows events.
    followers: Vec<Arc<Connection>>,
    staging: bool,
    connections: Vec<Connection>,
}

impl Told {
    /// Lets go of everything but descriptors and generation, as a new process would.
    fn begin_anew(&mut self) {
        self.cell = None;
        self.peers.clear();
        self.rules.clear();
        self.sets.clear();
        self.settings.clear();
    }

    fn apply(&mut self, update: Update, fds: Vec<OwnedFd>) {
        let mut fds = fds.into_iter();
        for key in &update.rules_gone {
            assert!(self.rules.remove(key).is_some(), "{key:?} was not there");
        }
        for port in &update.containers_gone {
            assert!(self.containers.remove(port).is_some(), "{port:?} was not there");
            self.settings.remove(port);
        }
        if let Some(cell) = &update.cell {
            self.host =
                if cell.host { Some(fds.next().expect("the host's descriptor")) } else { None };
            self.cell = Some(cell.clone());
        }
        for subnet in &update.peers_gone {
            assert!(self.peers.remove(&subnet.to_string()).is_some(), "{subnet} was not there");
        }
        self.peers.extend(update.peers.iter().map(|peer| (peer.subnet.to_string(), *peer)));
        self.rules.extend(update.rules.iter().map(|rule| (rule.key, rule.id)));
        for container in &update.containers {
            let queue = fds.next().expect("one descriptor each");
            self.containers.insert(container.port, (container.clone(), queue));
        }
        assert!(fds.next().is_none(), "a descriptor too many");
        for EgressSet { id, from, rules } in &update.egress {
            let set = self.sets.entry(*id).or_default();
            assert_eq!(*from as usize, set.len(), "pieces of {id:?} come in order");
            set.extend(rules);
        }
        for settings in &update.settings {
            assert!(self.containers.contains_key(&settings.port), "{settings:?} of nobody");
            self.settings.insert(settings.port, settings.clone());
        }
        for set in &update.egress_gone {
            assert!(self.sets.remove(set).is_some(), "{set:?} was not there");
        }
        for set in self.settings.values().flat_map(|s| [s.denied, s.allowed]).flatten() {
            assert!(self.sets.contains_key(&set), "{set:?} is named, but not there");
        }
        assert!(update.generation > self.generation || self.staging, "generations grow");
        self.generation = update.generation;
        if !self.staging {
            self.updates.push(update);
        }
    }
}

/// A running fake.
pub(crate) struct Fake {
    pub(crate) told: Arc<Mutex<Told>>,
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Fake {
    pub(crate) fn start(path: &Path) -> Self {
        Self::start_with(path, Told::default())
    }

    /// Starts one that holds descriptors already.
    pub(crate) fn start_with(path: &Path, told: Told) -> Self {
        let listener = Listener::bind(path, 0o600).unwrap();
        let stop = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC).unwrap());
        let told = Arc::new(Mutex::new(told));
        let (stopped, shared) = (Arc::clone(&stop), Arc::clone(&told));
        let thread = std::thread::spawn(move || {
            while let Some(connection) = listener.accept(stopped.as_fd()).unwrap() {
                let told = Arc::clone(&shared);
                told.lock().connections.push(connection.try_clone().unwrap());
                std::thread::spawn(move || converse(&told, &connection));
            }
        });
        Self { told, stop, thread: Some(thread) }
    }

    /// Dies at once; every descriptor it held is closed, unless they are kept.
    pub(crate) fn die(mut self) -> Told {
        self.end();
        let mut told = std::mem::take(&mut *self.told.lock());
        told.begin_anew();
        told
    }

    /// How many follow events.
    pub(crate) fn followers(&self) -> usize {
        self.told.lock().followers.len()
    }

    /// Tells everybody who follows events.
    pub(crate) fn tell(&self, events: &[Event], lost: u64) {
        for follower in &self.told.lock().followers {
            follower.send(&Reply::Events { events: events.to_vec(), lost }, &[]).unwrap();
        }
    }

    fn end(&mut self) {
        self.stop.write(1).unwrap();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        for connection in self.told.lock().connections.drain(..) {
            let _ = connection.shutdown(std::net::Shutdown::Both);
        }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.end();
        }
    }
}

fn converse(told: &Mutex<Told>, connection: &Connection) {
    while let Ok(Some((request, fds))) = connection.recv::<Request>() {
        let follows = request == Request::Events;
        let (reply, fds) = answer(&mut told.lock(), request, fds);
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        if connection.send(&reply, &fds).is_err() {
            return;
        }
        if follows {
            let follower = Arc::new(connection.try_clone().unwrap());
            told.lock().followers.push(Arc::clone(&follower));
            // It says nothing any more, until it goes.
            let _ = connection.recv::<Request>();
            told.lock().followers.retain(|other| !Arc::ptr_eq(other, &follower));
            return;
        }
    }
}

fn answer(told: &mut Told, request: Request, fds: Vec<OwnedFd>) -> (Reply, Vec<OwnedFd>) {
    let changes = matches!(request, Request::Update(_) | Request::SnapshotEnd);
    if let Some(message) = told.refuse.clone().filter(|_| changes) {
        return (Reply::Error { message }, Vec::new());
    }
    match request {
        Request::Hello { .. } => {
            let generation = told.generation;
            return (Reply::Hello { version: VERSION, generation }, Vec::new());
        }
        Request::Ports { after } => {
            let held =
                told.containers.iter().filter(|(port, _)| after.is_none_or(|after| **port > after));
            let (ports, fds) = held
                .map(|(&port, (container, queue))| {
                    (PortInfo { port, address: container.address }, queue.try_clone().unwrap())
                })
                .unzip();
            return (Reply::Ports { ports, more: false }, fds);
        }
        Request::Host => {
            let queue = told.host.as_ref().map(|queue| queue.try_clone().unwrap());
            return (Reply::Host { held: queue.is_some() }, queue.into_iter().collect());
        }
        Request::SnapshotBegin => {
            told.begin_anew();
            told.containers.clear();
            told.staging = true;
        }
        Request::SnapshotEnd => {
            told.staging = false;
            told.snapshots += 1;
        }
        Request::Update(update) => told.apply(*update, fds),
        Request::Events => {}
        Request::Status | Request::Links { .. } | Request::Flows { .. } | Request::Trace(_) => {
            return (Reply::Error { message: "not here".into() }, Vec::new());
        }
    }
    (Reply::Ack { generation: told.generation }, Vec::new())
}
