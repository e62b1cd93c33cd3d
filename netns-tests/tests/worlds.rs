//! The rig itself: what it builds, and that nothing is left of it.
#![forbid(unsafe_code)]

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sarcenet_netns_tests::PATIENCE;
use sarcenet_rig::{Backend, CellKind, Container, Plan, World, bulk_transfer, eventually, tcp};

/// Set in the process that is to be killed.
const CHILD: &str = "SARCENET_TEST_CHILD";

/// Everything that a world with one container has on the machine outside itself.
fn traces(world: &World, container: &Container) -> Vec<PathBuf> {
    let cells = world.cells().iter().map(|cell| cell.namespace().path());
    cells.chain([container.namespace().path(), world.directory().to_path_buf()]).collect()
}

fn small_world() -> Result<(World, Container)> {
    let world = World::new(Plan::new("w", &[CellKind::KERNEL, CellKind::KERNEL]))?;
    let container = world.attach(0, None)?;
    Ok((world, container))
}

#[test]
fn a_dropped_world_leaves_nothing() -> Result<()> {
    let (world, container) = small_world()?;
    let traces = traces(&world, &container);
    let left = || traces.iter().filter(|path| path.exists()).count();
    assert_eq!(left(), traces.len(), "not all of {traces:?} are there");
    drop(world);
    assert_eq!(left(), 0, "some of {traces:?} are left");
    Ok(())
}

/// Cells that only route carry everything, in packets of the underlay's size.
#[test]
fn routed_cells_have_no_rules_and_no_tunnel() -> Result<()> {
    let world = World::new(Plan::new("w", &[CellKind::Routed, CellKind::Routed]))?;
    let (from, to) = (world.attach(0, None)?, world.attach(1, None)?);
    let near = world.attach(0, Some("app-1"))?;
    assert_eq!(to.mtu(), 1500);
    for to in [&to, &near] {
        let _server = to.serve_http(8080)?;
        from.http(SocketAddrV4::new(to.address(), 8080), PATIENCE)?.download(100_000)?;
    }
    Ok(())
}

/// Many policies at once replace those before, on cells of both kinds.
#[test]
fn policies_are_exchanged_all_together() -> Result<()> {
    let world = World::new(Plan::new("w", &[CellKind::Sarcenet, CellKind::KERNEL]))?;
    let from = [world.attach(0, Some("app-1"))?, world.attach(1, Some("app-1"))?];
    let to = [world.attach(0, Some("app-2"))?, world.attach(1, Some("app-2"))?];
    let policies = |last| (1_000..last).map(|port| tcp("app-1", "app-2", port..=port));
    let connects = |port| -> Result<Vec<bool>> {
        (from.iter())
            .flat_map(|from| to.iter().map(move |to| (from, to)))
            .map(|(from, to)| {
                let _server = to.serve_http(port)?;
                let address = SocketAddrV4::new(to.address(), port);
                Ok(from.connect(address, PATIENCE)?.is_connected())
            })
            .collect()
    };
    world.enforce(&policies(3_000).collect::<Vec<_>>())?;
    assert_eq!(connects(2_500)?, [true; 4]);
    world.enforce(&policies(2_000).collect::<Vec<_>>())?;
    assert_eq!((connects(1_500)?, connects(2_500)?), (vec![true; 4], vec![false; 4]));
    Ok(())
}

