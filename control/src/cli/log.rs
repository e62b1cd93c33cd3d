//! Log lines of processes that go on running.

use std::io::IsTerminal;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

/// How they look.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum LogFormat {
    Human,
    Json,
}

/// Starts writing them to standard error; `SARCENET_LOG` says which.
pub(crate) fn start(format: LogFormat) {
    start_at(format, "info");
}

/// The same, from this level on unless `SARCENET_LOG` says otherwise.
pub(crate) fn start_at(format: LogFormat, level: &str) {
    let filter = EnvFilter::try_from_env("SARCENET_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    match format {
        LogFormat::Human => builder.with_target(false).with_ansi(colour).init(),
        LogFormat::Json => builder.json().init(),
    }
}
