//! The agent's state and what may be done to it.
//!
//! Locks, in the order in which they are taken: `operations` (one ADD, DEL or CHECK at a time, over
//! disk, namespaces and dataplane), `configuration` (one change of the network at a time), `inner`
//! (what is known; held for moments only, never over anything that waits).

mod containers;
mod logging;
mod network;
mod report;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sarcenet_agent_api::{AttachmentId, ErrorCode, Reply};
use tracing::{info, warn};

use crate::attach::{self, AttachError, Interface};
use crate::config::{CellSpec, ConfigError, Network, TUNNEL_OVERHEAD};
use crate::dataplane::{Dataplane, Held};
use crate::desired::{Attached, Desired, RuleNames};
use crate::events::{Bounds, EventWriter};
use crate::host::{self, UnderlayError};
use crate::paths::Root;
use crate::state::{Saved, State, StateError, Store};
use crate::{desired, netns};
use logging::Switches;

/// How long a change may take to be in force in the dataplane before the one who asked is told
/// that it is not. A dataplane that restarts is back long before.
const PATIENCE: Duration = Duration::from_secs(5);

/// What an agent is started with.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where everything is.
    pub root: Root,
    /// Which cell this is.
    pub cell: String,
    /// The network file.
    pub network: PathBuf,
}

/// Why the agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The network file.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The state on disk.
    #[error(transparent)]
    State(#[from] StateError),
    /// The underlay.
    #[error(transparent)]
    Underlay(#[from] UnderlayError),
    /// The cell's own device.
    #[error("cannot make the cell's own device {device}: {source}", device = host::DEVICE)]
    Host {
        /// Why.
        source: AttachError,
    },
    /// Containers of another subnet.
    #[error(
        "container {id} has the address {address}, which is not in the cell's subnet {subnet}; \
         restore the subnet in the network file, or remove the container first"
    )]
    Subnet {
        /// The container.
        id: AttachmentId,
        /// Its address.
        address: std::net::Ipv4Addr,
        /// The cell's subnet.
        subnet: ipnet::Ipv4Net,
    },
    /// The system.
    #[error("cannot start: {0}")]
    System(#[from] std::io::Error),
}

/// A request that was not followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What kind of error.
    pub code: ErrorCode,
    /// What was wrong.
    pub message: String,
}

impl Failure {
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl From<Failure> for Reply {
    fn from(failure: Failure) -> Self {
        Self::Error { code: failure.code, message: failure.message }
    }
}

impl From<StateError> for Failure {
    fn from(error: StateError) -> Self {
        Self::new(ErrorCode::Storage, error.to_string())
    }
}

impl From<AttachError> for Failure {
    fn from(error: AttachError) -> Self {
        Self::new(ErrorCode::Namespace, error.to_string())
    }
}

/// A cell's agent.
#[derive(Debug)]
pub struct Agent {
    options: Options,
    store: Store,
    started: Instant,
    operations: Mutex<()>,
    configuration: Mutex<()>,
    inner: Mutex<Inner>,
    dataplane: Arc<Dataplane>,
    events: Arc<EventWriter>,
}

/// What is known.
#[derive(Debug)]
struct Inner {
    network: Network,
    /// The network file as it was read last, with or without mistakes.
    text: String,
    read_at: Instant,
    mistakes: Vec<String>,
    cell: CellSpec,
    mtu: u16,
    /// Queue of the cell's own device; none as long as only the dataplane has it.
    host: Option<Arc<OwnedFd>>,
    host_problem: Option<String>,
    last_address: Option<std::net::Ipv4Addr>,
    containers: BTreeMap<AttachmentId, Entry>,
    names: RuleNames,
    switches: Switches,
    state_problem: Option<String>,
}

/// A container.
#[derive(Debug, Clone)]
struct Entry {
    saved: Saved,
    /// Its queue; none as long as it is lost.
    queue: Option<Arc<OwnedFd>>,
    /// Why it is lost.
    problem: Option<String>,
}

impl Entry {
    /// Whether nothing can pass its interface: no queue, or the device is gone.
    fn is_lost(&self) -> bool {
        self.queue.as_ref().is_none_or(|queue| attach::is_gone(queue))
    }

