use std::process::ExitCode;

use anyhow::Result;
use sarcenet_agent_api::{Policy, PortRange, Protocol, parse_ports, parse_protocol};

use super::output;
use crate::paths::Root;

/// Allow, revoke and list policies
///
/// A policy says: containers of one app may open conversations with containers of another app, on
/// a protocol and a range of ports. What no policy allows is refused. Policies are kept in the
/// network file; only its `policies:` section is changed.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
Examples:
  sarcenet policy allow --from frontend --to backend --protocol tcp --ports 8080
  sarcenet policy revoke --from frontend --to backend --protocol tcp --ports 8080
  sarcenet policy list --json")]
pub(super) enum Command {
    /// Allow conversations; in force on this cell when the command ends
    Allow(PolicyArguments),
    /// Take a policy back; what becomes of open conversations says `revoke` in the network file
    Revoke(PolicyArguments),
    /// List the policies in force
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct PolicyArguments {
    /// App whose containers open the conversation
    #[arg(long, value_name = "APP")]
    from: String,

    /// App whose containers are talked to
    #[arg(long, value_name = "APP")]
    to: String,

    /// tcp or udp
    #[arg(long, value_parser = parse_protocol)]
    protocol: Protocol,

    /// Destination port, or a range like 7000-8000
    #[arg(long, value_parser = parse_ports)]
    ports: PortRange,
}

impl PolicyArguments {
    fn policy(&self) -> Policy {
        let (from, to) = (self.from.clone(), self.to.clone());
        Policy { from, to, protocol: self.protocol, ports: self.ports }
    }
}

pub(super) fn run(root: &Root, command: &Command) -> Result<ExitCode> {
    let mut agent = super::agent_client(root)?;
    match command {
        Command::Allow(arguments) => {
            let policy = arguments.policy();
            let new = agent.allow(policy.clone())?;
            output::text(&format!(
                "{policy}: {}",
                if new { "allowed" } else { "was allowed already" }
            ))?;
        }
        Command::Revoke(arguments) => {
            let policy = arguments.policy();
            let gone = agent.revoke(policy.clone())?;
            output::text(&format!(
                "{policy}: {}",
                if gone { "revoked" } else { "was not allowed" }
            ))?;
        }
        Command::List { json: true } => output::json(&agent.policies()?)?,
        Command::List { json: false } => {
            let policies = agent.policies()?;
            if policies.is_empty() {
                output::text("no policies: every conversation between apps is refused")?;
                return Ok(ExitCode::SUCCESS);
            }
            let mut table = output::table(&["FROM", "TO", "PROTOCOL", "PORTS"], &[]);
            for policy in policies {
                let (protocol, ports) = (policy.protocol.to_string(), policy.ports.to_string());
                table.add_row([policy.from, policy.to, protocol, ports]);
            }
            output::text(&output::plain(&table))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
