use std::fmt::Write;
use std::net::SocketAddrV4;
use std::process::ExitCode;

use anyhow::Result;
use sarcenet_dataplane_api::{TraceFilter, TraceStep, Walk};

use super::names::Names;
use super::{flows, output};
use crate::paths::Root;

/// Show the way of real packets through the dataplane
///
/// Prints every step of every packet that matches, as it comes: where it entered, what was read,
/// which policy decided, where it left or why it was dropped. Packets of both directions match.
/// Runs until interrupted, or for --count packets.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sarcenet trace --drops
  sarcenet trace --from frontend --to 10.255.62.7 --protocol tcp --port 8080
  sarcenet trace --count 10 --json")]
pub(super) struct Arguments {
    /// One end: an address, a network, or a container or app of this cell
    #[arg(long, value_name = "WHO")]
    from: Option<String>,

    /// The other end
    #[arg(long, value_name = "WHO")]
    to: Option<String>,

    /// tcp, udp, icmp, or a number
    #[arg(long, value_parser = parse_protocol)]
    protocol: Option<u8>,

    /// A port on either side
    #[arg(long)]
    port: Option<u16>,

    /// Only packets that are dropped or refused
    #[arg(long)]
    drops: bool,

    /// End after so many packets
    #[arg(long, value_name = "N")]
    count: Option<u64>,

    /// Print one JSON document for each packet and line
    #[arg(long)]
    json: bool,
}

fn parse_protocol(text: &str) -> Result<u8, String> {
    match text {
        "icmp" => Ok(1),
        "tcp" => Ok(6),
        "udp" => Ok(17),
        number => number.parse().map_err(|_| "use tcp, udp, icmp, or a number below 256".into()),
    }
}

pub(super) fn run(root: &Root, arguments: &Arguments) -> Result<ExitCode> {
    let names = Names::fetch(root);
    let network =
        |word: &Option<String>| word.as_deref().map(|word| names.network(word)).transpose();
    let filter = TraceFilter {
        from: network(&arguments.from)?,
        to: network(&arguments.to)?,
        protocol: arguments.protocol,
        port: arguments.port,
        drops_only: arguments.drops,
    };
    let mut left = arguments.count.unwrap_or(u64::MAX);
    if left == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    for batch in super::dataplane_client(root)?.trace(filter)? {
        let (walks, lost) = batch?;
        if lost > 0 {
            eprintln!("sarcenet: {lost} packets were not shown; narrow the filter");
        }
        for walk in walks {
            if arguments.json {
                output::json_line(&walk)?;
            } else {
                output::text(&story(&walk, &names))?;
            }
            left -= 1;
            if left == 0 {
                return Ok(ExitCode::SUCCESS);
            }
        }
    }
    anyhow::bail!("the dataplane ended the trace; has it been restarted? (`sarcenet status`)")
}

/// One packet, one line for each step.
fn story(walk: &Walk, names: &Names) -> String {
    let at = walk.at_ns as f64 / 1e9;
    let mut text = output::heading(&format!("{at:.6} s, worker {}", walk.worker));
    for step in &walk.steps {
        let (what, details) = words(step, names);
        let label = match step {
            TraceStep::Dropped { .. } => output::bad(&format!("{what:<12}")),
            TraceStep::Transmitted { .. } => output::good(&format!("{what:<12}")),
            _ => format!("{what:<12}"),
        };
        let _ = write!(text, "\n  {label} {details}");
    }
    text
}

