//! Load generators. Each runs inside a container's network namespace as a process of its own
//! (`sarcenet-perf load ...`), is bounded in time, and prints one line of JSON at its end.

mod tcp;
mod udp;

use std::net::SocketAddrV4;
use std::time::Duration;

use anyhow::Result;
use clap::Subcommand;
use serde::{Deserialize, Serialize};

/// One generator's work.
#[derive(Debug, Subcommand)]
pub(crate) enum Load {
    /// Accepts streams and reads them.
    TcpReceive {
        /// Address to listen on.
        listen: SocketAddrV4,
        /// Streams to wait for.
        #[arg(long, default_value_t = 1)]
        streams: usize,
        /// Seconds not counted at the start.
        #[arg(long, default_value_t = 1.0)]
        omit: f64,
        /// Seconds counted.
        #[arg(long, default_value_t = 2.0)]
        seconds: f64,
    },
    /// Opens streams and writes until the receiver has seen enough.
    TcpSend {
        /// Receiver.
        connect: SocketAddrV4,
        /// Streams to open.
        #[arg(long, default_value_t = 1)]
        streams: usize,
        /// Bound on the whole run in seconds.
        #[arg(long, default_value_t = 30.0)]
        bound: f64,
    },
    /// Sends a fixed amount of pseudo-random bytes, or receives and compares them.
    TcpVerify {
        /// Receiver's address: listened on with `--receive`, connected to otherwise.
        address: SocketAddrV4,
        /// Receive instead of send.
        #[arg(long)]
        receive: bool,
        /// Bytes to carry.
        #[arg(long, default_value_t = 256 << 20)]
        bytes: u64,
    },
    /// Counts datagrams.
    UdpReceive {
        /// Address to receive on.
        listen: SocketAddrV4,
        /// Seconds not counted, from the first datagram on.
        #[arg(long, default_value_t = 0.5)]
        omit: f64,
        /// Seconds counted.
        #[arg(long, default_value_t = 2.0)]
        seconds: f64,
    },
    /// Sends datagrams as fast as it can.
    UdpSend {
        /// Receiver.
        connect: SocketAddrV4,
        /// Payload bytes of a datagram.
        #[arg(long, default_value_t = 18)]
        size: usize,
        /// Seconds to send.
        #[arg(long, default_value_t = 3.0)]
        seconds: f64,
    },
}

/// What a generator saw.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Seen {
    /// Payload bytes.
    pub(crate) bytes: u64,
    /// Datagrams; 0 for streams.
    pub(crate) packets: u64,
    /// Seconds in which they were counted.
    pub(crate) seconds: f64,
    /// Processor seconds that the whole machine was busy meanwhile.
    pub(crate) cpu_seconds: f64,
}

impl Seen {
    /// Gigabits of payload per second.
    pub(crate) fn gbit_per_s(&self) -> f64 {
        self.bytes as f64 * 8e-9 / self.seconds
    }

    /// Thousands of datagrams per second.
    pub(crate) fn kpps(&self) -> f64 {
        self.packets as f64 * 1e-3 / self.seconds
    }
}

impl Load {
    /// Does the work.
    pub(crate) fn run(self) -> Result<Seen> {
        let duration = Duration::from_secs_f64;
        match self {
            Self::TcpReceive { listen, streams, omit, seconds } => {
                tcp::receive(listen, streams, duration(omit), duration(seconds))
            }
            Self::TcpSend { connect, streams, bound } => {
                tcp::send(connect, streams, duration(bound))
            }
            Self::TcpVerify { address, receive: true, bytes } => {
                tcp::verify_receive(address, bytes)
            }
            Self::TcpVerify { address, receive: false, bytes } => tcp::verify_send(address, bytes),
            Self::UdpReceive { listen, omit, seconds } => {
                udp::receive(listen, duration(omit), duration(seconds))
            }
            Self::UdpSend { connect, size, seconds } => udp::send(connect, size, duration(seconds)),
        }
    }
}
