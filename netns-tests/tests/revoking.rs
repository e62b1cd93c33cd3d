//! Policies come and go while connections are being opened: each attempt is accepted or refused,
//! none is left without an answer.
#![forbid(unsafe_code)]

use std::net::SocketAddrV4;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use sarcenet_rig::{CellKind, Container, Outcome, Plan, World, tcp};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Port that the policy opens and closes.
const PORT: u16 = 8080;
/// How often.
const ROUNDS: usize = 40;

/// SYNs that the container's kernel had to send again: nothing came back on the first.
fn syns_sent_again(container: &Container) -> Result<u64> {
    let path = "/proc/thread-self/net/netstat";
    let text = container.namespace().run(|| std::fs::read_to_string(path))?.context(path)?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
    let (names, values) = lines.next().zip(lines.next()).context("no TcpExt counters")?;
    let mut counters = names.split(' ').zip(values.split(' '));
    let (_, value) = counters.find(|(name, _)| *name == "TCPSynRetrans").context("no such one")?;
    Ok(value.parse()?)
}

/// Opens connections one after the other until told to stop; returns whether both outcomes came.
fn knock(from: &Container, to: SocketAddrV4, stop: &AtomicBool) -> Result<(bool, bool)> {
    let mut seen = (false, false);
    while !stop.load(Ordering::Relaxed) {
        match from.connect(to, PATIENCE)? {
            Outcome::Connected(_) => seen.0 = true,
            Outcome::Refused(_) => seen.1 = true,
            // A refusal too, of which the kernel has not said more than that the socket hung up.
            Outcome::Failed(_) => {}
            Outcome::TimedOut => bail!("a connection to {to} timed out"),
        }
    }
    Ok(seen)
}

#[test]
fn no_attempt_to_connect_is_left_without_an_answer() -> Result<()> {
    let world = World::new(Plan::new("v", &[CellKind::Sarcenet, CellKind::Sarcenet]))?;
    let from = world.attach(0, Some("app-1"))?;
    let targets = [world.attach(0, Some("app-2"))?, world.attach(1, Some("app-2"))?];
    let _servers = targets.each_ref().map(|to| to.serve_http(PORT));
    let policy = [tcp("app-1", "app-2", PORT..=PORT)];
    let stop = AtomicBool::new(false);
    let seen = std::thread::scope(|scope| -> Result<Vec<_>> {
        let knocking = targets.each_ref().map(|to| {
            let to = SocketAddrV4::new(to.address(), PORT);
            let (from, stop) = (&from, &stop);
            scope.spawn(move || knock(from, to, stop))
        });
        let changed = (0..ROUNDS).try_for_each(|_| {
            world.allow(&policy)?;
            world.revoke(&policy)
        });
        stop.store(true, Ordering::Relaxed);
        changed?;
        knocking
            .into_iter()
            .map(|one| one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })?;
    ensure!(seen == [(true, true); 2], "not every outcome came: {seen:?}");
    let again = syns_sent_again(&from)?;
    ensure!(again == 0, "{again} SYNs had no answer\n{}", world.logs());
    Ok(())
}
