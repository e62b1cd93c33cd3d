//! Real veth pairs and sockets, each test in network namespaces of its own. Needs root, and `ip`.
#![forbid(unsafe_code)]

mod errors;
mod outer;
mod queues;
mod steering;
mod taken;
mod traffic;

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use sarcenet_dataplane_api::DropReason;

use super::neighbours::Way;
use super::{AttachMode, Demand, TakenPorts, Tuning, XdpError, XdpUplink};
use crate::link::testing::{place, tcp_packet, udp_packet};
use crate::link::tests::PATIENCE;
use crate::link::tests::support::namespace::Namespace;
use crate::link::tests::support::until;
use crate::link::udp::UdpTunnel;
use crate::link::{Report, Scratch};
use crate::packet::{Batch, Offload, Verdict, Via};
use crate::wire::tunnel::TunnelTemplate;

const CELLS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 77, 0, 11), Ipv4Addr::new(10, 77, 0, 12)];
const PORT: u16 = 4789;
const MTU: u16 = 1450;
const TUNING: Tuning = Tuning { workers: 1, busy_poll: Duration::ZERO };

/// Two cells joined by a veth pair, named `up0` in both, and the kernel's sockets of their tunnels.
struct Underlay([Namespace; 2], [OnceLock<Arc<UdpTunnel>>; 2]);

impl Underlay {
    fn new() -> Self {
        Self::with_mtu(1500)
    }

    fn with_mtu(mtu: u16) -> Self {
        Self::with(&format!("mtu {mtu}"))
    }

    /// With interfaces that have as many receive and transmit queues, of which `used` are used.
    fn with_queues(queues: u32, used: u32) -> Self {
        let underlay = Self::with(&format!("numrxqueues {queues} numtxqueues {queues}"));
        for cell in &underlay.0 {
            cell.command(&format!("ethtool -L up0 rx {used} tx {used}"));
        }
        underlay
    }

    fn with(properties: &str) -> Self {
        let cells = [Namespace::new(), Namespace::new()];
        for cell in &cells {
            cell.run(|| {
                std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").unwrap();
            });
        }
        let other = cells[1].id;
        cells[0].ip(&format!(
            "link add up0 {properties} type veth peer name up0 {properties} netns {other}"
        ));
        for (cell, address) in cells.iter().zip(CELLS) {
            cell.ip(&format!("addr add {address}/24 dev up0"));
            cell.ip("link set up0 up");
        }
        cells[0].wait_for_carrier("up0");
        Self(cells, Default::default())
    }

    /// What receives beside the queues of a cell's uplink.
    fn kernel(&self, cell: usize) -> Arc<UdpTunnel> {
        let bind = move || UdpTunnel::bind(CELLS[cell], PORT, MTU).expect("a tunnel socket");
        Arc::clone(self.1[cell].get_or_init(|| Arc::new(self.0[cell].run(bind))))
    }

    fn open_with(
        &self,
        cell: usize,
        demand: Demand,
        tuning: Tuning,
    ) -> Result<Arc<XdpUplink>, XdpError> {
        let kernel = self.kernel(cell);
        self.0[cell].run(move || XdpUplink::open(kernel, MTU, demand, tuning).map(Arc::new))
    }

    fn try_open(&self, cell: usize, attach: AttachMode) -> Result<Arc<XdpUplink>, XdpError> {
        self.open_with(cell, Demand::Attached(attach), TUNING)
    }

    /// Opens the uplink of a cell.
    fn open(&self, cell: usize, attach: AttachMode) -> Arc<XdpUplink> {
        self.try_open(cell, attach).unwrap()
    }

    /// A socket of the kernel in a cell.
    fn socket(&self, cell: usize, port: u16) -> UdpSocket {
        let socket =
            self.0[cell].run(move || UdpSocket::bind((CELLS[cell], port)).expect("a socket"));
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }
}

/// Waits until the uplink knows the way to a peer.
fn resolve(uplink: &XdpUplink, peer: Ipv4Addr) {
    uplink.follow([peer]);
    until("the peer's MAC is known", || {
        let guard = crossbeam_epoch::pin();
        matches!(uplink.neighbours.way(uplink.neighbours.ways(&guard), peer), Way::Known(_))
    });
}

/// The tunnel's headers and an inner packet.
fn datagram(inner: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 22];
    TunnelTemplate::new(1, [2; 6], [4; 6]).write(7, &mut bytes);
    bytes.extend_from_slice(inner);
    bytes
}

/// Adds a packet for a peer to the batch; it begins with its tunnel header.
fn push(batch: &mut Batch, bytes: &[u8], offload: Offload, peer: Ipv4Addr) {
    let piece = place(batch, bytes);
    let index = batch.push(piece, offload, Via::Host).unwrap();
    let packet = batch.packet_mut(index);
    packet.verdict = Verdict::Forward(Via::Tunnel(peer));
    packet.flow_hash = 0x1234_5678;
}

/// Sends all packets of the batch. Returns how many were sent and what became of the others.
fn send(uplink: &XdpUplink, batch: &Batch) -> (usize, Report) {
    let (mut scratch, mut report) = (Scratch::new(), Report::new());
    let indices = 0..batch.len() as u16;
    (uplink.transmit(0, batch, indices, &mut scratch, &mut report), report)
}

/// Receives until there is at least one packet, from all queues.
fn receive(uplink: &XdpUplink, batch: &mut Batch, report: &mut Report) {
    let mut scratch = Scratch::new();
    until("a packet arrives", || {
        for queue in 0..uplink.fds().count() {
            uplink.receive(queue, batch, 64, &mut scratch, report).unwrap();
        }
        !batch.is_empty()
    });
}

/// Receives once from all queues and forgets it. Returns how many packets there were, and what
/// was dropped.
fn receive_now(uplink: &XdpUplink) -> (usize, Report) {
    let (mut scratch, mut report) = (Scratch::new(), Report::new());
    let mut packets = 0;
    for queue in 0..uplink.fds().count() {
        let mut batch = Batch::new();
        packets +=
            uplink.receive(queue, &mut batch, 64, &mut scratch, &mut report).unwrap().packets;
    }
    (packets, report)
}

fn nothing_dropped(mut report: Report) {
    report.take(|reason: DropReason, n| panic!("{n} dropped: {reason}"));
}
