//! The poll loop, and how it is steered.
//!
//! Each worker is a thread that owns the receiving side of some links and carries what they bring
//! to its end: receive, [`crate::pipeline`], transmit. Any worker writes to any link. [`Workers`]
//! is the control thread's handle: it gives links to the workers and takes them away, and returns
//! when every worker knows.

mod acks;
mod config;
mod cores;
mod outgoing;
mod ready;
mod run;
mod scheduling;
mod spin;

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
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
use sarcenet_dataplane_api::{Attach, LinkStatus, PortId, WorkerStatus};

use crate::link::LinkCounters;
use crate::link::container::{ContainerLink, ContainerLinkError};
pub use crate::link::uplink::UplinkSettings;
use crate::link::uplink::{Uplink, UplinkError};
use crate::memory::Pages;
use crate::packet::Via;
use crate::pipeline::{Counters, Pipeline, Shared, Totals};
pub use config::WorkerConfig;
pub use cores::{Cores, CoresError};
use run::Worker;

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
    /// This is the uplink from now on; none when there is none.
    Uplink(Option<Uplink>),
    /// The end.
    Stop,
}

/// What a worker says about itself.
#[derive(Debug, Default)]
struct Statistics {
    sleeps: CachePadded<AtomicU64>,
    batches: AtomicU64,
    packets: AtomicU64,
    acks_merged: AtomicU64,
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
    uplink: Option<(Uplink, UplinkSettings)>,
    /// Where other cells are.
    peers: Vec<Ipv4Addr>,
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

    /// Opens the uplink, in the network namespace of the calling thread, in place of the one
    /// before; what serves on is kept. Returns the mode that it got.
    ///
    /// # Errors
    /// [`UplinkError`]; the uplink that was there stays.
    pub fn set_uplink(&self, settings: UplinkSettings) -> Result<String, UplinkError> {
        let mut links = self.links.lock();
        if links.uplink.as_ref().is_some_and(|(uplink, _)| uplink.is_in_the_way(&settings))
            && let Some((before, settings_before)) = links.uplink.take()
        {
            self.tell(|_| Order::Uplink(None));
            drop(before);
            return self.open_uplink(&mut links, settings).inspect_err(|_| {
                if let Err(error) = self.open_uplink(&mut links, settings_before) {
                    tracing::error!("the uplink is closed and cannot be opened again: {error}");
                }
            });
        }
        self.open_uplink(&mut links, settings)
    }

    fn open_uplink(
        &self,
        links: &mut Links,
        settings: UplinkSettings,
    ) -> Result<String, UplinkError> {
        let before = links.uplink.as_ref().map(|(uplink, _)| uplink);
        let uplink = Uplink::open(settings, before)?;
        if before.is_none_or(|before| !before.is_same(&uplink)) {
            uplink.set_peers(&links.peers);
            uplink.settle();
            self.tell(|_| Order::Uplink(Some(uplink.clone())));
        }
        let mode = uplink.mode();
        links.uplink = Some((uplink, settings));
        Ok(mode)
    }

    /// Whether there is an uplink, and its interface is not gone.
    pub fn has_uplink(&self) -> bool {
        self.links.lock().uplink.as_ref().is_some_and(|(uplink, _)| !uplink.is_gone())
    }

    /// Says where all other cells are, so that the uplink can find the ways to them, and try how
    /// packets get there best.
    pub fn set_peers(&self, peers: Vec<Ipv4Addr>) {
        let mut links = self.links.lock();
        if let Some((uplink, _)) = &links.uplink {
            uplink.set_peers(&peers);
        }
        links.peers = peers;
    }

    /// All doors: the uplink, the host, the containers in order of port.
    pub fn links(&self) -> Vec<LinkStatus> {
        let links = self.links.lock();
        let uplink = links.uplink.iter().map(|(uplink, _)| {
            let readers =
                (0..uplink.fds().count()).map(|queue| reader_of(queue, self.handles.len()));
            let (mode, mtu) = (uplink.mode(), uplink.mtu());
            link_status("uplink", None, mode, mtu, readers, uplink.counters())
        });
        let tuns = links.tuns.iter().map(|(&port, TunEntry { name, link, reader })| {
            let (mode, mtu) = (link.mode(), link.mtu());
            link_status(name, port, mode, mtu, std::iter::once(*reader), link.counters())
        });
        uplink.chain(tuns).collect()
    }

    /// All workers.
    pub fn workers(&self) -> Vec<WorkerStatus> {
        let links = self.links.lock();
        let queues = links.uplink.as_ref().map_or(0, |(uplink, _)| uplink.fds().count());
        let reads = |number| {
            let uplink =
                (0..queues).filter(|queue| reader_of(*queue, self.handles.len()) == number);
            uplink.count() + links.tuns.values().filter(|entry| entry.reader == number).count()
        };
        let status = |(number, handle): (usize, &Handle)| WorkerStatus {
            worker: number as u16,
            cpu: handle.cpu,
            pool: handle.pool.to_string(),
            links: reads(number) as u32,
            sleeps: handle.statistics.sleeps.load(Relaxed),
            batches: handle.statistics.batches.load(Relaxed),
            packets: handle.statistics.packets.load(Relaxed),
            acks_merged: handle.statistics.acks_merged.load(Relaxed),
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

    /// Who is to read a new link: the host is the first worker's, as the uplink's first queue is;
    /// containers go to whoever reads the fewest.
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

/// Which of so many workers reads a queue of the uplink.
fn reader_of(queue: usize, workers: usize) -> usize {
    queue % workers
}

fn link_status(
    name: &str,
    port: Option<PortId>,
    mode: String,
    mtu: u16,
    readers: impl Iterator<Item = usize>,
    counters: &LinkCounters,
) -> LinkStatus {
    let ((rx_packets, rx_bytes), (tx_packets, tx_bytes)) = (counters.rx(), counters.tx());
    LinkStatus {
        name: name.to_owned(),
        port,
        mode,
        mtu,
        readers: readers.map(|reader| reader as u16).collect(),
        rx_packets,
        rx_bytes,
        tx_packets,
        tx_bytes,
        errors: counters.errors(),
    }
}
