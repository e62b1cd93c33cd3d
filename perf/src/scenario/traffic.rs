//! Scenarios that carry packets.

use anyhow::{Result, ensure};

use super::{Length, Sample};
use crate::generator::Generator;
use crate::load::{Arrived, Departed, Latency, MOST_SOURCES, Opened, Seen, Transport};
use crate::loading::Loading;
use crate::side::{Direction, Kind, Side, Span, Worlds};
use crate::stats::largest;

/// Part of the datagrams that may be missing at a rate that counts as free of loss: a virtual
/// machine stands still now and then for longer than any buffer lasts.
const LOSS: f64 = 1e-4;

/// Rate of the datagrams that are compared byte by byte, a second.
const VERIFY_RATE: f64 = 5_000.0;

/// Ports that conversations to one endpoint outside come from: source NAT has no more than 12,288
/// for one container and endpoint (three quarters of its range).
const OUTSIDE_SOURCES: u16 = 8_192;

/// Addresses of the outside host that connections go to in turns. A cell has only so many ports
/// for each, and none is free again until TIME-WAIT is over.
pub(super) const OUTSIDE_ADDRESSES: u8 = 120;

/// Datagrams of new conversations a second, more than any sender gets rid of.
const MOST_FLOWS: f64 = 1e6;

/// Known bytes in one stream.
pub(super) fn verify_tcp(side: &Side, span: Span, direction: Direction) -> Result<()> {
    let _: Seen = match direction {
        Direction::There => side.received(span, "tcp-verify --listen --receive", "tcp-verify")?,
        Direction::Back => side.asked(span, "tcp-verify --listen", "tcp-verify --receive")?,
    };
    Ok(())
}

/// Numbered datagrams with known bytes, slowly.
pub(super) fn verify_udp(side: &Side, span: Span, size: u16) -> Result<()> {
    let (sent, arrived) = paced(side, span, size, VERIFY_RATE, 0.2)?;
    ensure!(
        arrived.received * 2 > sent.sent,
        "of {} datagrams at {VERIFY_RATE} a second only {} arrived",
        sent.sent,
        arrived.received
    );
    Ok(())
}

pub(super) fn iperf3(
    side: &Side,
    streams: u8,
    span: Span,
    direction: Direction,
    length: Length,
) -> Result<Sample> {
    Ok(bulk(&side.iperf3(span, direction, streams, length.seconds)?))
}

pub(super) fn tcp(side: &Side, streams: u8, span: Span, length: Length) -> Result<Sample> {
    let seconds = length.seconds;
    let receive = format!("tcp-receive --streams {streams} --seconds {seconds}");
    let seen = side.received(span, &receive, &format!("tcp-send --streams {streams}"))?;
    Ok(bulk(&seen))
}

fn bulk(seen: &Seen) -> Sample {
    Sample {
        values: vec![seen.gbit_per_s()],
        cpu: Some(seen.cpu_seconds / (seen.bytes as f64 * 1e-9)),
    }
}

/// Received while more is sent than gets through.
pub(super) fn udp(side: &Side, size: u16, length: Length) -> Result<Sample> {
    let seconds = length.seconds;
    let seen: Seen = side.received(
        Span::CrossCell,
        &format!("udp-receive --omit 0.3 --seconds {seconds}"),
        // The sender goes on longer than its receiver counts.
        &format!("udp-send --size {size} --seconds {}", seconds + 5.0),
    )?;
    let cpu = seen.cpu_seconds * 1e6 / seen.packets as f64;
    Ok(Sample { values: vec![seen.kpps()], cpu: Some(cpu) })
}

/// The highest rate without loss, by search.
pub(super) fn loss_free(side: &Side, size: u16, length: Length) -> Result<Sample> {
    let overload = udp(side, size, Length { seconds: 0.3, ..length })?.values[0] * 1e3;
    let (trials, seconds, precision) =
        if length.quick { (6, 0.2, 0.1) } else { (10, length.seconds.min(0.5), 0.04) };
    let (mut best, mut cpu) = (0.0_f64, None);
    largest(overload, precision, trials, |rate| {
        let (sent, arrived) = paced(side, Span::CrossCell, size, rate, seconds)?;
        let missing = sent.sent.saturating_sub(arrived.received);
        let held = missing as f64 <= sent.sent as f64 * LOSS;
        // What really left: the sender may not keep up with what it was asked for.
        let got = sent.sent as f64 / sent.seconds;
        if held && got > best {
            best = got;
            cpu = Some(arrived.cpu_seconds * 1e6 / arrived.received as f64);
        }
        anyhow::Ok(held && got > 0.9 * rate)
    })?;
    Ok(Sample { values: vec![best * 1e-3], cpu })
}

