//! An event in the words of the platform: one JSON object.

use std::net::Ipv4Addr;
use std::time::SystemTime;

use jiff::Timestamp;
use sarcenet_agent_api::Protocol;
use sarcenet_dataplane_api::{Event, EventKind};
use serde::Serialize;

/// Longest log prefix that the kernel stack writes, in characters (contract section 7.10).
const PREFIX: usize = 28;

/// What the platform calls a container and what it belongs to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerFacts {
    /// Its handle.
    pub id: String,
    /// Its app.
    pub app: Option<String>,
    /// The space of its app.
    pub space: Option<String>,
    /// The organisation of that.
    pub organisation: Option<String>,
}

/// An event as it is written. Fields that are not known are null.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Record {
    /// RFC 3339, with microseconds, in UTC.
    time: String,
    cell: String,
    event: &'static str,
    verdict: &'static str,
    /// As the kernel stack begins its log lines (contract section 7.10).
    prefix: String,
    /// `egress` or `ingress`, seen from the container.
    direction: &'static str,
    container: Option<String>,
    app: Option<String>,
    space: Option<String>,
    organisation: Option<String>,
    protocol: String,
    source_address: Ipv4Addr,
    /// None for protocols without ports.
    source_port: Option<u16>,
    /// The app that sends, when it has a tag.
    source_app: Option<String>,
    destination_address: Ipv4Addr,
    destination_port: Option<u16>,
    /// The rule that decided; none when none did.
    rule: Option<String>,
}

impl Record {
    /// The record of `event` on `cell`. `container` is the one it is about, `source_app` what the
    /// tag of the sender stands for, `rule` the text of the event's rule.
    pub fn new(
        event: &Event,
        cell: &str,
        container: Option<ContainerFacts>,
        source_app: Option<String>,
        rule: Option<String>,
    ) -> Self {
        let known = container.is_some();
        let facts = container.unwrap_or_default();
        let has_ports = [Protocol::Tcp, Protocol::Udp].map(Protocol::number);
        let port = |port: u16| has_ports.contains(&event.protocol).then_some(port);
        Self {
            time: time(i128::from(event.at_ns)),
            cell: cell.to_owned(),
            event: name(event.kind),
            verdict: if event.kind.is_admitted() { "allowed" } else { "denied" },
            prefix: prefix(event, &facts),
            direction: direction(event.kind),
            container: known.then_some(facts.id),
            app: facts.app,
            space: facts.space,
            organisation: facts.organisation,
            protocol: protocol(event.protocol),
            source_address: *event.source.ip(),
            source_port: port(event.source.port()),
            source_app,
            destination_address: *event.destination.ip(),
            destination_port: port(event.destination.port()),
            rule,
        }
    }
}

/// Says in the file that events are missing from it.
#[derive(Debug, Serialize)]
pub(super) struct Lost<'a> {
    time: String,
    cell: &'a str,
    event: &'static str,
    /// How many are missing.
    #[serde(rename = "lost")]
    events: u64,
}

impl<'a> Lost<'a> {
    pub(super) fn now(cell: &'a str, lost: u64) -> Self {
        let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { time: time(unix.as_nanos() as i128), cell, event: "events_lost", events: lost }
    }
}

/// Appends one line of JSON; nothing if that is not possible.
pub(super) fn append_line(
    lines: &mut Vec<u8>,
    record: &impl Serialize,
) -> Result<(), serde_json::Error> {
    let before = lines.len();
    match serde_json::to_writer(&mut *lines, record) {
        Ok(()) => lines.push(b'\n'),
        Err(e) => {
            lines.truncate(before);
            return Err(e);
        }
    }
    Ok(())
}

/// RFC 3339 with microseconds, of nanoseconds since 1970.
fn time(unix_ns: i128) -> String {
    let time = Timestamp::from_nanosecond(unix_ns).unwrap_or(Timestamp::MAX);
    format!("{time:.6}")
}

fn name(kind: EventKind) -> &'static str {
    match kind {
        EventKind::EgressAllowed => "egress_allowed",
        EventKind::EgressDenied => "egress_denied",
        EventKind::OverlayAllowed => "overlay_allowed",
        EventKind::OverlayDenied => "overlay_denied",
        EventKind::ConnectionLimited { .. } => "connection_limited",
    }
}

fn direction(kind: EventKind) -> &'static str {
    match kind {
        EventKind::OverlayAllowed | EventKind::OverlayDenied => "ingress",
        EventKind::EgressAllowed
        | EventKind::EgressDenied
        | EventKind::ConnectionLimited { .. } => "egress",
    }
}

