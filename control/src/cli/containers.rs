use std::process::ExitCode;

use anyhow::Result;
use sarcenet_agent_api::{Mapping, PortRange};

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
    let header = ["CONTAINER", "INTERFACE", "ADDRESS", "APP", "TAG", "PORT", "MAPPED", "STATE"];
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
            mapped(&info.mappings),
            if info.connected { output::good("connected") } else { output::bad("not connected") },
        ]);
    }
    output::text(&output::plain(&table))?;
    Ok(ExitCode::SUCCESS)
}

/// Mapped ports as `61000-61009>8080-8089/tcp`; the first few of many.
fn mapped(mappings: &[Mapping]) -> String {
    const SHOWN: usize = 4;
    if mappings.is_empty() {
        return "-".into();
    }
    let word = |&Mapping { protocol, cell, container }: &Mapping| {
        let last = container.saturating_add(cell.last - cell.first);
        let container = PortRange { first: container, last };
        format!("{cell}>{container}/{protocol}")
    };
    let mut words: Vec<_> = mappings.iter().take(SHOWN).map(word).collect();
    if mappings.len() > SHOWN {
        words.push(format!("and {} more", mappings.len() - SHOWN));
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use sarcenet_agent_api::Protocol;

    use super::*;

    #[test]
    fn mappings_read_as_ranges() {
        let mapping = |first, last| {
            let cell = PortRange { first, last };
            Mapping { protocol: Protocol::Tcp, cell, container: 8080 }
        };
        assert_eq!(mapped(&[]), "-");
        let two = [mapping(61_000, 61_000), mapping(61_002, 61_004)];
        assert_eq!(mapped(&two), "61000>8080/tcp 61002-61004>8080-8082/tcp");
        assert!(mapped(&[mapping(1, 1); 6]).ends_with(" and 2 more"));
    }
}
