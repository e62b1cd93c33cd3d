use std::process::ExitCode;

use anyhow::Result;
use comfy_table::{ContentArrangement, Table};
use sarcenet_agent_api::{ContainerInfo, Mapping, PortRange};

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
    output::text(&output::plain(&listed(containers)))?;
    Ok(ExitCode::SUCCESS)
}

/// One line for each, whatever the width.
fn listed(containers: Vec<ContainerInfo>) -> Table {
    let header = [
        "CONTAINER",
        "INTERFACE",
        "ATTACHED",
        "ADDRESS",
        "APP",
        "TAG",
        "PORT",
        "MAPPED",
        "AGE",
        "STATE",
    ];
    let mut table = output::table(&header, &[5, 6]);
    table.set_content_arrangement(ContentArrangement::Disabled);
    for info in containers {
        let (state, attachment) = (state(&info), info.attachment);
        table.add_row([
            attachment.id.container,
            attachment.id.ifname,
            info.kind.to_string(),
            attachment.address.to_string(),
            info.app.unwrap_or_else(|| "-".into()),
            if info.tag == 0 { "-".into() } else { info.tag.to_string() },
            attachment.port.0.to_string(),
            mapped(&info.mappings),
            info.age_s.map_or_else(|| "-".into(), output::duration),
            state,
        ]);
    }
    table
}

/// How it is: an ended one waits for its DEL, or to be collected.
fn state(info: &ContainerInfo) -> String {
    match (info.ended_s, info.connected) {
        (Some(seconds), _) => output::bad(&format!("ended {} ago", output::duration(seconds))),
        (None, true) => output::good("connected"),
        (None, false) => output::bad("not connected"),
    }
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
    use sarcenet_agent_api::{AttachKind, Attachment, AttachmentId, PortId, Protocol};

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

    fn info(
        number: u8,
        age_s: Option<u64>,
        connected: bool,
        ended_s: Option<u64>,
    ) -> ContainerInfo {
        let container = format!("{number:08}-5a3c-4f11-9d5e-0123456789ab-{number:04}");
        ContainerInfo {
            attachment: Attachment {
                id: AttachmentId { container, ifname: "eth0".into() },
                address: [10, 255, 55, number].into(),
                mtu: 1450,
                mac: None,
                host: None,
                routes: Vec::new(),
                port: PortId(number.into()),
                name_servers: Vec::new(),
            },
            netns_path: "/run/netns/one".into(),
            app: None,
            tag: 0,
            kind: AttachKind::Tun,
            age_s,
            connected,
            ended_s,
            mappings: Vec::new(),
        }
    }

    #[test]
    fn each_container_is_one_line() {
        let all = vec![
            info(2, Some(90), true, None),
            info(3, None, false, None),
            info(4, Some(7_300), false, Some(12)),
        ];
        let text = output::plain(&listed(all));
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        for (line, begin, end) in [
            (lines[0], "CONTAINER ", "AGE   STATE"),
            (lines[1], "00000002-5a3c-4f11-9d5e-0123456789ab-0002  eth0 ", " 90 s  connected"),
            (lines[2], "00000003-", " -     not connected"),
            (lines[3], "00000004-", " 2 h   ended 12 s ago"),
        ] {
            assert!(line.starts_with(begin) && line.ends_with(end), "{line}");
        }
    }
}
