//! Containers whose runtime says nothing when they end.
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use sarcenet_netns_tests::{CLEARED_AWAY, PATIENCE, Setting};
use sarcenet_rig::{AttachKind, CellKind, Plan, SarcenetCell, eventually, tcp};

const PORT: u16 = 8080;

fn addresses(cell: &SarcenetCell) -> Result<Vec<Ipv4Addr>> {
    Ok(cell.agent()?.containers()?.into_iter().map(|c| c.attachment.address).collect())
}

/// Flows of the cell with that address at one end.
fn flows(cell: &SarcenetCell, address: Ipv4Addr) -> Result<usize> {
    let mut dataplane = cell.dataplane()?;
    let mut count = 0;
    for flow in dataplane.flows() {
        let flow = flow.context("read a flow")?;
        count += usize::from([*flow.source.ip(), *flow.destination.ip()].contains(&address));
    }
    Ok(count)
}

/// One agent is killed while a container ends; the other cell's processes are both killed while its
/// container lives.
fn collected(kind: AttachKind) {
    let plan = Plan::new("co", &[CellKind::Sarcenet, CellKind::Sarcenet]);
    let plan = plan.attach(kind).collect_after(1);
    Setting::told(plan, &[tcp("app-1", "app-2", PORT..=PORT)], |setting| {
        let Setting { world, from, to } = setting;
        let [near, far] = setting.cells()?;
        let server = to.serve_http(PORT)?;
        from.http(setting.target(PORT), PATIENCE)?.greeting()?;
        setting.on_disk(PORT)?;
        near.kill_agent()?;
        near.kill_dataplane()?;
        near.restart_dataplane()?;
        near.restart_agent()?;
        near.wait_ready()?;

        ensure!(flows(far, to.address())? > 0, "nothing is followed");
        let free = far.agent()?.status()?.addresses_free;
        far.kill_agent()?;
        drop(server);
        let deleted = Command::new("ip").args(["netns", "del", to.namespace().name()]).status()?;
        ensure!(deleted.success());
        far.restart_agent()?;
        far.wait_ready()?;
        eventually(CLEARED_AWAY, || {
            let status = far.agent()?.status()?;
            ensure!((status.containers, status.collected) == (0, 1), "{status:?}");
            ensure!(status.addresses_free == free + 1, "{status:?}");
            ensure!(status.problems.is_empty(), "{status:?}");
            Ok(())
        })?;
        eventually(PATIENCE, || {
            let status = far.dataplane()?.status()?;
            ensure!(status.links.iter().all(|link| link.port.is_none()), "{status:?}");
            ensure!(status.rules == 0, "{status:?}");
            let left = flows(far, to.address())?;
            ensure!(left == 0, "{left} flows are left");
            Ok(())
        })?;
        let left = far.namespace().run(|| -> nix::Result<bool> {
            let devices = nix::net::if_::if_nameindex()?;
            Ok(devices.iter().any(|device| device.name().to_bytes().starts_with(b"s-")))
        })??;
        ensure!(!left, "the cell's end of a veth is left");

        ensure!(addresses(near)? == [from.address()], "{:?}", addresses(near)?);
        let new = world.attach(1, Some("app-2"))?;
        let _server = new.serve_http(PORT)?;
        let target = std::net::SocketAddrV4::new(new.address(), PORT);
        eventually(PATIENCE, || from.http(target, PATIENCE)?.greeting().map(drop))?;
        // The runtime may come back late.
        world.detach(to)?;
        ensure!(addresses(far)? == [new.address()], "{:?}", addresses(far)?);
        Ok(())
    });
}

#[test]
fn what_has_ended_without_a_del_is_removed_tun() {
    collected(AttachKind::Tun);
}

#[test]
fn what_has_ended_without_a_del_is_removed_veth() {
    collected(AttachKind::Veth);
}
