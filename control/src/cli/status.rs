use std::fmt::Write;
use std::process::ExitCode;

use anyhow::Result;
use sarcenet_agent_api::AgentStatus;
use sarcenet_dataplane_api::Status;
use serde::Serialize;

use super::output::{self, bad, count, duration, good, heading};
use crate::paths::Root;

/// Show how this cell is
///
/// The agent and the dataplane, every link with the mode it really got, how full the flow table
/// is, and what was dropped for which reason. Exit status 1 when something is not well.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    /// Raised when the shape changes.
    schema: u32,
    agent: Option<AgentStatus>,
    dataplane: Option<Status>,
    /// What somebody should look at.
    problems: Vec<String>,
}

pub(super) fn run(root: &Root, arguments: &Arguments) -> Result<ExitCode> {
    let mut problems = Vec::new();
    let agent = super::agent_client(root).and_then(|mut client| Ok(client.status()?));
    let agent = agent.map_err(|e| problems.push(output::explain(&e))).ok();
    let dataplane = super::dataplane_client(root).and_then(|mut client| Ok(client.status()?));
    let dataplane = dataplane.map_err(|e| problems.push(output::explain(&e))).ok();
    if let Some(agent) = &agent {
        problems.extend(agent.config.mistakes.iter().map(|line| format!("not in force: {line}")));
        problems.extend(agent.problems.iter().cloned());
        // Said already when this program cannot reach it either.
        let refused = agent.dataplane.error.iter().filter(|_| dataplane.is_some());
        problems
            .extend(refused.map(|error| format!("the agent's dataplane is not ready: {error}")));
    }
    let report = Report { schema: 1, agent, dataplane, problems };
    if arguments.json {
        output::json(&report)?;
    } else {
        output::text(screen(&report).trim_end())?;
    }
    Ok(if report.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn screen(report: &Report) -> String {
    let mut text = String::new();
    let mut line = |label: &str, state: String| {
        let _ = writeln!(text, "{}{state}", heading(&format!("{label:<12}")));
    };
    match &report.agent {
        Some(agent) => {
            let (subnet, overlay, underlay) = (agent.subnet, agent.overlay, agent.underlay);
            line(
                "cell",
                format!(
                    "{}: {subnet} of {overlay}, underlay {underlay}, MTU {}",
                    agent.cell, agent.mtu
                ),
            );
            line("agent", format!("{}, {}", good("up"), agent_words(agent)));
        }
        None => line("agent", bad("not reached")),
    }
    match &report.dataplane {
        Some(status) => {
            line("dataplane", format!("{}, {}", good("up"), dataplane_words(status)));
            line("packets", packet_words(status));
        }
        None => line("dataplane", bad("not reached")),
    }
    if let Some(status) = &report.dataplane {
        let _ = write!(text, "\n{}\n{}\n", heading("links"), links(status));
        if !status.drops.is_empty() {
            let _ = write!(text, "\n{}\n{}\n", heading("drops"), drops(status));
        }
    }
    if !report.problems.is_empty() {
        let _ = write!(text, "\n{}\n", heading("problems"));
        for problem in &report.problems {
            let _ = writeln!(text, "{} {problem}", bad("!"));
        }
    }
    text
}

fn agent_words(agent: &AgentStatus) -> String {
    [
        duration(agent.uptime_s),
        format!(
            "{} ({} free)",
            count(agent.containers.into(), "container"),
            count(agent.addresses_free.into(), "address")
        ),
        count(agent.cells.into(), "cell"),
        count(agent.apps.into(), "app"),
        count(agent.policies.into(), "policy"),
    ]
    .join(", ")
}

fn dataplane_words(status: &Status) -> String {
    [
        duration(status.uptime_s),
        format!("generation {}", status.generation),
        count(status.rules, "rule"),
        count(status.peers, "peer"),
        count(status.workers.len() as u64, "worker"),
        format!("{} of {} flows", status.flows.used, status.flows.capacity),
    ]
    .join(", ")
}

fn packet_words(status: &Status) -> String {
    let dropped: u64 = status.drops.iter().map(|drops| drops.packets).sum();
    let (sent, answered) = (status.transmitted, status.answered);
    format!("{sent} sent on, {answered} answered, {dropped} dropped")
}

fn links(status: &Status) -> String {
    let header = [
        "NAME",
        "MODE",
        "MTU",
        "WORKER",
        "RX PACKETS",
        "RX BYTES",
        "TX PACKETS",
        "TX BYTES",
        "ERRORS",
    ];
    let mut table = output::table(&header, &[2, 3, 4, 5, 6, 7, 8]);
    for link in &status.links {
        table.add_row([
            link.name.clone(),
            link.mode.clone(),
            link.mtu.to_string(),
            link.readers.iter().map(u16::to_string).collect::<Vec<_>>().join(","),
            link.rx_packets.to_string(),
            link.rx_bytes.to_string(),
            link.tx_packets.to_string(),
            link.tx_bytes.to_string(),
            link.errors.to_string(),
        ]);
    }
    output::plain(&table)
}

fn drops(status: &Status) -> String {
    let mut table = output::table(&["REASON", "PACKETS", "MEANING"], &[1]);
    for drops in &status.drops {
        table.add_row([drops.reason.token(), &drops.packets.to_string(), drops.reason.text()]);
    }
    output::plain(&table)
}
