//! `sarcenet-dataplane`: the process that carries a cell's packets.

#![forbid(unsafe_code)]

use std::{
    fs,
    io::{self, IsTerminal as _},
    path::Path,
    process::ExitCode,
    sync::Arc,
};

use anyhow::Context as _;
use clap::Parser as _;
use nix::sys::signal::{SigSet, Signal};
use sarcenet_dataplane::{
    arguments::{Arguments, LogFormat},
    control::{Engine, Server},
    flow::FlowTable,
    pipeline::Shared,
    process,
    worker::{WorkerConfig, Workers},
};
use sarcenet_dataplane_api::transport::Listener;
use tracing::{error, info};
use tracing_subscriber::EnvFilter;

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
