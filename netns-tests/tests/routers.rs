//! A router's cell: it has one address of the overlay and no containers, and reaches the ports that
//! apps of other cells name, by the overlay and under the tag of routers (contract sections 5.7 and
//! 9.2).
#![forbid(unsafe_code)]

use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use sarcenet_netns_tests::PATIENCE;
use sarcenet_rig::{CellKind, ContainerSpec, Namespace, Plan, SarcenetCell, World, eventually};

/// The port that the app names.
const NAMED: u16 = 8080;
/// One that it listens on and does not name.
const OTHER: u16 = 9090;

/// Replaces these words of the network file of a cell whose agent does not run, and starts it.
fn start_with(cell: &SarcenetCell, from: &str, to: &str) -> Result<()> {
    let file = network_file(cell);
    let text = std::fs::read_to_string(&file)?;
    ensure!(text.contains(from), "{from:?} is not in {text}");
    std::fs::write(&file, text.replace(from, to))?;
    cell.restart_agent()?;
    cell.wait_ready()
}

/// Gives the lease of a cell back whose agent does not run.
fn tear_down(cell: &SarcenetCell) -> Result<()> {
    let mut command = Command::new(&cell.binaries().sarcenet);
    command.arg("--root").arg(cell.root()).args(["agent", "--teardown", "--network"]);
    cell.namespace().checked(command.arg(network_file(cell))).map(drop)
}

fn network_file(cell: &SarcenetCell) -> PathBuf {
    cell.root().join("etc/sarcenet/network.yaml")
}

/// Waits until a cell has the tag of routers on its disk, which is soon after it is in force.
fn on_disk(cell: &SarcenetCell) -> Result<u16> {
    let path = cell.root().join("var/lib/sarcenet/followed.json");
    eventually(PATIENCE, || {
        let text = std::fs::read_to_string(&path)?;
        let document = text.lines().nth(1).context("no second line")?;
        let document: serde_json::Value = serde_json::from_str(document)?;
        let tag = document["router_tag"].as_u64().with_context(|| text.clone())?;
        Ok(u16::try_from(tag)?)
    })
}

fn is_refused(from: &Namespace, to: SocketAddrV4) -> Result<()> {
    let outcome = from.connect(to, PATIENCE)?;
    ensure!(outcome.is_refused(), "{to}: {outcome}");
    Ok(())
}

fn routers_reach_what_apps_name(world: &World) -> Result<()> {
    let cells: Vec<_> = world.sarcenet_cells().collect();
    let [router, with_apps, stranger] = cells[..] else { anyhow::bail!("three cells") };
    router.kill_agent()?;
    tear_down(router)?;
    start_with(router, "leases: {", "leases: {single_ip: true, ")?;
    let subnet = router.agent()?.status()?.subnet;
    ensure!(subnet.prefix_len() == 32, "{subnet}");
    with_apps.kill_agent()?;
    start_with(with_apps, "policies: {", "policies: {overlay_ingress: true, ")?;

    let app = world.attach_as(1, &ContainerSpec::app("app-2").ports("8080"))?;
    let silent = world.attach_as(1, &ContainerSpec::app("app-2"))?;
    let _servers = [app.serve_http(NAMED)?, app.serve_http(OTHER)?, silent.serve_http(NAMED)?];
    let _udp = app.serve_udp(NAMED)?;
    let at = |port| SocketAddrV4::new(app.address(), port);
    let named = at(NAMED);
    let tag = on_disk(router)?;
    ensure!(on_disk(with_apps)? == tag, "two tags");
    let capture = world.capture(0)?;
    eventually(PATIENCE, || router.namespace().http(named, PATIENCE)?.greeting().map(drop))?;

    // Everything that the router sends there carries the tag of routers.
    let frames = capture.tunnel_frames();
    let sent = frames.iter().filter(|frame| frame.outer_source == router.plan().underlay);
    // What it had sent before it had the tag was refused.
    let tagged: Vec<_> = sent.skip_while(|frame| frame.group.is_none()).collect();
    ensure!(!tagged.is_empty(), "nothing with a tag has passed the tunnel");
    for frame in tagged {
        let expected = (Some(tag), 0x8800, subnet.network());
        let found = (frame.group, frame.flags, *frame.source.ip());
        ensure!(found == expected, "{frame:?}");
    }

    // Nothing else is open to it, and this to nobody else.
    is_refused(router.namespace(), at(OTHER))?;
    is_refused(router.namespace(), SocketAddrV4::new(silent.address(), NAMED))?;
    let answer = router.namespace().ask_udp(named, b"x", PATIENCE)?;
    ensure!(answer.is_refused(), "{answer:?}");
    is_refused(stranger.namespace(), named)?;
    let neighbour = world.attach(1, Some("app-3"))?;
    is_refused(neighbour.namespace(), named)?;
    let to_router = SocketAddrV4::new(subnet.network(), 7000);
    let _service = router.namespace().serve_http("router", to_router)?;
    is_refused(app.namespace(), to_router)?;

    // It stays so without servers, also for agents that start.
    world.servers()?.kill()?;
    for cell in [router, with_apps] {
        cell.kill_agent()?;
        cell.restart_agent()?;
    }
    for cell in [router, with_apps] {
        cell.wait_ready()?;
    }
    router.namespace().http(named, PATIENCE)?.greeting()?;
    is_refused(router.namespace(), at(OTHER))
}

#[test]
fn routers_reach_what_apps_name_and_nothing_else() {
    let world = World::new(Plan::new("r", &[CellKind::Sarcenet; 3]));
    let world = world.unwrap_or_else(|error| panic!("{error:#}"));
    routers_reach_what_apps_name(&world)
        .unwrap_or_else(|error| panic!("{}\n{error:#}", world.logs()));
}
