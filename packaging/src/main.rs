//! `sarcenet-man DIR` writes the manual pages of `sarcenet`, of each of its commands, and of
//! `sarcenet-dataplane`, from what they say in answer to `--help`.

#![forbid(unsafe_code)]

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{CommandFactory as _, Parser};
use sarcenet_control::cli::Cli;

/// Writes the manual pages of Sarcenet's programs.
#[derive(Debug, Parser)]
#[command(name = "sarcenet-man", version)]
struct Arguments {
    /// Where to write them; what is there of that name is replaced
    directory: PathBuf,
}

fn main() -> Result<()> {
    let Arguments { directory } = Arguments::parse();
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    for command in [Cli::command(), sarcenet_dataplane::arguments::Arguments::command()] {
        clap_mangen::generate_to(command, &directory)
            .with_context(|| format!("cannot write manual pages to {}", directory.display()))?;
    }
    Ok(())
}
