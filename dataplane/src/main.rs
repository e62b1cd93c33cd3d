//! `sarcenet-dataplane`: the process that carries a cell's packets.

#![forbid(unsafe_code)]

use std::{
    fs,
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use nix::sys::signal::{SigSet, Signal};
use sarcenet_dataplane::{
    control::{Engine, Server},
    flow::FlowTable,
    pipeline::Shared,
    process,
    worker::{Cores, WorkerConfig, Workers},
};
use sarcenet_dataplane_api::transport::Listener;
use tracing::{error, info};
use tracing_subscriber::EnvFilter;

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
struct Arguments {
    /// Directory under which /run/sarcenet is looked for
    ///
    /// Several dataplanes can run on one machine with a root each, in a network namespace each.
    #[arg(long, value_name = "DIR", default_value = "/", env = "SARCENET_ROOT")]
    root: PathBuf,

    /// Threads that carry packets [default: one for each processor]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: Option<u16>,

    /// Processors that carry packets, with a thread pinned to each [default: threads run anywhere]
    ///
    /// A list like 0-3,6. Worth it where nothing else runs on these processors (`isolcpus`, a cpuset).
    /// Else the kernel knows better where a thread finds room.
    #[arg(long, value_name = "CORES", conflicts_with = "workers")]
    pin: Option<Cores>,

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
    flows: u32,

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
    spin_us: u32,

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
    busy_poll: u32,

    /// Send every TCP acknowledgment
    ///
    /// Otherwise one is left out when a later one of the same connection waits to be sent beside
    /// it and says all that it says; status shows how many were.
    #[arg(long)]
    keep_acks: bool,

    /// How to write the log, which goes to standard error
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    log: LogFormat,
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// For people
    Human,
    /// One JSON object a line
    Json,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    start_log(arguments.log);
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            error!("{e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    // Blocked here, before any thread is there, and waited for below.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block().context("cannot block signals")?;

    let run = arguments.root.join("run/sarcenet");
    fs::create_dir_all(&run).with_context(|| format!("cannot make {}", run.display()))?;
    // The lock beside the socket keeps a second dataplane away from here on.
    if let Some(cores) = &arguments.pin {
        cores.check().context("--pin")?;
    }
    let listener = Listener::bind(&run.join("dataplane.sock"), 0o600)?;
    let shared = Arc::new(open_shared(&run, arguments.flows)?);

    let descriptors = process::raise_descriptor_limit()?;
    let kept = process::drop_privileges()?;
    info!(descriptors, capabilities = ?kept, "limits and privileges set");

    let default = WorkerConfig::default();
    let config = WorkerConfig {
        count: match (&arguments.pin, arguments.workers) {
            (Some(cores), _) => cores.numbers().len(),
            (None, Some(count)) => count.into(),
            (None, None) => default.count,
        },
        cores: arguments.pin.clone(),
        spin_us: arguments.spin_us,
        busy_poll_us: arguments.busy_poll,
        merge_acks: !arguments.keep_acks,
        ..default
    };
    let (count, pages) = (config.count, shared.flows.index_pages());
    let workers = Workers::start(&shared, config).context("cannot start workers")?;
    info!(packet_pools = %workers.pools(), flow_index = %pages, "memory mapped");
    let engine = Arc::new(Engine::new(shared, workers));
    let server = Server::start(listener, Arc::clone(&engine)).context("cannot start serving")?;
    info!(workers = count, flows = arguments.flows, "ready for a controller");

    let signal = signals.wait().context("cannot wait for signals")?;
    info!(%signal, "stopping");
    server.stop();
    if let Some(engine) = Arc::into_inner(engine) {
        engine.into_doors().stop();
    }
    Ok(())
}

/// Opens the tables, with the conversations of the dataplane before this one.
fn open_shared(run: &Path, flows: u32) -> anyhow::Result<Shared> {
    let (flows, adopted) = FlowTable::open(&run.join("flows"), flows as usize)?;
    if adopted > 0 {
        info!(adopted, "took up the conversations of an earlier dataplane");
    }
    Ok(Shared::new(flows))
}

fn start_log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    match format {
        LogFormat::Human => log.init(),
        LogFormat::Json => log.json().init(),
    }
}
