use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use sarcenet_server::client::ClientFiles;
use sarcenet_server::leases::LeaseBody;
use tokio::runtime::Builder;

use super::output;
use crate::config::{ConfigError, Network};
use crate::follow::asker::Asker;
use crate::follow::lease::client::LeaseClient;
use crate::paths::Root;

/// List the subnets that cells have leased
///
/// Asks the subnet controller, with a client certificate. Where the network file names the subnet
/// controller and the certificates, nothing else is needed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sarcenet leases
  sarcenet leases --server https://localhost:4103 --json")]
pub(super) struct Arguments {
    /// The subnet controller [default: that of the network file]
    #[arg(long, value_name = "URL")]
    server: Option<String>,

    /// The network file [default: /etc/sarcenet/network.yaml]
    #[arg(long, value_name = "FILE")]
    network: Option<PathBuf>,

    /// The CA of the subnet controller [default: /etc/sarcenet/certs/ca.crt]
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,

    /// The client's certificate [default: /etc/sarcenet/certs/client.crt]
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,

    /// Its key [default: /etc/sarcenet/certs/client.key]
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,

    /// Seconds to wait for an answer
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    timeout: u64,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(root: &Root, arguments: &Arguments) -> Result<ExitCode> {
    let file = arguments.network.clone().unwrap_or_else(|| root.network_file());
    let control = match Network::load(&file) {
        Ok(network) => network.control,
        Err(ConfigError::Read { .. }) if arguments.server.is_some() => None,
        Err(error) => return Err(error.into()),
    };
    let named = control.as_ref().map(|control| &control.leases.url);
    let server = arguments.server.as_ref().or(named).with_context(|| {
        format!("{} names no subnet controller; say which one with --server", file.display())
    })?;
    let certs = control.as_ref().map(|control| control.certs.clone()).unwrap_or_default();
    let mut files: ClientFiles = certs.files(root);
    let given = [
        (&arguments.ca, &mut files.server_ca),
        (&arguments.cert, &mut files.identity.certificate),
        (&arguments.key, &mut files.identity.key),
    ];
    for (given, file) in given {
        if let Some(given) = given {
            file.clone_from(given);
        }
    }
    let client =
        LeaseClient::new(server, Asker::new(files, Duration::from_secs(arguments.timeout)))?;
    let runtime = Builder::new_current_thread().enable_all().build();
    let mut listed = runtime.context("cannot start")?.block_on(client.list())?;
    listed.leases.sort_by_key(|lease| lease.subnet);

    let leases: Vec<_> = listed.leases.iter().map(LeaseBody::from).collect();
    if arguments.json {
        output::json(&leases)?;
    } else if leases.is_empty() {
        output::text("no leases")?;
    } else {
        let mut table = output::table(&["SUBNET", "UNDERLAY", "MAC"], &[]);
        for lease in leases {
            table.add_row([lease.overlay_subnet, lease.underlay_ip, lease.overlay_hardware_addr]);
        }
        output::text(&output::plain(&table))?;
    }
    if listed.unreadable > 0 {
        eprintln!("sarcenet: {} leases cannot be read", listed.unreadable);
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}
