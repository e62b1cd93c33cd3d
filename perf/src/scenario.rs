//! What is measured, and the bar each ratio has to reach.

use anyhow::Result;

use crate::load::Seen;
use crate::side::{Side, Span};

/// One comparison.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scenario {
    /// Its name on the command line and in results.
    pub(crate) id: &'static str,
    /// What it is, for people.
    pub(crate) title: &'static str,
    pub(crate) traffic: Traffic,
    pub(crate) span: Span,
    /// Release bar of ours / kernel, where there is one.
    pub(crate) bar: Option<f64>,
}

/// Kind of load.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Traffic {
    /// Bulk TCP on so many streams by iperf3, which is what the bars were set with. It works in
    /// one thread, which holds several streams of the kernel's back.
    Iperf3 { streams: u8 },
    /// The same by a generator with a thread for each stream.
    Tcp { streams: u8 },
    /// Datagrams of so many payload bytes from one sender, unthrottled.
    Udp { size: u16 },
}

/// All scenarios, in the order they run.
pub(crate) const ALL: &[Scenario] = &[
    Scenario {
        id: "tcp-1",
        title: "bulk TCP to the other cell, 1 stream",
        traffic: Traffic::Iperf3 { streams: 1 },
        span: Span::CrossCell,
        bar: Some(0.8),
    },
    Scenario {
        id: "tcp-4",
        title: "bulk TCP to the other cell, 4 streams",
        traffic: Traffic::Iperf3 { streams: 4 },
        span: Span::CrossCell,
        bar: Some(0.6),
    },
    Scenario {
        id: "tcp-local",
        title: "bulk TCP on the same cell, 1 stream",
        traffic: Traffic::Iperf3 { streams: 1 },
        span: Span::SameCell,
        bar: Some(0.9),
    },
    Scenario {
        id: "tcp-local-4",
        title: "bulk TCP on the same cell, 4 streams",
        traffic: Traffic::Iperf3 { streams: 4 },
        span: Span::SameCell,
        bar: Some(0.7),
    },
    Scenario {
        id: "tcp-4-threads",
        title: "bulk TCP to the other cell, 4 streams, 4 threads",
        traffic: Traffic::Tcp { streams: 4 },
        span: Span::CrossCell,
        bar: None,
    },
    Scenario {
        id: "tcp-local-4-threads",
        title: "bulk TCP on the same cell, 4 streams, 4 threads",
        traffic: Traffic::Tcp { streams: 4 },
        span: Span::SameCell,
        bar: None,
    },
    Scenario {
        id: "udp-64",
        title: "64-byte frames to the other cell, received under overload",
        traffic: Traffic::Udp { size: 18 },
        span: Span::CrossCell,
        bar: Some(2.0),
    },
];

impl Scenario {
    /// Unit of its numbers.
    pub(crate) const fn unit(self) -> &'static str {
        match self.traffic {
            Traffic::Iperf3 { .. } | Traffic::Tcp { .. } => "Gbit/s",
            Traffic::Udp { .. } => "kpps",
        }
    }

    /// Unit of work that processor time is related to.
    pub(crate) const fn cpu_unit(self) -> &'static str {
        match self.traffic {
            Traffic::Iperf3 { .. } | Traffic::Tcp { .. } => "CPU s/GB",
            Traffic::Udp { .. } => "CPU us/packet",
        }
    }

    /// The number and the processor time per unit of work.
    pub(crate) fn read(self, seen: &Seen) -> (f64, f64) {
        match self.traffic {
            Traffic::Iperf3 { .. } | Traffic::Tcp { .. } => {
                (seen.gbit_per_s(), seen.cpu_seconds / (seen.bytes as f64 * 1e-9))
            }
            Traffic::Udp { .. } => (seen.kpps(), seen.cpu_seconds * 1e6 / seen.packets as f64),
        }
    }

    /// One run on one side.
    pub(crate) fn measure(self, side: &Side, seconds: f64) -> Result<Seen> {
        match self.traffic {
            Traffic::Iperf3 { streams } => side.iperf3(self.span, streams, seconds),
            Traffic::Tcp { streams } => {
                let seconds = seconds.to_string();
                let streams = streams.to_string();
                side.measure(
                    self.span,
                    &["tcp-receive", "--streams", &streams, "--seconds", &seconds],
                    &["tcp-send", "--streams", &streams],
                )
            }
            Traffic::Udp { size } => side.measure(
                self.span,
                &["udp-receive", "--seconds", &seconds.to_string()],
                // The sender goes on a little longer than its receiver counts.
                &[
                    "udp-send",
                    "--size",
                    &size.to_string(),
                    "--seconds",
                    &(seconds + 1.0).to_string(),
                ],
            ),
        }
    }

    /// Carries known bytes and compares them at the other end, so that a wrong checksum or a
    /// wrong cut can never look fast.
    pub(crate) fn verify(self, side: &Side) -> Result<()> {
        if !matches!(self.traffic, Traffic::Udp { .. }) {
            side.measure(self.span, &["tcp-verify", "--receive"], &["tcp-verify"])?;
        }
        Ok(())
    }
}
