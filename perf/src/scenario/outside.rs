//! Scenarios about source NAT at its limits: as many conversations as the flow table holds, and
//! connections that come and go for a long time.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use sarcenet_dataplane_api::FlowTableStatus;
use sarcenet_rig::{SarcenetCell, eventually};

use super::control::{empty_flow_table, resident_bytes};
use super::traffic::OUTSIDE_ADDRESSES;
use super::{Length, Sample};
use crate::load::{Conversed, Opened};
use crate::side::{Side, Span};

/// Ports of the container and addresses outside, each of which converses with each: a million
/// conversations, and four of five ports that one container can have towards an address.
const SOURCES: u16 = 10_000;
const ADDRESSES: u8 = 100;
/// Addresses for more conversations than a flow table of the default size holds.
const TOO_MANY_ADDRESSES: u8 = 110;

/// How long connections come and go before memory is looked at, in seconds: only those of TCP have
/// windows to remember, and by then as many have been in TIME-WAIT together as can be.
const WARM_UP_SECONDS: f64 = 180.0;

/// How long conversations may take to go after their last packet: five minutes where a late packet
/// of a connection that had to make room was taken for the middle of one, two in TIME-WAIT, and a
/// walk of the sweep through the whole table.
const PATIENCE: Duration = Duration::from_secs(330);

/// Megabytes that the dataplane takes for a million conversations through source NAT.
pub(super) fn translations(side: &Side, length: Length) -> Result<Sample> {
    let cell = side.deciding(Span::Outside).context("this needs a Sarcenet cell")?;
    empty_flow_table(cell)?;
    let (before, few) = look(cell)?;
    let conversed = converse(side, if length.quick { 1 } else { 2 })?;
    let (after, many) = look(cell)?;
    ensure!(many.used >= conversed.asked, "only {} flows are known", many.used);
    // All of them were there at once: nobody had to go, and the second round found the first one's.
    let (created, lost) =
        (many.created - few.created, many.evicted + many.expired - few.evicted - few.expired);
    ensure!(
        created == conversed.asked && lost == 0,
        "{created} flows were made for {} conversations, and {lost} were lost",
        conversed.asked
    );
    let megabytes = after.saturating_sub(before) as f64 * 1e-6;
    let millions = (many.used - few.used) as f64 * 1e-6;
    Ok(Sample { values: vec![megabytes / millions], cpu: None })
}

/// New connections a second, how many flows are left of them when all must have gone, and by how
/// many megabytes the dataplane has grown.
pub(super) fn soak(side: &Side, length: Length) -> Result<Sample> {
    let cell = side.deciding(Span::Outside).context("this needs a Sarcenet cell")?;
    empty_flow_table(cell)?;
    let (_, empty) = look(cell)?;
    // All memory that is taken once and kept is taken before.
    // No answer is missed: one that must make room for others loses its port to them.
    ask(side, TOO_MANY_ADDRESSES, 1)?;
    connections(side, WARM_UP_SECONDS)?;
    let (before, _) = look(cell)?;
    let seen = connections(side, length.seconds)?;
    // What has not gone by then is the result.
    let _ = eventually(PATIENCE, || {
        let (_, now) = look(cell)?;
        ensure!(now.used <= empty.used, "{} flows are left", now.used);
        Ok(())
    });
    let (after, left) = look(cell)?;
    // Ports that nobody has given back would be missing now.
    converse(side, 1).context("all conversations have gone, but not all of their ports")?;
    let grown = after as f64 - before as f64;
    Ok(Sample {
        values: vec![
            seen.succeeded as f64 / seen.seconds,
            left.used.saturating_sub(empty.used) as f64,
            grown.max(0.0) * 1e-6,
        ],
        cpu: Some(seen.cpu_seconds * 1e6 / seen.succeeded as f64),
    })
}

/// Resident memory of its dataplane in bytes, and its flow table.
fn look(cell: &SarcenetCell) -> Result<(u64, FlowTableStatus)> {
    Ok((resident_bytes(cell.pids().0)?, cell.dataplane()?.status()?.flows))
}

/// A million conversations, each asked so many times, all of which must be answered.
fn converse(side: &Side, rounds: u16) -> Result<Conversed> {
    let seen = ask(side, ADDRESSES, rounds)?;
    ensure!(seen.strayed == 0, "{} answers came to the wrong port", seen.strayed);
    if seen.answered < seen.asked {
        let drops = side.deciding(Span::Outside).map(drops).transpose()?.unwrap_or_default();
        bail!("of {} conversations only {} were answered; {drops}", seen.asked, seen.answered);
    }
    Ok(seen)
}

/// Conversations with so many addresses, each asked so many times.
fn ask(side: &Side, addresses: u8, rounds: u16) -> Result<Conversed> {
    side.asked(
        Span::Outside,
        &format!("answer --addresses {addresses}"),
        &format!("converse --addresses {addresses} --sources {SOURCES} --rounds {rounds}"),
    )
}

/// What a cell has dropped, for people.
fn drops(cell: &SarcenetCell) -> Result<String> {
    let status = cell.dataplane()?.status()?;
    let drops: Vec<_> = status
        .drops
        .iter()
        .map(|drops| format!("{} {}", drops.packets, drops.reason.token()))
        .collect();
    Ok(format!("the dataplane has dropped: {}; {:?}", drops.join(", "), status.flows))
}

fn connections(side: &Side, seconds: f64) -> Result<Opened> {
    let open = format!("open --close fin --addresses {OUTSIDE_ADDRESSES} --seconds {seconds}");
    let seen: Opened = side.asked(Span::Outside, "accept", &open)?;
    ensure!(
        seen.failed * 1000 <= seen.succeeded,
        "{} connections failed, {} did not",
        seen.failed,
        seen.succeeded
    );
    Ok(seen)
}
