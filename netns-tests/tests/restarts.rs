//! Each process survives the death of the others, and traffic that of the control process.
#![forbid(unsafe_code)]

use std::net::SocketAddrV4;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sarcenet_netns_tests::{CLEARED_AWAY, PATIENCE, Setting, interface};
use sarcenet_rig::{AttachKind, CellKind, Outcome, Plan, SarcenetCell, eventually, tcp};

/// Bytes that show that a connection carries more than its keep-alive.
const SOME: usize = 4 << 20;
/// Port that the policy opens.
const PORT: u16 = 8080;

/// Two cells, app-1 on the first and app-2 on the second, which app-1 may reach.
fn told(kind: AttachKind, test: impl FnOnce(&Setting) -> Result<()>) {
    let plan = Plan::new("r", &[CellKind::Sarcenet, CellKind::Sarcenet]).attach(kind);
    Setting::told(plan, &[tcp("app-1", "app-2", PORT..=PORT)], test);
}

fn agents_may_die_while_traffic_flows(kind: AttachKind) {
    told(kind, |setting| {
        let Setting { world, from, to } = setting;
        let target = setting.target(PORT);
        let _server = to.serve_http(PORT)?;
        let mut open = from.http(target, PATIENCE)?;
        open.greeting()?;
        setting.on_disk(PORT)?;
        for cell in setting.cells()? {
            cell.kill_agent()?;
        }
        open.download(SOME)?;
        from.http(target, PATIENCE)?.download(SOME)?;
        for cell in setting.cells()? {
            cell.restart_agent()?;
            cell.wait_ready()?;
        }
        open.download(SOME)?;
        // The agent still has its containers, and can change policies and attach new ones.
        let addresses = |cell: &SarcenetCell| -> Result<Vec<_>> {
            Ok(cell.agent()?.containers()?.into_iter().map(|c| c.attachment.address).collect())
        };
        let [first, second] = setting.cells()?;
        ensure!(addresses(first)? == [from.address()], "{:?}", addresses(first)?);
        ensure!(addresses(second)? == [to.address()], "{:?}", addresses(second)?);
        let new = world.attach(1, Some("app-2"))?;
        ensure!(new.address() != to.address(), "{} was given twice", to.address());
        let _server = new.serve_http(PORT)?;
        from.http(SocketAddrV4::new(new.address(), PORT), PATIENCE)?.greeting()?;
        world.revoke(&[tcp("app-1", "app-2", PORT..=PORT)])?;
        eventually(PATIENCE, || {
            let outcome = from.connect(target, PATIENCE)?;
            ensure!(outcome.is_refused(), "{outcome}");
            Ok(())
        })
    });
}

fn a_dead_dataplane_is_restored(kind: AttachKind) {
    told(kind, |setting| {
        let Setting { from, to, .. } = setting;
        let target = setting.target(PORT);
        let _server = to.serve_http(PORT)?;
        let interfaces = (interface(from)?, interface(to)?);
        let mut open = from.http(target, PATIENCE)?;
        open.greeting()?;
        for cell in setting.cells()? {
            cell.kill_dataplane()?;
            cell.restart_dataplane()?;
        }
        for cell in setting.cells()? {
            cell.wait_ready()?;
        }
        ensure!(
            interfaces == (interface(from)?, interface(to)?),
            "a container's eth0 was made anew"
        );
        eventually(PATIENCE, || from.http(target, PATIENCE)?.greeting().map(drop))
            .context("a new connection")?;
        open.greeting().context("the connection that was open")?;
        open.download(SOME).context("the connection that was open")
    });
}

