//! The same with whole cells: from the answer to a change until connections go by it, on the cell
//! of the one who connects and on another.

use std::net::SocketAddrV4;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use sarcenet_rig::{CellKind, Container, Outcome, Plan, Policy, World, tcp};

/// How long a change may take before the measurement is given up.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two connections.
const TICK: Duration = Duration::from_millis(1);
/// Between two changes, so that none rides on another's.
const PAUSE: Duration = Duration::from_millis(25);
/// The port that policies open and close.
const PORT: u16 = 8080;
/// Policies in one request.
const CHUNK: u32 = 1000;

/// What was measured, in nanoseconds and in the order of the changes.
#[derive(Debug, Default)]
pub(super) struct Latencies {
    /// Until the connecting container's own cell went by it.
    pub(super) own: Vec<u64>,
    /// Until the other cell did.
    pub(super) other: Vec<u64>,
}

/// Makes so many changes with so many other policies there.
pub(super) fn measure(policies: u32, changes: u32) -> Result<Latencies> {
    let plan = Plan::new("l", &[CellKind::Sarcenet, CellKind::Sarcenet]);
    let world = World::new(plan)?;
    fill(&world, policies).context("put policies into the database")?;
    let from = world.attach(0, Some("app-1"))?;
    let near = world.attach(0, Some("app-2"))?;
    let far = world.attach(1, Some("app-2"))?;
    let _served = [near.serve_http(PORT)?, far.serve_http(PORT)?];
    let policy = [tcp("app-1", "app-2", PORT..=PORT)];
    let mut latencies = Latencies::default();
    for number in 0..changes {
        let allow = number.is_multiple_of(2);
        world.servers()?.change(&policy, allow)?;
        let began = Instant::now();
        let (own, other) = thread::scope(|scope| {
            let other = scope.spawn(|| felt(began, &from, &far, allow));
            let own = felt(began, &from, &near, allow);
            (own, other.join())
        });
        let Ok(other) = other else { bail!("a thread that connects has ended") };
        latencies.own.push(own?);
        latencies.other.push(other?);
        thread::sleep(PAUSE);
    }
    Ok(latencies)
}

fn fill(world: &World, policies: u32) -> Result<()> {
    let all: Vec<Policy> = (0..policies)
        .map(|number| {
            let app = |number: u32| format!("other-{}", number % 5000);
            let port = 1024 + (number / 5000) as u16;
            tcp(&app(number), &app(number + 1), port..=port)
        })
        .collect();
    for chunk in all.chunks(CHUNK as usize) {
        world.servers()?.change(chunk, true)?;
    }
    let deadline = Instant::now() + PATIENCE;
    for cell in world.sarcenet_cells() {
        while cell.agent()?.status()?.policies < policies {
            ensure!(Instant::now() < deadline, "{} does not get them", cell.plan().name);
            thread::sleep(TICK);
        }
        cell.wait_ready()?;
    }
    Ok(())
}

/// Nanoseconds from `began` until a connection ends as it should by now.
fn felt(began: Instant, from: &Container, to: &Container, allowed: bool) -> Result<u64> {
    let target = SocketAddrV4::new(to.address(), PORT);
    while began.elapsed() < PATIENCE {
        let outcome = from.connect(target, PATIENCE)?;
        let as_it_should = if allowed { Outcome::is_connected } else { Outcome::is_refused };
        if as_it_should(outcome) {
            return u64::try_from(began.elapsed().as_nanos()).context("a time");
        }
        thread::sleep(TICK);
    }
    bail!("{target} does not go by the change after {PATIENCE:?}, which allows it: {allowed}")
}
