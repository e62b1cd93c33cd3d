use std::process::ExitCode;

use anyhow::Result;
use sarcenet_dataplane_api::{FlowInfo, FlowState};

use super::names::Names;
use super::output;
use crate::paths::Root;

/// List the conversations that the dataplane knows
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sarcenet flows
  sarcenet flows --with 10.255.55.2
  sarcenet flows --json | jq '.rule'")]
pub(super) struct Arguments {
    /// Only conversations that this address, network, container or app takes part in
    #[arg(long, value_name = "WHO")]
    with: Option<String>,

    /// Print one JSON document for each flow and line
    #[arg(long)]
    json: bool,
}

pub(super) fn run(root: &Root, arguments: &Arguments) -> Result<ExitCode> {
    let names = Names::fetch(root);
    let with = arguments.with.as_deref().map(|word| names.network(word)).transpose()?;
    let mut client = super::dataplane_client(root)?;
    let header =
        ["PROTO", "FROM", "TO", "OUTSIDE", "STATE", "IDLE", "BYTES", "BACK", "DOORS", "POLICY"];
    let mut table = output::table(&header, &[5, 6, 7]);
    let mut shown = 0_u64;
    for flow in client.flows() {
        let flow = flow?;
        let takes_part = with.is_none_or(|net| {
            net.contains(flow.source.ip()) || net.contains(flow.destination.ip())
        });
        if !takes_part {
            continue;
        }
        shown += 1;
        if arguments.json {
            output::json_line(&flow)?;
        } else {
            table.add_row(row(&flow, &names));
        }
    }
    if !arguments.json {
        let said = if shown == 0 { "no flows".into() } else { output::plain(&table) };
        output::text(&said)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn row(flow: &FlowInfo, names: &Names) -> [String; 10] {
    [
        protocol(flow.protocol),
        flow.source.to_string(),
        flow.destination.to_string(),
        flow.nat.map_or_else(|| "-".into(), |nat| nat.to_string()),
        state(flow.state).to_owned(),
        format!("{} s", flow.idle_s),
        flow.bytes[0].to_string(),
        flow.bytes[1].to_string(),
        format!("{} > {}", names.end(flow.from), names.end(flow.to)),
        flow.rule.map_or_else(|| "-".into(), |id| names.rule(id)),
    ]
}

/// The protocol's name, or its number.
pub(super) fn protocol(number: u8) -> String {
    match number {
        1 => "icmp".into(),
        6 => "tcp".into(),
        17 => "udp".into(),
        other => format!("proto {other}"),
    }
}

/// The state's name.
pub(super) fn state(state: FlowState) -> &'static str {
    match state {
        FlowState::New => "new",
        FlowState::SynSent => "syn-sent",
        FlowState::SynReceived => "syn-received",
        FlowState::Established => "established",
        FlowState::FinWait => "fin-wait",
        FlowState::TimeWait => "time-wait",
        FlowState::Closed => "closed",
    }
}