fn prefix(event: &Event, facts: &ContainerFacts) -> String {
    let id = &facts.id;
    let whole = match event.kind {
        EventKind::EgressAllowed => format!("OK_{id}"),
        EventKind::EgressDenied => format!("DENY_{id}"),
        // Tags are written as four hexadecimal digits (contract section 3.2).
        EventKind::OverlayAllowed => {
            format!("OK_{:04X}_{}", event.tag, facts.app.as_deref().unwrap_or_default())
        }
        EventKind::OverlayDenied => format!("DENY_C2C_{id}"),
        EventKind::ConnectionLimited { .. } => format!("DENY_ORL_{id}"),
    };
    whole.chars().take(PREFIX).collect()
}

fn protocol(number: u8) -> String {
    match number {
        1 => "icmp".into(),
        6 => Protocol::Tcp.to_string(),
        17 => Protocol::Udp.to_string(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use sarcenet_dataplane_api::PortId;
    use serde_json::{Value, json};

    use super::*;

    fn event(kind: EventKind) -> Event {
        Event {
            at_ns: 1_700_000_000_000_001_999,
            kind,
            port: PortId(2),
            container: [10, 255, 55, 2].into(),
            tag: 0xa,
            protocol: 6,
            source: "10.255.55.2:40000".parse().unwrap(),
            destination: "192.0.2.9:443".parse().unwrap(),
            rule: None,
        }
    }

    fn facts() -> ContainerFacts {
        ContainerFacts {
            id: "6de68121-5eb5-47f6-4c1e-6884".into(),
            app: Some("app-a".into()),
            space: Some("space".into()),
            organisation: Some("org".into()),
        }
    }

    fn written(record: &impl Serialize) -> Value {
        let mut lines = Vec::new();
        append_line(&mut lines, record).unwrap();
        assert_eq!(lines.pop(), Some(b'\n'));
        assert!(!lines.contains(&b'\n'));
        serde_json::from_slice(&lines).unwrap()
    }

    #[test]
    fn a_line_says_everything() {
        let event = event(EventKind::EgressDenied);
        let record = Record::new(&event, "cell1", Some(facts()), Some("app-a".into()), None);
        assert_eq!(
            written(&record),
            json!({
                "time": "2023-11-14T22:13:20.000001Z",
                "cell": "cell1",
                "event": "egress_denied",
                "verdict": "denied",
                "prefix": "DENY_6de68121-5eb5-47f6-4c1e",
                "direction": "egress",
                "container": "6de68121-5eb5-47f6-4c1e-6884",
                "app": "app-a",
                "space": "space",
                "organisation": "org",
                "protocol": "tcp",
                "source_address": "10.255.55.2",
                "source_port": 40_000,
                "source_app": "app-a",
                "destination_address": "192.0.2.9",
                "destination_port": 443,
                "rule": null,
            })
        );
    }

    #[test]
    fn each_kind_has_the_kernel_stacks_prefix() {
        let short = ContainerFacts { id: "h".into(), ..facts() };
        let said = |kind| {
            let line = written(&Record::new(&event(kind), "c", Some(short.clone()), None, None));
            let word = |key: &str| line[key].as_str().unwrap().to_owned();
            [word("event"), word("verdict"), word("prefix"), word("direction")]
        };
        let limited = |enforced| said(EventKind::ConnectionLimited { enforced });
        for (found, expected) in [
            (said(EventKind::EgressAllowed), ["egress_allowed", "allowed", "OK_h", "egress"]),
            (said(EventKind::EgressDenied), ["egress_denied", "denied", "DENY_h", "egress"]),
            (
                said(EventKind::OverlayAllowed),
                ["overlay_allowed", "allowed", "OK_000A_app-a", "ingress"],
            ),
            (said(EventKind::OverlayDenied), ["overlay_denied", "denied", "DENY_C2C_h", "ingress"]),
            (limited(true), ["connection_limited", "denied", "DENY_ORL_h", "egress"]),
            (limited(false), ["connection_limited", "allowed", "DENY_ORL_h", "egress"]),
        ] {
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn what_is_not_known_is_null() {
        let event = Event { protocol: 1, at_ns: u64::MAX, ..event(EventKind::OverlayDenied) };
        let line = written(&Record::new(&event, "c", None, None, Some("a to b".into())));
        let unknown = ["container", "app", "space", "organisation", "source_app"];
        for key in unknown.iter().chain(&["source_port", "destination_port"]) {
            assert_eq!(line[key], Value::Null, "{key}");
        }
        assert_eq!(line["protocol"], "icmp");
        assert_eq!(line["rule"], "a to b");
    }

    #[test]
    fn missing_events_are_told() {
        let line = written(&Lost::now("cell1", 7));
        assert_eq!((&line["event"], &line["lost"]), (&json!("events_lost"), &json!(7)));
    }
}
