//! Packets through two uplinks, or between one and the kernel.

use std::os::fd::AsFd;

use super::*;
use crate::link::testing::{assert_right, make_super};
use crate::packet::{Checksum, Segmentation};

#[test]
fn the_kernel_takes_what_we_send() {
    let underlay = Underlay::new();
    let uplink = underlay.open(0, AttachMode::Native);
    let peer = underlay.socket(1, PORT);
    resolve(&uplink, CELLS[1]);
    let mut batch = Batch::new();
    let verified = Offload { checksum: Checksum::Verified, ..Offload::default() };
    let whole = datagram(&udp_packet(b"one"));
    push(&mut batch, &whole, Offload::default(), CELLS[1]);
    push(&mut batch, &whole, verified, CELLS[1]);
    let payload: Vec<u8> = (0..50_000_u32).map(|n| ((n * 7) >> 3) as u8).collect();
    let mut inner = tcp_packet(&payload, 1);
    let offload = make_super(&mut inner, 1_398);
    push(&mut batch, &datagram(&inner), offload, CELLS[1]);
    let (sent, report) = send(&uplink, &batch);
    assert_eq!(sent, 3);
    nothing_dropped(report);

    let mut buffer = [0; 2_000];
    for _ in 0..2 {
        let len = peer.recv(&mut buffer).unwrap();
        assert_eq!(buffer[..len], whole);
    }
    let mut joined = Vec::new();
    let mut ports = Vec::new();
    while joined.len() < payload.len() {
        let (len, from) = peer.recv_from(&mut buffer).unwrap();
        ports.push(from.port());
        assert_eq!(buffer[..22], whole[..22]);
        assert_right(&buffer[22..len]);
        joined.extend_from_slice(&buffer[22 + 52..len]);
    }
    assert!(joined == payload, "not what was sent");
    ports.dedup();
    assert_eq!(ports.len(), 1, "one flow, one source port");
    assert!(ports[0] >= 49_152);
}

/// Sends a batch whose inner headers are so long, and receives it; all of it again when it did not
/// come in one piece, because what comes in two is not put together.
fn carry_at_once(uplinks: &[Arc<XdpUplink>; 2], batch: &Batch, headers: usize) -> Batch {
    let payload = |batch: &Batch| -> usize {
        batch.packets().iter().map(|packet| packet.len() - 22 - headers).sum()
    };
    let mut arrived = Batch::new();
    until("all comes at once", || {
        let (sent, report) = send(&uplinks[0], batch);
        assert_eq!(sent, batch.len());
        nothing_dropped(report);
        arrived.clear();
        let (mut looks, mut report) = (0, Report::new());
        until("all arrives", || {
            receive(&uplinks[1], &mut arrived, &mut report);
            looks += 1;
            payload(&arrived) >= payload(batch)
        });
        nothing_dropped(report);
        looks == 1
    });
    arrived
}

/// A super-packet is cut, sent, received and put together.
#[test]
fn a_super_packet_survives_the_way() {
    for (mode, tcp) in [(AttachMode::Native, true), (AttachMode::Generic, false)] {
        let underlay = Underlay::new();
        let uplinks = [0, 1].map(|cell| underlay.open(cell, mode));
        resolve(&uplinks[0], CELLS[1]);
        let payload: Vec<u8> = (0..40_000_u32).map(|n| ((n * 11) >> 4) as u8).collect();
        let mut inner = if tcp { tcp_packet(&payload, 1) } else { udp_packet(&payload) };
        let offload = make_super(&mut inner, 1_300);
        let mut batch = Batch::new();
        push(&mut batch, &datagram(&inner), offload, CELLS[1]);
        let batch = carry_at_once(&uplinks, &batch, if tcp { 52 } else { 28 });
        assert_eq!(batch.len(), 1, "not put together");
        let packet = batch.packet(0);
        assert_eq!(packet.from, Via::Tunnel(CELLS[0]));
        assert_eq!(packet.offload, offload);
        assert!(batch.copy_out(0) == datagram(&inner), "not what was sent");
        assert!(uplinks[1].counters().rx().0 >= 1);
    }
}

/// Flows whose packets come mixed are put together each.
#[test]
fn mixed_flows_are_put_together() {
    let underlay = Underlay::new();
    let uplinks = [0, 1].map(|cell| underlay.open(cell, AttachMode::Generic));
    resolve(&uplinks[0], CELLS[1]);
    let mut batch = Batch::new();
    for round in 0..5_u32 {
        for flow in 0..4_u32 {
            let inner = tcp_packet(&[flow as u8; 1_000], 1 + round * 1_000);
            push(&mut batch, &datagram(&inner), Offload::default(), CELLS[1]);
            let index = batch.len() - 1;
            batch.packet_mut(index).flow_hash = flow;
        }
    }
    let batch = carry_at_once(&uplinks, &batch, 52);
    assert_eq!(batch.len(), 4);
    for (flow, packet) in batch.packets().iter().enumerate() {
        assert_eq!(packet.offload.segmentation, Segmentation::Tcp { size: 1_000 });
        assert_eq!(batch.copy_out(flow)[22 + 52..], [flow as u8; 5_000]);
    }
}

