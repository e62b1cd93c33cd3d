//! Two containers somewhere, and the words that checks are written in.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Result, ensure};
pub(crate) use sarcenet_netns_tests::PATIENCE;
use sarcenet_rig::{
    AttachKind, Cell, Container, Outcome, Policy, UdpAnswer, UplinkMode, World, ask_udp, eventually,
};

use super::Kind;

/// How long to wait for something that must not come.
pub(crate) const SILENCE: Duration = Duration::from_millis(300);

/// A sender's app and a receiver's app with one container each.
pub(crate) struct Case<'w> {
    pub(crate) world: &'w World,
    pub(crate) from: Container,
    pub(crate) to: Container,
}

/// Runs a check from the first cell to the second, back, and within each.
pub(crate) fn run(kind: Kind, check: fn(&Case<'_>) -> Result<()>) {
    let world = super::world(kind);
    for (from, to) in [(0, 1), (1, 0), (0, 0), (1, 1)] {
        let checked = Case::new(world, from, to).and_then(|case| check(&case));
        if let Err(error) = checked {
            panic!("{}\nfrom cell{} to cell{}: {error:#}", world.logs(), from + 1, to + 1);
        }
    }
}

/// Links are really what the others' results are taken for.
pub(crate) fn modes(kind: Kind) {
    let world = super::world(kind);
    let uplink = match kind.uplink {
        UplinkMode::Udp => &["udp gso gro"][..],
        UplinkMode::TunnelGso => &["tunnel-gso, udp gso gro"],
        UplinkMode::Xdp => &["xdp generic copy 1 queue"],
        // The one until the probe has found the other.
        UplinkMode::Auto => &["udp gso gro", "tunnel-gso, udp gso gro"],
    };
    let container = match kind.attach {
        AttachKind::Tun => "tun vnet-hdr csum tso uso",
        AttachKind::Veth => "veth vnet-hdr csum tso uso",
    };
    let check = || -> Result<()> {
        for (number, cell) in world.cells().iter().enumerate() {
            let Cell::Sarcenet(cell) = cell else { continue };
            let attached = world.attach(number, None)?;
            for link in cell.dataplane()?.status()?.links {
                let right = match link.name.as_str() {
                    "uplink" => uplink.contains(&link.mode.as_str()),
                    name if name == attached.handle() => link.mode == container,
                    _ => true,
                };
                ensure!(right, "{}: {link:?}", cell.plan().name);
            }
        }
        Ok(())
    };
    check().unwrap_or_else(|error| panic!("{}\n{error:#}", world.logs()));
}

impl<'w> Case<'w> {
    fn new(world: &'w World, from: usize, to: usize) -> Result<Self> {
        let (sender, receiver) = (world.take_app()?.id, world.take_app()?.id);
        let from = world.attach(from, Some(&sender))?;
        let to = world.attach(to, Some(&receiver))?;
        Ok(Self { world, from, to })
    }

    /// The sender's app.
    pub(crate) fn sender(&self) -> &str {
        self.from.app().unwrap_or_default()
    }

    /// The receiver's app.
    pub(crate) fn receiver(&self) -> &str {
        self.to.app().unwrap_or_default()
    }

    /// Allows a policy, and revokes it again when the check is over.
    pub(crate) fn allow(&self, policy: Policy) -> Result<Allowed<'w>> {
        self.world.allow(std::slice::from_ref(&policy))?;
        Ok(Allowed { world: self.world, policy })
    }
}

/// A policy in force for as long as this lives.
pub(crate) struct Allowed<'w> {
    world: &'w World,
    policy: Policy,
}

impl Drop for Allowed<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.world.revoke(std::slice::from_ref(&self.policy)) {
            // A check that failed already has more to say.
            eprintln!("cannot revoke {}: {error:#}", self.policy);
        }
    }
}

/// A port of a container.
pub(crate) fn port(container: &Container, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(container.address(), port)
}

/// The connection comes about.
pub(crate) fn connects(from: &Container, to: SocketAddrV4) -> Result<()> {
    let outcome = from.connect(to, PATIENCE)?;
    ensure!(outcome.is_connected(), "{} to {to}: {outcome}", from.address());
    Ok(())
}

/// The connection is refused, by ICMP where somebody listens at the other end.
pub(crate) fn is_refused(from: &Container, to: SocketAddrV4) -> Result<()> {
    let outcome = from.connect(to, PATIENCE)?;
    ensure!(matches!(outcome, Outcome::Refused(_)), "{} to {to}: {outcome}", from.address());
    Ok(())
}

/// The connection is refused before long; for policies that have just been revoked.
pub(crate) fn becomes_refused(from: &Container, to: SocketAddrV4) -> Result<()> {
    eventually(PATIENCE, || is_refused(from, to))
}

/// The datagram is answered, and the answer begins with the sender's own address.
pub(crate) fn is_answered(from: &Container, to: SocketAddrV4) -> Result<()> {
    let answer = from.ask_udp(to, b"ping", PATIENCE)?;
    let expected = format!("{} ping", from.address()).into_bytes();
    ensure!(answer == UdpAnswer::Answered(expected), "{} to {to}/udp: {answer:?}", from.address());
    Ok(())
}

/// Sends datagrams that are answered until a capture has seen one: it reads behind what passes, and
/// may lose frames where too much does.
pub(crate) fn until_seen(
    from: &Container,
    to: SocketAddrV4,
    seen: impl Fn() -> bool,
) -> Result<()> {
    eventually(PATIENCE, || {
        is_answered(from, to)?;
        ensure!(seen(), "no frame from {} to {to} on the underlay", from.address());
        Ok(())
    })
}

/// The datagram is refused.
pub(crate) fn is_refused_udp(from: &Container, to: SocketAddrV4) -> Result<()> {
    is_refused_from(from, 0, to)
}

/// The datagram is refused, sent from this port.
pub(crate) fn is_refused_from(from: &Container, source: u16, to: SocketAddrV4) -> Result<()> {
    let socket = from.udp_socket(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, source))?;
    let answer = ask_udp(&socket, to, b"ping", PATIENCE)?;
    ensure!(answer.is_refused(), "{}:{source} to {to}/udp: {answer:?}", from.address());
    Ok(())
}
