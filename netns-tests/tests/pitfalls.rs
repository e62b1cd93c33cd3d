//! What the kernel does with tunnels, offloads and checksums that is easily got wrong. Each has a
//! test; those that need no whole cell are elsewhere:
//!
//! | pitfall | test |
//! | --- | --- |
//! | `UDP_SEGMENT` is refused without outer checksums | [`outer_checksums_stay_on`]; `link/udp/tests.rs: trains_that_are_refused_leave_as_datagrams` |
//! | one train holds 64 KiB, headers included | [`containers_leave_room`]; `link/udp/tests.rs: the_longest_super_packet_arrives` |
//! | a tunnel super-packet comes whole without a `UDP_GRO` message | `link/udp/tests.rs: super_packets_arrive_as_they_were_among_others` |
//! | inner checksums are still partial after the kernel has cut in software | [`partial_checksums_of_cut_packets_are_completed`] |
//! | no GRO without outer checksums | [`outer_checksums_stay_on`] |
//! | a TUN does not slow its TCP senders down, its ring must hold a window | [`containers_leave_room`] |
//! | `rp_filter` drops what a TAP with our own address sends | [`a_strict_rp_filter_does_not_stop_super_packets`] |
//! | two doors to one peer reorder a flow | `link/udp/tests.rs: super_packets_arrive_as_they_were_among_others` |
//! | spinning against other work costs milliseconds | `worker/spin.rs: stops_for_a_while_when_others_need_the_processor` |
//! | EINVAL from a device that took super-packets before | `link/udp/tests.rs: a_device_that_takes_no_more_is_left_alone`; `link/writer/tests.rs: a_refused_kind_of_super_packet_is_cut_from_then_on` |
#![forbid(unsafe_code)]

use std::net::SocketAddrV4;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use sarcenet_netns_tests::PATIENCE;
use sarcenet_rig::{
    AttachKind, Capture, CellKind, Container, Plan, TunnelFrame, World, eventually, tcp,
};

/// Bytes of a transfer.
const LARGE: usize = 8 << 20;
const PORT: u16 = 8080;
/// Bytes in front of the outer UDP checksum, and of the outer UDP header.
const UDP: usize = 14 + 20;

/// app-1 on a Sarcenet cell and app-2 on another cell, each of which may reach the other.
fn told(other: CellKind, test: impl FnOnce(&World, [&Container; 2]) -> Result<()>) {
    let plan = Plan::new("p", &[CellKind::Sarcenet, other]);
    let world = World::new(plan).unwrap_or_else(|error| panic!("{error:#}"));
    let run = || -> Result<()> {
        let one = world.attach(0, Some("app-1"))?;
        let two = world.attach(1, Some("app-2"))?;
        world.allow(&[tcp("app-1", "app-2", PORT..=PORT), tcp("app-2", "app-1", PORT..=PORT)])?;
        test(&world, [&one, &two])
    };
    run().unwrap_or_else(|error| panic!("{}\n{error:#}", world.logs()));
}

/// Bytes both ways, each of which is compared.
fn transfer(from: &Container, to: &Container) -> Result<()> {
    let _server = to.serve_http(PORT)?;
    let mut client = from.http(SocketAddrV4::new(to.address(), PORT), PATIENCE)?;
    client.download(LARGE).context("download")?;
    client.upload(LARGE).context("upload")
}

/// What the underlay's interface of a cell can no longer do.
fn switch_off(world: &World, cell: usize, features: &[&str]) -> Result<()> {
    for feature in features {
        let mut ethtool = Command::new("ethtool");
        world.cells()[cell].namespace().checked(ethtool.args(["-K", "eth0", feature, "off"]))?;
    }
    Ok(())
}