/// Packets of several frames, both ways.
#[test]
fn jumbo_frames() {
    for mode in [AttachMode::Native, AttachMode::Generic] {
        let underlay = Underlay::with_mtu(9_000);
        let uplinks = [0, 1].map(|cell| underlay.open(cell, mode));
        for uplink in &uplinks {
            uplink.set_mtu(8_950).unwrap();
        }
        resolve(&uplinks[0], CELLS[1]);
        let mut batch = Batch::new();
        // 3840 bytes fit in one frame, with and without the outer headers.
        for len in [1, 3_726, 3_727, 3_790, 7_600, 8_898] {
            let payload: Vec<u8> = (0..len).map(|n: u32| (n * 5) as u8).collect();
            push(&mut batch, &datagram(&tcp_packet(&payload, len)), Offload::default(), CELLS[1]);
        }
        let (sent, report) = send(&uplinks[0], &batch);
        assert_eq!(sent, 6);
        nothing_dropped(report);
        let (mut arrived, mut report) = (Batch::new(), Report::new());
        until("all arrive", || {
            receive(&uplinks[1], &mut arrived, &mut report);
            arrived.len() >= 6
        });
        nothing_dropped(report);
        for index in 0..6 {
            assert!(arrived.copy_out(index) == batch.copy_out(index), "packet {index}");
        }
    }
}

/// More than a batch, a ring and the kernel's budget hold, with the smallest budget there is.
#[test]
fn nothing_is_lost_when_the_kernel_asks_to_come_again() {
    let underlay = Underlay::new();
    let uplink = underlay.open(0, AttachMode::Native);
    let peer = underlay.socket(1, PORT);
    resolve(&uplink, CELLS[1]);
    // The last one is the kernel's own.
    for fd in uplink.fds().take(1) {
        // XDP_MAX_TX_SKB_BUDGET.
        crate::link::sys::set_option(fd, libc::SOL_XDP, 9, 32).unwrap();
        crate::link::sys::set_option(fd, libc::SOL_SOCKET, libc::SO_SNDBUF, 4_608).unwrap();
    }
    let mut buffer = [0; 2_000];
    for round in 0..100_u32 {
        let mut batch = Batch::new();
        for number in 0..60_u32 {
            let inner = udp_packet(&(round * 60 + number).to_be_bytes());
            push(&mut batch, &datagram(&inner), Offload::default(), CELLS[1]);
        }
        let (sent, report) = send(&uplink, &batch);
        assert_eq!(sent, 60);
        nothing_dropped(report);
        for number in 0..60_u32 {
            let len = peer.recv(&mut buffer).unwrap();
            assert_eq!(buffer[len - 4..len], (round * 60 + number).to_be_bytes());
        }
    }
}

/// A UDP super-packet that never left the machine: a socket of the kernel behind its own tunnel
/// device. How long its datagrams are is known.
#[test]
fn a_super_packet_of_udp_from_a_kernel_on_this_machine() {
    let underlay = Underlay::new();
    let uplink = underlay.open(0, AttachMode::Generic);
    let there = &underlay.0[1];
    there.ip(&format!(
        "link add vx0 mtu {MTU} address 02:00:00:00:00:02 type vxlan id 1 gbp remote {} local {} \
         dstport {PORT} dev up0 nolearning",
        CELLS[0], CELLS[1]
    ));
    there.ip("addr add 10.255.62.3/24 dev vx0");
    there.ip("link set vx0 up");
    there.ip("neigh replace 10.255.62.9 lladdr 02:00:00:00:00:09 dev vx0 nud permanent");
    let socket = there.run(|| UdpSocket::bind(("10.255.62.3", 0)).expect("a socket"));
    crate::link::sys::set_option(socket.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, 1_200).unwrap();
    let payload: Vec<u8> = (0..30_000_u32).map(|n| ((n * 7) >> 3) as u8).collect();
    socket.send_to(&payload, ("10.255.62.9", 9)).unwrap();
    let (mut batch, mut report) = (Batch::new(), Report::new());
    receive(&uplink, &mut batch, &mut report);
    nothing_dropped(report);
    assert_eq!(batch.len(), 1);
    let packet = batch.packet(0);
    assert_eq!(packet.from, Via::Tunnel(CELLS[1]));
    assert_eq!(packet.offload.segmentation, Segmentation::Udp { size: 1_200 });
    assert!(batch.copy_out(0)[22 + 28..] == payload, "not what was sent");
    // An ordinary one comes past the kernel.
    let plain = there.run(|| UdpSocket::bind(("10.255.62.3", 0)).expect("a socket"));
    plain.send_to(&payload[..1_000], ("10.255.62.9", 9)).unwrap();
    let (mut batch, mut scratch, mut report) = (Batch::new(), Scratch::new(), Report::new());
    until("it arrives at the queue", || {
        uplink.receive(0, &mut batch, 64, &mut scratch, &mut report).unwrap().packets > 0
    });
    assert!(batch.copy_out(0)[22 + 28..] == payload[..1_000], "not what was sent");
}
