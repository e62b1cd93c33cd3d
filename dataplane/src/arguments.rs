//! The command line of `sarcenet-dataplane`.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use crate::worker::{Cores, WorkerConfig};

/// Carries the packets of a cell's containers: between them, to and from other cells through
/// VXLAN with group tags, admitting what the rules admit.
///
/// It knows nothing when it starts. A controller (`sarcenet agent`) connects to
/// ROOT/run/sarcenet/dataplane.sock, says which cell this is and who may speak to whom, and hands
/// over the containers' interfaces. Until then no packet passes.
///
/// Known conversations live in the file ROOT/run/sarcenet/flows, which should be on a tmpfs: a
/// dataplane that is started again takes them up, also after it was killed.
#[derive(Debug, Parser)]
#[command(name = "sarcenet-dataplane", version, after_long_help = AFTER_HELP)]
pub struct Arguments {
    /// Directory under which /run/sarcenet is looked for
    ///
    /// Several dataplanes can run on one machine with a root each, in a network namespace each.
    #[arg(long, value_name = "DIR", default_value = "/", env = "SARCENET_ROOT")]
    pub root: PathBuf,

    /// Threads that carry packets [default: one for each processor]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub workers: Option<u16>,

    /// Processors that carry packets, with a thread pinned to each [default: threads run anywhere]
    ///
    /// A list like 0-3,6. Worth it where nothing else runs on these processors (`isolcpus`, a cpuset).
    /// Else the kernel knows better where a thread finds room.
    #[arg(long, value_name = "CORES", conflicts_with = "workers")]
    pub pin: Option<Cores>,

    /// Most conversations known at a time
    ///
    /// Each takes 64 bytes and its place in an index, together about 100 MB for the default;
    /// memory is touched only as conversations come. When it is full, the longest idle ones go.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1 << 20,
        value_parser = clap::value_parser!(u32).range(1_024..=1 << 26)
    )]
    pub flows: u32,

    /// Microseconds for which an idle worker looks for packets before it sleeps
    ///
    /// More answers faster and costs processor time; 0 sleeps at once. A worker never spins
    /// against other runnable work.
    #[arg(
        long,
        value_name = "N",
        default_value_t = WorkerConfig::default().spin_us,
        value_parser = clap::value_parser!(u32).range(0..=1_000_000)
    )]
    pub spin_us: u32,

    /// Microseconds for which the driver of the card is polled after a packet
    ///
    /// For AF_XDP in native mode, where it saves interrupts and costs processor time; otherwise, and
    /// with 0, the card's interrupts are waited for. The mode of the uplink says `busy-poll` where it
    /// is done. The card's settings `napi_defer_hard_irqs` and `gro_flush_timeout` should be set too.
    #[arg(
        long,
        value_name = "MICROSECONDS",
        default_value_t = 0,
        value_parser = clap::value_parser!(u32).range(0..=1_000_000)
    )]
    pub busy_poll: u32,

    /// Send every TCP acknowledgment
    ///
    /// Otherwise one is left out when a later one of the same connection waits to be sent beside
    /// it and says all that it says; status shows how many were.
    #[arg(long)]
    pub keep_acks: bool,

    /// How to write the log, which goes to standard error
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    pub log: LogFormat,
}

const AFTER_HELP: &str = "\
Signals:
  SIGTERM, SIGINT  stop; containers keep their interfaces, conversations are kept in the file

Environment:
  RUST_LOG         what to log, e.g. `debug` or `sarcenet_dataplane::control=debug` [default: info]

Rights:
  Must be started as root, or with CAP_NET_ADMIN and CAP_NET_RAW by the owner of
  ROOT/run/sarcenet; an AF_XDP uplink needs CAP_BPF and CAP_IPC_LOCK too. All other capabilities
  are given up before the first packet.

Exit status:
  0  stopped by a signal
  1  could not start; the message on standard error says why
  2  wrong usage";

/// How lines of the log look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people
    Human,
    /// One JSON object a line
    Json,
}
