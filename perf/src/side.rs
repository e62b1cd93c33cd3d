//! One side of a comparison: two cells of one kind with their containers and policies in place.

use std::net::SocketAddrV4;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sarcenet_rig::{Cell, CellKind, Container, Plan, World, bulk_transfer, tcp, udp};

use crate::cpu::BusyTime;
use crate::load::Seen;

/// Where generators listen; a policy admits these ports.
const PORTS: std::ops::RangeInclusive<u16> = 7000..=7999;

/// Where the receiver is, seen from the sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Span {
    /// On the other cell.
    CrossCell,
    /// On the same cell.
    SameCell,
}

/// Two cells of one kind.
pub(crate) struct Side {
    // Containers before the world: it removes what they lie in.
    sender: Container,
    near: Container,
    far: Container,
    next_port: std::cell::Cell<u16>,
    world: World,
}

impl Side {
    /// Builds the world and waits until its policies are in force.
    pub(crate) fn new(label: &str, kind: CellKind, arguments: &[String]) -> Result<Self> {
        let mut plan = Plan::new(label, &[kind, kind]).apps([("client", 1), ("server", 2)]);
        // Both cells share this machine's cores, so each gets its part of the workers.
        plan.dataplane_arguments = vec!["--workers".into(), workers_per_cell()?.to_string()];
        plan.dataplane_arguments.extend_from_slice(arguments);
        let world = World::new(plan)?;
        let sender = world.attach(0, Some("client"))?;
        let near = world.attach(0, Some("server"))?;
        let far = world.attach(1, Some("server"))?;
        world.allow(&[tcp("client", "server", PORTS), udp("client", "server", PORTS)])?;
        Ok(Self { sender, near, far, next_port: (*PORTS.start()).into(), world })
    }

    /// What its links really are, one line each; empty for the kernel.
    pub(crate) fn modes(&self) -> Result<Vec<String>> {
        let mut modes = Vec::new();
        for cell in self.world.cells() {
            if let Cell::Sarcenet(sarcenet) = cell {
                for link in sarcenet.dataplane()?.status()?.links {
                    modes.push(format!("{} {}: {}", cell.plan().name, link.name, link.mode));
                }
            }
        }
        Ok(modes)
    }

    /// Runs iperf3 and returns what its receiver saw. Processor time is that of the whole run, so
    /// it is related to the bytes of the second that iperf3 does not count, too.
    pub(crate) fn iperf3(&self, span: Span, streams: u8, seconds: f64) -> Result<Seen> {
        let duration = Duration::from_secs_f64(seconds.max(1.0));
        let (port, streams) = (self.take_port(), streams.into());
        let busy = BusyTime::now()?;
        let result = bulk_transfer(&self.sender, self.receiver(span), port, streams, duration)?;
        let counted = duration.as_secs() as f64;
        Ok(Seen {
            bytes: (result.bits_per_second * counted / 8.0) as u64,
            packets: 0,
            seconds: counted,
            cpu_seconds: busy.elapsed()? * counted / (counted + 1.0),
        })
    }

    fn receiver(&self, span: Span) -> &Container {
        match span {
            Span::CrossCell => &self.far,
            Span::SameCell => &self.near,
        }
    }

    /// A port that no run before has used for long.
    fn take_port(&self) -> u16 {
        let port = self.next_port.get();
        self.next_port.set(if port == *PORTS.end() { *PORTS.start() } else { port + 1 });
        port
    }

    /// Runs one generator against another and returns what the receiver saw. `receive` and `send`
    /// are arguments of `sarcenet-perf load`, without the address.
    pub(crate) fn measure(&self, span: Span, receive: &[&str], send: &[&str]) -> Result<Seen> {
        let receiver = self.receiver(span);
        let address = SocketAddrV4::new(receiver.address(), self.take_port()).to_string();
        let receiving = receiver.spawn(generator(receive, &address)?.stdout(Stdio::piped()))?;
        std::thread::sleep(Duration::from_millis(150)); // until it listens
        let mut sending = self.sender.spawn(generator(send, &address)?.stdout(Stdio::null()))?;
        let output = receiving.wait_with_output().context("wait for the receiver")?;
        sending.wait().context("wait for the sender")?;
        ensure!(output.status.success(), "the receiver failed\n{}", self.world.logs());
        serde_json::from_slice(&output.stdout).context("understand what the receiver printed")
    }
}

fn workers_per_cell() -> Result<usize> {
    Ok((std::thread::available_parallelism()?.get() / 2).max(1))
}

fn generator(arguments: &[&str], address: &str) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("load").args(arguments).arg(address);
    Ok(command)
}