fn paced(
    side: &Side,
    span: Span,
    size: u16,
    rate: f64,
    seconds: f64,
) -> Result<(Departed, Arrived)> {
    let send = format!("paced-send --size {size} --rate {rate} --seconds {seconds}");
    let (sent, arrived): (Departed, Arrived) = side.both(span, "paced-receive", &send)?;
    ensure!(arrived.spoiled == 0, "{} datagrams arrived with other bytes", arrived.spoiled);
    ensure!(arrived.repeated == 0, "{} datagrams arrived twice", arrived.repeated);
    Ok((sent, arrived))
}

/// Times from question to answer; with both cores busy if wanted.
pub(super) fn request_response(
    side: &Side,
    transport: Transport,
    busy: bool,
    length: Length,
) -> Result<Sample> {
    let transport = match transport {
        Transport::Tcp => "tcp",
        Transport::Udp => "udp",
    };
    let hogs = if busy { std::thread::available_parallelism()?.get() } else { 0 };
    let hogs: Vec<_> =
        (0..hogs).map(|_| Generator::outside("hog --bound 60")).collect::<Result<_>>()?;
    let latency: Latency = side.asked(
        Span::CrossCell,
        &format!("echo --transport {transport}"),
        &format!("ask --transport {transport} --seconds {}", length.seconds),
    )?;
    drop(hogs);
    Ok(Sample {
        values: vec![latency.p50_us, latency.p99_us, latency.p999_us],
        cpu: (!busy).then(|| latency.cpu_seconds * 1e6 / latency.answers as f64),
    })
}

/// New conversations of one datagram each, of which more are begun than get through.
pub(super) fn flows(side: &Side, span: Span, length: Length) -> Result<Sample> {
    side.forget_conversations()?;
    let known = begun(side, span)?;
    let seconds = length.seconds;
    // The sender starts before its receiver counts and goes on until that has seen enough.
    let sources = if span == Span::Outside { OUTSIDE_SOURCES } else { MOST_SOURCES };
    let ports = ((seconds + 1.0) * MOST_FLOWS / f64::from(sources)).ceil() as u16;
    let (receiver, sender) = side.start_on_ports(
        ports,
        span,
        &format!("flows-receive --ports {ports} --omit 0.3 --seconds {seconds}"),
        &format!("flows-send --ports {ports} --sources {sources} --seconds {}", seconds + 5.0),
    )?;
    let seen: Seen = receiver.seen(side)?;
    drop(sender);
    // Otherwise some were no new conversations, and the number would flatter.
    if let (Some(before), Some(after)) = (known, begun(side, span)?) {
        let begun = after - before;
        ensure!(
            begun >= seen.packets,
            "{} datagrams arrived, but only {begun} conversations began",
            seen.packets
        );
    }
    Ok(Sample {
        values: vec![seen.packets as f64 / seen.seconds],
        cpu: Some(seen.cpu_seconds * 1e6 / seen.packets as f64),
    })
}

/// Conversations that have begun so far on our cell; none on the kernel's.
fn begun(side: &Side, span: Span) -> Result<Option<u64>> {
    side.deciding(span).map(|cell| Ok(cell.dataplane()?.status()?.flows.created)).transpose()
}

/// New connections.
pub(super) fn connections(side: &Side, span: Span, length: Length) -> Result<Sample> {
    let close = match span {
        Span::Outside => format!("--close fin --addresses {OUTSIDE_ADDRESSES}"),
        _ => "--close reset".to_owned(),
    };
    side.forget_conversations()?;
    let before = begun(side, span)?;
    let open = format!("open {close} --seconds {}", length.seconds);
    let seen: Opened = side.asked(span, "accept", &open)?;
    if let (Some(before), Some(after)) = (before, begun(side, span)?) {
        let begun = after - before;
        ensure!(
            begun >= seen.succeeded,
            "{} connections were opened, but only {begun} conversations began",
            seen.succeeded
        );
    }
    ensure!(
        seen.failed * 100 <= seen.succeeded,
        "{} connections failed, {} did not",
        seen.failed,
        seen.succeeded
    );
    Ok(Sample {
        values: vec![seen.succeeded as f64 / seen.seconds],
        cpu: Some(seen.cpu_seconds * 1e6 / seen.succeeded as f64),
    })
}

/// How much more a packet costs at 50,000 rules than at 10, in percent, from runs beside each
/// other: the machine is its own measure within seconds, not within minutes.
pub(super) fn rules_cost(
    worlds: &mut Worlds,
    kind: Kind,
    size: u16,
    length: Length,
) -> Result<Sample> {
    let mut rate = |rules| {
        let side = worlds.side(kind, Loading::rules(rules))?;
        anyhow::Ok(udp(side, size, length)?.values[0])
    };
    // There and back, so that a machine that grows slower or faster takes nobody's side.
    let there = (rate(10)?, rate(50_000)?);
    let back = (rate(50_000)?, rate(10)?);
    let (few, many) = (there.0 + back.1, there.1 + back.0);
    Ok(Sample { values: vec![(few / many - 1.0) * 100.0], cpu: None })
}