    /// What somebody should know.
    fn problem(&self) -> Option<&str> {
        match &self.queue {
            Some(queue) if attach::is_gone(queue) => {
                Some("it is gone, most likely with its network namespace; DEL the container")
            }
            _ => self.problem.as_deref(),
        }
    }
}

impl Inner {
    fn state(&self) -> State {
        State {
            last_address: self.last_address,
            containers: self
                .containers
                .iter()
                .map(|(id, entry)| (id.clone(), entry.saved.clone()))
                .collect(),
        }
    }

    fn interface(&self, saved: &Saved) -> Interface {
        let Saved { id, address, kind, .. } = saved;
        Interface { kind: *kind, ifname: id.ifname.clone(), address: *address, mtu: self.mtu }
    }
}

impl Agent {
    /// Reads configuration and state, and makes the cell's own device. The dataplane is not
    /// talked to yet.
    pub fn new(options: Options) -> Result<Arc<Self>, StartError> {
        let text = Network::text(&options.network)?;
        let network = Network::parse_file(&options.network, &text)?;
        let cell = network.cell_of(&options.network, &options.cell)?.clone();
        let mtu = inner_mtu(&network, &cell)?;
        let store = Store::new(&options.root)?;
        let (state, state_problem) = store.load()?;
        if let Some(problem) = &state_problem {
            warn!("{problem}");
        }
        for saved in state.containers.values() {
            if !cell.subnet.contains(&saved.address) {
                let (id, address) = (saved.id.clone(), saved.address);
                return Err(StartError::Subnet { id, address, subnet: cell.subnet });
            }
        }
        let host = host::make(cell.subnet, network.overlay, mtu)
            .map_err(|source| StartError::Host { source })?;
        info!(cell = cell.name, subnet = %cell.subnet, underlay = %cell.underlay, mtu,
            containers = state.containers.len(), "agent starts");
        let containers = state.containers.into_iter().map(|(id, saved)| {
            (id, Entry { saved, queue: None, problem: Some("not looked for yet".into()) })
        });
        let inner = Inner {
            network,
            text,
            read_at: Instant::now(),
            mistakes: Vec::new(),
            cell,
            mtu,
            host: host.map(Arc::new),
            host_problem: None,
            last_address: state.last_address,
            containers: containers.collect(),
            names: RuleNames::default(),
            switches: Switches::default(),
            state_problem,
        };
        Ok(Arc::new(Self {
            options,
            store,
            started: Instant::now(),
            operations: Mutex::new(()),
            configuration: Mutex::new(()),
            inner: Mutex::new(inner),
            dataplane: Dataplane::new()?,
            events: Arc::default(),
        }))
    }

    /// Starts the thread that keeps the dataplane up to date and the one that writes events; they
    /// end after [`Self::stop`]. Returns the former.
    pub fn start(self: &Arc<Self>) -> std::io::Result<JoinHandle<()>> {
        let agent = Arc::clone(self);
        let describe = Box::new(move |events: &[_]| agent.describe(events));
        let socket = self.options.root.dataplane_socket();
        let cell = self.cell_name();
        self.events.start(socket.clone(), cell, Bounds::default(), describe)?;
        let agent = Arc::clone(self);
        self.dataplane.start(socket, Box::new(move |held| agent.adopt(held)))
    }

    /// Ends the threads of [`Self::start`]. Containers, devices and the dataplane stay as they are.
    pub fn stop(&self) {
        self.dataplane.stop();
        self.events.stop();
    }

    /// What the agent was started with.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Makes what is known now the dataplane's desired state.
    fn publish(&self, inner: &mut Inner) -> u64 {
        let attached: Vec<_> = inner
            .containers
            .values()
            .filter_map(|entry| {
                let queue = Arc::clone(entry.queue.as_ref()?);
                let saved = &entry.saved;
                let (id, app) = (saved.id.clone(), saved.app.clone());
                let attach = attach::description(saved.kind, saved.address);
                Some(Attached { id, address: saved.address, app, attach, queue })
            })
            .collect();
        let desired = Desired::new(
            &inner.network,
            &inner.cell,
            inner.mtu,
            inner.host.clone(),
            &attached,
            &mut inner.names,
        )
        .with_logging(inner.logging());
        let file = self.options.root.events_file();
        self.events.want(desired.records_events().then_some(file.as_path()));
        self.dataplane.publish(desired)
    }

