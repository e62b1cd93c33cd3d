//! Servers as a process: from their start to the signal that ends them.

use std::process::ExitCode;

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::Prepared;
use crate::config::ControlSpec;

/// Runs servers until SIGINT or SIGTERM; SIGHUP puts changed certificates in force at once. Called
/// before the process has other threads.
pub fn run(spec: ControlSpec) -> Result<ExitCode> {
    // Before any thread starts, so that all of them leave these signals to the one that waits.
    let mut wanted = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        wanted.add(signal);
    }
    wanted.thread_block().context("cannot block signals")?;
    let signals = follow(wanted).context("cannot wait for signals")?;
    runtime()?.block_on(serve(spec, signals))
}

/// The threads of servers.
pub(crate) fn runtime() -> Result<Runtime> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.context("cannot start threads")
}

/// The signals as they come.
fn follow(wanted: SigSet) -> std::io::Result<mpsc::Receiver<Signal>> {
    let (sender, receiver) = mpsc::channel(8);
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        while let Ok(signal) = wanted.wait() {
            if sender.blocking_send(signal).is_err() {
                return;
            }
        }
    })?;
    Ok(receiver)
}

async fn serve(spec: ControlSpec, mut signals: mpsc::Receiver<Signal>) -> Result<ExitCode> {
    // The database may be waited for.
    let mut servers = tokio::select! {
        servers = Prepared::new(spec)?.start() => servers?,
        signal = end(&mut signals) => {
            info!("{signal}: ending before the servers have started");
            return Ok(ExitCode::SUCCESS);
        }
    };
    let address = |name: &str| servers.address(name).map(tracing::field::display);
    info!(
        external = address("external"),
        internal = address("internal"),
        leases = address("leases"),
        status = address("status"),
        debug = address("debug"),
        "ready"
    );
    loop {
        tokio::select! {
            error = servers.failed() => return Err(error.into()),
            signal = next(&mut signals) => {
                if signal != Signal::SIGHUP {
                    info!("{signal}: ending");
                    break;
                }
                info!("{signal}: looking at the certificates");
                servers.look_at_tls();
            }
        }
    }
    tokio::select! {
        () = servers.stop() => Ok(ExitCode::SUCCESS),
        signal = end(&mut signals) => {
            warn!("{signal}: requests that are there are cut off");
            Ok(ExitCode::FAILURE)
        }
    }
}

async fn next(signals: &mut mpsc::Receiver<Signal>) -> Signal {
    // The thread that sends them lives as long as the receiver does.
    match signals.recv().await {
        Some(signal) => signal,
        None => std::future::pending().await,
    }
}

/// The next signal that says to end.
async fn end(signals: &mut mpsc::Receiver<Signal>) -> Signal {
    loop {
        let signal = next(signals).await;
        if signal != Signal::SIGHUP {
            return signal;
        }
    }
}
