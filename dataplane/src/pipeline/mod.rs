//! The stages, in the order a packet meets them.
//!
//! [`Pipeline::process`] takes a batch in groups of 32 packets: all are parsed (`parse`,
//! `offload`), their conversations are looked up together, and then each is decided by what is
//! known of its conversation (`known`), or as the first packet of a new one (`decide`, `route`),
//! or as an ICMP error or a later fragment, which follow others (`known`, `fragment`). What is to
//! be sent on gets ready for its door (`forward`); the rest is counted and, where that is due,
//! answered (`answer`).

#![forbid(unsafe_code)]

mod answer;
mod counters;
mod decide;
mod forward;
mod fragment;
mod known;
mod offload;
mod outside;
mod parse;
mod record;
mod route;
mod segment;
mod shared;
mod trace;

use std::ops::Range;
use std::sync::Arc;

use crossbeam_epoch::Guard;
use sarcenet_dataplane_api::{Cell, DropReason, PortId, TraceStep};

pub use counters::{Counters, Totals};
pub use shared::Shared;
pub use trace::{TraceHub, TraceObserver};

use crate::events::EventLog;
use crate::flow::{FlowKey, FlowTable, Hit};
use crate::nat::Translation;
use crate::packet::{Batch, MAX_PACKETS, Verdict, Via};
use crate::policy::PolicyTable;
use crate::topology::Topology;
use answer::AnswerBudget;
use fragment::FragmentMemory;
use parse::{Headers, Kind};
use trace::TraceLog;

/// Packets whose conversations are looked up together.
const GROUP: usize = 32;

/// Nanoseconds in a tick of the flow table's clock, a tenth of a second.
const TICK_NS: u64 = 100_000_000;

/// Where an admitted packet goes, the tag it carries there, and what is to be written into its
/// headers before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Out {
    to: Via,
    tag: u16,
    translation: Option<Translation>,
}

impl Out {
    /// Back to the kernel, as it came.
    const KERNEL: Self = Self { to: Via::Host, tag: 0, translation: None };
}

/// One worker's pipeline. It remembers what nobody else needs: the topology it holds, fragments,
/// the budget of answers.
pub struct Pipeline {
    shared: Arc<Shared>,
    worker: u16,
    counters: Arc<Counters>,
    topology: Arc<Topology>,
    published: Option<u64>,
    fragments: FragmentMemory,
    budget: AnswerBudget,
    trace: TraceLog,
    in_debt: Vec<(PortId, u64)>,
}

impl Pipeline {
    /// Number of its worker.
    pub fn worker(&self) -> u16 {
        self.worker
    }

    /// The pipeline of worker `worker`, which counts into `counters`.
    pub fn new(shared: Arc<Shared>, worker: u16, counters: Arc<Counters>) -> Self {
        Self {
            shared,
            worker,
            counters,
            topology: Arc::default(),
            published: None,
            fragments: FragmentMemory::default(),
            budget: AnswerBudget::default(),
            trace: TraceLog::default(),
            in_debt: Vec::with_capacity(MAX_PACKETS),
        }
    }

    /// Containers that sent more than they may in the last batch, and until when (nanoseconds
    /// since start) nothing should be read from them. Each may come several times, the last one
    /// counts.
    pub fn take_in_debt(&mut self) -> impl Iterator<Item = (PortId, u64)> {
        self.in_debt.drain(..)
    }

    /// Decides every packet of a batch, at `now_ns` nanoseconds since start.
    ///
    /// Afterwards each has the verdict to forward or to drop it, and those to be forwarded are as
    /// their door takes them: with the tunnel header in front for the tunnel, beginning with the
    /// IPv4 header for others. Answers and further fragments are appended, to be forwarded too.
    pub fn process(&mut self, batch: &mut Batch, now_ns: u64) {
        // Pinned before the topology is looked at: who changes it waits for all pins from before.
        let guard = self.shared.flows.pin();
        let published = self.shared.published();
        if self.published != Some(published) {
            self.topology = self.shared.topology();
            self.published = Some(published);
        }
        self.trace.refresh(&self.shared.trace);
        let count = batch.len();
        let Some(cell) = self.topology.cell() else {
            for i in 0..count {
                batch.packet_mut(i).verdict = Verdict::Drop(DropReason::NotConfigured);
            }
            self.counters.dropped(DropReason::NotConfigured, count as u64);
            return;
        };
        let mut run = Run {
            topology: &self.topology,
            cell,
            flows: &self.shared.flows,
            policy: &self.shared.policy,
            guard: &guard,
            counters: &self.counters,
            fragments: &mut self.fragments,
            budget: &mut self.budget,
            trace: &mut self.trace,
            events: &self.shared.events,
            in_debt: &mut self.in_debt,
            worker: self.worker,
            now_ns,
            now: (now_ns / TICK_NS) as u32,
            changed: false,
        };
        let mut forwarded = 0;
        for start in (0..count).step_by(GROUP) {
            forwarded += run.group(batch, start..count.min(start + GROUP));
        }
        self.counters.forwarded(forwarded);
    }
}

