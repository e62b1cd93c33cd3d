//! Real devices and packets, each test in network namespaces of its own. Needs root, `ip` and
//! `tc`.
#![forbid(unsafe_code)]

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
use crate::link::tests::support::{attach, traffic as flows};
use crate::link::tun::TunLink;
use crate::link::{LinkCounters, Report, Scratch};
use crate::packet::{Batch, Checksum, Packet, Via};

const CELLS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 77, 0, 11), Ipv4Addr::new(10, 77, 0, 12)];
const CONTAINER: Ipv4Addr = Ipv4Addr::new(10, 255, 55, 2);
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
        for (namespace, address) in [(&cell, CELLS[0]), (&other, CELLS[1])] {
            namespace.ip(&format!("addr add {address}/24 dev up0"));
            namespace.ip("link set up0 up");
        }
        cell.ip("addr add 10.255.55.0/16 dev sarcenet0 scope link");
        // As the cell's control process sets it up.
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
        self.cell.run(|| {
            let mapped = [PortRange { first: MAPPED, last: MAPPED }];
            Divert::attach(settings(), &mapped, &mapped).unwrap()
        })
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

/// What becomes of a packet that came from a link: changed, it goes to the link of that number;
/// none: dropped.
type Decide = fn(from: usize, packet: &Packet, head: &mut [u8]) -> Option<usize>;

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
            for index in 0..batch.len() {
                let (packet, head) = batch.packet_and_head(index);
                if let Some(to) = decide(number, packet, head) {
                    links[to].transmit(&batch, [index as u16], &mut scratch, &mut report);
                }
            }
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

/// Bytes per packet that were read from a link.
fn mean(counters: &LinkCounters) -> u64 {
    let (packets, bytes) = counters.rx();
    bytes / packets.max(1)
}
