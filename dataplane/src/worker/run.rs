//! One worker: receive, decide, transmit, and sleep when there is nothing.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use sarcenet_dataplane_api::{DropReason, PortId};

use super::acks::AckFilter;
use super::outgoing::Outgoing;
use super::ready::Ready;
use super::scheduling::Scheduling;
use super::spin::Spin;
use super::{Command, Order, Statistics, WorkerConfig, cores, reader_of};
use crate::link::container::ContainerLink;
use crate::link::uplink::Uplink;
use crate::link::{Received, Report, Scratch};
use crate::memory::Pages;
use crate::packet::{Batch, Verdict, Via};
use crate::pipeline::{Counters, Pipeline, Shared};

/// Names of the links in epoll; a container's is its port, that of a queue of the uplink its number
/// after the first.
const HOST: Token = Token(1 << 16);
const WAKER: Token = Token(HOST.0 + 1);
const UPLINK: Token = Token(HOST.0 + 2);

/// Buffers that stay free for answers.
const ANSWERS: usize = 64;

/// Rounds after which a busy worker looks for links that became ready meanwhile.
const POLL_EVERY: u32 = 8;

/// How often a worker looks for flows that have been idle, while there are flows.
const SWEEP_EVERY: Duration = Duration::from_millis(100);

/// Part of the flow table that one such look covers.
const SWEEP_PART: u64 = 128;

/// Nanoseconds in a tick of the flow table's clock.
const TICK_NS: u128 = 100_000_000;

pub(super) struct Worker {
    config: Arc<WorkerConfig>,
    shared: Arc<Shared>,
    pipeline: Pipeline,
    orders: Receiver<Command>,
    counters: Arc<Counters>,
    statistics: Arc<Statistics>,
    started: Instant,

    poll: Poll,
    ready: Ready,
    host: Option<Arc<ContainerLink>>,
    containers: Vec<Option<Arc<ContainerLink>>>,
    uplink: Option<Uplink>,
    /// Links that this worker reads, by their token.
    reads: Vec<Token>,

    batch: Batch,
    scratch: Scratch,
    report: Report,
    acks: AckFilter,
    /// Packets to be sent.
    outgoing: Vec<Outgoing>,
    next_sweep: Instant,
}

impl Worker {
    pub(super) fn new(
        config: Arc<WorkerConfig>,
        shared: Arc<Shared>,
        pipeline: Pipeline,
        orders: Receiver<Command>,
        counters: Arc<Counters>,
        statistics: Arc<Statistics>,
        started: Instant,
    ) -> io::Result<Self> {
        Ok(Self {
            config,
            shared,
            pipeline,
            orders,
            counters,
            statistics,
            started,
            poll: Poll::new()?,
            ready: Ready::default(),
            host: None,
            containers: Vec::new(),
            uplink: None,
            reads: Vec::new(),
            batch: Batch::new(),
            scratch: Scratch::new(),
            report: Report::new(),
            acks: AckFilter::default(),
            outgoing: Vec::with_capacity(crate::packet::MAX_PACKETS),
            next_sweep: started,
        })
    }

    /// What wakes it when there are orders.
    pub(super) fn waker(&self) -> io::Result<Waker> {
        Waker::new(self.poll.registry(), WAKER)
    }

    /// What its packets lie in.
    pub(super) fn pool(&self) -> Pages {
        self.batch.pages()
    }

    /// Works until it is told to stop, on one processor if one is given.
    pub(super) fn run(mut self, cpu: Option<u16>) {
        if let Some(cpu) = cpu
            && let Err(error) = cores::pin(cpu)
        {
            // It could when that was checked; the control group has changed since.
            tracing::warn!("pinning a worker to processor {cpu}: {error}; it runs anywhere");
        }
        if let Err(error) = self.scratch.open_ring() {
            tracing::info!("no io_uring ({error}): packets are written one by one");
        }
        let budget = Duration::from_micros(u64::from(self.config.spin_us));
        let now = Instant::now();
        let mut spin = Spin::new(budget, now);
        let mut scheduling = Scheduling::new(self.config.scheduling, now);
        let mut events = Events::with_capacity(256);
        let mut rounds = 0_u32;
        while self.obey() {
            if !self.ready.is_empty() {
                let (packets, bytes) = self.round();
                rounds = rounds.wrapping_add(1);
                if rounds.is_multiple_of(POLL_EVERY) {
                    self.look(&mut events, Some(Duration::ZERO));
                }
                let now = Instant::now();
                spin.worked(now);
                scheduling.carried(packets, bytes, now);
                self.sweep(now);
                continue;
            }
            let now = Instant::now();
            if !spin.again(now) {
                let until_sweep = self.until_sweep(now);
                add(&self.statistics.sleeps, 1);
                self.look(&mut events, until_sweep);
                self.sweep(Instant::now());
                continue;
            }
            self.look(&mut events, Some(Duration::ZERO));
            if self.ready.is_empty() {
                let before = Instant::now();
                std::thread::yield_now();
                spin.yielded(before, Instant::now());
            }
        }
    }