/// The test runs itself in a second process, and kills that.
#[test]
fn a_killed_process_leaves_nothing() -> Result<()> {
    if std::env::var_os(CHILD).is_some() {
        let (world, container) = small_world()?;
        for path in traces(&world, &container) {
            println!("trace {}", path.display());
        }
        println!("trace complete");
        loop {
            std::thread::park();
        }
    }
    let mut child = Command::new(std::env::current_exe()?)
        .args(["a_killed_process_leaves_nothing", "--exact", "--nocapture"])
        .env(CHILD, "1")
        .stdout(Stdio::piped())
        .spawn()?;
    let output = BufReader::new(child.stdout.take().context("a piped child has an output")?);
    let mut traces = Vec::new();
    for line in output.lines() {
        // The test harness may have begun the line.
        match line?.split_once("trace ") {
            Some((_, "complete")) => break,
            Some((_, path)) => traces.push(PathBuf::from(path)),
            None => {}
        }
    }
    ensure!(traces.len() == 4 && traces.iter().all(|path| path.exists()), "{traces:?}");
    child.kill()?;
    child.wait()?;
    eventually(PATIENCE, || {
        let left: Vec<_> = traces.iter().filter(|path| path.exists()).collect();
        ensure!(left.is_empty(), "left: {left:?}");
        Ok(())
    })
}

/// Other tests see two cells; these are three, joined by a bridge.
#[test]
fn three_cells_of_three_kinds() -> Result<()> {
    let kinds = [CellKind::Sarcenet, CellKind::KERNEL, CellKind::Kernel(Backend::Nft)];
    let world = World::new(Plan::new("w", &kinds))?;
    let containers = (0..3)
        .map(|cell| world.attach(cell, Some(&format!("app-{}", cell + 1))))
        .collect::<Result<Vec<_>>>()?;
    let _servers = containers.iter().map(|c| c.serve_http(8080)).collect::<Result<Vec<_>>>()?;
    let pairs = || containers.iter().flat_map(|from| containers.iter().map(move |to| (from, to)));
    let app = |container: &Container| container.app().unwrap_or_default().to_owned();
    for (from, to) in pairs().filter(|(from, to)| from.cell() != to.cell()) {
        let target = SocketAddrV4::new(to.address(), 8080);
        let outcome = from.connect(target, PATIENCE)?;
        ensure!(outcome.is_refused(), "{} to {}: {outcome}", app(from), app(to));
        world.allow(&[tcp(&app(from), &app(to), 8080..=8080)])?;
        eventually(PATIENCE, || {
            let greeting = from.http(target, PATIENCE)?.greeting()?;
            ensure!(greeting.starts_with(&format!("this is {}", app(to))), "{greeting}");
            Ok(())
        })
        .with_context(|| format!("{} to {}\n{}", app(from), app(to), world.logs()))?;
    }
    Ok(())
}

#[test]
fn a_world_of_another_label_is_not_ended() -> Result<()> {
    let (world, container) = small_world()?;
    assert_eq!(World::end_kept("nobody-has-this-label")?, 0);
    assert!(Path::new(&container.namespace().path()).exists());
    drop(world);
    Ok(())
}

#[test]
fn a_kept_world_is_ended_by_its_label() -> Result<()> {
    let world = World::new(Plan::new("kept", &[CellKind::KERNEL, CellKind::KERNEL]))?;
    let container = world.attach(1, None)?;
    let traces = traces(&world, &container);
    let mut running = container.spawn(Command::new("sleep").arg("1000"))?;
    world.keep()?;
    assert!(traces.iter().all(|path| path.exists()), "not all of {traces:?} were kept");
    assert_eq!(World::end_kept("kept")?, 1);
    assert!(!running.wait()?.success(), "a program in a kept world was not killed");
    assert!(traces.iter().all(|path| !path.exists()), "some of {traces:?} are left");
    Ok(())
}

#[test]
fn bulk_transfers_are_measured() -> Result<()> {
    let world = World::new(Plan::new("w", &[CellKind::KERNEL, CellKind::KERNEL]))?;
    let (from, to) = (world.attach(0, Some("app-1"))?, world.attach(1, Some("app-2"))?);
    let transfer = || bulk_transfer(&from, &to, 5201, 1, Duration::from_secs(1));
    assert!(transfer().is_err(), "a transfer that no policy admits was measured");
    world.allow(&[tcp("app-1", "app-2", 5201..=5201)])?;
    let rate = transfer()?.bits_per_second;
    assert!(rate > 1e6, "{rate} bits per second");
    Ok(())
}
