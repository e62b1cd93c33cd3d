//! Cells that get their subnets, each other, policies and security groups from `sarcenet control`:
//! what is in force stays so without the servers, and follows the apps.
#![forbid(unsafe_code)]

use std::net::SocketAddrV4;

use anyhow::{Context as _, Result, ensure};
use sarcenet_netns_tests::{PATIENCE, Setting};
use sarcenet_rig::outside::network;
use sarcenet_rig::{
    CellKind, Container, ContainerSpec, GroupRule, OutsideHost, OutsidePlan, Plan, SecurityGroup,
    World, eventually, tcp,
};

/// Port that the policy opens.
const PORT: u16 = 8080;
/// A port that no policy opens at first.
const OTHER: u16 = 9090;

fn told(test: impl FnOnce(&Setting) -> Result<()>) {
    let plan = Plan::new("s", &[CellKind::Sarcenet, CellKind::Sarcenet]);
    Setting::told(plan, &[tcp("app-1", "app-2", PORT..=PORT)], test);
}

fn port(container: &Container, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(container.address(), port)
}

fn refused(from: &Container, to: SocketAddrV4) -> Result<()> {
    let outcome = from.connect(to, PATIENCE)?;
    ensure!(outcome.is_refused(), "{to}: {outcome}");
    Ok(())
}

/// The subnets are those of the leases, and a policy is in force on both cells until it is taken
/// back.
#[test]
fn policies_come_from_the_policy_server() {
    told(|setting| {
        let Setting { world, from, to } = setting;
        let _server = to.serve_http(PORT)?;
        for (cell, container) in [(0, from), (1, to)] {
            let (subnet, address) = (world.subnet(cell), container.address());
            ensure!(subnet.contains(&address), "{address} is not in the lease {subnet}");
        }
        from.http(setting.target(PORT), PATIENCE)?.greeting()?;
        refused(from, setting.target(OTHER))?;
        refused(to, port(from, PORT))?;
        world.revoke(&[tcp("app-1", "app-2", PORT..=PORT)])?;
        refused(from, setting.target(PORT))
    });
}

/// Without servers what was in force stays, also for agents that start, and for new containers.
#[test]
fn cells_go_on_without_servers() {
    told(|setting| {
        let Setting { world, from, to } = setting;
        let _servers = [to.serve_http(PORT)?, to.serve_http(OTHER)?];
        let mut open = from.http(setting.target(PORT), PATIENCE)?;
        open.greeting()?;
        setting.on_disk(PORT)?;
        world.servers()?.kill()?;
        open.greeting()?;
        for cell in setting.cells()? {
            cell.kill_agent()?;
            cell.restart_agent()?;
        }
        for cell in setting.cells()? {
            cell.wait_ready()?;
        }
        open.greeting()?;
        from.http(setting.target(PORT), PATIENCE)?.greeting()?;
        refused(from, setting.target(OTHER))?;
        let new = world.attach(0, Some("app-1"))?;
        new.http(setting.target(PORT), PATIENCE)?.greeting()?;
        refused(&new, setting.target(OTHER))?;

        // Back again, they are followed as before.
        world.servers()?.restart()?;
        world.servers()?.wait_ready()?;
        world.allow(&[tcp("app-1", "app-2", OTHER..=OTHER)])?;
        from.http(setting.target(OTHER), PATIENCE)?.greeting()?;
        world.revoke(&[tcp("app-1", "app-2", PORT..=PORT)])?;
        refused(from, setting.target(PORT))
    });
}

/// A policy is the app's: of a container that comes again, on whichever cell, and of none of another
/// app.
#[test]
fn policies_follow_the_app() {
    told(|setting| {
        let Setting { world, from, to } = setting;
        let moved = world.attach(0, Some("app-2"))?;
        let stranger = world.attach(1, Some("app-3"))?;
        world.detach(to)?;
        let _servers = [moved.serve_http(PORT)?, stranger.serve_http(PORT)?];
        from.http(port(&moved, PORT), PATIENCE)?.greeting()?;
        refused(from, port(&stranger, PORT))?;
        refused(&stranger, port(&moved, PORT))?;

        let again = world.attach(1, Some("app-1"))?;
        world.detach(from)?;
        again.http(port(&moved, PORT), PATIENCE)?.greeting()?;
        // A cell whose containers all go forgets nothing that the next one needs.
        world.detach(&moved)?;
        let back = world.attach(0, Some("app-2"))?;
        let _server = back.serve_http(PORT)?;
        eventually(PATIENCE, || again.http(port(&back, PORT), PATIENCE)?.greeting().map(drop))
    });
}

/// Security groups, which an agent that starts has from its disk, hold for new containers, too.
fn groups_hold(world: &World) -> Result<()> {
    let host = world.outside()?.namespace();
    let address = OutsideHost::address(network::PLAIN, 1);
    let [open, closed] = [PORT, OTHER].map(|port| SocketAddrV4::new(address, port));
    let _servers = [host.serve_http("outside", open)?, host.serve_http("outside", closed)?];
    let spec = ContainerSpec::app("app-1").space("space");
    let from = world.attach_as(0, &spec)?;
    refused(&from, open)?;
    let rule = GroupRule::tcp(address, &PORT.to_string());
    world.bind(SecurityGroup::running("group", "space", &[rule]))?;
    from.http(open, PATIENCE)?.greeting()?;

    world.servers()?.kill()?;
    let cell = world.sarcenet_cells().next().context("a cell")?;
    cell.kill_agent()?;
    cell.restart_agent()?;
    cell.wait_ready()?;
    let new = world.attach_as(0, &spec)?;
    for from in [&from, &new] {
        from.http(open, PATIENCE)?.greeting()?;
        refused(from, closed)?;
    }
    refused(&world.attach(0, Some("app-1"))?, open)
}

#[test]
fn security_groups_hold_without_servers() {
    let plan = Plan::new("s", &[CellKind::Sarcenet]).outside(OutsidePlan::default());
    let world = World::new(plan).unwrap_or_else(|error| panic!("{error:#}"));
    groups_hold(&world).unwrap_or_else(|error| panic!("{}\n{error:#}", world.logs()));
}
