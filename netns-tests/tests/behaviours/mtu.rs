//! Sizes of packets.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context as _, Result, ensure};
use sarcenet_rig::{
    CellKind, Container, Frame, Plan, TunnelFrame, UdpAnswer, World, eventually, tcp, udp,
};

use crate::case::{Case, PATIENCE, port, until_seen};

/// Bytes of a large transfer.
const LARGE: usize = 8 << 20;
/// IPv4 and UDP headers.
const UDP_HEADERS: usize = 28;

/// `eth0` leaves room for the tunnel; large transfers arrive whole in both directions, and no IP
/// fragment is seen on the underlay, neither of outer packets nor of inner ones.
pub(crate) fn large_transfers_cross_unfragmented(case: &Case<'_>) -> Result<()> {
    let Case { world, from, to } = case;
    ensure!(from.mtu() == 1450 && to.mtu() == 1450, "MTU {} and {}", from.mtu(), to.mtu());
    let _allowed = (
        case.allow(tcp(case.sender(), case.receiver(), 8080..=8080))?,
        case.allow(udp(case.sender(), case.receiver(), 8080..=8080))?,
    );
    let (_http, server) = (to.serve_http(8080)?, to.serve_udp(8080)?);
    let capture = world.capture(to.cell())?;
    let mut client = from.http(port(to, 8080), PATIENCE)?;
    client.download(LARGE)?;
    client.upload(LARGE)?;
    // The answer is longer by the address in front, and just fits one packet.
    let in_front = format!("{} ", from.address()).len();
    let almost_full = vec![7; usize::from(from.mtu()) - UDP_HEADERS - in_front];
    let answer = from.ask_udp(port(to, 8080), &almost_full, PATIENCE)?;
    ensure!(answer.is_answered(), "a datagram of {} bytes: {answer:?}", almost_full.len());
    if from.cell() != to.cell() {
        let reply = |frame: &TunnelFrame| frame.protocol == 17 && frame.source == port(to, 8080);
        until_seen(from, port(to, 8080), || capture.tunnel_frames().iter().any(reply))?;
    }
    let frames = capture.frames();
    drop(capture);
    let ours = |frame: &Frame| frame_is_between(frame, from, to);
    let seen = frames.iter().filter(|frame| ours(frame)).count();
    ensure!((seen > 0) == (from.cell() != to.cell()), "{seen} frames on the underlay");
    // Other checks that run now send fragments of their own.
    let outer = frames.iter().filter(|frame| is_fragment(frame, OUTER)).count();
    let inner = frames.iter().filter(|frame| ours(frame) && is_fragment(frame, INNER)).count();
    ensure!((outer, inner) == (0, 0), "{outer} outer and {inner} inner IP fragments");

    let full = vec![8; usize::from(from.mtu()) - UDP_HEADERS];
    from.udp_socket(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0))?
        .send_to(&full, port(to, 8080))
        .context("send a datagram of the MTU's size")?;
    eventually(PATIENCE, || {
        let arrived = server.received().iter().any(|(_, payload)| *payload == full);
        ensure!(arrived, "a datagram of the MTU's size did not arrive");
        Ok(())
    })
}

/// Datagrams beyond the MTU, which their sender's kernel fragments, arrive whole.
pub(crate) fn large_datagrams_arrive(case: &Case<'_>) -> Result<()> {
    let Case { from, to, .. } = case;
    let _allowed = case.allow(udp(case.sender(), case.receiver(), 8080..=8080))?;
    let _server = to.serve_udp(8080)?;
    for length in [1450, 4000, 20_000] {
        let payload: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
        let answer = from.ask_udp(port(to, 8080), &payload, PATIENCE)?;
        let expected = [format!("{} ", from.address()).as_bytes(), &payload].concat();
        ensure!(answer == UdpAnswer::Answered(expected), "{length} bytes do not come back");
    }
    Ok(())
}

/// Where the IPv4 header of an outer packet begins in its frame.
const OUTER: usize = 14;
/// Where that of an inner one does: behind Ethernet, IPv4, UDP, VXLAN and Ethernet headers.
const INNER: usize = OUTER + 20 + 8 + 8 + 14;

fn is_fragment(Frame { bytes, .. }: &Frame, at: usize) -> bool {
    let ipv4 = bytes.get(at - 2..at) == Some(&[8, 0]);
    let flags_and_offset =
        bytes.get(at + 6..at + 8).map_or(0, |b| u16::from_be_bytes([b[0], b[1]]));
    ipv4 && flags_and_offset & 0x3fff != 0
}

/// Whether it is a tunnel packet from one of these containers to the other.
fn frame_is_between(Frame { bytes, .. }: &Frame, one: &Container, other: &Container) -> bool {
    let ends = [one, other].map(|container| container.address().octets());
    let inner = bytes.get(INNER + 12..INNER + 20).unwrap_or_default();
    inner == ends.as_flattened() || inner == [ends[1], ends[0]].as_flattened()
}

/// A smaller underlay makes a smaller `eth0`.
#[test]
fn b26_mtu_follows_the_underlay() {
    let mut plan = Plan::new("m", &[CellKind::Sarcenet, CellKind::KERNEL]);
    plan.underlay_mtu = 1400;
    let world = World::new(plan).unwrap_or_else(|error| panic!("{error:#}"));
    let check = || -> Result<()> {
        let from = world.attach(0, Some("app-1"))?;
        let to = world.attach(1, Some("app-2"))?;
        ensure!(from.mtu() == 1350 && to.mtu() == 1350, "MTU {} and {}", from.mtu(), to.mtu());
        world.allow(&[tcp("app-1", "app-2", 8080..=8080), tcp("app-2", "app-1", 8080..=8080)])?;
        let _servers = (from.serve_http(8080)?, to.serve_http(8080)?);
        for (from, to) in [(&from, &to), (&to, &from)] {
            let mut client = from.http(port(to, 8080), PATIENCE)?;
            client.download(LARGE)?;
            client.upload(LARGE)?;
        }
        Ok(())
    };
    check().unwrap_or_else(|error| panic!("{}\n{error:#}", world.logs()));
}
