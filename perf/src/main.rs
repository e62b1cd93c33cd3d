//! The throughput harness: whole cells in network namespaces, ours beside the kernel's in one run.

#![forbid(unsafe_code)]

mod containers;
mod control;
mod cpu;
mod cubic;
mod generator;
mod lease_storm;
mod load;
mod loading;
mod machine;
mod outcome;
mod policy_latency;
mod report;
mod run;
mod scenario;
mod side;
mod stats;

use anyhow::Result;
use clap::Parser;

/// Measures whole cells, ours beside the kernel's
///
/// Two Sarcenet cells, two kernel cells (VXLAN device and the iptables rules of their containers)
/// and two that only route are built in network namespaces of this machine; each scenario runs on
/// them in turns, several times. Nothing outside these namespaces is touched, and they are removed
/// at the end, however that comes about.
#[derive(Debug, Parser)]
#[command(name = "sarcenet-perf", version, after_long_help = AFTER_HELP)]
enum Cli {
    /// Run scenarios and print their numbers
    Run(Box<run::Run>),
    /// List the scenarios
    List,
    /// Measure how long a change of policies takes to every cell's agent
    PolicyLatency(policy_latency::Arguments),
    /// Measure how soon all cells have a subnet when they ask at once
    LeaseStorm(lease_storm::Arguments),
    /// Measure how long containers take to be attached, and what a cell full of them needs
    Containers(containers::Arguments),
    /// One load generator, run inside a container by `sarcenet-perf run`
    #[command(subcommand)]
    Load(load::Load),
}

const AFTER_HELP: &str = "\
Examples:
  sarcenet-perf run --quick
      all scenarios in under five minutes
  sarcenet-perf run --only 'tcp-1,rr-*' --pairs 9
      one stream, and everything about latency, nine times on each side
  sarcenet-perf run --json results.json --svg plots --markdown RESULTS.md
      a full run with all its files
  sarcenet-perf policy-latency --json latency.json
      10,000 policies, 100 agents, 200 changes
  sarcenet-perf lease-storm
      250 cells ask for a subnet at once
  sarcenet-perf containers
      250 containers of one cell start at once

Needs:
  root, for namespaces; iperf3, ip, conntrack, iptables-legacy or iptables-nft; the other programs of
  Sarcenet beside this one, or in SARCENET_BIN_DIR
  PostgreSQL for lease-storm, which starts a server of its own
  a machine that does nothing else: all sides share its cores

Exit status:
  0  everything was measured, whether it reached its bar or not
  1  something could not be measured; standard error says what and why
  2  wrong usage";

fn main() -> Result<()> {
    match Cli::parse() {
        Cli::Run(run) => run.run(),
        Cli::List => {
            report::table::list();
            Ok(())
        }
        Cli::PolicyLatency(arguments) => policy_latency::run(&arguments),
        Cli::LeaseStorm(arguments) => lease_storm::run(&arguments),
        Cli::Containers(arguments) => containers::run(&arguments),
        Cli::Load(load) => load.run(),
    }
}
