//! A container in a space, and the words that checks are written in.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::Command;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use sarcenet_rig::outside::network;
use sarcenet_rig::{
    CellKind, Container, ContainerSpec, GroupRule, Namespace, OutsideHost, SecurityGroup,
    UdpAnswer, World,
};

use super::Kind;

/// How long an answer may take that must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// How long to wait for something that must not come.
pub(crate) const SILENCE: Duration = Duration::from_millis(300);

/// A number that no other check has.
fn fresh() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// An outside address that no other check has, unless that began long before.
pub(crate) fn fresh_address() -> Ipv4Addr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    OutsideHost::address(network::PLAIN, 1 + NEXT.fetch_add(1, Ordering::Relaxed) % 120)
}

/// A host port of the range that is for mappings, which no other check has.
pub(crate) fn fresh_host_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    62_000 + NEXT.fetch_add(1, Ordering::Relaxed) % 3500
}

/// A container on the first cell, in a space of its own.
pub(crate) struct Case {
    pub(crate) world: &'static World,
    pub(crate) kind: Kind,
    pub(crate) space: String,
    pub(crate) container: Container,
}

/// Runs a check.
pub(crate) fn run(kind: Kind, check: fn(&Case) -> Result<()>) {
    let world = super::world(kind);
    let checked = Case::new(world, kind).and_then(|case| check(&case));
    if let Err(error) = checked {
        panic!("{}\n{error:#}", world.logs());
    }
}

impl Case {
    fn new(world: &'static World, kind: Kind) -> Result<Self> {
        let space = format!("space-{}", fresh());
        let spec = ContainerSpec::app(&world.take_app()?.id).space(&space);
        let container = world.attach_as(0, &spec)?;
        Ok(Self { world, kind, space, container })
    }

    /// Whether the cells are the kernel's.
    pub(crate) fn is_kernel(&self) -> bool {
        matches!(self.kind.cells, CellKind::Kernel(_))
    }

    /// A description of a further container in the space, of an app of its own.
    pub(crate) fn spec(&self) -> Result<ContainerSpec> {
        Ok(ContainerSpec::app(&self.world.take_app()?.id).space(&self.space))
    }

    /// Lets the space's apps and tasks do this, until what is returned is dropped.
    pub(crate) fn open(&self, rules: &[GroupRule]) -> Result<Bound> {
        let name = format!("group-{}", fresh());
        self.bind(SecurityGroup::running(&name, &self.space, rules))
    }

    /// Binds a group, until what is returned is dropped.
    pub(crate) fn bind(&self, group: SecurityGroup) -> Result<Bound> {
        let name = group.name.clone();
        self.world.bind(group)?;
        Ok(Bound { world: self.world, name })
    }

    /// The outside host's namespace.
    pub(crate) fn outside(&self) -> Result<&'static Namespace> {
        Ok(self.world.outside()?.namespace())
    }

    /// The address of the first cell.
    pub(crate) fn cell_address(&self) -> Ipv4Addr {
        self.world.cells()[0].plan().underlay
    }
}

/// A security group in force for as long as this lives.
pub(crate) struct Bound {
    world: &'static World,
    name: String,
}

impl Drop for Bound {
    fn drop(&mut self) {
        if let Err(error) = self.world.unbind(&self.name) {
            // A check that failed already has more to say.
            eprintln!("cannot unbind {}: {error:#}", self.name);
        }
    }
}

/// An address and port.
pub(crate) fn at(address: Ipv4Addr, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(address, port)
}

/// The connection comes about.
pub(crate) fn connects(from: &Namespace, to: SocketAddrV4) -> Result<()> {
    let outcome = from.connect(to, PATIENCE)?;
    ensure!(outcome.is_connected(), "{} to {to}: {outcome}", from.name());
    Ok(())
}

/// The connection is refused.
pub(crate) fn is_refused(from: &Namespace, to: SocketAddrV4) -> Result<()> {
    let outcome = from.connect(to, PATIENCE)?;
    ensure!(outcome.is_refused(), "{} to {to}: {outcome}", from.name());
    Ok(())
}

/// The datagram is answered, by a server that sees this address.
pub(crate) fn is_answered(from: &Namespace, to: SocketAddrV4, seen_as: Ipv4Addr) -> Result<()> {
    let answer = from.ask_udp(to, b"ping", PATIENCE)?;
    let expected = format!("{seen_as} ping").into_bytes();
    ensure!(answer == UdpAnswer::Answered(expected), "{} to {to}/udp: {answer:?}", from.name());
    Ok(())
}

/// The datagram is refused.
pub(crate) fn is_refused_udp(from: &Namespace, to: SocketAddrV4) -> Result<()> {
    let answer = from.ask_udp(to, b"ping", PATIENCE)?;
    ensure!(answer.is_refused(), "{} to {to}/udp: {answer:?}", from.name());
    Ok(())
}

/// An HTTP server there tells whom it talks to: this address.
pub(crate) fn sees(from: &Namespace, to: SocketAddrV4, address: Ipv4Addr) -> Result<()> {
    let greeting = from.http(to, PATIENCE)?.greeting()?;
    ensure!(greeting.ends_with(&format!("you are {address}\n")), "{to} says {greeting:?}");
    Ok(())
}

/// What curl gets from there.
pub(crate) fn curl(from: &Namespace, to: SocketAddrV4) -> Result<String> {
    from.checked(Command::new("curl").args([
        "--silent",
        "--show-error",
        "--max-time",
        "10",
        &format!("http://{to}/"),
    ]))
}

/// Whether a single echo request is answered; else what ping says.
pub(crate) fn ping(from: &Namespace, to: Ipv4Addr, arguments: &[&str]) -> Result<(bool, String)> {
    let mut command = Command::new("ping");
    command.args(["-n", "-c", "1", "-W", "5"]).args(arguments).arg(to.to_string());
    let output = from.output(&mut command)?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
}