fn words(step: &TraceStep, names: &Names) -> (&'static str, String) {
    match *step {
        TraceStep::Received { from, len, segment } => {
            let super_packet =
                segment.map_or_else(String::new, |segment| format!(", in segments of {segment}"));
            ("received", format!("from {}, {len} bytes{super_packet}", names.end(from)))
        }
        TraceStep::Decapsulated { tag, vni } => {
            let tag = tag.map_or_else(|| "no tag".into(), |tag| names.tag(tag));
            ("decapsulated", format!("VNI {vni}, {tag}"))
        }
        TraceStep::Parsed { protocol, source, destination, tcp_flags } => {
            let flags = if protocol == 6 { tcp_words(tcp_flags) } else { String::new() };
            ("parsed", format!("{} {source} > {destination}{flags}", flows::protocol(protocol)))
        }
        TraceStep::FlowHit { state, forward, rule } => {
            let way = if forward { "forward" } else { "back" };
            let rule = rule.map_or_else(String::new, |id| format!(", by {}", names.rule(id)));
            ("flow", format!("known, {}, {way}{rule}", flows::state(state)))
        }
        TraceStep::FlowMiss { stale: true } => {
            ("flow", "known, but decided under an older state; decided again".into())
        }
        TraceStep::FlowMiss { stale: false } => ("flow", "not known".into()),
        TraceStep::SourceChecked => ("source", "belongs where the packet came from".into()),
        TraceStep::Routed { to } => ("route", format!("to {}", names.end(to))),
        TraceStep::Policy { tag, rule: Some(id) } => {
            ("policy", format!("{}: allowed by {}", names.tag(tag), names.rule(id)))
        }
        TraceStep::Policy { tag, rule: None } => {
            ("policy", format!("{}: no policy allows it", names.tag(tag)))
        }
        TraceStep::Egress { denied: Some(id), .. } => {
            ("egress", format!("refused by {}", names.rule(id)))
        }
        TraceStep::Egress { denied: None, allowed: Some(id) } => {
            ("egress", format!("allowed by {}", names.rule(id)))
        }
        TraceStep::Egress { denied: None, allowed: None } => {
            ("egress", "no security group allows it".into())
        }
        TraceStep::FlowCreated => ("flow", "created".into()),
        TraceStep::Translated { source, destination } => {
            let side = |name, end: Option<SocketAddrV4>| end.map(|end| format!("{name} now {end}"));
            let sides = [side("source", source), side("destination", destination)];
            ("translated", sides.into_iter().flatten().collect::<Vec<_>>().join(", "))
        }
        TraceStep::Encapsulated { peer, tag } => {
            ("encapsulated", format!("to {peer}, {}", names.tag(tag)))
        }
        TraceStep::Transmitted { to } => ("transmitted", format!("to {}", names.end(to))),
        TraceStep::Answered { icmp_type, icmp_code } => {
            ("answered", format!("ICMP {}", icmp_words(icmp_type, icmp_code)))
        }
        TraceStep::Dropped { reason } => ("dropped", format!("{reason}: {}", reason.text())),
    }
}

/// ` [SYN ACK]`, in the order of the header's bits from below (RFC 9293 section 3.1).
fn tcp_words(flags: u8) -> String {
    let names = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];
    let set: Vec<_> = names
        .into_iter()
        .enumerate()
        .filter(|(bit, _)| flags >> bit & 1 == 1)
        .map(|(_, n)| n)
        .collect();
    format!(" [{}]", set.join(" "))
}

/// The errors that the dataplane sends (RFC 792, RFC 1191).
fn icmp_words(kind: u8, code: u8) -> String {
    match (kind, code) {
        (3, 3) => "port unreachable".into(),
        (3, 4) => "fragmentation needed".into(),
        (11, 0) => "time exceeded".into(),
        _ => format!("type {kind} code {code}"),
    }
}

#[cfg(test)]
mod tests {
    use sarcenet_dataplane_api::{DropReason, FlowEnd, RuleId};

    use super::*;

    #[test]
    fn a_refused_packet_reads_like_a_story() {
        let walk = Walk {
            at_ns: 1_500_000_000,
            worker: 1,
            steps: vec![
                TraceStep::Received {
                    from: FlowEnd::Tunnel([10, 77, 0, 12].into()),
                    len: 82,
                    segment: None,
                },
                TraceStep::Decapsulated { tag: Some(7), vni: 1 },
                TraceStep::Parsed {
                    protocol: 6,
                    source: "10.255.62.2:4000".parse().unwrap(),
                    destination: "10.255.55.2:80".parse().unwrap(),
                    tcp_flags: 0x02,
                },
                TraceStep::Policy { tag: 7, rule: None },
                TraceStep::Answered { icmp_type: 3, icmp_code: 3 },
                TraceStep::Dropped { reason: DropReason::PolicyDenied },
            ],
        };
        let told = story(&walk, &Names::default());
        assert_eq!(
            told,
            "1.500000 s, worker 1\n  \
             received     from tunnel 10.77.0.12, 82 bytes\n  \
             decapsulated VNI 1, tag 7\n  \
             parsed       tcp 10.255.62.2:4000 > 10.255.55.2:80 [SYN]\n  \
             policy       tag 7: no policy allows it\n  \
             answered     ICMP port unreachable\n  \
             dropped      policy_denied: No policy admits this conversation; refused with ICMP \
             port unreachable."
        );
    }

    #[test]
    fn rules_without_an_agent_stay_numbers() {
        let step = TraceStep::Policy { tag: 1, rule: Some(RuleId(9)) };
        assert_eq!(words(&step, &Names::default()).1, "tag 1: allowed by rule 9");
    }
}
