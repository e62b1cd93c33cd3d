//! One worker: receive, decide, transmit, and sleep when there is nothing.
#![forbid(unsafe_code)]

mod links;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use mio::{Events, Poll, Token, Waker};
use sarcenet_dataplane_api::{DropReason, PortId};

use super::acks::AckFilter;
use super::held::Held;
use super::outgoing::Outgoing;
use super::pacing::Pacing;
use super::ready::Ready;
use super::spin::Spin;
use super::{Command, Statistics, WorkerConfig, cores};
use crate::link::container::ContainerLink;
use crate::link::uplink::Uplink;
use crate::link::{Received, Report, Scratch, sys};
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
    pacing: Pacing,
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
    /// Packets to be sent later.
    held: Held,
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
            pacing: Pacing::default(),
            host: None,
            containers: Vec::new(),
            uplink: None,
            reads: Vec::new(),
            batch: Batch::new(),
            scratch: Scratch::new(),
            report: Report::new(),
            acks: AckFilter::default(),
            outgoing: Vec::with_capacity(crate::packet::MAX_PACKETS),
            held: Held::new(),
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
        if self.config.batch_scheduling
            && let Err(error) = sys::schedule_as_batch()
        {
            tracing::warn!("SCHED_BATCH for a worker: {error}; bulk transfers will be slower");
        }
        if let Err(error) = self.scratch.open_ring() {
            tracing::info!("no io_uring ({error}): packets are written one by one");
        }
        let budget = Duration::from_micros(u64::from(self.config.spin_us));
        let mut spin = Spin::new(budget, Instant::now());
        let mut events = Events::with_capacity(256);
        let mut rounds = 0_u32;
        while self.obey() {
            if !self.ready.is_empty() {
                self.round();
                rounds = rounds.wrapping_add(1);
                if rounds.is_multiple_of(POLL_EVERY) {
                    self.look(&mut events, Some(Duration::ZERO));
                }
                let now = Instant::now();
                spin.worked(now);
                self.sweep(now);
                continue;
            }
            let now = Instant::now();
            self.release(self.now_ns());
            if !spin.again(now) {
                let timeout = self.until_something(now);
                add(&self.statistics.sleeps, 1);
                self.look(&mut events, timeout);
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
        if !self.pacing.is_empty() {
            self.pacing.wake(self.now_ns(), &mut self.ready);
        }
    }

    /// Carries one batch.
    fn round(&mut self) {
        self.receive();
        let packets = self.batch.len();
        if packets > 0 {
            let now_ns = self.now_ns();
            self.pipeline.process(&mut self.batch, now_ns);
            for (PortId(port), until_ns) in self.pipeline.take_in_debt() {
                self.pacing.rest(Token(usize::from(port)), until_ns);
            }
            // First what is due by now, so that nothing of this batch comes before it.
            self.release(now_ns);
            self.transmit(now_ns);
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
    }

    /// Reads the links that are ready, in turn, until the batch is full.
    fn receive(&mut self) {
        for _ in 0..self.ready.len() {
            let room = self.batch.free_buffers().saturating_sub(ANSWERS);
            if room == 0 {
                return;
            }
            let Some(token) = self.ready.take() else { return };
            if self.pacing.is_resting(token) {
                continue;
            }
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

    /// Sends what was to wait until now.
    fn release(&mut self, now_ns: u64) {
        while self.held.is_due(now_ns) {
            let mut due = self.held.take_due(now_ns);
            std::mem::swap(&mut self.batch, &mut due);
            self.transmit(now_ns);
            std::mem::swap(&mut self.batch, &mut due);
            self.held.give_back(due);
        }
    }

    /// Hands every packet that is to be sent by now to its door, and keeps those for later.
    fn transmit(&mut self, now_ns: u64) {
        self.outgoing.clear();
        for (index, packet) in self.batch.packets().iter().enumerate() {
            let Verdict::Forward(via) = packet.verdict else { continue };
            if packet.not_before <= now_ns {
                self.outgoing.push(Outgoing::new(via, packet.flow_hash, index as u16));
            } else if !self.held.keep(&self.batch, packet) {
                self.report.dropped(DropReason::RateLimit, 1);
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

    /// How long the worker may sleep when no link becomes ready.
    fn until_something(&self, now: Instant) -> Option<Duration> {
        let flows = self.shared.flows.status().used;
        let sweep = (flows > 0).then(|| self.next_sweep.saturating_duration_since(now));
        let now_ns = self.now_ns();
        sweep.into_iter().chain(self.pacing.next(now_ns)).chain(self.held.next(now_ns)).min()
    }

    /// Nanoseconds since start.
    fn now_ns(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
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

/// Adds without a locked instruction: a counter has one writer.
fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(n), Relaxed);
}
