//! Scenarios about the programs: how fast they change, what they take, how they come back.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use sarcenet_dataplane_api::client::{Client, Snapshot};
use sarcenet_dataplane_api::{
    Cell, Logging, PortRange, Protocol, Revoke, Role, Rule, RuleId, RuleKey, Tracking, Update,
};
use sarcenet_rig::{SarcenetCell, eventually};

use super::{Length, Sample};
use crate::cpu::ProcessTime;
use crate::generator::{Both as _, Generator};
use crate::load::{Arrived, Departed};
use crate::loading::{Loading, filler};
use crate::side::{Kind, Side, Span};
use crate::stats::median;

/// How long a program may take to come up.
const PATIENCE: Duration = Duration::from_secs(10);
/// Rules of a large cell.
const RULES: u32 = 50_000;
/// Conversations that fill a flow table of the default size, a few lost ones aside.
const FLOWS: u64 = 950_000;
const SCATTER: &str = "scatter-send --sources 17 --ports 60000 --rate 120000";
/// Changes of one rule of which the median counts.
const CHANGES: u32 = 21;

/// Milliseconds until a snapshot of 50,000 rules is in force, and until one more rule is.
pub(super) fn policy_apply(side: &Side, kind: Kind) -> Result<Sample> {
    let (snapshot, change) = match kind {
        Kind::Ours => ours_apply(side)?,
        _ => kernel_apply(side)?,
    };
    Ok(Sample { values: vec![ms(snapshot), ms(change)], cpu: None })
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// By `iptables-restore`, then by `iptables -A`.
fn kernel_apply(side: &Side) -> Result<(Duration, Duration)> {
    let cell = side.kernel()?;
    cell.set_policies(&Loading::BASE.policies())?;
    let policies = Loading::rules(RULES).policies();
    let began = Instant::now();
    cell.set_policies(&policies)?;
    let snapshot = began.elapsed();
    let began = Instant::now();
    cell.append_policy(&filler("server", RULES))?;
    let change = began.elapsed();
    cell.set_policies(&Loading::BASE.policies())?;
    Ok((snapshot, change))
}

/// By the control socket of a dataplane of its own beside the cell's, until acknowledged.
fn ours_apply(side: &Side) -> Result<(Duration, Duration)> {
    let cells = side.sarcenet();
    let cell = cells.last().context("this needs a Sarcenet cell")?;
    let root = side.world().directory().join("alone");
    let _running = Alone::start(cell, &root)?;
    let mut client = eventually(PATIENCE, || {
        Ok(Client::connect(&root.join("run/sarcenet/dataplane.sock"), Role::Controller)?)
    })?;
    let plan = cell.plan();
    let desired = Cell {
        underlay: Ipv4Addr::LOCALHOST,
        subnet: plan.subnet,
        overlay: side.world().overlay(),
        vni: 1,
        tunnel_port: 4790,
        mtu: side.world().plan().overlay_mtu(),
        revoke: Revoke::Drain,
        uplink: sarcenet_dataplane_api::UplinkMode::Udp,
        host: false,
        outside: None,
        logging: Logging::default(),
        tracking: Tracking::default(),
        tag: 0,
        open: false,
    };
    let receiver = side.far().address();
    let snapshot = Snapshot {
        cell: Some((desired, None)),
        rules: (0..RULES).map(|number| rule(receiver, number)).collect(),
        ..Snapshot::default()
    };
    let began = Instant::now();
    client.snapshot(&snapshot)?;
    let whole = began.elapsed();
    ensure!(client.status()?.rules == u64::from(RULES), "not all rules are in force");
    let mut changes = Vec::new();
    for number in RULES..RULES + CHANGES {
        let update = Update { rules: vec![rule(receiver, number)], ..Update::default() };
        let began = Instant::now();
        client.apply(update, &[])?;
        changes.push(began.elapsed().as_secs_f64());
    }
    Ok((whole, Duration::from_secs_f64(median(&changes))))
}

fn rule(destination: Ipv4Addr, number: u32) -> Rule {
    let port = 1024 + (number / 1000) as u16;
    let key = RuleKey {
        source: 1 + (number % 1000) as u16,
        destination,
        protocol: if number.is_multiple_of(2) { Protocol::Tcp } else { Protocol::Udp },
        ports: PortRange { first: port, last: port },
    };
    Rule { id: RuleId(number + 1), key }
}

/// A dataplane with no agent.
struct Alone(Child);

impl Alone {
    fn start(beside: &SarcenetCell, root: &Path) -> Result<Self> {
        let mut command = Command::new(&beside.binaries().dataplane);
        command.args(["--workers", "1", "--flows", "1024", "--root"]).arg(root);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self(beside.namespace().spawn(&mut command)?))
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        drop(self.0.kill());
        if let Err(e) = self.0.wait() {
            eprintln!("a dataplane was lost: {e}");
        }
    }
}

