//! An open overlay: whoever is in it may talk to everybody in it, and nothing else is open (contract
//! section 9.3).
#![forbid(unsafe_code)]

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Result, ensure};
use sarcenet_netns_tests::{Datagram, PATIENCE, Setting};
use sarcenet_rig::outside::network;
use sarcenet_rig::{
    CellKind, Namespace, OutsideHost, OutsidePlan, Plan, SarcenetCell, World, eventually,
};

/// Port of all servers here.
const PORT: u16 = 8080;

fn is_refused(from: &Namespace, to: SocketAddrV4) -> Result<()> {
    let outcome = from.connect(to, PATIENCE)?;
    ensure!(outcome.is_refused(), "{to}: {outcome}");
    Ok(())
}

/// Opens the overlay by the file that all cells read, and waits until it is open. The next change of
/// policies writes the file without that, and closes it.
fn open(world: &World) -> Result<()> {
    let file = world.network_file();
    let text = std::fs::read_to_string(&file)?;
    let new = file.with_extension("yaml.new");
    std::fs::write(&new, format!("{text}open_overlay: true\n"))?;
    std::fs::rename(&new, &file)?;
    for cell in world.sarcenet_cells() {
        eventually(PATIENCE, || {
            ensure!(is_open(cell)?, "{} is not open", cell.plan().name);
            Ok(())
        })?;
        cell.wait_ready()?;
    }
    Ok(())
}

/// Whether the cell says that it is open.
fn is_open(cell: &SarcenetCell) -> Result<bool> {
    let problems = cell.agent()?.status()?.problems;
    Ok(problems.iter().any(|problem| problem.starts_with("everybody in the overlay may talk to")))
}

#[test]
fn everybody_talks_to_everybody_and_to_nobody_else() {
    let plan =
        Plan::new("v", &[CellKind::Sarcenet; 2]).outside(OutsidePlan::default()).from_files();
    Setting::told(plan, &[], |setting| {
        let Setting { world, from, to } = setting;
        let neighbour = world.attach(0, None)?;
        let apps = [from, to, &neighbour];
        let _servers =
            apps.map(|app| app.serve_http(PORT)).into_iter().collect::<Result<Vec<_>>>()?;
        let _udp = apps.map(|app| app.serve_udp(PORT)).into_iter().collect::<Result<Vec<_>>>()?;
        let at = |address: Ipv4Addr| SocketAddrV4::new(address, PORT);
        let pairs = || {
            let all = apps.iter().flat_map(|one| apps.iter().map(move |other| (*one, *other)));
            all.filter(|(one, other)| one.address() != other.address())
        };
        for (one, other) in pairs() {
            is_refused(one.namespace(), at(other.address()))?;
        }
        open(world)?;
        for (one, other) in pairs() {
            one.http(at(other.address()), PATIENCE)?.greeting()?;
            let answer = one.ask_udp(at(other.address()), b"x", PATIENCE)?;
            ensure!(answer.is_answered(), "{answer:?}");
        }

        // Neither the outside nor cells.
        let outside = at(OutsideHost::address(network::PLAIN, 7));
        let _outside = world.outside()?.namespace().serve_http("outside", outside)?;
        is_refused(from.namespace(), outside)?;
        let mut services = Vec::new();
        for cell in world.cells() {
            let everywhere = at(Ipv4Addr::UNSPECIFIED);
            services.push(cell.namespace().serve_http("cell", everywhere)?);
            for address in [cell.plan().underlay, cell.plan().subnet.network()] {
                is_refused(from.namespace(), at(address))?;
            }
        }

        // Nobody speaks for somebody else.
        let [cell, _] = setting.cells()?;
        let forged = Datagram {
            source: neighbour.address(),
            destination: to.address(),
            port: PORT,
            payload: b"forged",
        };
        let before = cell.drops("spoofed_source")?;
        from.inject(&[forged.bytes()])?;
        eventually(PATIENCE, || {
            ensure!(cell.drops("spoofed_source")? > before, "the forged packet is not dropped");
            Ok(())
        })?;

        // Closed again, what goes on does, and nothing begins.
        let mut going_on = from.http(at(to.address()), PATIENCE)?;
        going_on.greeting()?;
        world.enforce(&[])?;
        for cell in world.sarcenet_cells() {
            ensure!(!is_open(cell)?, "{} is still open", cell.plan().name);
        }
        going_on.greeting()?;
        for (one, other) in pairs() {
            is_refused(one.namespace(), at(other.address()))?;
        }
        Ok(())
    });
}