    /// Takes the queues that the dataplane holds and this agent does not, makes those interfaces
    /// anew whose queue nobody holds, and publishes the result.
    fn adopt(&self, held: Held) {
        let Held { host, ports } = held;
        self.adopt_host(host);
        let mut inner = self.inner.lock();
        let subnet = inner.cell.subnet;
        let mut held: BTreeMap<_, _> = ports
            .into_iter()
            .filter(|(_, fd)| !attach::is_gone(fd))
            .map(|(info, fd)| ((info.port, info.address), fd))
            .collect();
        for entry in inner.containers.values_mut().filter(|entry| entry.is_lost()) {
            entry.queue = None;
            let address = entry.saved.address;
            if let Some(fd) = held.remove(&(desired::port(subnet, address), address)) {
                entry.queue = Some(Arc::new(fd));
                entry.problem = None;
            }
        }
        drop(held);
        let lost: Vec<(Saved, Interface)> = inner
            .containers
            .values()
            .filter(|entry| entry.queue.is_none())
            .map(|entry| (entry.saved.clone(), inner.interface(&entry.saved)))
            .collect();
        drop(inner);
        for (saved, interface) in lost {
            let opened = open_namespace(&saved).and_then(|netns| interface.make(netns.as_fd()));
            let mut inner = self.inner.lock();
            let Some(entry) = inner.containers.get_mut(&saved.id) else { continue };
            match opened {
                Ok(queue) if entry.saved == saved && entry.queue.is_none() => {
                    info!(container = %saved.id, "interface made anew");
                    entry.queue = Some(Arc::new(queue));
                    entry.problem = None;
                }
                Ok(_) => {}
                Err(e) => {
                    warn!(container = %saved.id, "interface lost: {e}");
                    entry.problem = Some(e.to_string());
                }
            }
        }
        self.publish(&mut self.inner.lock());
    }

    /// Takes the host TUN's queue from the dataplane, or makes the device anew when nobody who
    /// can be asked has it.
    fn adopt_host(&self, held: Option<OwnedFd>) {
        let (subnet, overlay, mtu) = {
            let inner = self.inner.lock();
            if inner.host.is_some() {
                return;
            }
            (inner.cell.subnet, inner.network.overlay, inner.mtu)
        };
        let queue = match held {
            Some(queue) => host::set_up(subnet, overlay, mtu).map(|()| queue),
            None => host::make(subnet, overlay, mtu).and_then(|made| match made {
                Some(queue) => Ok(queue),
                None => host::make_anew(subnet, overlay, mtu),
            }),
        };
        let mut inner = self.inner.lock();
        match queue {
            Ok(queue) => {
                inner.host = Some(Arc::new(queue));
                inner.host_problem = None;
            }
            Err(e) => {
                let problem = format!(
                    "the cell's own processes cannot reach containers: cannot set {} up: {e}",
                    host::DEVICE
                );
                warn!("{problem}");
                inner.host_problem = Some(problem);
            }
        }
    }
}

fn open_namespace(saved: &Saved) -> Result<OwnedFd, AttachError> {
    netns::open_same(saved.netns_path.as_ref(), saved.netns_inode).map_err(AttachError::Namespace)
}

/// Largest inner IP packet of a cell: as configured, or the underlay's MTU without the tunnel's
/// headers.
fn inner_mtu(network: &Network, cell: &CellSpec) -> Result<u16, UnderlayError> {
    let underlay = host::underlay_mtu(cell.underlay)?;
    let fitting = u16::try_from(underlay).unwrap_or(u16::MAX).saturating_sub(TUNNEL_OVERHEAD);
    Ok(network.mtu.unwrap_or(fitting))
}
