//! Containers that lie to the outside.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, ensure};
use sarcenet_netns_tests::{Datagram, TUNNEL_PORT, Tunneled};
use sarcenet_rig::outside::network;
use sarcenet_rig::{Capture, GroupRule, OutsideHost, udp};

use crate::case::{Case, SILENCE, at, fresh_address, is_answered, is_refused_udp};

/// Port of the servers here.
const PORT: u16 = 9090;
/// What forged packets say.
const FORGED: &[u8] = b"forged";

/// A packet whose source is not the container's own address never leaves the cell.
pub(crate) fn spoofed_sources_stay_in(case: &Case) -> Result<()> {
    let from = &case.container;
    let target = at(fresh_address(), PORT);
    let _open = case.open(&[GroupRule::all("0.0.0.0/0")])?;
    let server = case.outside()?.serve_udp(target)?;
    let neighbour = case.world.attach_as(0, &case.spec()?)?;
    let capture = Capture::start(case.outside()?, "wide")?;
    let cell = case.world.cells()[0].plan();
    let outsider = OutsideHost::address(network::PLAIN, 125);
    for source in [neighbour.address(), cell.subnet.network(), cell.underlay, outsider] {
        from.namespace().ip(&format!("addr add {source}/32 dev lo\n"))?;
        let socket = from.udp_socket(at(source, 0))?;
        let sent = socket.send_to(FORGED, target);
        from.namespace().ip(&format!("addr del {source}/32 dev lo\n"))?;
        sent.with_context(|| format!("send from {source}"))?;
    }
    std::thread::sleep(SILENCE);
    is_answered(from.namespace(), target, case.cell_address())?;
    let forged = |payload: &[u8]| payload.windows(FORGED.len()).any(|window| window == FORGED);
    let arrived = server.received().iter().filter(|(_, payload)| forged(payload)).count();
    let seen = capture.frames().iter().filter(|frame| forged(&frame.bytes)).count();
    ensure!((arrived, seen) == (0, 0), "{arrived} forged packets arrived, {seen} left");
    Ok(())
}

/// VXLAN that a container sends is subject to its groups. Where they admit it, it still reaches no
/// tunnel of a Sarcenet cell.
pub(crate) fn tunnel_packets_are_ordinary_traffic(case: &Case) -> Result<()> {
    let from = &case.container;
    let receiver = case.world.attach_as(1, &case.spec()?)?;
    let (sender, app) = (from.app().unwrap_or_default(), receiver.app().unwrap_or_default());
    case.world.allow(&[udp(sender, app, PORT..=PORT)])?;
    let server = receiver.serve_udp(PORT)?;
    let tag = case.world.plan().apps.iter().find(|app| app.id == sender).context("no tag")?.tag;
    let inner = Datagram {
        source: from.address(),
        destination: receiver.address(),
        port: PORT,
        payload: FORGED,
    };
    let frame = Tunneled { flags: 0x88, group: tag, vni: 1, inner }.bytes();
    let target = at(case.world.cells()[1].plan().underlay, TUNNEL_PORT);
    is_refused_udp(from.namespace(), target)?;
    // Kernel cells masquerade it as their own, and its receiver believes it.
    if !case.is_kernel() {
        let _open = case.open(&[GroupRule::all("0.0.0.0/0")])?;
        let socket = from.udp_socket(at(Ipv4Addr::UNSPECIFIED, TUNNEL_PORT))?;
        for _ in 0..5 {
            // A refusal of the one before is as good as silence.
            drop(socket.send_to(&frame, target));
        }
    }
    std::thread::sleep(SILENCE);
    is_answered(from.namespace(), at(receiver.address(), PORT), from.address())?;
    let forged = server.received().iter().filter(|(_, payload)| payload == FORGED).count();
    ensure!(forged == 0, "{forged} forged packets arrived");
    Ok(())
}
