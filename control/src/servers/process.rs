//! Servers as a process: from their start to the signal that ends them.

use std::process::ExitCode;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use tokio::runtime::Runtime;
use tracing::{info, warn};

use super::Prepared;
use crate::config::ControlSpec;
use crate::signals::Signals;

/// Runs servers until SIGINT or SIGTERM; SIGHUP puts changed certificates in force at once. Called
/// before the process has other threads.
pub fn run(spec: ControlSpec) -> Result<ExitCode> {
    let wanted = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];
    let signals = Signals::take(&wanted).context("cannot wait for signals")?;
    runtime()?.block_on(serve(spec, signals))
}

/// The threads of servers.
pub(crate) fn runtime() -> Result<Runtime> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.context("cannot start threads")
}

async fn serve(spec: ControlSpec, mut signals: Signals) -> Result<ExitCode> {
    // The database may be waited for.
    let mut servers = tokio::select! {
        servers = Prepared::new(spec)?.start() => servers?,
        signal = signals.end() => {
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
            signal = signals.next() => {
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
        signal = signals.end() => {
            warn!("{signal}: requests that are there are cut off");
            Ok(ExitCode::FAILURE)
        }
    }
}