/// The kernel cell's VTEP hands super-packets to an interface that cannot cut them. The kernel cuts
/// them and leaves the inner checksum to an interface that, being a veth, never computes it.
#[test]
fn partial_checksums_of_cut_packets_are_completed() {
    told(CellKind::KERNEL, |world, [ours, theirs]| {
        let features = ["tx-udp_tnl-segmentation", "tx-udp_tnl-csum-segmentation"];
        switch_off(world, 1, &features)?;
        let capture = Capture::start(world.cells()[0].namespace(), "eth0")?;
        transfer(theirs, ours)?;
        let frames = capture.frames();
        let cut = frames.iter().filter(|frame| {
            let tunnel = TunnelFrame::parse(&frame.bytes);
            tunnel.is_some_and(|tunnel| tunnel.source.ip() == &theirs.address())
        });
        let longest = cut.map(|frame| frame.length).max().unwrap_or(0);
        ensure!((1400..=1514).contains(&longest), "the kernel cell sent {longest} bytes at once");
        Ok(())
    });
}

/// Whether packets leave whole, in trains, or one by one.
#[test]
fn outer_checksums_stay_on() {
    told(CellKind::Sarcenet, |world, [one, two]| {
        let capture = Capture::start(world.cells()[1].namespace(), "eth0")?;
        transfer(one, two)?;
        switch_off(world, 0, &["tx-udp_tnl-segmentation", "tx-udp-segmentation"])?;
        transfer(one, two)?;
        let frames = capture.frames();
        let tunnel: Vec<_> =
            frames.iter().filter(|frame| TunnelFrame::parse(&frame.bytes).is_some()).collect();
        let without =
            tunnel.iter().filter(|frame| frame.bytes.get(UDP + 6..UDP + 8) == Some(&[0; 2]));
        ensure!((without.count(), tunnel.len() > 100) == (0, true), "{} frames", tunnel.len());
        Ok(())
    });
}

/// Containers make no super-packet that is too long with the tunnel's headers, and their queue
/// holds what a TCP sender that nobody slows down has on its way.
#[test]
fn containers_leave_room() {
    for kind in [AttachKind::Tun, AttachKind::Veth] {
        let plan = Plan::new("p", &[CellKind::Sarcenet, CellKind::KERNEL]).attach(kind);
        let world = World::new(plan).unwrap_or_else(|error| panic!("{error:#}"));
        let check = || -> Result<()> {
            let container = world.attach(0, Some("app-1"))?;
            let mut ip = Command::new("ip");
            let shown = ip.args(["-details", "-json", "link", "show", "eth0"]);
            let link: serde_json::Value =
                serde_json::from_str(&container.namespace().checked(shown)?)?;
            let number = |name: &str| {
                let value = link.pointer(name).and_then(serde_json::Value::as_u64);
                value.with_context(|| format!("no {name} in {link}"))
            };
            ensure!(number("/0/gso_max_size")? == 61_900, "{link}");
            ensure!(number("/0/txqlen")? >= 500, "{link}");
            Ok(())
        };
        check().unwrap_or_else(|error| panic!("{}\n{error:#}", world.logs()));
    }
}

/// What the TAP hands to the kernel bears the cell's own address. With a strict filter on the whole
/// cell it goes on only because the TAP's own, looser setting wins (`ip-sysctl.rst`: the larger of
/// the two) and because the TAP accepts local addresses.
#[test]
fn a_strict_rp_filter_does_not_stop_super_packets() {
    told(CellKind::Sarcenet, |world, [one, two]| {
        for cell in world.sarcenet_cells() {
            cell.namespace().sysctl("ipv4/conf/all/rp_filter", "1")?;
            // The next dataplane makes a TAP, and tries it, under this setting.
            cell.kill_dataplane()?;
            cell.restart_dataplane()?;
            cell.wait_ready()?;
        }
        for cell in world.sarcenet_cells() {
            eventually(PATIENCE, || {
                let links = cell.dataplane()?.status()?.links;
                let uplink = links.into_iter().find(|link| link.name == "uplink");
                let mode = uplink.context("no uplink")?.mode;
                ensure!(mode.starts_with("tunnel-gso"), "the uplink is {mode}");
                Ok(())
            })?;
        }
        let capture = Capture::start(world.cells()[1].namespace(), "eth0")?;
        transfer(two, one)?;
        let longest = capture.frames().iter().map(|frame| frame.length).max().unwrap_or(0);
        ensure!(longest > 30_000, "no super-packet left whole: the longest had {longest} bytes");
        transfer(one, two)
    });
}
