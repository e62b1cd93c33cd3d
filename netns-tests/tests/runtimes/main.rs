//! Debian's podman and containerd start real containers on two cells.
//!
//! Each test is in a room of its own, where the runtimes' processes, mounts and files end with it.
//! A cell's runtime runs in the cell's network namespace, with directories of its own.
#![forbid(unsafe_code)]

mod containerd;
mod image;
mod left;
mod name_server;
mod network;
mod podman;
mod reboot;
mod room;
mod runtime;
mod story;

use anyhow::{Context as _, Result};
use sarcenet_rig::{CellKind, OutsidePlan, Plan, SarcenetCell, World};

use containerd::Containerd;
use podman::Podman;
use room::in_a_room;

/// Two cells, and a host outside.
fn world(label: &str) -> Result<World> {
    let plan = Plan::new(label, &[CellKind::Sarcenet; 2]).outside(OutsidePlan::default());
    World::new(plan.from_files())
}

fn cells(world: &World) -> Result<[&SarcenetCell; 2]> {
    let cells: Vec<_> = world.sarcenet_cells().collect();
    cells.try_into().ok().context("two cells")
}

fn with_podman(world: &World) -> Result<()> {
    let archive = image::archive(&image::tree(world.directory())?)?;
    let [one, two] = cells(world)?;
    let mut runtimes = [Podman::new(one, &archive)?, Podman::new(two, &archive)?];
    story::tell(world, &runtimes)?;
    story::stop_kill_and_restart(world, &runtimes)?;
    story::after_a_reboot(world, &mut runtimes)
}

fn with_containerd(world: &World) -> Result<()> {
    let tree = image::tree(world.directory())?;
    let [one, two] = cells(world)?;
    let mut runtimes = [Containerd::new(one, &tree)?, Containerd::new(two, &tree)?];
    runtimes[0].ends_with_its_command()?;
    story::tell(world, &runtimes)?;
    story::after_a_reboot(world, &mut runtimes)
}

/// Runs a test in a world; a failure comes with the cells' logs.
fn told(label: &str, test: impl FnOnce(&World) -> Result<()>) -> Result<()> {
    let world = world(label)?;
    test(&world).with_context(|| world.logs())
}

#[test]
fn podman() {
    in_a_room("podman", || told("rp", with_podman));
}

#[test]
fn containerd() {
    in_a_room("containerd", || told("rc", with_containerd));
}
