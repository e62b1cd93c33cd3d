use std::fmt::Write;
use std::process::ExitCode;

use anyhow::Result;
use clap::ValueEnum;
use sarcenet_agent_api::{LoggingChange, LoggingStatus};

use super::output;
use crate::paths::Root;

/// Show or switch what this cell records of conversations
///
/// Records are lines of JSON: time, container, app, space, organisation, addresses, ports, verdict
/// and rule. Refusals and admitted UDP are limited for each container. A switch holds until the
/// agent ends or `outside.logging` of the network file changes; then it is as the file says.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sarcenet logging
  sarcenet logging --c2c on
  sarcenet logging --c2c off --asg on")]
pub(super) struct Arguments {
    /// Conversations between apps, admitted and refused
    #[arg(long, value_enum, value_name = "SWITCH")]
    c2c: Option<Switch>,

    /// Conversations with the outside, admitted and refused
    #[arg(long, value_enum, value_name = "SWITCH")]
    asg: Option<Switch>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

pub(super) fn run(root: &Root, arguments: &Arguments) -> Result<ExitCode> {
    let on = |switch: Option<Switch>| switch.map(|switch| switch == Switch::On);
    let change = LoggingChange { overlay: on(arguments.c2c), egress: on(arguments.asg) };
    let status = super::agent_client(root)?.logging(change)?;
    if arguments.json {
        output::json(&status)?;
    } else {
        output::text(screen(&status).trim_end())?;
    }
    Ok(if status.problem.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn screen(status: &LoggingStatus) -> String {
    let mut text = String::new();
    let word = |on: bool| if on { "on" } else { "off" };
    let LoggingStatus { file, written, lost, .. } = status;
    for (label, said) in [
        ("c2c", word(status.overlay).to_owned()),
        ("asg", word(status.egress).to_owned()),
        (
            "limits",
            format!(
                "for each container, {} refusals and {} admitted UDP conversations a second",
                status.denied_per_second, status.accepted_udp_per_second
            ),
        ),
        ("file", format!("{file}: {written} written, {lost} lost")),
    ] {
        let _ = writeln!(text, "{}{said}", output::heading(&format!("{label:<8}")));
    }
    if let Some(problem) = &status.problem {
        let _ = writeln!(text, "{}", output::bad(&format!("events are lost: {problem}")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_where_and_what_is_lost() {
        let status = LoggingStatus {
            overlay: true,
            egress: false,
            denied_per_second: 1,
            accepted_udp_per_second: 100,
            file: "/var/log/sarcenet/events.jsonl".into(),
            written: 12,
            lost: 3,
            problem: Some("the disk is full".into()),
        };
        assert_eq!(
            screen(&status),
            "c2c     on\n\
             asg     off\n\
             limits  for each container, 1 refusals and 100 admitted UDP conversations a second\n\
             file    /var/log/sarcenet/events.jsonl: 12 written, 3 lost\n\
             events are lost: the disk is full\n"
        );
    }
}
