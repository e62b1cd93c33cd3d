//! The cell and its containers.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use sarcenet_rig::{
    AttachKind, CellKind, Container, Namespace, Plan, SarcenetCell, World, eventually, tcp,
};
use serde_json::json;

use crate::scenario::resident_bytes;

/// How long anything may take before the measurement is given up.
const PATIENCE: Duration = Duration::from_mins(1);
/// Where containers are reached.
const PORT: u16 = 8080;
/// How often what is measured by itself is measured.
const ALONE: usize = 50;

/// What times were measured, in nanoseconds.
#[derive(Debug, Default)]
pub(super) struct Times {
    /// Of each.
    pub(super) each: Vec<u64>,
    /// From the first one's begin to the last one's end.
    pub(super) all: u64,
}

/// Bytes of memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Memory {
    pub(super) agent: u64,
    pub(super) dataplane: u64,
}

/// All that was measured.
#[derive(Debug)]
pub(super) struct Measured {
    /// The plugin telling its versions, one at a time, and as many at once as there are containers.
    pub(super) start: Times,
    pub(super) start_at_once: Times,
    /// ADD to an empty cell, one at a time.
    pub(super) add: Times,
    pub(super) add_at_once: Times,
    /// One more to a full cell.
    pub(super) add_to_full: Times,
    pub(super) del_at_once: Times,
    /// When the first few have come and gone, with all containers, and after.
    pub(super) memory: [Memory; 3],
}

/// A container that is attached now and then.
struct Guest {
    namespace: Namespace,
    handle: String,
    kind: AttachKind,
}

/// Does all of it.
pub(super) fn measure(containers: u16, kinds: &[AttachKind]) -> Result<Measured> {
    let world = World::new(Plan::new("n", &[CellKind::Sarcenet]).from_files())?;
    let cell = world.sarcenet_cells().next().context("a cell")?;
    world.allow(&[tcp("app-1", "app-2", PORT..=PORT)])?;
    let probe = world.attach(0, Some("app-1"))?;
    let guests = (0..containers).zip(kinds.iter().cycle()).map(|(number, &kind)| {
        let namespace = world.create_namespace(&format!("guest-{number}"))?;
        Ok(Guest { namespace, handle: format!("guest-{number}"), kind })
    });
    let guests: Vec<Guest> = guests.collect::<Result<_>>()?;
    let few = &guests[..guests.len().min(ALONE)];

    let start = one_by_one(few, |_| plugin(cell, "VERSION", None))?;
    let add = one_by_one(few, |guest| plugin(cell, "ADD", Some(guest)))?;
    all_are_reached(cell, &probe, few)?;
    one_by_one(few, |guest| plugin(cell, "DEL", Some(guest)))?;
    is_clean(cell, &guests)?;
    // Packet memory and the like that the first containers make a dataplane touch is there by now.
    let before = memory(cell)?;

    let start_at_once = at_once(&guests, |_| plugin(cell, "VERSION", None))?;
    let add_at_once = at_once(&guests, |guest| plugin(cell, "ADD", Some(guest)))?;
    all_are_reached(cell, &probe, &guests)?;
    let with = memory(cell)?;
    let add_to_full = one_by_one(few, |guest| {
        plugin(cell, "DEL", Some(guest))?;
        plugin(cell, "ADD", Some(guest))
    })?;
    let del_at_once = at_once(&guests, |guest| plugin(cell, "DEL", Some(guest)))?;
    is_clean(cell, &guests)?;
    let memory = [before, with, memory(cell)?];
    Ok(Measured { start, start_at_once, add, add_at_once, add_to_full, del_at_once, memory })
}

/// How long the plugin took.
fn plugin(cell: &SarcenetCell, command: &str, guest: Option<&Guest>) -> Result<Duration> {
    let config = json!({
        "cniVersion": "1.0.0",
        "name": "sarcenet",
        "type": "sarcenet-cni",
        "agentSocket": cell.root().join("run/sarcenet/agent.sock"),
        "attach": guest.map_or(AttachKind::Tun, |guest| guest.kind),
        "metadata": {"policy_group_id": "app-2"},
    });
    let mut process = Command::new(&cell.binaries().cni);
    process.env("CNI_COMMAND", command);
    if let Some(guest) = guest {
        process
            .env("CNI_CONTAINERID", &guest.handle)
            .env("CNI_NETNS", guest.namespace.path())
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", "/");
    }
    process.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let config = config.to_string();
    let began = Instant::now();
    let mut child = process.spawn().context("start sarcenet-cni")?;
    let mut input = child.stdin.take().context("a piped child has a standard input")?;
    input.write_all(config.as_bytes()).context("write to sarcenet-cni")?;
    drop(input);
    let output = child.wait_with_output().context("wait for sarcenet-cni")?;
    let took = began.elapsed();
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "sarcenet-cni {command}: {said}");
    Ok(took)
}

