//! Containers that lie.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context as _, Result, ensure};
use sarcenet_netns_tests::{Datagram, TUNNEL_PORT, Tunneled};
use sarcenet_rig::{CellKind, Container, UdpServer, udp};

use crate::case::{Case, SILENCE, is_answered, port};

/// Port of the servers here.
const PORT: u16 = 9090;
/// What forged packets say.
const FORGED: &[u8] = b"forged";

/// A packet whose source is not the container's own address never arrives: neither with an
/// address that nobody has, nor with that of a neighbour, nor with one of another cell.
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
    for source in [nobody, neighbour.address(), remote.address()] {
        from.namespace().ip(&format!("addr add {source}/32 dev lo\n"))?;
        let socket = from.udp_socket(SocketAddrV4::new(source, 0))?;
        let sent = socket.send_to(FORGED, port(to, PORT));
        from.namespace().ip(&format!("addr del {source}/32 dev lo\n"))?;
        sent.with_context(|| format!("send from {source}"))?;
    }
    nothing_forged_arrives(from, to, &server)
}

/// VXLAN that a container sends - with a tag that a policy admits - is ordinary traffic: it
/// reaches neither cell's tunnel.
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
    // One for all: a program that another test starts right now may keep a closed one open for a
    // moment.
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
            let sent = socket.send_to(&frame, (target, TUNNEL_PORT));
            sent.with_context(|| format!("send VXLAN to {target}"))?;
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
