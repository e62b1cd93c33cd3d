//! Ways out of the overlay, all closed: no security group opens any here.

use std::net::SocketAddrV4;

use anyhow::{Context as _, Result, ensure};
use sarcenet_rig::{Capture, Container, Frame, World, eventually, tcp};

use crate::case::{Case, PATIENCE, connects, is_refused, is_refused_udp, port};

/// A policy between apps opens no way out.
pub(crate) fn is_not_opened_by_a_policy(case: &Case<'_>) -> Result<()> {
    let Case { world, from, to } = case;
    let _allowed = case.allow(tcp(case.sender(), case.receiver(), 1..=65535))?;
    let _http = to.serve_http(8080)?;
    connects(from, port(to, 8080))?;
    is_refused(from, outside(world, from))
}

/// What is denied is refused with ICMP port unreachable: a connect fails at once, a datagram is
/// answered with an error. Toward the outside as well as toward another app.
pub(crate) fn is_refused_with_port_unreachable(case: &Case<'_>) -> Result<()> {
    let Case { world, from, to } = case;
    let _servers = (to.serve_http(8080)?, to.serve_udp(8080)?);
    for target in [outside(world, from), port(to, 8080)] {
        let capture = Capture::start(from.namespace(), "eth0")?;
        is_refused(from, target).context("tcp")?;
        is_refused_udp(from, target).context("udp")?;
        for protocol in [6, 17] {
            eventually(PATIENCE, || {
                let frames = capture.frames();
                let told = frames.iter().any(|frame| is_refusal(frame, from, target, protocol));
                ensure!(told, "no ICMP port unreachable for protocol {protocol} to {target}");
                Ok(())
            })?;
        }
    }
    Ok(())
}

/// Whether it is an ICMP port unreachable to this container about a packet that it sent to this
/// target. Behind an Ethernet header, or not, as the container's interface has it.
fn is_refusal(frame: &Frame, to: &Container, target: SocketAddrV4, protocol: u8) -> bool {
    let ends = [to.address().octets(), target.ip().octets()].concat();
    [0, 14].into_iter().filter_map(|start| frame.bytes.get(start..)).any(|packet| {
        let [icmp, quote] = [20, 28].map(|at| packet.get(at..).unwrap_or_default());
        packet.first() == Some(&0x45)
            && packet.get(9) == Some(&1)
            && packet.get(16..20) == Some(&to.address().octets())
            && icmp.starts_with(&[3, 3])
            && quote.first() == Some(&0x45)
            && quote.get(9) == Some(&protocol)
            && quote.get(12..20) == Some(&ends)
            && quote.get(22..24) == Some(&target.port().to_be_bytes())
    })
}

/// What listens on the cell itself cannot be reached by its containers.
pub(crate) fn to_the_own_cell_is_refused(case: &Case<'_>) -> Result<()> {
    let Case { world, from, .. } = case;
    let cell = &world.cells()[from.cell()];
    let listener = cell.namespace().run(|| std::net::TcpListener::bind("0.0.0.0:0"))??;
    let number = listener.local_addr()?.port();
    for address in [cell.plan().underlay, cell.plan().subnet.network()] {
        is_refused(from, SocketAddrV4::new(address, number))?;
    }
    Ok(())
}

/// A host beyond the container's cell: the other cell's underlay address.
fn outside(world: &World, container: &Container) -> SocketAddrV4 {
    SocketAddrV4::new(world.cells()[1 - container.cell()].plan().underlay, 8080)
}