    /// Asks epoll which links are ready.
    fn look(&mut self, events: &mut Events, timeout: Option<Duration>) {
        if let Err(error) = self.poll.poll(events, timeout)
            && error.kind() != io::ErrorKind::Interrupted
        {
            // Cannot happen with a valid epoll descriptor; not worth a storm of messages.
            std::thread::sleep(Duration::from_millis(1));
        }
        for event in &*events {
            if event.token() != WAKER {
                self.ready.add(event.token());
            }
        }
    }

    /// Carries one batch. Returns its packets and bytes.
    fn round(&mut self) -> (usize, u64) {
        self.receive();
        let packets = self.batch.len();
        let bytes = self.batch.packets().iter().map(|packet| packet.len() as u64).sum();
        if packets > 0 {
            let now_ns = self.started.elapsed().as_nanos() as u64;
            self.pipeline.process(&mut self.batch, now_ns);
            self.transmit();
            add(&self.statistics.batches, 1);
            add(&self.statistics.packets, packets as u64);
        }
        // Also of what was received and dropped at its door.
        self.batch.clear();
        let counters = &self.counters;
        match self.report.take_answered() {
            0 => {}
            n => counters.answered(n.into()),
        }
        self.report.take(|reason, n| counters.dropped(reason, u64::from(n)));
        (packets, bytes)
    }

    /// Reads the links that are ready, in turn, until the batch is full.
    fn receive(&mut self) {
        for _ in 0..self.ready.len() {
            let room = self.batch.free_buffers().saturating_sub(ANSWERS);
            if room == 0 {
                return;
            }
            let Some(token) = self.ready.take() else { return };
            match self.receive_from(token, room) {
                Ok(Received { drained: true, .. }) => {}
                Ok(_) => self.ready.add(token),
                Err(error) => self.park(token, &error),
            }
        }
    }

    fn receive_from(&mut self, token: Token, room: usize) -> io::Result<Received> {
        let Self { batch, scratch, report, .. } = self;
        if token >= UPLINK {
            let queue = token.0 - UPLINK.0;
            return match &self.uplink {
                Some(uplink) => uplink.receive(queue, batch, room, scratch, report),
                None => Ok(Received { packets: 0, drained: true }),
            };
        }
        let link = if token == HOST {
            self.host.as_ref()
        } else {
            self.containers.get(token.0).and_then(Option::as_ref)
        };
        match link {
            Some(link) => link.receive(batch, room, report),
            None => Ok(Received { packets: 0, drained: true }),
        }
    }

    /// Hands every packet that is to be sent to its door.
    fn transmit(&mut self) {
        self.outgoing.clear();
        for (index, packet) in self.batch.packets().iter().enumerate() {
            if let Verdict::Forward(via) = packet.verdict {
                self.outgoing.push(Outgoing::new(via, packet.flow_hash, index as u16));
            }
        }
        self.outgoing.sort_unstable();
        let worker = usize::from(self.pipeline.worker());
        let Self { outgoing, batch, scratch, report, .. } = self;
        if self.config.merge_acks {
            let left_out = self.acks.leave_out(batch, outgoing);
            add(&self.statistics.acks_merged, left_out);
        }
        for run in outgoing.chunk_by(|a, b| a.door() == b.door()) {
            let indices = run.iter().map(|packet| packet.index());
            let first = batch.packet(usize::from(run[0].index()));
            let Verdict::Forward(via) = first.verdict else { continue };
            let link = match via {
                Via::Tunnel(_) => {
                    match &self.uplink {
                        Some(uplink) => {
                            uplink.transmit(worker, batch, indices, scratch, report);
                        }
                        None => report.dropped(DropReason::LinkGone, run.len() as u32),
                    }
                    continue;
                }
                Via::Host => self.host.as_ref(),
                Via::Container(PortId(port)) => {
                    self.containers.get(usize::from(port)).and_then(Option::as_ref)
                }
            };
            match link {
                Some(link) => drop(link.transmit(batch, indices, scratch, report)),
                None => report.dropped(DropReason::LinkGone, run.len() as u32),
            }
        }
    }

