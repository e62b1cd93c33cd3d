//! Load generators. Each runs inside a container's network namespace as a process of its own
//! (`sarcenet-perf load ...`), is bounded in time, and prints one line of JSON at its end.
//! Those that listen print the line `ready` before.

mod connections;
mod converse;
mod flows;
mod hog;
mod paced;
mod request_response;
mod scatter;
mod tcp;
mod udp;
mod verify;

use std::io::{Read as _, Write as _};
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};

use connections::Target;
pub(crate) use connections::{Close, Opened};
use converse::Conversations;
pub(crate) use converse::Conversed;
pub(crate) use flows::MOST_SOURCES;
pub(crate) use paced::{Arrived, Departed};
pub(crate) use request_response::Latency;

/// What a listening generator prints when it listens.
pub(crate) const READY: &str = "ready";

/// How long a generator waits for its other end.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a request and its answer travel by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Transport {
    /// One connection.
    Tcp,
    /// Datagrams.
    Udp,
}

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
        /// Address to listen on, or to connect to.
        address: SocketAddrV4,
        /// Listen instead of connect.
        #[arg(long)]
        listen: bool,
        /// Receive instead of send.
        #[arg(long)]
        receive: bool,
        /// Bytes to carry.
        #[arg(long, default_value_t = 256 << 20)]
        bytes: u64,
        /// Bound on the whole transfer in seconds.
        #[arg(long, default_value_t = 60.0)]
        bound: f64,
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
    /// Counts datagrams on many ports.
    FlowsReceive {
        /// Address to receive on and the lowest port.
        listen: SocketAddrV4,
        /// Ports to receive on, upwards from that one.
        #[arg(long, default_value_t = 60)]
        ports: u16,
        /// Seconds not counted, from the first datagram on.
        #[arg(long, default_value_t = 0.3)]
        omit: f64,
        /// Seconds counted.
        #[arg(long, default_value_t = 2.0)]
        seconds: f64,
    },
    /// Sends datagrams as fast as it can, each from and to another pair of ports.
    FlowsSend {
        /// Receiver and its lowest port.
        connect: SocketAddrV4,
        /// Ports to send to, upwards from the receiver's.
        #[arg(long, default_value_t = 60)]
        ports: u16,
        /// Ports to send from to each of them, upwards from 1024.
        #[arg(long, default_value_t = flows::MOST_SOURCES)]
        sources: u16,
        /// Seconds to send.
        #[arg(long, default_value_t = 3.0)]
        seconds: f64,
    },
    /// Receives numbered datagrams, compares every byte, and says which were missing.
    PacedReceive {
        /// Address to receive on.
        listen: SocketAddrV4,
        /// Bound on the whole run in seconds.
        #[arg(long, default_value_t = 30.0)]
        bound: f64,
    },
    /// Sends numbered datagrams at a steady rate.
    PacedSend {
        /// Receiver.
        connect: SocketAddrV4,
        /// Payload bytes of a datagram, at least 8.
        #[arg(long, default_value_t = 18)]
        size: usize,
        /// Datagrams a second.
        #[arg(long, default_value_t = 1000.0)]
        rate: f64,
        /// Seconds to send.
        #[arg(long, default_value_t = 1.0)]
        seconds: f64,
    },
    /// Sends one datagram each to many ports from many ports.
    ScatterSend {
        /// Receiver and its lowest port.
        connect: SocketAddrV4,
        /// Ports to send from.
        #[arg(long, default_value_t = 16)]
        sources: u16,
        /// Ports to send to, upwards from the receiver's.
        #[arg(long, default_value_t = 60_000)]
        ports: u16,
        /// Datagrams a second.
        #[arg(long, default_value_t = 100_000.0)]
        rate: f64,
    },
    /// Sends everything back until its standard input ends.
    Echo {
        /// Address to listen on.
        listen: SocketAddrV4,
        /// What to listen for.
        #[arg(long, value_enum, default_value = "tcp")]
        transport: Transport,
    },
    /// Asks an echo one question at a time.
    Ask {
        /// The echo.
        connect: SocketAddrV4,
        /// How to ask.
        #[arg(long, value_enum, default_value = "tcp")]
        transport: Transport,
        /// Payload bytes of a question.
        #[arg(long, default_value_t = 64)]
        size: usize,
        /// Seconds not counted at the start.
        #[arg(long, default_value_t = 0.2)]
        omit: f64,
        /// Seconds counted.
        #[arg(long, default_value_t = 1.0)]
        seconds: f64,
    },
    /// Accepts connections and closes each after its client, until its standard input ends.
    Accept {
        /// Address to listen on; any other of this machine will do as well.
        listen: SocketAddrV4,
    },
    /// Opens connections and closes them.
    Open {
        /// Where to, or the first of several addresses.
        connect: SocketAddrV4,
        /// Addresses to connect to in turns, upwards from that one.
        #[arg(long, default_value_t = 1)]
        addresses: u8,
        /// How to close.
        #[arg(long, value_enum, default_value = "reset")]
        close: Close,
        /// Connections on their way at a time.
        #[arg(long, default_value_t = 16)]
        threads: usize,
        /// Seconds not counted at the start.
        #[arg(long, default_value_t = 0.2)]
        omit: f64,
        /// Seconds counted.
        #[arg(long, default_value_t = 1.0)]
        seconds: f64,
    },
    /// Sends every datagram back until its standard input ends.
    Answer {
        /// The first address to listen on.
        listen: SocketAddrV4,
        /// Addresses to listen on, upwards from that one.
        #[arg(long, default_value_t = 1)]
        addresses: u8,
    },
    /// Asks and is answered in as many conversations as there are pairs of ports and addresses.
    Converse {
        /// The first address to ask.
        connect: SocketAddrV4,
        /// Addresses to ask, upwards from that one.
        #[arg(long, default_value_t = 1)]
        addresses: u8,
        /// Ports to ask from.
        #[arg(long, default_value_t = 16)]
        sources: u16,
        /// Questions in each conversation.
        #[arg(long, default_value_t = 1)]
        rounds: u16,
    },
    /// Keeps one core busy until its standard input ends.
    Hog {
        /// Bound on the whole run in seconds.
        #[arg(long, default_value_t = 60.0)]
        bound: f64,
    },
}