/// What the stages work with while a batch is processed.
struct Run<'g> {
    topology: &'g Topology,
    cell: &'g Cell,
    flows: &'g FlowTable,
    policy: &'g PolicyTable,
    guard: &'g Guard,
    counters: &'g Counters,
    fragments: &'g mut FragmentMemory,
    budget: &'g mut AnswerBudget,
    trace: &'g mut TraceLog,
    events: &'g EventLog,
    in_debt: &'g mut Vec<(PortId, u64)>,
    worker: u16,
    now_ns: u64,
    now: u32,
    /// Whether this group of packets has made or removed flows since it was looked up.
    changed: bool,
}

impl<'g> Run<'g> {
    /// Carries a group of packets through all stages. Returns how many are to be forwarded.
    fn group(&mut self, batch: &mut Batch, group: Range<usize>) -> u64 {
        let mut packets = [0; GROUP];
        let mut parsed = [const { Headers::NONE }; GROUP];
        let mut keys = [const { Headers::NONE.key }; GROUP];
        let mut hits = [None; GROUP];
        let mut count = 0;
        for i in group {
            match self.receive(batch, i, &mut parsed[count]) {
                Ok(key) => {
                    packets[count] = i;
                    keys[count] = key;
                    count += 1;
                }
                Err(reason) => self.drop(batch, i, reason),
            }
        }
        self.changed = false;
        self.flows.lookup_batch(&keys[..count], &mut hits[..count], self.guard);

        let mut forwarded = 0;
        for ((&i, headers), hit) in packets[..count].iter().zip(&parsed).zip(&hits) {
            match self.carry(batch, i, headers, hit.as_ref()) {
                Ok(()) => {
                    forwarded += 1;
                    self.end_trace(batch, i, false);
                }
                Err(reason) => {
                    self.answer(batch, i, headers, reason);
                    self.drop(batch, i, reason);
                }
            }
        }
        forwarded
    }

    /// Parses a packet and begins its trace. Returns what its conversation is looked up by.
    #[inline(always)]
    fn receive(
        &mut self,
        batch: &mut Batch,
        i: usize,
        headers: &mut Headers,
    ) -> Result<FlowKey, DropReason> {
        let packet = batch.packet_mut(i);
        packet.trace = self.trace.begin(|| TraceStep::Received {
            from: packet.from.into(),
            len: packet.len() as u32,
            segment: packet.offload.segmentation.size(),
        });
        let key = self.parse(batch, i, headers)?;
        if let Some(slot) = batch.packet(i).trace {
            if self.trace.identify(slot, headers.key) {
                self.trace.step(Some(slot), || parse::parsed_step(headers));
            } else {
                batch.packet_mut(i).trace = None;
            }
        }
        Ok(key)
    }

    /// Decides a parsed packet and makes it ready for its door.
    #[inline]
    fn carry(
        &mut self,
        batch: &mut Batch,
        i: usize,
        headers: &Headers,
        hit: Option<&Hit<'g>>,
    ) -> Result<(), DropReason> {
        let out = match headers.kind {
            Kind::IcmpError => self.relate(batch, i, headers),
            Kind::LaterFragment => self.follow_fragment(batch, i, headers),
            _ => self.follow(batch, i, headers, hit),
        }?;
        if headers.first_fragment {
            self.remember_fragment(batch, i, out);
        }
        self.forward(batch, i, headers, out)
    }

    /// Ends a packet here.
    fn drop(&mut self, batch: &mut Batch, i: usize, reason: DropReason) {
        self.counters.dropped(reason, 1);
        let packet = batch.packet_mut(i);
        packet.verdict = Verdict::Drop(reason);
        self.trace.step(packet.trace, || TraceStep::Dropped { reason });
        self.end_trace(batch, i, true);
    }

    #[inline]
    fn end_trace(&mut self, batch: &Batch, i: usize, dropped: bool) {
        if let Some(slot) = batch.packet(i).trace {
            self.trace.finish(slot, self.worker, self.now_ns, dropped);
        }
    }
}
