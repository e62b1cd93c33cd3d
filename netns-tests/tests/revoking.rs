//! Policies come and go while connections are being opened: each attempt is accepted or refused,
//! none is left without an answer.
#![forbid(unsafe_code)]

use std::net::SocketAddrV4;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, bail, ensure};
use sarcenet_netns_tests::PATIENCE;
use sarcenet_rig::{CellKind, Container, Outcome, Plan, World, eventually, tcp};

/// Port that the policy opens and closes.
const PORT: u16 = 8080;
/// How often.
const ROUNDS: usize = 40;

/// Program that counts packets in the container.
const IPTABLES: &str = "iptables-legacy";

/// Counts what the container sends and gets from now on: SYNs, and the three kinds of answers.
fn count(container: &Container) -> Result<()> {
    for rule in [
        "OUTPUT -p tcp --tcp-flags SYN,ACK SYN",
        "INPUT -p tcp --tcp-flags SYN,ACK SYN,ACK",
        "INPUT -p tcp --tcp-flags RST RST",
        "INPUT -p icmp --icmp-type port-unreachable",
    ] {
        let mut iptables = Command::new(IPTABLES);
        container.namespace().checked(iptables.arg("-A").args(rule.split(' ')))?;
    }
    Ok(())
}

/// Packets that a chain of the container has counted.
fn counted(container: &Container, chain: &str) -> Result<u64> {
    let mut iptables = Command::new(IPTABLES);
    let listed = container.namespace().checked(iptables.args(["-nvxL", chain]))?;
    // The chain's own line, and the names of the columns.
    let rules = listed.lines().skip(2).filter_map(|rule| rule.split_whitespace().next());
    rules.map(|packets| packets.parse::<u64>().with_context(|| listed.clone())).sum()
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
    count(&from)?;
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
    // An answer that is late for its SYN is one for the SYN that was sent again, too, and counts
    // twice; one that never comes is missing.
    eventually(PATIENCE, || {
        let (asked, answered) = (counted(&from, "OUTPUT")?, counted(&from, "INPUT")?);
        ensure!(asked > 2 * ROUNDS as u64, "only {asked} SYNs were sent");
        ensure!(answered >= asked, "{answered} answers to {asked} SYNs");
        Ok(())
    })
    .with_context(|| world.logs())
}
