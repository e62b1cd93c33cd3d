//! Log lines of processes that go on running.

use std::io::IsTerminal;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

/// How they look.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum LogFormat {
    Human,
    Json,
}

/// Starts writing them to standard error; `SARCENET_LOG` says which.
pub(super) fn start(format: LogFormat) {
    let filter = EnvFilter::try_from_env("SARCENET_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    match format {
        LogFormat::Human => builder.with_target(false).with_ansi(colour).init(),
        LogFormat::Json => builder.json().init(),
    }
}
