//! Limits on bandwidth and on new connections.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use sarcenet_rig::{Bulk, GroupRule, Outcome, eventually};

use crate::case::{Case, PATIENCE, at, connects, fresh_address, fresh_host_port};

/// Connections that a container may open at once to one destination; then one a second.
pub(crate) const BURST: u32 = 40;

/// Bits per second of a limited container.
const RATE: u64 = 40_000_000;
/// Bits at once of a limited container.
const BURST_BITS: u64 = 2_000_000;

/// TCP in bulk keeps to the rate each way, and reaches most of it.
pub(crate) fn bandwidth_is_kept(case: &Case) -> Result<()> {
    let container = case.world.attach_as(0, &case.spec()?.bandwidth(RATE, BURST_BITS))?;
    let address = fresh_address();
    let _open = case.open(&[GroupRule::all(address)])?;
    let target = at(address, 5300 + fresh_host_port() % 1000);
    for reverse in [false, true] {
        let bulk = Bulk {
            from: container.namespace(),
            to: case.outside()?,
            port: target.port(),
            target,
            streams: 1,
            reverse,
            duration: Duration::from_secs(2),
        };
        eventually(PATIENCE, || {
            let rate = bulk.run()?.bits_per_second;
            // Headers count as well; whatever of the burst is left after the first second comes on
            // top. A busy machine may be slower.
            let share = rate / RATE as f64;
            ensure!((0.6..1.1).contains(&share), "{rate} bit/s of {RATE}, reverse: {reverse}");
            Ok(())
        })?;
    }
    Ok(())
}

/// Of many quick connections to one destination the burst is admitted and then one a second;
/// the others are refused at once. Other destinations, ports and containers are not concerned.
pub(crate) fn connections_are_limited(case: &Case) -> Result<()> {
    let from = case.container.namespace();
    let [address, other] = [fresh_address(), fresh_address()];
    let _open = case.open(&[GroupRule::tcp(address, "80,81"), GroupRule::tcp(other, "80")])?;
    let host = case.outside()?;
    let targets = [at(address, 80), at(address, 81), at(other, 80)];
    let _servers = targets
        .map(|target| host.serve_http("outside", target))
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    let began = Instant::now();
    let (mut connected, mut refused) = (0_u64, 0_u64);
    for _ in 0..BURST + 20 {
        match from.connect(targets[0], PATIENCE)? {
            Outcome::Connected(_) => connected += 1,
            Outcome::Refused(_) => refused += 1,
            other => bail!("after {connected} connected, {refused} refused: {other}"),
        }
    }
    // One more for the second that has begun.
    let most = u64::from(BURST) + began.elapsed().as_secs() + 1;
    let right = (u64::from(BURST)..=most).contains(&connected);
    ensure!(right, "{connected} connected, {refused} refused, in {:?}", began.elapsed());
    connects(from, targets[1])?;
    connects(from, targets[2])?;
    let second = case.world.attach_as(0, &case.spec()?)?;
    connects(second.namespace(), targets[0])?;
    // The limit is over when its time is.
    eventually(PATIENCE, || connects(from, targets[0]))
}
