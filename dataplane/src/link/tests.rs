//! Real devices and sockets, each test in network namespaces of its own. Needs root, and `ip`.

mod errors;
#[path = "../../tests/support/mod.rs"]
pub(super) mod support;

use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sarcenet_dataplane_api::{DropReason, PortId};

use super::testing::{TCP_LEN, make_super, place, push_cut, tcp_packet};
use super::tun::TunLink;
use super::udp::UdpTunnel;
use super::{Report, Scratch};
use crate::packet::{Batch, Offload, Verdict, Via};
use crate::wire::tunnel::{TUNNEL_HEADER_LEN, TunnelTemplate};
use support::namespace::Namespace;
use support::{attach, traffic, until};

const MTU: u16 = 1450;
const ADDRESS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 255, 55, 2), Ipv4Addr::new(10, 255, 55, 3)];

/// Carries packets between two containers, whatever they are, until it is dropped.
struct Wire {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Report>>,
}

impl Wire {
    fn new(links: [TunLink; 2]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                let (mut batch, mut scratch) = (Batch::new(), Scratch::new());
                let mut report = Report::new();
                while !stop.load(Relaxed) {
                    for (from, to) in [(&links[0], &links[1]), (&links[1], &links[0])] {
                        from.receive(&mut batch, 64, &mut report).unwrap();
                        to.transmit(&batch, 0..batch.len() as u16, &mut scratch, &mut report);
                        batch.clear();
                    }
                    let mut fds =
                        [0, 1].map(|i: usize| PollFd::new(links[i].as_fd(), PollFlags::POLLIN));
                    poll(&mut fds, PollTimeout::from(10_u8)).unwrap();
                }
                report
            }
        });
        Self { stop, thread: Some(thread) }
    }

    fn stop(mut self) -> Report {
        self.stop.store(true, Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

fn containers() -> ([Namespace; 2], [TunLink; 2]) {
    let namespaces = [Namespace::new(), Namespace::new()];
    let links = [0, 1].map(|i: usize| {
        let fd = attach(&namespaces[i], ADDRESS[i], MTU);
        TunLink::new(fd, MTU, Via::Container(PortId(i as u16))).unwrap()
    });
    (namespaces, links)
}

#[test]
fn super_packets_pass_whole() {
    let ([a, b], links) = containers();
    let counters = Arc::clone(links[0].counters());
    let wire = Wire::new(links);
    traffic::tcp(&a, &b, ADDRESS[1], 8000, 16 << 20);
    traffic::udp_echo(&a, &b, ADDRESS[1], 8001, 20);
    traffic::udp_segments(&a, &b, ADDRESS[1], 8002);
    let mut report = wire.stop();
    report.take(|reason, n| panic!("{n} dropped: {reason}"));
    let (packets, bytes) = counters.rx();
    assert!(bytes / packets > 5_000, "{packets} packets for {bytes} bytes");
}

#[test]
fn super_packets_are_cut_for_a_device_that_takes_none() {
    let ([a, b], links) = containers();
    for link in &links {
        link.refuse_offloads();
    }
    assert_eq!(links[1].mode(), "tun vnet-hdr");
    let counters = Arc::clone(links[1].counters());
    let wire = Wire::new(links);
    traffic::tcp(&a, &b, ADDRESS[1], 8000, 4 << 20);
    traffic::udp_echo(&a, &b, ADDRESS[1], 8001, 20);
    traffic::udp_segments(&a, &b, ADDRESS[1], 8002);
    wire.stop().take(|reason, n| panic!("{n} dropped: {reason}"));
    assert!(counters.tx().0 > 0);
}

#[test]
fn a_device_that_is_down_or_gone_says_so() {
    let ([a, _b], [link, _]) = containers();
    let (mut batch, mut scratch, mut report) = (Batch::new(), Scratch::new(), Report::new());
    push_cut(&mut batch, &tcp_packet(&[1; 10], 1), &[], Offload::default());
    a.ip("link set eth0 down");
    assert_eq!(link.transmit(&batch, [0], &mut scratch, &mut report), 0);
    assert_eq!(report.count(DropReason::LinkError), 1);
    assert_eq!(link.counters().errors(), 1);
    a.ip("link del eth0");
    assert_eq!(link.transmit(&batch, [0], &mut scratch, &mut report), 0);
    assert_eq!(report.count(DropReason::LinkGone), 1);
    assert!(link.receive(&mut batch, 1, &mut report).is_err());
    assert_eq!(link.mode(), "tun gone");
}

/// Two tunnel ends on one loopback interface.
fn tunnels() -> (Namespace, [UdpTunnel; 2]) {
    let namespace = Namespace::new();
    let tunnels = namespace.run(|| {
        [1, 2].map(|last| UdpTunnel::bind(Ipv4Addr::new(127, 0, 0, last), 4789, MTU).unwrap())
    });
    (namespace, tunnels)
}

/// Adds a packet for the second tunnel end. Returns the bytes that are to arrive.
fn add(batch: &mut Batch, packet: &[u8], offload: Offload, flow_hash: u32) -> Vec<u8> {
    let mut bytes = vec![0; TUNNEL_HEADER_LEN];
    TunnelTemplate::new(1, [2; 6], [4; 6]).write(7, &mut bytes);
    bytes.extend_from_slice(packet);
    let head = place(batch, &bytes);
    let index = batch.push(head, offload, Via::Host).unwrap();
    let added = batch.packet_mut(index);
    added.verdict = Verdict::Forward(Via::Tunnel(Ipv4Addr::new(127, 0, 0, 2)));
    added.flow_hash = flow_hash;
    bytes
}

/// How long something may take on a busy machine that must come about.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// Everything that arrives, in order.
pub(super) fn receive_all(tunnel: &UdpTunnel, packets: usize) -> Batch {
    receive_until(tunnel, |batch| batch.len() >= packets)
}

/// Receives until there is `enough`.
pub(super) fn receive_until(tunnel: &UdpTunnel, enough: impl Fn(&Batch) -> bool) -> Batch {
    let (mut batch, mut scratch, mut report) = (Batch::new(), Scratch::new(), Report::new());
    while !enough(&batch) {
        let mut fds = [PollFd::new(tunnel.as_fd(), PollFlags::POLLIN)];
        let ready = poll(&mut fds, PollTimeout::try_from(PATIENCE).unwrap());
        assert_eq!(ready, Ok(1), "nothing more comes after {} packets", batch.len());
        tunnel.receive(&mut batch, 64, &mut scratch, &mut report);
    }
    report.take(|reason, n| panic!("{n} dropped: {reason}"));
    batch
}

#[test]
fn packets_of_all_kinds_cross_the_tunnel_in_order() {
    let (_namespace, [one, other]) = tunnels();
    for gso in [true, false] {
        if !gso {
            one.refuse_trains();
            assert_eq!(one.mode(), "udp gro");
        }
        let (mut batch, mut scratch, mut report) = (Batch::new(), Scratch::new(), Report::new());
        let mut expected = Vec::new();
        // Small packets of one size, a shorter one, a larger one, all of one flow; a super-packet
        // in between. Without payload nothing is coalesced, so each arrives as it was.
        for i in 0..20_u8 {
            let mut packet = tcp_packet(&[], u32::from(i));
            packet.truncate(20 + TCP_LEN - usize::from(i % 5));
            expected.push(add(&mut batch, &packet, Offload::default(), 9));
        }
        let mut packet = tcp_packet(&vec![5; 20_000], 1);
        let offload = make_super(&mut packet, 1398);
        expected.push(add(&mut batch, &packet, offload, 9));
        let sent = one.transmit(&batch, 0..21, &mut scratch, &mut report);
        report.take(|reason, n| panic!("{n} dropped: {reason}"));
        assert_eq!(sent, 21);
        let arrived = receive_all(&other, if gso { 21 } else { 20 + 15 });
        for (index, expected) in expected.iter().take(20).enumerate() {
            assert!(&arrived.copy_out(index) == expected, "packet {index}, gso {gso}");
            let from = Via::Tunnel(Ipv4Addr::LOCALHOST);
            assert_eq!(arrived.packet(index).from, from);
        }
        if gso {
            assert_eq!(arrived.copy_out(20), expected[20]);
            assert_eq!(arrived.packet(20).offload, offload);
        }
    }
    let ((packets, bytes), errors) = (one.counters().tx(), one.counters().errors());
    assert_eq!((packets, errors), (42, 0));
    assert!(bytes > 40_000);
}

#[test]
fn flows_use_source_ports_of_their_own_and_keep_them() {
    let ports: std::collections::BTreeSet<_> =
        (0..1000_u32).map(|i| UdpTunnel::sender_of(i.wrapping_mul(0x9e37_79b9))).collect();
    assert_eq!(ports.len(), 16);
    assert_eq!(UdpTunnel::sender_of(0x1234_5678), UdpTunnel::sender_of(0x1234_5678));
}

#[test]
fn a_packet_larger_than_the_underlay_is_an_error_and_no_fragments() {
    let (namespace, [one, _other]) = tunnels();
    namespace.ip("link set lo mtu 1000");
    let (mut batch, mut scratch, mut report) = (Batch::new(), Scratch::new(), Report::new());
    add(&mut batch, &tcp_packet(&[1; 1200], 1), Offload::default(), 0);
    add(&mut batch, &tcp_packet(&[1; 100], 1), Offload::default(), 0);
    let mut large = tcp_packet(&[1; 5000], 1);
    let offload = make_super(&mut large, 1398);
    add(&mut batch, &large, offload, 0);
    assert_eq!(one.transmit(&batch, 0..3, &mut scratch, &mut report), 1);
    assert_eq!(report.count(DropReason::LinkError), 2);
    assert_eq!(one.mode(), "udp gso gro", "a mistake in the MTU is no lack of an offload");
}

#[test]
fn nobody_listening_does_not_cost_the_next_packet() {
    let (namespace, [one, other]) = tunnels();
    drop(other);
    let (mut batch, mut scratch, mut report) = (Batch::new(), Scratch::new(), Report::new());
    add(&mut batch, &tcp_packet(&[], 1), Offload::default(), 0);
    for _ in 0..3 {
        assert_eq!(one.transmit(&batch, [0], &mut scratch, &mut report), 1);
    }
    let other = namespace.run(|| UdpTunnel::bind(Ipv4Addr::new(127, 0, 0, 2), 4789, MTU).unwrap());
    assert_eq!(one.transmit(&batch, [0], &mut scratch, &mut report), 1);
    receive_all(&other, 1);
}

#[test]
fn a_port_in_use_is_a_clear_error() {
    let (namespace, _tunnels) = tunnels();
    let error =
        namespace.run(|| UdpTunnel::bind(Ipv4Addr::LOCALHOST, 4789, MTU).map(drop)).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("127.0.0.1:4789") && text.contains("kernel vxlan device"), "{text}");
}

#[test]
fn lists_of_slices_keep_their_memory() {
    let slices = Vec::with_capacity(100);
    let memory = slices.as_ptr();
    let mut again = super::recycle(slices);
    again.push(std::io::IoSlice::new(&[1]));
    let again = super::recycle(again);
    assert!(again.is_empty());
    assert_eq!((again.as_ptr(), again.capacity()), (memory, 100), "nothing is allocated a call");
}

#[test]
fn a_super_packet_is_not_divided_between_two_trains() {
    let (_namespace, [one, other]) = tunnels();
    let (mut batch, mut scratch, mut report) = (Batch::new(), Scratch::new(), Report::new());
    // The first ends with a full segment, so the train it makes could take more.
    for (payload, sequence) in [(6 * 1398, 1), (44 * 1398, 1 + 6 * 1398)] {
        let mut packet = tcp_packet(&vec![5; payload], sequence);
        let offload = make_super(&mut packet, 1398);
        add(&mut batch, &packet, offload, 9);
    }
    assert_eq!(one.transmit(&batch, 0..2, &mut scratch, &mut report), 2);
    report.take(|reason, n| panic!("{n} dropped: {reason}"));
    let arrived = receive_all(&other, 2);
    assert_eq!(arrived.len(), 2);
    for index in 0..2 {
        assert_eq!(arrived.packet(index).len(), batch.packet(index).len());
    }
}
