//! What a cell tells of itself to those who collect metrics.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};

use anyhow::{Context as _, Result, ensure};
use sarcenet_dataplane_api::DropReason;
use sarcenet_netns_tests::PATIENCE;
use sarcenet_rig::{Cell, CellKind, Outcome, Plan, World, tcp};

/// Where cells tell it.
const STATUS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 23955);

/// The answer to a request for `path`, from inside the cell.
fn ask(cell: &Cell, path: &str) -> Result<String> {
    let asked = cell.namespace().run(|| -> Result<String> {
        let mut stream = TcpStream::connect(STATUS)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {STATUS}\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })?;
    let answer = asked.with_context(|| format!("GET {path}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer without a head")?;
    ensure!(head.starts_with("HTTP/1.1 200 "), "GET {path}: {answer}");
    Ok(body.to_owned())
}

/// All metrics, by name and labels.
fn metrics(cell: &Cell) -> Result<BTreeMap<String, f64>> {
    let text = ask(cell, "/metrics")?;
    ensure!(text.ends_with("# EOF\n"), "{text}");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let number = |line: &str| -> Result<(String, f64)> {
        let (name, value) = line.rsplit_once(' ').with_context(|| line.to_owned())?;
        Ok((name.to_owned(), value.parse().with_context(|| line.to_owned())?))
    };
    lines.map(number).collect()
}

fn value(metrics: &BTreeMap<String, f64>, name: &str) -> Result<f64> {
    metrics.get(name).copied().with_context(|| format!("{name} is not in {metrics:#?}"))
}

#[test]
fn what_the_dataplane_does_is_told() -> Result<()> {
    let world = World::new(Plan::new("mt", &[CellKind::Sarcenet]))?;
    let (from, to) = (world.attach(0, Some("app-1"))?, world.attach(0, Some("app-2"))?);
    let cell = &world.cells()[0];
    ensure!(ask(cell, "/health")?.is_empty());
    let denied = "sarcenet_dataplane_dropped_packets_total{reason=\"policy_denied\"}";

    let before = metrics(cell)?;
    for reason in DropReason::ALL {
        let name = format!("sarcenet_dataplane_dropped_packets_total{{reason=\"{reason}\"}}");
        value(&before, &name)?;
    }
    for (name, expected) in [
        ("sarcenet_dataplane_up", 1.0),
        ("sarcenet_agent_dataplane_ready", 1.0),
        ("sarcenet_agent_containers", 2.0),
        ("sarcenet_agent_problems", 0.0),
        ("sarcenet_dataplane_rules", 0.0),
        (denied, 0.0),
    ] {
        let told = value(&before, name)?;
        ensure!((told - expected).abs() < 0.5, "{name} is not {expected} in {before:#?}");
    }

    let _server = to.serve_http(8080)?;
    let target = SocketAddrV4::new(to.address(), 8080);
    let refused = from.connect(target, PATIENCE)?;
    ensure!(matches!(refused, Outcome::Refused(_) | Outcome::Failed(_)), "{refused:?}");
    world.allow(&[tcp("app-1", "app-2", 8080..=8080)])?;
    from.http(target, PATIENCE)?.greeting()?;

    let after = metrics(cell)?;
    ensure!(value(&after, denied)? >= 1.0, "{after:#?}");
    for name in [
        "sarcenet_dataplane_transmitted_packets_total",
        "sarcenet_dataplane_created_flows_total",
        "sarcenet_dataplane_generation",
        "sarcenet_dataplane_rules",
        "sarcenet_agent_rules",
    ] {
        let (before, after) = (value(&before, name)?, value(&after, name)?);
        ensure!(after > before, "{name} was {before} and is {after}");
    }
    let carried = |metrics: &BTreeMap<String, f64>, ends: &str| -> f64 {
        let link = |name: &&String| {
            name.starts_with("sarcenet_dataplane_link_bytes_total{") && name.ends_with(ends)
        };
        metrics.keys().filter(link).filter_map(|name| metrics.get(name)).sum()
    };
    for direction in ["direction=\"rx\"}", "direction=\"tx\"}"] {
        ensure!(carried(&after, direction) > carried(&before, direction), "{after:#?}");
    }
    Ok(())
}
