//! Log lines of processes that go on running.

use std::io::IsTerminal;
use std::sync::OnceLock;

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
    let change: Change = match format {
        LogFormat::Human => {
            let builder = builder.with_target(false).with_ansi(colour).with_filter_reloading();
            let handle = builder.reload_handle();
            builder.init();
            Box::new(move |filter| drop(handle.reload(filter)))
        }
        LogFormat::Json => {
            let builder = builder.json().with_filter_reloading();
            let handle = builder.reload_handle();
            builder.init();
            Box::new(move |filter| drop(handle.reload(filter)))
        }
    };
    CHANGE.get_or_init(|| change);
}

/// From which level on they are written from now on, whatever was said before.
pub(crate) fn change(level: &str) {
    if let Some(change) = CHANGE.get() {
        change(EnvFilter::new(level));
    }
}

type Change = Box<dyn Fn(EnvFilter) + Send + Sync>;

/// How to change what is written; there when it has been started.
static CHANGE: OnceLock<Change> = OnceLock::new();
