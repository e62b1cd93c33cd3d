//! From the answer to a change of policies to every agent that has it.
//!
//! Servers run as a process of their own over a database with many policies. Observers say when
//! they have a change: here agents that are simulated, which watch over mTLS as cells do. What is
//! measured knows nothing of them but a channel, so that whole cells can be observed as well.

mod agents;
mod cells;
mod changes;
mod report;
mod servers;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use tokio::sync::mpsc;

use self::changes::Changes;
use self::report::{CellsReport, Report};
use self::servers::Servers;
use crate::report::write_json;

/// What is measured
///
/// From the answer to a change of policies until agents have it, or, with --cells, until connections
/// between containers of two cells go by it. The servers, the agents and what measures them share this
/// machine's cores. Nothing listens elsewhere than on the loopback interface and in namespaces that
/// are made for it.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Policies in the database before the first change
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    policies: u32,

    /// Agents that watch
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=2000))]
    agents: u32,

    /// Changes, one after the other
    #[arg(long, default_value_t = 200, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=20_000))]
    changes: u32,

    /// Whole cells in the place of simulated agents: two of them with dataplanes and containers
    #[arg(long, conflicts_with_all = ["agents", "database"])]
    cells: bool,

    /// The database, `sqlite:PATH` or `postgres://...`, which must be empty [default: a new file]
    #[arg(long, value_name = "URL")]
    database: Option<String>,

    /// Write all numbers to a file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Measures, and prints what was measured.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let Arguments { policies, changes, cells, ref json, .. } = *arguments;
    if cells {
        let report = CellsReport::new(policies, &cells::measure(policies, changes)?);
        report.print();
        return write_json(&report, json.as_deref());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let report = runtime.context("start threads")?.block_on(measure(arguments))?;
    report.print();
    write_json(&report, arguments.json.as_deref())
}

async fn measure(arguments: &Arguments) -> Result<Report> {
    let Arguments { policies, agents, changes, ref database, .. } = *arguments;
    let servers = Servers::start(database.as_deref())?;
    servers.fill(policies).await.context("put policies into the database")?;
    let (sender, mut seen) = mpsc::unbounded_channel();
    let _agents = agents::start(&servers, agents, &sender).await.context("start the agents")?;
    // Whoever else observes gets a clone of the sender, and counts as one observer more.
    drop(sender);
    let before = servers.usage()?;
    let changes = Changes { count: changes, observers: agents as usize };
    let latencies = changes.make(&servers, &mut seen).await?;
    let after = servers.usage()?;
    Ok(Report::new(policies, changes, &latencies, before, after))
}