/// Percent of a core that dataplane and agent of a cell take while nothing happens.
pub(super) fn idle(side: &Side, length: Length) -> Result<Sample> {
    // What the scenario before has stirred up settles.
    std::thread::sleep(Duration::from_millis(500));
    let pids: Vec<u32> =
        side.sarcenet().iter().flat_map(|cell| <[u32; 2]>::from(cell.pids())).collect();
    let cells = pids.len() as f64 / 2.0;
    let taken =
        |pids: &[u32]| pids.iter().map(|&pid| ProcessTime::of(pid)).sum::<Result<Duration>>();
    let (before, began) = (taken(&pids)?, Instant::now());
    std::thread::sleep(Duration::from_secs_f64(length.seconds));
    let used = taken(&pids)?.saturating_sub(before).as_secs_f64();
    Ok(Sample { values: vec![used / began.elapsed().as_secs_f64() / cells * 100.0], cpu: None })
}

/// Megabytes that the receiving dataplane takes for a million conversations more. They are one
/// datagram each, from many ports to many.
pub(super) fn memory(side: &Side) -> Result<Sample> {
    let cells = side.sarcenet();
    let cell = cells.last().context("this needs a Sarcenet cell")?;
    let look =
        || anyhow::Ok((resident_bytes(cell.pids().0)?, cell.dataplane()?.status()?.flows.used));
    empty_flow_table(cell)?;
    let (before, few) = look()?;
    for _ in 0..4 {
        let to = SocketAddrV4::new(side.far().address(), 1024);
        let _: Departed =
            Generator::start(side.sender().namespace(), SCATTER, Some(to))?.seen(side)?;
        let (after, many) = look()?;
        if many.saturating_sub(few) >= FLOWS {
            let megabytes = after.saturating_sub(before) as f64 * 1e-6;
            let millions = (many - few) as f64 * 1e-6;
            return Ok(Sample { values: vec![megabytes / millions], cpu: None });
        }
    }
    bail!("the dataplane does not come to {FLOWS} flows");
}

/// Starts a cell's dataplane without any conversation: a table that is full already shows nothing.
/// Those that were go with the dataplane and its file.
pub(super) fn empty_flow_table(cell: &SarcenetCell) -> Result<()> {
    cell.kill_dataplane()?;
    fs::remove_file(cell.root().join("run/sarcenet/flows")).context("remove the flow table")?;
    cell.restart_dataplane()?;
    cell.wait_ready()
}

/// `VmRSS` of proc(5), which counts the pages of the flow table's file, too.
pub(crate) fn resident_bytes(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let kib = status.lines().find_map(|line| {
        line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()
    });
    Ok(kib.with_context(|| format!("no VmRSS in {path}"))? * 1024)
}

/// Milliseconds of silence at the receiver while its dataplane is killed and started again under
/// load. An established TCP connection must live on.
pub(super) fn restart(side: &Side) -> Result<Sample> {
    let cells = side.sarcenet();
    let cell = cells.last().context("this needs a Sarcenet cell")?;
    let receiver = side.far();
    let port = side.take_ports(1);
    let _server = receiver.serve_http(port)?;
    let address = SocketAddrV4::new(receiver.address(), port);
    let mut connection = side.sender().http(address, PATIENCE)?;
    connection.download(100_000)?;
    let send = "paced-send --rate 5000 --seconds 2.5";
    let running = side.start(Span::CrossCell, "paced-receive", send)?;
    std::thread::sleep(Duration::from_millis(700));
    cell.kill_dataplane()?;
    cell.restart_dataplane()?;
    let (sent, arrived): (Departed, Arrived) = running.both(side)?;
    ensure!(arrived.spoiled == 0, "{} datagrams arrived with other bytes", arrived.spoiled);
    ensure!(arrived.received * 5 > sent.sent, "traffic did not come back");
    connection.download(100_000).context("the TCP connection did not outlive the restart")?;
    Ok(Sample { values: vec![arrived.longest_gap_ms], cpu: None })
}
