//! What is measured, and the bar each number has to reach.

mod catalogue;
mod control;
mod outside;
mod traffic;

use anyhow::Result;
use serde::Serialize;

pub(crate) use catalogue::ALL;
pub(crate) use control::resident_bytes;

use crate::load::Transport;
use crate::loading::Loading;
use crate::side::{Direction, Kind, Span, Worlds};

/// One measurement; gives one number or a few.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scenario {
    /// Its name on the command line.
    pub(crate) id: &'static str,
    /// What it is, for people.
    pub(crate) title: &'static str,
    pub(crate) work: Work,
    /// Whether the kernel and the reference do it too.
    pub(crate) sides: Sides,
    pub(crate) loading: Loading,
    /// Its numbers, in the order that the work gives them.
    pub(crate) rows: &'static [Row],
}

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sides {
    /// Only ours: the kernel has nothing of the kind.
    Ours,
    /// Ours and the kernel's.
    Two,
    /// The reference, too.
    Three,
}

impl Sides {
    /// In the order they take turns.
    pub(crate) const fn kinds(self) -> &'static [Kind] {
        match self {
            Self::Ours => &[Kind::Ours],
            Self::Two => &[Kind::Ours, Kind::Kernel],
            Self::Three => &[Kind::Ours, Kind::Kernel, Kind::Reference],
        }
    }
}

/// One number of a scenario.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    /// What the result is called after the scenario's name: empty, or `-p50`.
    pub(crate) suffix: &'static str,
    /// What it is, after the scenario's title; empty when that says it.
    pub(crate) title: &'static str,
    /// Unit of the numbers.
    pub(crate) unit: &'static str,
    pub(crate) better: Better,
    pub(crate) bar: Option<Bar>,
}

/// Which way is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Better {
    Higher,
    Lower,
}

/// What a number has to reach to be released, and what it should.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Bar {
    /// What is compared.
    pub(crate) of: Measure,
    pub(crate) release: f64,
    pub(crate) goal: f64,
}

/// What a bar is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Measure {
    /// The median ratio, ours / kernel.
    Ratio,
    /// The median of ours.
    Value,
}

/// Kind of work.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Work {
    /// Bulk TCP on so many streams by iperf3, which is what the bars were set with. It works in
    /// one thread, which holds several streams of the kernel's back.
    Iperf3 { streams: u8, span: Span, direction: Direction },
    /// The same by a generator with a thread for each stream.
    Tcp { streams: u8, span: Span },
    /// Datagrams of so many payload bytes from one sender, unthrottled.
    Udp { size: u16 },
    /// The same at the highest rate at which none is lost.
    LossFree { size: u16 },
    /// One question at a time.
    RequestResponse { transport: Transport, busy: bool },
    /// Datagrams of small frames, each the first of its conversation, unthrottled. This is what the
    /// bars for new connections were set with: nothing but cells is at work. A run leaves some
    /// hundred thousand conversations behind. Our flow table holds about a million by default, so
    /// that later runs evict old ones; the kernel's is emptied before each run, as its limit is
    /// that of the whole machine (`nf_conntrack_max`) and lower.
    Flows { span: Span },
    /// New TCP connections, with all that their sockets cost both ends. To the outside they go
    /// to many addresses, and are closed by FIN.
    Connections { span: Span },
    /// What 50,000 rules cost a packet of a known conversation, compared with 10.
    RulesCost { size: u16 },
    /// Putting 50,000 rules in force, then one more.
    PolicyApply,
    /// Processor time without any packet.
    Idle,
    /// Memory that conversations take.
    Memory,
    /// Memory that conversations through source NAT take, all of which are answered.
    Translations,
    /// New connections through source NAT for a long time, and what is left of them afterwards.
    Soak,
    /// The silence while the dataplane is killed and started again.
    Restart,
}

/// How long each run is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Length {
    /// Seconds counted.
    pub(crate) seconds: f64,
    /// Fewer and shorter trials of a search.
    pub(crate) quick: bool,
}

/// What one run gave.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sample {
    /// A number for each row.
    pub(crate) values: Vec<f64>,
    /// Processor time of the whole machine per unit of work, in [`Work::cpu_unit`].
    pub(crate) cpu: Option<f64>,
}

impl Work {
    /// Whether it takes minutes, so that it is only done when asked for by name.
    pub(crate) const fn takes_long(self) -> bool {
        matches!(self, Self::Soak)
    }

    /// Unit of work that processor time is related to; none where that means nothing.
    pub(crate) const fn cpu_unit(self) -> Option<&'static str> {
        match self {
            Self::Iperf3 { .. } | Self::Tcp { .. } => Some("CPU s/GB"),
            Self::Udp { .. } | Self::LossFree { .. } => Some("CPU us/packet"),
            Self::RequestResponse { busy: false, .. } => Some("CPU us/answer"),
            Self::Flows { .. } => Some("CPU us/flow"),
            Self::Connections { .. } | Self::Soak => Some("CPU us/connection"),
            _ => None,
        }
    }

    /// Carries known bytes and compares them at the other end, so that a wrong checksum or a
    /// wrong cut can never look fast.
    pub(crate) fn verify(self, worlds: &mut Worlds, kind: Kind, loading: Loading) -> Result<()> {
        match self {
            Self::Iperf3 { span, direction, .. } => {
                traffic::verify_tcp(worlds.side(kind, loading)?, span, direction)
            }
            Self::Tcp { span, .. } => {
                traffic::verify_tcp(worlds.side(kind, loading)?, span, Direction::There)
            }
            Self::Udp { size } | Self::LossFree { size } => {
                traffic::verify_udp(worlds.side(kind, loading)?, Span::CrossCell, size)
            }
            Self::Flows { span } => {
                traffic::verify_udp(worlds.side(kind, loading)?, span, catalogue::SMALL)
            }
            // These compare what they carry in every run, or carry nothing.
            _ => Ok(()),
        }
    }

    /// One run on one side.
    pub(crate) fn measure(
        self,
        worlds: &mut Worlds,
        kind: Kind,
        loading: Loading,
        length: Length,
    ) -> Result<Sample> {
        if let Self::RulesCost { size } = self {
            return traffic::rules_cost(worlds, kind, size, length);
        }
        let side = worlds.side(kind, loading)?;
        match self {
            Self::Iperf3 { streams, span, direction } => {
                traffic::iperf3(side, streams, span, direction, length)
            }
            Self::Tcp { streams, span } => traffic::tcp(side, streams, span, length),
            Self::Udp { size } | Self::RulesCost { size } => traffic::udp(side, size, length),
            Self::LossFree { size } => traffic::loss_free(side, size, length),
            Self::RequestResponse { transport, busy } => {
                traffic::request_response(side, transport, busy, length)
            }
            Self::Flows { span } => traffic::flows(side, span, length),
            Self::Connections { span } => traffic::connections(side, span, length),
            Self::PolicyApply => control::policy_apply(side, kind),
            Self::Idle => control::idle(side, length),
            Self::Memory => control::memory(side),
            Self::Translations => outside::translations(side, length),
            Self::Soak => outside::soak(side, length),
            Self::Restart => control::restart(side),
        }
    }
}
