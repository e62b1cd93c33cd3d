//! The operator's command.

mod agent;
mod certs;
mod containers;
mod control;
mod events;
mod flows;
mod leases;
pub(crate) mod log;
mod logging;
mod names;
pub(crate) mod output;
mod policy;
mod status;
mod trace;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use sarcenet_agent_api::AgentClient;
use sarcenet_dataplane_api::Role;
use sarcenet_dataplane_api::client::Client;

use crate::drop_in::Program;
use crate::paths::Root;

/// Container networking for Cloud Foundry cells, in userspace.
///
/// One binary for the cell's control process (`sarcenet agent`), for the servers that cells ask
/// (`sarcenet control`), and for looking at a running cell. Start with `sarcenet status`; when a connection does not work, `sarcenet trace` shows
/// the way of its packets and what decided about them.
#[derive(Debug, Parser)]
#[command(name = "sarcenet", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "\
Exit status: 0 when all is well, 1 when something failed or is not well, 2 for wrong usage.

Files, all below --root:
  /etc/sarcenet/network.yaml            the network: overlay, cells, apps, policies
  /etc/sarcenet/control.yaml            the servers: where they listen, whom they ask
  /etc/sarcenet/certs/                  certificates of servers and agents
  /run/sarcenet/agent.sock              the agent's socket
  /run/sarcenet/dataplane.sock          the dataplane's socket
  /var/lib/sarcenet/containers.json     the agent's containers and their addresses
  /var/lib/sarcenet/followed.json       what the policy server said to the agent last
  /var/lib/sarcenet/lease.json          the cell's lease of a subnet, and the other cells'
  /var/lib/sarcenet-control/control.db  the servers' database, unless it is PostgreSQL
  /var/log/sarcenet/events.jsonl        records of conversations (`sarcenet logging`)")]
pub struct Cli {
    /// Directory below which /etc, /run and /var/lib are looked for
    #[arg(long, global = true, default_value = "/", value_name = "DIR", env = "SARCENET_ROOT")]
    root: PathBuf,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Agent(agent::Arguments),
    Status(status::Arguments),
    #[command(subcommand)]
    Policy(policy::Command),
    Containers(containers::Arguments),
    Flows(flows::Arguments),
    Trace(trace::Arguments),
    Events(events::Arguments),
    Logging(logging::Arguments),
    Control(control::Arguments),
    Leases(leases::Arguments),
    #[command(subcommand)]
    Certs(certs::Command),
    Demo(crate::demo::Arguments),
    As(crate::drop_in::Arguments),
}

/// Runs the command line of this process, which may have been started under the name of one of
/// Cloud Foundry's programs.
pub fn run() -> ExitCode {
    let mut words = std::env::args_os();
    if let Some(program) = words.next().as_deref().and_then(Program::started_as) {
        let root = std::env::var_os("SARCENET_ROOT").unwrap_or_else(|| "/".into());
        return end(program.name(), program.run(Root::new(root), words.collect()));
    }
    let cli = Cli::parse();
    let root = Root::new(cli.root);
    let done = match &cli.command {
        Command::Agent(arguments) => agent::run(root, arguments),
        Command::Status(arguments) => status::run(&root, arguments),
        Command::Policy(command) => policy::run(&root, command),
        Command::Containers(arguments) => containers::run(&root, arguments),
        Command::Flows(arguments) => flows::run(&root, arguments),
        Command::Trace(arguments) => trace::run(&root, arguments),
        Command::Events(arguments) => events::run(&root, arguments),
        Command::Logging(arguments) => logging::run(&root, arguments),
        Command::Control(arguments) => control::run(&root, arguments),
        Command::Leases(arguments) => leases::run(&root, arguments),
        Command::Certs(command) => certs::run(&root, command),
        Command::Demo(arguments) => crate::demo::run(arguments),
        Command::As(arguments) => arguments.run(root),
    };
    end("sarcenet", done)
}

/// The exit status of a program, which says on standard error why it is not 0.
fn end(program: &str, done: Result<ExitCode>) -> ExitCode {
    done.unwrap_or_else(|error| {
        if output::reader_is_gone(&error) {
            return ExitCode::SUCCESS;
        }
        eprintln!("{program}: {}", output::explain(&error));
        ExitCode::FAILURE
    })
}

fn agent_client(root: &Root) -> Result<AgentClient> {
    Ok(AgentClient::connect(&root.agent_socket())?)
}

fn dataplane_client(root: &Root) -> Result<Client> {
    Client::connect(&root.dataplane_socket(), Role::Observer).map_err(|error| {
        anyhow::anyhow!("{error}; is sarcenet-dataplane running, and are you root?")
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_root_may_stand_anywhere() {
        for line in ["sarcenet --root /x status", "sarcenet status --root /x --json"] {
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();
            assert_eq!(cli.root, PathBuf::from("/x"));
        }
    }

    #[test]
    fn a_policy_is_named_by_its_four_parts() {
        let line = "sarcenet policy allow --from a --to b --protocol tcp --ports 7000-8000";
        assert!(Cli::try_parse_from(line.split(' ')).is_ok());
        for wrong in ["--ports 0", "--ports 9-8", "--protocol icmp"] {
            let mut words: Vec<_> = line.split(' ').collect();
            let at = words.iter().position(|word| wrong.starts_with(word)).unwrap();
            words.splice(at..at + 2, wrong.split(' '));
            assert_eq!(Cli::try_parse_from(words).unwrap_err().exit_code(), 2, "{wrong}");
        }
    }
}