    /// Follows all orders. Returns whether to go on.
    fn obey(&mut self) -> bool {
        while let Ok(Command { order, done }) = self.orders.try_recv() {
            match order {
                Order::Tun { port, link, read } => self.set_tun(port, Some(link), read),
                Order::NoTun { port } => self.set_tun(port, None, false),
                Order::Uplink(uplink) => self.set_uplink(uplink),
                Order::Stop => return false,
            }
            drop(done);
        }
        true
    }

    /// Takes an uplink in place of the one before, and reads its own share of the queues.
    fn set_uplink(&mut self, uplink: Option<Uplink>) {
        if let Some(old) = self.uplink.take() {
            for (queue, fd) in old.fds().enumerate() {
                self.forget(Token(UPLINK.0 + queue), fd);
            }
        }
        let (worker, workers) = (usize::from(self.pipeline.worker()), self.config.count.max(1));
        for (queue, fd) in uplink.iter().flat_map(Uplink::fds).enumerate() {
            if reader_of(queue, workers) == worker {
                self.watch(Token(UPLINK.0 + queue), fd);
            }
        }
        self.uplink = uplink;
    }

    fn set_tun(&mut self, port: Option<PortId>, link: Option<Arc<ContainerLink>>, read: bool) {
        let token = port.map_or(HOST, |PortId(port)| Token(usize::from(port)));
        let place = if token == HOST {
            &mut self.host
        } else {
            if self.containers.len() <= token.0 {
                self.containers.resize(token.0 + 1, None);
            }
            &mut self.containers[token.0]
        };
        let old = std::mem::replace(place, link.clone());
        if let Some(old) = old {
            self.forget(token, old.as_fd());
        }
        if let Some(link) = link
            && read
        {
            self.watch(token, link.as_fd());
        }
    }

    /// Begins to read a link.
    fn watch(&mut self, token: Token, fd: BorrowedFd<'_>) {
        let registry = self.poll.registry();
        match registry.register(&mut SourceFd(&fd.as_raw_fd()), token, Interest::READABLE) {
            Ok(()) => self.reads.push(token),
            Err(error) => tracing::error!("watching {}: {error}", Door(token)),
        }
    }

    /// Ends to read a link, if this worker did.
    fn forget(&mut self, token: Token, fd: BorrowedFd<'_>) {
        let Some(at) = self.reads.iter().position(|&read| read == token) else { return };
        self.reads.swap_remove(at);
        if let Err(error) = self.poll.registry().deregister(&mut SourceFd(&fd.as_raw_fd())) {
            tracing::error!("no longer watching {}: {error}", Door(token));
        }
    }

    /// Leaves a link, or a queue of the uplink, alone whose device is gone. It stays, for its
    /// counters and for the status, until it is removed.
    fn park(&mut self, token: Token, error: &io::Error) {
        tracing::info!("the device of {} is gone: {error}", Door(token));
        if token >= UPLINK {
            let uplink = self.uplink.clone();
            if let Some(fd) = uplink.iter().flat_map(Uplink::fds).nth(token.0 - UPLINK.0) {
                self.forget(token, fd);
            }
            return;
        }
        let link = if token == HOST { self.host.clone() } else { self.containers[token.0].clone() };
        if let Some(link) = link {
            self.forget(token, link.as_fd());
        }
    }

    fn until_sweep(&self, now: Instant) -> Option<Duration> {
        let flows = self.shared.flows.status().used;
        (flows > 0).then(|| self.next_sweep.saturating_duration_since(now))
    }

    /// Removes flows that have been idle, a part of the table at a time.
    fn sweep(&mut self, now: Instant) {
        if now < self.next_sweep {
            return;
        }
        self.next_sweep = now + SWEEP_EVERY;
        let status = self.shared.flows.status();
        if status.used > 0 {
            let part = status.capacity.div_ceil(SWEEP_PART * self.config.count.max(1) as u64);
            let ticks = (now.duration_since(self.started).as_nanos() / TICK_NS) as u32;
            self.shared.flows.sweep(ticks, part as usize);
        }
    }
}

/// A link, as messages name it.
struct Door(Token);

impl std::fmt::Display for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            HOST => f.write_str("the host link"),
            door if door >= UPLINK => write!(f, "queue {} of the uplink", door.0 - UPLINK.0),
            Token(port) => write!(f, "container port {port}"),
        }
    }
}

/// Adds without a locked instruction: a counter has one writer.
fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(n), Relaxed);
}
