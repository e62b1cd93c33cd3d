use std::process::ExitCode;

use anyhow::Result;
use jiff::Timestamp;
use sarcenet_agent_api::{ContainerInfo, LoggingChange};
use sarcenet_dataplane_api::{Event, EventKind};

use super::names::Names;
use super::{flows, output};
use crate::events::{ContainerFacts, Record};
use crate::paths::Root;

/// Follow what is recorded of conversations
///
/// Prints every conversation that is admitted or refused, as it comes, if it is recorded (see
/// `sarcenet logging`): what the agent writes to its file, but for space and organisation. Runs
/// until interrupted, or for --count events.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sarcenet events
  sarcenet events --denied --container web-1
  sarcenet events --json | jq .rule")]
pub(super) struct Arguments {
    /// Only refusals
    #[arg(long)]
    denied: bool,

    /// Only of this container of the cell
    #[arg(long, value_name = "ID")]
    container: Option<String>,

    /// End after so many events
    #[arg(long, value_name = "N")]
    count: Option<u64>,

    /// Print one JSON document for each event and line
    #[arg(long)]
    json: bool,
}

pub(super) fn run(root: &Root, arguments: &Arguments) -> Result<ExitCode> {
    let mut left = arguments.count.unwrap_or(u64::MAX);
    if left == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    let names = Names::fetch(root);
    let cell = hint(root);
    for page in super::dataplane_client(root)?.events()? {
        let (events, lost) = page?;
        if lost > 0 {
            eprintln!("sarcenet: {lost} events are missing here; there were too many");
        }
        for event in events.iter().filter(|event| is_wanted(arguments, &names, event)) {
            if arguments.json {
                output::json_line(&record(event, &cell, &names))?;
            } else {
                output::text(&line(event, &names))?;
            }
            left -= 1;
            if left == 0 {
                return Ok(ExitCode::SUCCESS);
            }
        }
    }
    anyhow::bail!("the dataplane tells no more events; has it been restarted? (`sarcenet status`)")
}

/// Says so when there will be nothing to see. Returns the cell's name.
fn hint(root: &Root) -> String {
    // Whoever cannot be asked has been complained about already.
    let Ok(mut agent) = super::agent_client(root) else { return String::new() };
    if let Ok(logging) = agent.logging(LoggingChange::default())
        && !logging.overlay
        && !logging.egress
    {
        eprintln!(
            "sarcenet: only what rules ask for is recorded; `sarcenet logging --c2c on --asg on` \
             changes that"
        );
    }
    agent.cell().to_owned()
}

fn is_wanted(arguments: &Arguments, names: &Names, event: &Event) -> bool {
    let container = |wanted: &String| {
        names.container(event.port).is_some_and(|known| known.attachment.id.container == *wanted)
    };
    !(arguments.denied && event.kind.is_admitted())
        && arguments.container.as_ref().is_none_or(container)
}

fn record(event: &Event, cell: &str, names: &Names) -> Record {
    let facts = |info: &ContainerInfo| ContainerFacts {
        id: info.attachment.id.container.clone(),
        app: info.app.clone(),
        space: None,
        organisation: None,
    };
    let source_app = names.app(event.tag).map(ToOwned::to_owned);
    let rule = event.rule.map(|id| names.rule(id));
    Record::new(event, cell, names.container(event.port).map(facts), source_app, rule)
}

/// An event on one line.
fn line(event: &Event, names: &Names) -> String {
    let time = Timestamp::from_nanosecond(i128::from(event.at_ns)).unwrap_or(Timestamp::MAX);
    let (verdict, towards) = match event.kind {
        EventKind::EgressAllowed => (output::good("allowed"), "outside"),
        EventKind::EgressDenied => (output::bad("denied "), "outside"),
        EventKind::OverlayAllowed => (output::good("allowed"), "app    "),
        EventKind::OverlayDenied => (output::bad("denied "), "app    "),
        EventKind::ConnectionLimited { enforced: true } => (output::bad("limited"), "outside"),
        EventKind::ConnectionLimited { enforced: false } => ("over   ".into(), "outside"),
    };
    let rule = event.rule.map_or_else(String::new, |id| format!(", by {}", names.rule(id)));
    let tag = if event.tag == 0 { String::new() } else { format!(", {}", names.tag(event.tag)) };
    format!(
        "{time:.6} {verdict} {towards} {} {} > {} at {}{tag}{rule}",
        flows::protocol(event.protocol),
        event.source,
        event.destination,
        names.port(event.port),
    )
}

#[cfg(test)]
mod tests {
    use sarcenet_dataplane_api::{PortId, RuleId};

    use super::*;

    fn event(kind: EventKind) -> Event {
        Event {
            at_ns: 1_700_000_000_500_000_000,
            kind,
            port: PortId(2),
            container: [10, 255, 55, 2].into(),
            tag: 7,
            protocol: 17,
            source: "10.255.62.2:4000".parse().unwrap(),
            destination: "10.255.55.2:53".parse().unwrap(),
            rule: None,
        }
    }

    #[test]
    fn an_event_is_one_line() {
        let names = Names::default();
        let admitted = Event { rule: Some(RuleId(9)), ..event(EventKind::OverlayAllowed) };
        assert_eq!(
            line(&admitted, &names),
            "2023-11-14T22:13:20.500000Z allowed app     udp 10.255.62.2:4000 > 10.255.55.2:53 \
             at port 2, tag 7, by rule 9"
        );
        let refused = Event { tag: 0, ..event(EventKind::EgressDenied) };
        assert_eq!(
            line(&refused, &names),
            "2023-11-14T22:13:20.500000Z denied  outside udp 10.255.62.2:4000 > 10.255.55.2:53 \
             at port 2"
        );
    }

    #[test]
    fn only_what_was_asked_for_is_shown() {
        let names = Names::default();
        let denied = Arguments { denied: true, container: None, count: None, json: false };
        let dry_run = EventKind::ConnectionLimited { enforced: false };
        for (kind, shown) in [
            (EventKind::EgressDenied, true),
            (EventKind::OverlayAllowed, false),
            (dry_run, false),
            (EventKind::ConnectionLimited { enforced: true }, true),
        ] {
            assert_eq!(is_wanted(&denied, &names, &event(kind)), shown, "{kind:?}");
        }
        let other = Arguments { container: Some("web-1".into()), denied: false, ..denied };
        assert!(!is_wanted(&other, &names, &event(EventKind::EgressDenied)));
    }
}