fn one_by_one(guests: &[Guest], work: impl Fn(&Guest) -> Result<Duration>) -> Result<Times> {
    let began = Instant::now();
    let each = guests.iter().map(|guest| Ok(nanoseconds(work(guest)?)));
    Ok(Times { each: each.collect::<Result<_>>()?, all: nanoseconds(began.elapsed()) })
}

fn at_once(guests: &[Guest], work: impl Fn(&Guest) -> Result<Duration> + Sync) -> Result<Times> {
    let (start, work) = (&Barrier::new(guests.len() + 1), &work);
    thread::scope(|scope| {
        let all: Vec<_> = guests
            .iter()
            .map(|guest| {
                scope.spawn(move || {
                    start.wait();
                    work(guest)
                })
            })
            .collect();
        start.wait();
        let began = Instant::now();
        let mut each = Vec::new();
        for one in all {
            let Ok(took) = one.join() else { bail!("a thread that calls the plugin has ended") };
            each.push(nanoseconds(took?));
        }
        Ok(Times { each, all: nanoseconds(began.elapsed()) })
    })
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn memory(cell: &SarcenetCell) -> Result<Memory> {
    let (dataplane, agent) = cell.pids();
    Ok(Memory { agent: resident_bytes(agent)?, dataplane: resident_bytes(dataplane)? })
}

/// Each has an address of its own, and is reached by it.
fn all_are_reached(cell: &SarcenetCell, probe: &Container, guests: &[Guest]) -> Result<()> {
    let mut given = BTreeSet::new();
    let known = cell.agent()?.containers()?;
    for guest in guests {
        let mut own = known.iter().filter(|info| info.attachment.id.container == guest.handle);
        let info = own.next().with_context(|| format!("{} is not attached", guest.handle))?;
        ensure!(given.insert(info.attachment.address), "{:?} is given twice", info.attachment);
        let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, PORT);
        let listener = guest.namespace.run(|| TcpListener::bind(any))?;
        let _listener = listener.with_context(|| format!("listen in {}", guest.handle))?;
        let target = SocketAddrV4::new(info.attachment.address, PORT);
        let outcome = probe.connect(target, PATIENCE)?;
        ensure!(outcome.is_connected(), "{} ({target}): {outcome}", guest.handle);
    }
    Ok(())
}

/// Nothing of any guest is left: the one who looks is alone.
fn is_clean(cell: &SarcenetCell, guests: &[Guest]) -> Result<()> {
    let mut agent = cell.agent()?;
    let left = agent.containers()?;
    ensure!(left.len() == 1, "containers are left: {left:?}");
    let status = agent.status()?;
    ensure!(status.addresses_free == 252, "addresses are left: {status:?}");
    ensure!(status.rules == 0, "rules are left: {status:?}");
    eventually(PATIENCE, || {
        let mut dataplane = cell.dataplane()?;
        let status = dataplane.status()?;
        let ports = status.links.iter().filter(|link| link.port.is_some()).count();
        ensure!((ports, status.rules) == (1, 0), "the dataplane has: {status:?}");
        let flows = dataplane.flows().collect::<Result<Vec<_>, _>>()?;
        let towards = flows.iter().filter(|flow| flow.destination.port() == PORT).count();
        ensure!(towards == 0, "{towards} flows are left");
        Ok(())
    })?;
    let ends = |namespace: &Namespace| -> Result<Vec<String>> {
        let devices = namespace.run(|| -> Result<Vec<String>> {
            let index = nix::net::if_::if_nameindex()?;
            Ok(index.iter().map(|d| d.name().to_string_lossy().into_owned()).collect())
        })??;
        Ok(devices.into_iter().filter(|name| name.starts_with("s-") || name == "eth0").collect())
    };
    ensure!(ends(cell.namespace())? == ["eth0"], "devices are left in the cell");
    for guest in guests {
        ensure!(ends(&guest.namespace)?.is_empty(), "a device is left in {}", guest.handle);
    }
    Ok(())
}