/// What a generator of throughput saw.
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
    /// Does the work and prints what was seen.
    pub(crate) fn run(self) -> Result<()> {
        let duration = Duration::from_secs_f64;
        match self {
            Self::TcpReceive { listen, streams, omit, seconds } => {
                print(&tcp::receive(listen, streams, duration(omit), duration(seconds))?)
            }
            Self::TcpSend { connect, streams, bound } => {
                print(&tcp::send(connect, streams, duration(bound))?)
            }
            Self::TcpVerify { address, listen, receive, bytes, bound } => {
                let stream = if listen { verify::accept(address)? } else { tcp::open(address)? };
                let carry = if receive { verify::read } else { verify::write };
                print(&carry(stream, bytes, duration(bound))?)
            }
            Self::UdpReceive { listen, omit, seconds } => {
                print(&udp::receive(listen, duration(omit), duration(seconds))?)
            }
            Self::UdpSend { connect, size, seconds } => {
                print(&udp::send(connect, size, duration(seconds))?)
            }
            Self::FlowsReceive { listen, ports, omit, seconds } => {
                print(&flows::receive(listen, ports, duration(omit), duration(seconds))?)
            }
            Self::FlowsSend { connect, ports, sources, seconds } => {
                print(&flows::send(connect, ports, sources, duration(seconds))?)
            }
            Self::PacedReceive { listen, bound } => {
                print(&paced::receive(listen, duration(bound))?)
            }
            Self::PacedSend { connect, size, rate, seconds } => {
                print(&paced::send(connect, size, rate, duration(seconds))?)
            }
            Self::ScatterSend { connect, sources, ports, rate } => {
                print(&scatter::send(connect, sources, ports, rate)?)
            }
            Self::Echo { listen, transport: Transport::Tcp } => request_response::echo_tcp(listen),
            Self::Echo { listen, transport: Transport::Udp } => request_response::echo_udp(listen),
            Self::Ask { connect, transport, size, omit, seconds } => print(&request_response::ask(
                connect,
                transport,
                size,
                duration(omit),
                duration(seconds),
            )?),
            Self::Accept { listen } => connections::accept(listen),
            Self::Open { connect, addresses, close, threads, omit, seconds } => {
                let target = Target { first: connect, addresses, close };
                print(&connections::open(target, threads, duration(omit), duration(seconds))?)
            }
            Self::Answer { listen, addresses } => converse::answer(listen, addresses),
            Self::Converse { connect, addresses, sources, rounds } => {
                let all = Conversations { first: connect, addresses, sources };
                print(&converse::converse(all, rounds)?)
            }
            Self::Hog { bound } => {
                hog::spin(duration(bound));
                Ok(())
            }
        }
    }
}

fn print(seen: &impl Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(seen).context("write what was seen")?);
    Ok(())
}

/// Tells whoever started this process that it listens.
fn say_ready() -> Result<()> {
    println!("{READY}");
    std::io::stdout().flush().context("say that it listens")
}

/// Becomes true when standard input ends: whoever started this process has seen enough, or died.
fn watch_input() -> Arc<AtomicBool> {
    let ended = Arc::new(AtomicBool::new(false));
    let signal = Arc::clone(&ended);
    std::thread::spawn(move || {
        let mut bytes = [0; 64];
        while matches!(std::io::stdin().read(&mut bytes), Ok(1..)) {}
        signal.store(true, Ordering::Relaxed);
    });
    ended
}
