use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use sarcenet_server::certs::{self, Options};

use super::output;
use crate::paths::Root;

/// Make certificates for servers and agents
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    Init(Init),
}

/// Make a CA, a server's certificate and an agent's
///
/// For deployments that have no other source of certificates. Files that are there are kept, so that
/// it can be run again; all are for their owner only. Servers need ca.crt, server.crt and server.key,
/// agents ca.crt, client.crt and client.key. The CA's key stays where certificates are made.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sarcenet certs init
  sarcenet certs init --dir certs --name policy-server.example.org --name 10.0.16.4
  sarcenet certs init --renew")]
pub(super) struct Init {
    /// Where to make them [default: /etc/sarcenet/certs]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,

    /// DNS name or address of the server; may be given several times [default: the names in Cloud
    /// Foundry, localhost and 127.0.0.1]
    #[arg(long = "name", value_name = "NAME")]
    names: Vec<String>,

    /// How long the server's and the agent's certificate are good
    #[arg(long, value_name = "DAYS", default_value = "365",
          value_parser = clap::value_parser!(u16).range(1..))]
    days: u16,

    /// Make the server's and the agent's certificate anew; the CA stays
    #[arg(long)]
    renew: bool,
}

pub(super) fn run(root: &Root, command: &Command) -> Result<ExitCode> {
    let Command::Init(init) = command;
    let directory = init.dir.clone().unwrap_or_else(|| root.certs_directory());
    let made = certs::init(&directory, &init.options())?;
    if made.written.is_empty() {
        let text = "all certificates are there; --renew makes new ones of the same CA";
        output::text(&format!("{}: {text}", directory.display()))?;
    }
    for path in &made.written {
        output::text(&path.display().to_string())?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Init {
    fn options(&self) -> Options {
        let mut options = Options { days: self.days, renew: self.renew, ..Options::default() };
        if !self.names.is_empty() {
            let address = |name: &String| name.parse::<IpAddr>().ok();
            options.addresses = self.names.iter().filter_map(address).collect();
            let mut names = self.names.clone();
            names.retain(|name| address(name).is_none());
            options.names = names;
        }
        options
    }
}
