//! A bulk transfer between cells, ours and the kernel's, in turns.

use std::time::Duration;

use anyhow::{Context as _, Result};
use sarcenet_rig::{CellKind, Container, Plan, World, bulk_transfer, tcp};

use super::setting::{APPS, BULK_PORT, Setting};
use super::teller::Teller;

/// Transfers of each kind.
const ROUNDS: u32 = 3;
/// Length of one, after a second that is not counted.
const DURATION: Duration = Duration::from_secs(2);

/// Runs both and prints them side by side.
pub(super) fn compare(teller: &mut Teller, setting: &Setting) -> Result<()> {
    Teller::chapter("One TCP stream from cell to cell, Sarcenet and the kernel in turns");
    let policy = [tcp("app-a", "app-c", BULK_PORT..=BULK_PORT)];
    setting.world.allow(&policy)?;
    let plan = Plan::new("demok", &[CellKind::KERNEL, CellKind::KERNEL]).apps(APPS);
    // On a bridge, as the demo's cells are.
    let kernel = World::new(plan.bridge()).context("build two kernel cells for comparison")?;
    kernel.allow(&policy)?;
    let (from, to) = (kernel.attach(0, Some("app-a"))?, kernel.attach(1, Some("app-c"))?);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(gigabits(&setting.a, &setting.c)?);
        theirs.push(gigabits(&from, &to)?);
    }
    setting.world.revoke(&policy)?;
    let (ours, theirs) = (median(ours), median(theirs));
    let seen =
        format!("Sarcenet {ours:.1} Gb/s, kernel {theirs:.1} Gb/s, ratio {:.2}", ours / theirs);
    let expected = format!("data on both, median of {ROUNDS}");
    teller.step("iperf3, cubic", &expected, ours > 0.0 && theirs > 0.0, &seen);
    Ok(())
}

fn gigabits(from: &Container, to: &Container) -> Result<f64> {
    Ok(bulk_transfer(from, to, BULK_PORT, 1, DURATION)?.bits_per_second / 1e9)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
