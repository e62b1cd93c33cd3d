//! The poll loop, and how it is steered.
//!
//! Each worker is a thread that owns the receiving side of some links and carries what they bring
//! to its end: receive, [`crate::pipeline`], transmit. Any worker writes to any link. [`Workers`]
//! is the control thread's handle: it gives links to the workers and takes them away, and returns
//! when every worker knows.

mod cores;
mod outgoing;
mod ready;
mod run;
mod spin;

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::{Sender, unbounded};
use crossbeam_utils::CachePadded;
use crossbeam_utils::sync::WaitGroup;
use mio::Waker;
use parking_lot::Mutex;
use sarcenet_dataplane_api::{Attach, LinkStatus, PortId, UplinkMode, WorkerStatus};

use crate::link::LinkCounters;
use crate::link::container::{ContainerLink, ContainerLinkError};
use crate::link::udp::{UdpTunnel, UdpTunnelError};
use crate::memory::Pages;
use crate::packet::Via;
use crate::pipeline::{Counters, Pipeline, Shared, Totals};
pub use cores::{Cores, CoresError};
use run::Worker;

/// How the workers work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerConfig {
    /// Threads, at least 1.
    pub count: usize,
    /// Processors that the threads are pinned to, one after the other; they run anywhere if none
    /// are given.
    pub cores: Option<Cores>,
    /// How long a worker looks for more work before it sleeps, in microseconds.
    pub spin_us: u32,
    /// Whether to ask for `SCHED_BATCH`, without which waking a receiver takes the processor away
    /// from the worker in the middle of a batch.
    pub batch_scheduling: bool,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        Self { count, cores: None, spin_us: 50, batch_scheduling: true }
    }
}

/// Told to a worker. Dropped when it was done, which is what [`Workers::tell`] waits for.
struct Command {
    order: Order,
    done: WaitGroup,
}

#[derive(Clone)]
enum Order {
    /// This link is the container's (or the host's, without a port) from now on; `read` says
    /// whether it is this worker's to read.
    Tun { port: Option<PortId>, link: Arc<ContainerLink>, read: bool },
    /// There is no such link any more.
    NoTun { port: Option<PortId> },
    /// This is the uplink from now on.
    Uplink { tunnel: Arc<UdpTunnel>, read: bool },
    /// The end.
    Stop,
}

/// What a worker says about itself.
#[derive(Debug, Default)]
struct Statistics {
    sleeps: CachePadded<AtomicU64>,
    batches: AtomicU64,
    packets: AtomicU64,
}

struct Handle {
    cpu: Option<u16>,
    pool: Pages,
    commands: Sender<Command>,
    waker: Waker,
    counters: Arc<Counters>,
    statistics: Arc<Statistics>,
    thread: Option<JoinHandle<()>>,
}

struct TunEntry {
    name: String,
    link: Arc<ContainerLink>,
    reader: usize,
}

#[derive(Default)]
struct Links {
    /// The host is the one without a port.
    tuns: BTreeMap<Option<PortId>, TunEntry>,
    uplink: Option<(Arc<UdpTunnel>, UplinkSettings)>,
}

/// Where the uplink is and how it shall work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UplinkSettings {
    /// Address of the cell on the underlay.
    pub underlay: Ipv4Addr,
    /// UDP port of the tunnel.
    pub port: u16,
    /// Largest inner packet, in bytes.
    pub mtu: u16,
    /// How packets shall travel.
    pub mode: UplinkMode,
}

/// The running workers of a dataplane. Dropping it stops them.
pub struct Workers {
    handles: Vec<Handle>,
    links: Mutex<Links>,
    started: Instant,
}

impl Workers {
    /// Starts them, without any link.
    ///
    /// # Errors
    /// No thread or no epoll instance could be had.
    pub fn start(shared: &Arc<Shared>, config: WorkerConfig) -> io::Result<Self> {
        let mut workers =
            Self { handles: Vec::new(), links: Mutex::default(), started: Instant::now() };
        let config = Arc::new(config);
        for number in 0..config.count.max(1) {
            let (commands, orders) = unbounded();
            let counters = Arc::new(Counters::new());
            let statistics = Arc::new(Statistics::default());
            let pipeline = Pipeline::new(Arc::clone(shared), number as u16, Arc::clone(&counters));
            let worker = Worker::new(
                Arc::clone(&config),
                Arc::clone(shared),
                pipeline,
                orders,
                Arc::clone(&counters),
                Arc::clone(&statistics),
                workers.started,
            )?;
            let waker = worker.waker()?;
            let pool = worker.pool();
            let cpu = config.cores.as_ref().and_then(|c| c.numbers().get(number).copied());
            let thread = std::thread::Builder::new()
                .name(format!("worker-{number}"))
                .spawn(move || worker.run(cpu))?;
            workers.handles.push(Handle {
                cpu,
                pool,
                commands,
                waker,
                counters,
                statistics,
                thread: Some(thread),
            });
        }
        Ok(workers)
    }

