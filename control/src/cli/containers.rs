use std::process::ExitCode;

use anyhow::Result;

use super::output;
use crate::paths::Root;

/// List the containers of this cell
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(root: &Root, arguments: &Arguments) -> Result<ExitCode> {
    let containers = super::agent_client(root)?.containers()?;
    if arguments.json {
        output::json(&containers)?;
        return Ok(ExitCode::SUCCESS);
    }
    if containers.is_empty() {
        output::text("no containers; the CNI plugin sarcenet-cni attaches them")?;
        return Ok(ExitCode::SUCCESS);
    }
    let header = ["CONTAINER", "INTERFACE", "ADDRESS", "APP", "TAG", "PORT", "STATE"];
    let mut table = output::table(&header, &[4, 5]);
    for info in containers {
        let attachment = info.attachment;
        table.add_row([
            attachment.id.container,
            attachment.id.ifname,
            attachment.address.to_string(),
            info.app.unwrap_or_else(|| "-".into()),
            if info.tag == 0 { "-".into() } else { info.tag.to_string() },
            attachment.port.0.to_string(),
            if info.connected { output::good("connected") } else { output::bad("not connected") },
        ]);
    }
    output::text(&output::plain(&table))?;
    Ok(ExitCode::SUCCESS)
}
