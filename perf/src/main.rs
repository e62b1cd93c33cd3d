//! The throughput harness: whole cells in network namespaces, ours beside the kernel's in one run.

#![forbid(unsafe_code)]

mod cpu;
mod load;
mod run;
mod scenario;
mod side;
mod stats;

use anyhow::Result;
use clap::Parser;

/// Measures whole cells, ours beside the kernel's.
#[derive(Debug, Parser)]
#[command(version)]
enum Cli {
    /// Run scenarios and print the table of ratios.
    Run(run::Run),
    /// One load generator, run inside a container by `sarcenet-perf run`.
    #[command(subcommand)]
    Load(load::Load),
}

fn main() -> Result<()> {
    match Cli::parse() {
        Cli::Run(run) => run.run()?,
        Cli::Load(load) => println!("{}", serde_json::to_string(&load.run()?)?),
    }
    Ok(())
}
