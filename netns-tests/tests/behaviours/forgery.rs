//! Containers that lie.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context as _, Result, ensure};
use sarcenet_netns_tests::{Datagram, TUNNEL_PORT, Tunneled};
use sarcenet_rig::{CellKind, Container, UdpServer, ask_udp, udp};

use crate::case::{Case, PATIENCE, SILENCE, is_answered, port, until_seen};

/// Port of the servers here.
const PORT: u16 = 9090;
/// What forged packets say.
const FORGED: &[u8] = b"forged";

/// A packet whose source is not the container's own address never leaves the cell, and never
/// arrives: neither with an address that nobody has, nor with that of a neighbour, nor with one of
/// another cell, of the cell itself, or from outside.
pub(crate) fn spoofed_sources_stay_in(case: &Case<'_>) -> Result<()> {
    let Case { world, from, to } = case;
    let _allowed = case.allow(udp(case.sender(), case.receiver(), PORT..=PORT))?;
    let server = to.serve_udp(PORT)?;
    is_answered(from, port(to, PORT))?;
    let neighbour = world.attach(from.cell(), from.app())?;
    let remote = world.attach(1 - from.cell(), from.app())?;
    let nobody = {
        let [a, b, c, _] = from.address().octets();
        Ipv4Addr::new(a, b, c, 250)
    };
    let own = world.cells()[from.cell()].plan();
    let outside = Ipv4Addr::new(203, 0, 113, 9);
    let capture = world.capture(from.cell())?;
    let sources = [
        nobody,
        neighbour.address(),
        remote.address(),
        own.subnet.network(),
        own.underlay,
        outside,
    ];
    for source in sources {
        from.namespace().ip(&format!("addr add {source}/32 dev lo\n"))?;
        let socket = from.udp_socket(SocketAddrV4::new(source, 0))?;
        let sent = socket.send_to(FORGED, port(to, PORT));
        from.namespace().ip(&format!("addr del {source}/32 dev lo\n"))?;
        sent.with_context(|| format!("send from {source}"))?;
    }
    nothing_forged_arrives(from, to, &server)?;
    let on_the_underlay = || {
        let frames = capture.tunnel_frames().into_iter();
        frames.filter(|frame| frame.destination == port(to, PORT)).collect::<Vec<_>>()
    };
    if from.cell() != to.cell() {
        until_seen(from, port(to, PORT), || !on_the_underlay().is_empty())?;
    }
    let ours = on_the_underlay();
    let forged: Vec<_> = ours.iter().filter(|frame| *frame.source.ip() != from.address()).collect();
    ensure!(forged.is_empty(), "on the underlay: {forged:?}");
    Ok(())
}

/// VXLAN that a container sends - with a tag that a policy admits - is ordinary traffic, and
/// refused as such: it reaches neither cell's tunnel.
pub(crate) fn containers_forge_no_tags(case: &Case<'_>) -> Result<()> {
    let Case { world, from, to } = case;
    let _allowed = case.allow(udp(case.sender(), case.receiver(), PORT..=PORT))?;
    let server = to.serve_udp(PORT)?;
    is_answered(from, port(to, PORT))?;
    let tag = world
        .plan()
        .apps
        .iter()
        .find(|app| app.id == case.sender())
        .map(|app| app.tag)
        .context("the sender's app has a tag")?;
    let frame = Tunneled {
        flags: 0x88,
        group: tag,
        vni: 1,
        inner: Datagram {
            source: from.address(),
            destination: to.address(),
            port: PORT,
            payload: FORGED,
        },
    }
    .bytes();
    let outsider = world.attach(from.cell(), Some(&world.take_app()?.id))?;
    let socket = outsider.udp_socket(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, TUNNEL_PORT))?;
    for cell in world.cells() {
        let mut targets = vec![cell.plan().underlay];
        // Two kernel cells do let it through by way of the receiver's VTEP address, which no
        // chain of theirs guards. One Sarcenet cell at either end suffices to stop it.
        let kinds = [cell.plan().kind, world.cells()[from.cell()].plan().kind];
        if kinds.contains(&CellKind::Sarcenet) {
            targets.push(cell.plan().subnet.network());
        }
        for target in targets {
            let answer =
                ask_udp(&socket, SocketAddrV4::new(target, TUNNEL_PORT), &frame, PATIENCE)?;
            ensure!(answer.is_refused(), "VXLAN to {target}: {answer:?}");
        }
    }
    nothing_forged_arrives(from, to, &server)
}

/// Waits for a while, then lets an honest packet through to show that the way was open.
fn nothing_forged_arrives(from: &Container, to: &Container, server: &UdpServer) -> Result<()> {
    std::thread::sleep(SILENCE);
    is_answered(from, port(to, PORT))?;
    let forged: Vec<_> =
        server.received().into_iter().filter(|(_, payload)| payload == FORGED).collect();
    ensure!(forged.is_empty(), "forged packets arrived: {forged:?}");
    Ok(())
}