/// A container runtime that deletes a namespace and never says so: nothing of ours keeps it alive.
fn a_namespace_that_vanishes_is_gone(kind: AttachKind) {
    told(kind, |setting| {
        let Setting { world, from, to } = setting;
        let [near, far] = setting.cells()?;
        // The peer of a veth goes when the namespace of the veth does.
        let cell = world.cells()[1].namespace();
        let inside = to.namespace().name();
        cell.ip(&format!("link add probe type veth peer name probe netns {inside}\n"))?;
        let probe = || cell.run(|| nix::net::if_::if_nametoindex("probe").is_ok());
        ensure!(probe()?);
        let deleted = Command::new("ip").args(["netns", "del", inside]).status()?;
        ensure!(deleted.success());
        eventually(CLEARED_AWAY, || {
            ensure!(!probe()?, "the namespace is still there");
            Ok(())
        })?;

        let counted = far.drops("link_gone")?;
        let outcome = from.connect(setting.target(PORT), Duration::from_millis(100))?;
        ensure!(outcome == Outcome::TimedOut, "{outcome}");
        eventually(PATIENCE, || {
            ensure!(far.drops("link_gone")? > counted, "nothing was dropped for link_gone");
            let status = far.agent()?.status()?;
            ensure!(status.dataplane.ready && status.problems.len() == 1, "{status:?}");
            ensure!(status.problems[0].contains("has no interface"), "{status:?}");
            Ok(())
        })?;
        // A dataplane that is given the whole state again takes it, without this container.
        far.kill_dataplane()?;
        far.restart_dataplane()?;
        far.wait_ready()?;
        let new = world.attach(1, Some("app-2"))?;
        ensure!(new.address() != to.address(), "{} was given twice", to.address());
        let _server = new.serve_http(PORT)?;
        from.http(SocketAddrV4::new(new.address(), PORT), PATIENCE)?.greeting()?;

        world.detach(to)?;
        world.detach(to)?;
        let status = far.agent()?.status()?;
        ensure!(status.problems.is_empty(), "{status:?}");
        ensure!(status.addresses_free == near.agent()?.status()?.addresses_free, "{status:?}");
        let outcome = from.connect(setting.target(PORT), PATIENCE)?;
        ensure!(!outcome.is_connected(), "{outcome}");
        Ok(())
    });
}

/// Both at once, as when a cell's supervisor restarts everything.
fn everything_may_die_at_once(kind: AttachKind) {
    told(kind, |setting| {
        let Setting { from, to, .. } = setting;
        let _server = to.serve_http(PORT)?;
        let mut open = from.http(setting.target(PORT), PATIENCE)?;
        open.greeting()?;
        setting.on_disk(PORT)?;
        for cell in setting.cells()? {
            cell.kill_agent()?;
            cell.kill_dataplane()?;
            cell.restart_dataplane()?;
            cell.restart_agent()?;
        }
        for cell in setting.cells()? {
            cell.wait_ready()?;
        }
        // Nobody held the interfaces meanwhile. Those made in their place carry on.
        for (cell, container) in setting.cells()?.into_iter().zip([from, to]) {
            let infos = cell.agent()?.containers()?;
            let kept =
                infos.iter().any(|c| c.connected && c.attachment.address == container.address());
            ensure!(kept, "{} is lost: {infos:?}", container.address());
        }
        open.greeting().context("the connection that was open")?;
        open.download(SOME).context("the connection that was open")?;
        eventually(PATIENCE, || from.http(setting.target(PORT), PATIENCE)?.greeting().map(drop))
    });
}

/// Each test with containers of either kind.
macro_rules! with_either {
    ($($name:ident,)+) => {
        with_either!(@kind tun, Tun, $($name,)+);
        with_either!(@kind veth, Veth, $($name,)+);
    };
    (@kind $module:ident, $kind:ident, $($name:ident,)+) => {
        mod $module {
            $(
                #[test]
                fn $name() {
                    super::$name(super::AttachKind::$kind);
                }
            )+
        }
    };
}

with_either! {
    agents_may_die_while_traffic_flows,
    a_dead_dataplane_is_restored,
    a_namespace_that_vanishes_is_gone,
    everything_may_die_at_once,
}
