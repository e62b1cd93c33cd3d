use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use sarcenet_agent_api::{Policy, PortRange, Protocol, parse_ports, parse_protocol};

use super::output;
use crate::paths::Root;
use crate::policy_client::{ListedPolicy, PolicyClient};

/// Where the token is by default, below the user's directory of configuration files.
const TOKEN_FILE: &str = "sarcenet/token";

/// Allow, revoke and list policies
///
/// A policy says: containers of one app may open conversations with containers of another app, on
/// a protocol and a range of ports. What no policy allows is refused.
///
/// With --server the policy server is asked, in the name of the user whose token is given by
/// --token-file or --token, by the variable SARCENET_TOKEN, or in the file ~/.config/sarcenet/token;
/// apps are then GUIDs. Otherwise policies are kept in the cell's network file, of which only the section `policies:` is
/// changed.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
Examples:
  sarcenet policy allow --from frontend --to backend --protocol tcp --ports 8080
  sarcenet policy revoke --from frontend --to backend --protocol tcp --ports 8080
  sarcenet policy list --json
  sarcenet policy list --server https://policy-server.example.org:4002 --ca ca.crt")]
pub(super) enum Command {
    /// Allow conversations; without --server in force on this cell when the command ends
    Allow(PolicyArguments),
    /// Take a policy back; what becomes of open conversations says `revoke` in the network file
    Revoke(PolicyArguments),
    /// List the policies in force on this cell, or those of the server
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,

        #[command(flatten)]
        server: ServerArguments,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct ServerArguments {
    /// Ask the policy server at this address: its external API
    #[arg(long, value_name = "URL")]
    server: Option<String>,

    /// The user's token; whoever lists processes sees it here, and not in a file
    #[arg(long, value_name = "TOKEN", requires = "server", conflicts_with = "token_file")]
    token: Option<String>,

    /// File with the user's token
    #[arg(long, value_name = "FILE", requires = "server")]
    token_file: Option<PathBuf>,

    /// PEM file of the CA of the server's certificate [default: those that the system trusts]
    #[arg(long, value_name = "FILE", requires = "server")]
    ca: Option<PathBuf>,
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

    #[command(flatten)]
    server: ServerArguments,
}

impl PolicyArguments {
    fn policy(&self) -> Policy {
        let (from, to) = (self.from.clone(), self.to.clone());
        Policy { from, to, protocol: self.protocol, ports: self.ports }
    }
}

impl ServerArguments {
    /// The server to ask, if one is to be asked.
    fn client(&self) -> Result<Option<PolicyClient>> {
        let Some(server) = &self.server else { return Ok(None) };
        let token = match &self.token {
            Some(token) => token.clone(),
            None => token(self.token_file.as_deref())?,
        };
        Ok(Some(PolicyClient::new(server, &token, self.ca.as_deref())?))
    }
}

/// The token of a file that is named, of the environment, or of the file where it is by default.
fn token(file: Option<&Path>) -> Result<String> {
    let read = |path: &Path| {
        let text = std::fs::read_to_string(path);
        text.with_context(|| format!("cannot read the token in {}", path.display()))
    };
    if let Some(path) = file {
        return read(path);
    }
    if let Ok(token) = std::env::var("SARCENET_TOKEN") {
        return Ok(token);
    }
    let below = |variable: &str, rest: &str| {
        let directory = std::env::var_os(variable).filter(|directory| !directory.is_empty())?;
        Some(Path::new(&directory).join(rest).join(TOKEN_FILE))
    };
    match below("XDG_CONFIG_HOME", "").or_else(|| below("HOME", ".config")) {
        Some(path) if path.exists() => read(&path),
        Some(path) => bail!(
            "no token: name a file by --token-file, set SARCENET_TOKEN, or write it to {}",
            path.display()
        ),
        None => bail!("no token: name a file by --token-file, or set SARCENET_TOKEN"),
    }
}

/// Runs what asks a server.
fn ask<T>(work: impl Future<Output = T>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Ok(runtime.context("cannot start")?.block_on(work))
}

pub(super) fn run(root: &Root, command: &Command) -> Result<ExitCode> {
    match command {
        Command::Allow(arguments) => change(root, arguments, true)?,
        Command::Revoke(arguments) => change(root, arguments, false)?,
        Command::List { json, server } => {
            let policies = match server.client()? {
                Some(client) => ask(client.list())??,
                None => {
                    super::agent_client(root)?.policies()?.into_iter().map(Into::into).collect()
                }
            };
            list(&policies, *json)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn change(root: &Root, arguments: &PolicyArguments, allow: bool) -> Result<()> {
    let policy = arguments.policy();
    if let Some(client) = arguments.server.client()? {
        let done = if allow {
            ask(client.allow(&policy))??;
            "allowed"
        } else {
            ask(client.revoke(&policy))??;
            "not allowed any more"
        };
        return output::text(&format!("{policy}: {done} by {}", client.host()));
    }
    let mut agent = super::agent_client(root)?;
    let done = match (
        allow,
        if allow { agent.allow(policy.clone()) } else { agent.revoke(policy.clone()) }?,
    ) {
        (true, true) => "allowed",
        (true, false) => "was allowed already",
        (false, true) => "revoked",
        (false, false) => "was not allowed",
    };
    output::text(&format!("{policy}: {done}"))
}

fn list(policies: &[ListedPolicy], json: bool) -> Result<()> {
    if json {
        return output::json(&policies);
    }
    if policies.is_empty() {
        return output::text("no policies: every conversation between apps is refused");
    }
    let mut table = output::table(&["FROM", "TO", "PROTOCOL", "PORTS"], &[]);
    for ListedPolicy { from, to, protocol, ports } in policies {
        table.add_row([from, to, protocol, &ports.to_string()]);
    }
    output::text(&output::plain(&table))
}
