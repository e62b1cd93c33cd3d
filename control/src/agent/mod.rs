//! The agent's state and what may be done to it.
//!
//! Locks, in the order in which they are taken: `operations` (one ADD, DEL or CHECK at a time, over
//! disk, namespaces and dataplane), `configuration` (one change of the network at a time), `inner`
//! (what is known; held for moments only, never over anything that waits).

mod adopt;
mod collect;
mod containers;
mod found;
mod inspect;
mod logging;
mod network;
mod report;
mod tenants;
mod terms;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sarcenet_agent_api::{AttachmentId, ErrorCode, Reply};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::attach::{self, AttachError, Interface};
use crate::config::{CellSpec, ConfigError, Network, TUNNEL_OVERHEAD};
use crate::dataplane::Dataplane;
use crate::desired::{Attached, Desired, Here};
use crate::egress::EgressBook;
use crate::events::{Bounds, EventWriter};
use crate::followed::Followed;
use crate::host::{self, UnderlayError};
use crate::netlink::{Netlink, NetlinkError};
use crate::netns;
use crate::paths::Root;
use crate::ports::{self, PortsError};
use crate::rule_names::RuleNames;
use crate::state::{Saved, State, StateError, Store};
pub use found::Found;
use logging::Switches;
pub use tenants::Tenants;

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
    /// Ports of source NAT.
    #[error(transparent)]
    Ports(#[from] PortsError),
    /// The cell's own device.
    #[error("cannot make the cell's own device {device}: {source}", device = host::DEVICE)]
    Host {
        /// Why.
        source: AttachError,
    },
    /// The network file names servers, and none of them has leased a subnet yet.
    #[error("the cell {0} has no lease of a subnet yet")]
    NoLease(String),
    /// Containers of another subnet.
    #[error(
        "container {id} has the address {address}, which is not in the cell's subnet {subnet}; \
         restore the subnet in the network file, or remove the container first"
    )]
    Subnet {
        /// The container.
        id: AttachmentId,
        /// Its address.
        address: Ipv4Addr,
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
    tenants: watch::Sender<Arc<Tenants>>,
}

/// What is known.
#[derive(Debug)]
struct Inner {
    /// What the network file says.
    base: Network,
    /// What the servers said last, if the file names any.
    followed: Followed,
    /// Both together.
    network: Network,
    /// The network file as it was read last, with or without mistakes.
    text: String,
    /// SHA-256 of the content that is in force.
    digest: String,
    read_at: Instant,
    mistakes: Vec<String>,
    cell: CellSpec,
    mtu: u16,
    /// Queue of the cell's own device; none as long as only the dataplane has it.
    host: Option<Arc<OwnedFd>>,
    host_problem: Option<String>,
    last_address: Option<Ipv4Addr>,
    containers: BTreeMap<AttachmentId, Entry>,
    names: RuleNames,
    switches: Switches,
    book: EgressBook,
    /// All addresses of the cell.
    addresses: Vec<Ipv4Addr>,
    addresses_problem: Option<String>,
    state_problem: Option<String>,
    /// What servers do not say or do, by what it is about.
    server_problems: BTreeMap<&'static str, String>,
    /// Containers that were collected.
    collected: u64,
    /// Why those that have ended cannot be.
    collector_problem: Option<String>,
    /// The newest version of the dataplane's desired state.
    version: u64,
}

/// A container.
#[derive(Debug, Clone)]
struct Entry {
    saved: Saved,
    /// Its queue; none as long as it is lost.
    queue: Option<Arc<OwnedFd>>,
    /// Why it is lost.
    problem: Option<String>,
    /// Whether the dataplane was asked for its queue since this agent began: as long as it was not,
    /// a queue that is missing says nothing.
    sought: bool,
    /// When it was seen first that it has ended.
    ended: Option<Instant>,
}

impl Entry {
    /// One whose interface was just made, or found to be whole.
    fn attached(saved: Saved, queue: Arc<OwnedFd>) -> Self {
        Self { saved, queue: Some(queue), problem: None, sought: true, ended: None }
    }

    /// Whether nothing can pass its interface: no queue, or the device is gone.
    fn is_lost(&self) -> bool {
        self.queue.as_ref().is_none_or(|queue| attach::is_gone(queue))
    }

    /// What somebody should know.
    fn problem(&self) -> Option<&str> {
        match &self.queue {
            Some(queue) if attach::is_gone(queue) => Some(
                "it is gone, most likely with its network namespace; DEL the container, or have \
                      the agent collect it (collect_after)",
            ),
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
        let Saved { id, address, kind, mac, mtu, .. } = saved;
        let mtu = mtu.map_or(self.mtu, |mtu| mtu.min(self.mtu));
        Interface { kind: *kind, ifname: id.ifname.clone(), address: *address, mac: *mac, mtu }
    }
}

impl Agent {
    /// Reads configuration and state, and makes the cell's own device. The dataplane is not
    /// talked to yet.
    pub fn new(options: Options) -> Result<Arc<Self>, StartError> {
        Found::read(options)?.agent(Followed::default())
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
                let attach = inner.interface(saved).description();
                let terms = Arc::clone(&saved.terms);
                Some(Attached { id, address: saved.address, app, attach, terms, queue })
            })
            .collect();
        let here = Here {
            network: &inner.network,
            cell: &inner.cell,
            mtu: inner.mtu,
            host: inner.host.as_ref(),
            addresses: &inner.addresses,
        };
        let desired = Desired::new(here, &attached, &mut inner.names, &mut inner.book)
            .with_logging(inner.logging());
        let file = self.events_file(inner);
        self.events.want(desired.records_events().then_some(file.as_path()));
        inner.version = self.dataplane.publish(desired);
        self.tell_tenants(&inner.containers);
        inner.version
    }

    /// Looks at the cell's own addresses, and tells the dataplane if they are others than before.
    pub fn addresses_changed(&self) {
        let found = own_addresses();
        let mut inner = self.inner.lock();
        match found {
            Ok(addresses) => {
                inner.addresses_problem = None;
                if inner.addresses != addresses {
                    inner.addresses = addresses;
                    if inner.network.outside.is_some() {
                        self.publish(&mut inner);
                    }
                }
            }
            Err(e) => {
                let problem = format!("the cell's addresses may be others than known: {e}");
                warn!("{problem}");
                inner.addresses_problem = Some(problem);
            }
        }
    }
}

/// Sees to it that source NAT has its ports on this cell to itself.
fn reserve_snat_ports(network: &Network) -> Result<(), PortsError> {
    let Some(outside) = &network.outside else { return Ok(()) };
    if ports::reserve(outside.snat_ports)? {
        info!(ports = %outside.snat_ports, "reserved in net.ipv4.ip_local_reserved_ports");
    }
    Ok(())
}

fn own_addresses() -> Result<Vec<Ipv4Addr>, NetlinkError> {
    Netlink::open()?.own_addresses()
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
