//! The throughput harness: whole cells in network namespaces, ours beside the kernel's in one run.

#![forbid(unsafe_code)]

mod cpu;
mod load;
mod stats;

use anyhow::Result;
use clap::Parser;

#[derive(Debug, Parser)]
enum Cli {
    /// One load generator, run inside a container by `sarcenet-perf run`.
    #[command(subcommand)]
    Load(load::Load),
}

fn main() -> Result<()> {
    match Cli::parse() {
        Cli::Load(load) => println!("{}", serde_json::to_string(&load.run()?)?),
    }
    Ok(())
}
