//! Real devices and packets, each test in network namespaces of its own. Needs root, `ip` and
//! `tc`.
#![forbid(unsafe_code)]

mod attaching;
mod program;
mod traffic;

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sarcenet_dataplane_api::PortId;

use super::*;
use crate::link::tests::support::namespace::Namespace;
use crate::link::tests::support::{attach, traffic as flows, until};
use crate::link::tun::TunLink;
use crate::link::{LinkCounters, Report, Scratch};
use crate::packet::{Batch, Via};

const CELLS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 77, 0, 11), Ipv4Addr::new(10, 77, 0, 12)];
const SNAT: PortRange = PortRange { first: 16_384, last: 32_767 };
/// A mapped port.
const MAPPED: u16 = 8080;

/// A cell with the host's TUN, and another host, joined by a veth pair named `up0` in both.
struct Site {
    cell: Namespace,
    other: Namespace,
    tun: Option<OwnedFd>,
}

impl Site {
    fn new() -> Self {
        let [cell, other] = [Namespace::new(), Namespace::new()];
        let tun = cell.tun("sarcenet0", 1450);
        cell.ip(&format!("link add up0 type veth peer name up0 netns {}", other.id));
        cell.ip("link set up0 address 02:00:00:00:00:01");
        for (namespace, address) in [(&cell, CELLS[0]), (&other, CELLS[1])] {
            namespace.ip(&format!("addr add {address}/24 dev up0"));
            namespace.ip("link set up0 up");
        }
        // As the cell's control process sets it up.
        cell.ip("link set sarcenet0 gso_max_size 65536");
        cell.ip("addr add 10.255.55.0/16 dev sarcenet0 scope link");
        let settings = [("rp_filter", "2"), ("accept_local", "1"), ("forwarding", "1")];
        cell.run(move || {
            for (key, value) in settings {
                let path = format!("/proc/sys/net/ipv4/conf/sarcenet0/{key}");
                std::fs::write(path, value).unwrap();
            }
        });
        Self { cell, other, tun: Some(tun) }
    }

    /// Diverts source NAT's ports and the mapped one.
    fn divert(&self) -> Divert {
        self.try_divert().unwrap()
    }

    fn try_divert(&self) -> Result<Divert, DivertError> {
        self.cell.run(|| {
            let mapped = vec![PortRange { first: MAPPED, last: MAPPED }];
            Divert::attach(settings(), &TakenPorts { tcp: mapped.clone(), udp: mapped })
        })
    }

    /// Where packets come in at an interface of the cell.
    fn hook(&self, interface: &'static str) -> Hook {
        Hook { interface: self.cell.run(move || if_nametoindex(interface).unwrap()) }
    }

    /// The program that is attached there.
    fn attached(&self, interface: &'static str) -> Option<u32> {
        let hook = self.hook(interface);
        self.cell.run(move || hook.attached().unwrap())
    }

    /// The dataplane's end of the host's TUN.
    fn host(&mut self) -> TunLink {
        TunLink::new(self.tun.take().unwrap(), 1450, Via::Host).unwrap()
    }
}

fn settings() -> Settings {
    Settings {
        underlay: CELLS[0],
        subnet: "10.255.55.0/24".parse().unwrap(),
        door: "sarcenet0".to_owned(),
        snat_ports: Some(SNAT),
    }
}

/// To which link what came from one goes, by number.
type Decide = fn(from: usize) -> usize;

/// Carries packets between links until it is stopped.
struct Wire {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Wire {
    fn new(links: Vec<TunLink>, decide: Decide) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || carry(&links, decide, &stop)
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        if let Some(Err(panic)) = ended
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

fn carry(links: &[TunLink], decide: Decide, stop: &AtomicBool) {
    let (mut batch, mut scratch, mut report) = (Batch::new(), Scratch::new(), Report::new());
    while !stop.load(Relaxed) {
        for (number, link) in links.iter().enumerate() {
            link.receive(&mut batch, 64, &mut report).unwrap();
            let all = 0..batch.len() as u16;
            links[decide(number)].transmit(&batch, all, &mut scratch, &mut report);
            batch.clear();
        }
        let mut fds: Vec<_> =
            links.iter().map(|link| PollFd::new(link.as_fd(), PollFlags::POLLIN)).collect();
        poll(&mut fds, PollTimeout::from(10_u8)).unwrap();
    }
    report.take(|reason, n| panic!("{n} dropped: {reason}"));
}

/// Packets and bytes that a namespace's `up0` received.
fn arrived(namespace: &Namespace) -> [u64; 2] {
    let output = namespace
        .run(|| Command::new("ip").args(["-json", "-stats", "link", "show", "up0"]).output());
    let shown: serde_json::Value = serde_json::from_slice(&output.unwrap().stdout).unwrap();
    ["packets", "bytes"].map(|what| shown[0]["stats64"]["rx"][what].as_u64().unwrap())
}

/// Packets and bytes that are read from a link while `f` runs.
fn during(counters: &LinkCounters, f: impl FnOnce()) -> [u64; 2] {
    let before = counters.rx();
    f();
    let after = counters.rx();
    [after.0 - before.0, after.1 - before.1]
}