    /// What the packets of all workers lie in: the same for each, unless huge pages ran out.
    pub fn pools(&self) -> String {
        let mut pools: Vec<_> = self.handles.iter().map(|handle| handle.pool.to_string()).collect();
        pools.dedup();
        pools.join(", ")
    }

    /// Nanoseconds since the start, as the pipeline and the flow table count them.
    pub fn now_ns(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    /// Adds a container's door, or exchanges it. `fd` is the descriptor that goes with `attach`,
    /// `mtu` the largest packet it takes, in bytes. All workers know it when this returns.
    ///
    /// # Errors
    /// The descriptor cannot be used.
    pub fn add_container(
        &self,
        port: PortId,
        name: String,
        attach: Attach,
        fd: OwnedFd,
        mtu: u16,
    ) -> Result<(), ContainerLinkError> {
        self.add_tun(Some(port), name, attach, fd, mtu)
    }

    /// Takes a container's door away, if there is one. No worker holds its descriptor when this
    /// returns.
    pub fn remove_container(&self, port: PortId) {
        self.remove_tun(Some(port));
    }

    /// Sets the door to the cell itself, or takes it away.
    ///
    /// # Errors
    /// The descriptor cannot be used.
    pub fn set_host(&self, host: Option<(OwnedFd, u16)>) -> Result<(), ContainerLinkError> {
        let Some((fd, mtu)) = host else {
            self.remove_tun(None);
            return Ok(());
        };
        self.add_tun(None, "host".to_owned(), Attach::Tun, fd, mtu)
    }

    /// Opens the tunnel, in the network namespace of the calling thread, in place of the one
    /// before. One at the same place is kept, and set up anew. Returns the mode that it got.
    ///
    /// # Errors
    /// [`UdpTunnelError`]; the tunnel that was there stays.
    pub fn set_uplink(&self, settings: UplinkSettings) -> Result<String, UdpTunnelError> {
        let mut links = self.links.lock();
        let UplinkSettings { underlay, port, mtu, mode } = settings;
        let local = SocketAddrV4::new(underlay, port);
        if let Some((uplink, before)) = &mut links.uplink
            && uplink.local() == local
        {
            if before.mode != mode {
                uplink.set_mode(mode)?;
            }
            uplink.set_mtu(mtu);
            *before = settings;
            return Ok(uplink.mode());
        }
        let tunnel = Arc::new(UdpTunnel::bind(underlay, port, mtu)?);
        tunnel.set_mode(mode)?;
        self.tell(|worker| Order::Uplink { tunnel: Arc::clone(&tunnel), read: worker == 0 });
        let mode = tunnel.mode();
        links.uplink = Some((tunnel, settings));
        Ok(mode)
    }

    /// Says where another cell is, so that the uplink can try how packets get there best, if it is
    /// to find out by itself and has not yet.
    pub fn probe_uplink(&self, peer: Ipv4Addr) {
        if let Some((tunnel, _)) = &self.links.lock().uplink {
            tunnel.probe(peer);
        }
    }

    /// All doors: the uplink, the host, the containers in order of port.
    pub fn links(&self) -> Vec<LinkStatus> {
        let links = self.links.lock();
        let uplink = links.uplink.iter().map(|(tunnel, _)| {
            link_status("uplink", None, tunnel.mode(), tunnel.mtu(), 0, tunnel.counters())
        });
        let tuns = links.tuns.iter().map(|(&port, TunEntry { name, link, reader })| {
            link_status(name, port, link.mode(), link.mtu(), *reader, link.counters())
        });
        uplink.chain(tuns).collect()
    }

    /// All workers.
    pub fn workers(&self) -> Vec<WorkerStatus> {
        let links = self.links.lock();
        let reads = |number| {
            let uplink = usize::from(number == 0 && links.uplink.is_some());
            uplink + links.tuns.values().filter(|entry| entry.reader == number).count()
        };
        let status = |(number, handle): (usize, &Handle)| WorkerStatus {
            worker: number as u16,
            cpu: handle.cpu,
            pool: handle.pool.to_string(),
            links: reads(number) as u32,
            sleeps: handle.statistics.sleeps.load(Relaxed),
            batches: handle.statistics.batches.load(Relaxed),
            packets: handle.statistics.packets.load(Relaxed),
        };
        self.handles.iter().enumerate().map(status).collect()
    }

    /// The counters of all workers, added up.
    pub fn totals(&self) -> Totals {
        Totals::of(self.handles.iter().map(|handle| &*handle.counters))
    }

    /// A duplicate of a container's descriptor.
    pub fn port_fd(&self, port: PortId) -> Option<OwnedFd> {
        self.tun_fd(Some(port))
    }

    /// A duplicate of the descriptor of the host TUN.
    pub fn host_fd(&self) -> Option<OwnedFd> {
        self.tun_fd(None)
    }

    /// Ends the workers, each after the batch it is carrying, and waits for them.
    pub fn stop(self) {
        drop(self);
    }

    fn tun_fd(&self, port: Option<PortId>) -> Option<OwnedFd> {
        let links = self.links.lock();
        links.tuns.get(&port)?.link.as_fd().try_clone_to_owned().ok()
    }

    fn add_tun(
        &self,
        port: Option<PortId>,
        name: String,
        attach: Attach,
        fd: OwnedFd,
        mtu: u16,
    ) -> Result<(), ContainerLinkError> {
        let mut links = self.links.lock();
        let before = links.tuns.get(&port);
        let counters = before.map_or_else(Arc::default, |entry| Arc::clone(entry.link.counters()));
        let reader = before.map_or_else(|| self.idlest(&links, port), |entry| entry.reader);
        let via = port.map_or(Via::Host, Via::Container);
        let link = Arc::new(ContainerLink::new(fd, attach, mtu, via, counters)?);
        self.tell(|worker| Order::Tun { port, link: Arc::clone(&link), read: worker == reader });
        links.tuns.insert(port, TunEntry { name, link, reader });
        Ok(())
    }

    fn remove_tun(&self, port: Option<PortId>) {
        let mut links = self.links.lock();
        if links.tuns.remove(&port).is_some() {
            self.tell(|_| Order::NoTun { port });
        }
    }

    /// Who is to read a new link: the host is the first worker's, as the uplink is; containers go
    /// to whoever reads the fewest.
    fn idlest(&self, links: &Links, port: Option<PortId>) -> usize {
        let reads = |number: usize| links.tuns.values().filter(|e| e.reader == number).count();
        match port {
            None => 0,
            Some(_) => (0..self.handles.len()).min_by_key(|&number| reads(number)).unwrap_or(0),
        }
    }

    /// Gives an order to every worker and waits until all have followed it.
    fn tell(&self, order: impl Fn(usize) -> Order) {
        let all = WaitGroup::new();
        for (number, handle) in self.handles.iter().enumerate() {
            let command = Command { order: order(number), done: all.clone() };
            // A worker that has ended drops its commands, and nobody waits for it.
            if handle.commands.send(command).is_ok()
                && let Err(error) = handle.waker.wake()
            {
                tracing::error!("waking worker {number}: {error}");
            }
        }
        all.wait();
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.tell(|_| Order::Stop);
        for handle in &mut self.handles {
            if let Some(thread) = handle.thread.take()
                && thread.join().is_err()
            {
                tracing::error!("a worker had panicked");
            }
        }
    }
}

fn link_status(
    name: &str,
    port: Option<PortId>,
    mode: String,
    mtu: u16,
    reader: usize,
    counters: &LinkCounters,
) -> LinkStatus {
    let ((rx_packets, rx_bytes), (tx_packets, tx_bytes)) = (counters.rx(), counters.tx());
    LinkStatus {
        name: name.to_owned(),
        port,
        mode,
        mtu,
        readers: vec![reader as u16],
        rx_packets,
        rx_bytes,
        tx_packets,
        tx_bytes,
        errors: counters.errors(),
    }
}
