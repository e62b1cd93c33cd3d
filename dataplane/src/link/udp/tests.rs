//! The TAP for whole super-packets, between two cells with a veth between them. Needs root, and
//! `ip` and `ethtool`.

use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sarcenet_dataplane_api::UplinkMode;

use super::UdpTunnel;
use super::probe::{Finding, attempt};
use crate::link::testing::{make_super, place, tcp_packet, udp_packet};
use crate::link::tests::support::namespace::Namespace;
use crate::link::tests::{PATIENCE, receive_all, receive_until};
use crate::link::{Report, Scratch};
use crate::packet::{Batch, Checksum, Offload, Segmentation, Verdict, Via};
use crate::wire::tunnel::{TUNNEL_HEADER_LEN, TunnelTemplate};

const MTU: u16 = 1450;
/// How long a tunnel may take to find out: some attempts, the pause between which doubles.
const PROBED: Duration = Duration::from_mins(1);
const UNDERLAY: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 77, 0, 11), Ipv4Addr::new(10, 77, 0, 12)];

/// Two cells and their tunnels, which have this mode.
fn cells(mode: UplinkMode) -> [(Namespace, Arc<UdpTunnel>); 2] {
    let namespaces = [Namespace::new(), Namespace::new()];
    namespaces[0]
        .ip(&format!("link add underlay type veth peer name underlay netns {}", namespaces[1].id));
    for (cell, address) in namespaces.iter().zip(UNDERLAY) {
        cell.ip(&format!("addr add {address}/24 dev underlay"));
        cell.ip("link set underlay up");
    }
    namespaces[0].wait_for_carrier("underlay");
    let mut addresses = UNDERLAY.into_iter();
    namespaces.map(|namespace| {
        let address = addresses.next().unwrap();
        let tunnel = namespace.run(move || {
            let tunnel = UdpTunnel::bind(address, 4789, MTU).unwrap();
            tunnel.set_mode(mode).unwrap();
            tunnel
        });
        (namespace, Arc::new(tunnel))
    })
}

/// Adds a packet for the second cell. Returns the bytes that are to arrive.
fn add(batch: &mut Batch, packet: &[u8], offload: Offload) -> Vec<u8> {
    let mut bytes = vec![0; TUNNEL_HEADER_LEN];
    TunnelTemplate::new(1, [2; 6], [4; 6]).write(7, &mut bytes);
    bytes.extend_from_slice(packet);
    let head = place(batch, &bytes);
    let index = batch.push(head, offload, Via::Host).unwrap();
    batch.packet_mut(index).verdict = Verdict::Forward(Via::Tunnel(UNDERLAY[1]));
    bytes
}

/// Whether it bears the flag that makes a VXLAN header; a probe's packet does not.
fn is_tunnel_packet(batch: &Batch, index: usize) -> bool {
    batch.copy_out(index)[0] != 0
}

/// Sends TCP and UDP super-packets among ordinary packets, and looks at what arrives.
fn exchange(from: &UdpTunnel, to: &UdpTunnel, ring: bool) {
    let (mut batch, mut scratch, mut report) = (Batch::new(), Scratch::new(), Report::new());
    if ring {
        scratch.open_ring().unwrap();
    }
    let mut expected = Vec::new();
    for number in 0..6 {
        let mut packet = tcp_packet(&vec![number as u8; 30_000], number);
        let offload = make_super(&mut packet, 1398);
        expected.push((add(&mut batch, &packet, offload), offload));
        let small = udp_packet(&[number as u8; 30]);
        expected.push((add(&mut batch, &small, Offload::default()), Offload::default()));
    }
    let sent = from.transmit(&batch, 0..12, &mut scratch, &mut report);
    report.take(|reason, n| panic!("{n} dropped: {reason}"));
    assert_eq!(sent, 12);
    // Packets of a probe may still be on their way; they come first.
    let ours = |batch: &Batch| (0..batch.len()).filter(|&n| is_tunnel_packet(batch, n)).count();
    let arrived = receive_until(to, |batch| ours(batch) >= 12);
    let probes = arrived.len() - ours(&arrived);
    for (number, (bytes, offload)) in (probes..).zip(&expected) {
        assert!(arrived.copy_out(number) == *bytes, "packet {number}");
        let packet = arrived.packet(number);
        assert_eq!(packet.offload.segmentation, offload.segmentation, "packet {number}");
        assert_eq!(packet.from, Via::Tunnel(UNDERLAY[0]));
    }
}

#[test]
fn super_packets_arrive_as_they_were_among_others() {
    for ring in [false, true] {
        let [(_one, from), (_other, to)] = cells(UplinkMode::TunnelGso);
        assert_eq!(from.mode(), "tunnel-gso, udp gso gro");
        exchange(&from, &to, ring);
        assert_eq!((from.counters().tx().0, from.counters().errors()), (12, 0));
        assert_eq!(from.mode(), "tunnel-gso, udp gso gro");
    }
}

#[test]
fn a_super_packet_of_udp_arrives_in_its_datagrams() {
    let [(_one, from), (_other, to)] = cells(UplinkMode::TunnelGso);
    let (mut batch, mut scratch, mut report) = (Batch::new(), Scratch::new(), Report::new());
    let mut packet = udp_packet(&[9; 5000]);
    let offload = make_super(&mut packet, 1000);
    let bytes = add(&mut batch, &packet, offload);
    assert_eq!(from.transmit(&batch, [0], &mut scratch, &mut report), 1);
    let arrived = receive_all(&to, 1);
    assert_eq!(arrived.packet(0).offload.segmentation, Segmentation::Udp { size: 1000 });
    assert!(matches!(arrived.packet(0).offload.checksum, Checksum::Partial { .. }));
    assert!(arrived.copy_out(0) == bytes);
}

#[test]
fn a_device_that_takes_no_more_is_left_alone() {
    // EIO from a device that is down, EBADFD from one that is gone.
    for trouble in ["link set sarcenet-gso0 down", "link del sarcenet-gso0"] {
        let [(one, from), (_other, to)] = cells(UplinkMode::TunnelGso);
        one.ip(trouble);
        exchange(&from, &to, true);
        assert_eq!(from.mode(), "udp gso gro", "{trouble}");
    }
}

#[test]
fn the_probe_sees_how_super_packets_leave() {
    let [(one, from), (_other, to)] = cells(UplinkMode::Auto);
    let probe_for = |peer, patience| {
        let from = Arc::clone(&from);
        one.run(move || attempt(&from, from.tap.get().unwrap(), peer, patience).unwrap())
    };
    // What leaves is seen as soon as it does; only what does not takes all the time.
    let probe = |peer| probe_for(peer, PATIENCE);
    let moment = Duration::from_millis(300);
    assert_eq!(probe(UNDERLAY[1]), Finding::Whole);
    assert_eq!(probe_for(Ipv4Addr::new(10, 77, 0, 99), moment), Finding::NoWay);
    assert_eq!(probe_for(Ipv4Addr::new(198, 51, 100, 1), moment), Finding::NoWay);
    one.command("ethtool -K underlay tx-udp_tnl-segmentation off");
    one.command("ethtool -K underlay tx-udp_tnl-csum-segmentation off");
    assert_eq!(probe(UNDERLAY[1]), Finding::Cut);
    one.run(|| std::fs::write("/proc/sys/net/ipv4/conf/sarcenet-gso0/forwarding", "0").unwrap());
    assert_eq!(probe_for(UNDERLAY[1], Duration::from_secs(1)), Finding::Lost);

    // A datagram of each of the three, and super-packets of two.
    let batch = receive_until(&to, |batch| batch.len() >= 5);
    for index in 0..batch.len() {
        assert!(!is_tunnel_packet(&batch, index), "packet {index} of the probe is VXLAN");
    }
}

#[test]
fn a_tunnel_finds_out_by_itself() {
    let wait_for = |tunnel: &UdpTunnel, mode: &str| {
        let begun = Instant::now();
        while tunnel.mode() != mode {
            assert!(begun.elapsed() < PROBED, "{mode} from {}", tunnel.mode());
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    let [(one, from), (_other, to)] = cells(UplinkMode::Auto);
    assert_eq!(from.mode(), "udp gso gro");
    // No way at first; the probe goes on.
    one.ip("link set underlay down");
    let probing = Arc::clone(&from);
    one.run(move || probing.probe(UNDERLAY[1]));
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!(from.mode(), "udp gso gro");
    one.ip("link set underlay up");
    wait_for(&from, "tunnel-gso, udp gso gro");
    exchange(&from, &to, true);
    // Told otherwise.
    from.set_mode(UplinkMode::Udp).unwrap();
    assert_eq!(from.mode(), "udp gso gro");
    exchange(&from, &to, true);
}

/// `UDP_SEGMENT` without outer checksums is EINVAL (`udp_send_skb`, `net/ipv4/udp.c`): they stay on.
/// Here they are off, and what the kernel refuses leaves all the same.
#[test]
fn trains_that_are_refused_leave_as_datagrams() {
    let [(_one, from), (_other, to)] = cells(UplinkMode::Udp);
    for sender in &from.senders {
        let off =
            crate::link::sys::set_option(sender.as_fd(), libc::SOL_SOCKET, libc::SO_NO_CHECK, 1);
        off.unwrap();
    }
    let (mut batch, mut scratch, mut report) = (Batch::new(), Scratch::new(), Report::new());
    let mut packet = tcp_packet(&[9; 5000], 1);
    let offload = make_super(&mut packet, 1000);
    add(&mut batch, &packet, offload);
    for round in 1..=2 {
        assert_eq!(from.transmit(&batch, [0], &mut scratch, &mut report), 1);
        assert_eq!(from.mode(), "udp gro");
        let arrived = receive_all(&to, 5);
        assert!((0..5).all(|n| arrived.packet(n).len() == TUNNEL_HEADER_LEN + 52 + 1000));
        assert_eq!((from.counters().tx().0, from.counters().errors()), (round, 0));
    }
}

/// A super-packet that is too long for the TAP and for one train leaves as two trains.
#[test]
fn the_longest_super_packet_arrives() {
    for mode in [UplinkMode::TunnelGso, UplinkMode::Udp] {
        let [(_one, from), (_other, to)] = cells(mode);
        let (mut batch, mut scratch, mut report) = (Batch::new(), Scratch::new(), Report::new());
        let payload = 65_535 - 52;
        let mut packet = tcp_packet(&vec![9; payload], 1);
        let offload = make_super(&mut packet, 1398);
        add(&mut batch, &packet, offload);
        assert_eq!(from.transmit(&batch, [0], &mut scratch, &mut report), 1);
        let arrived = receive_all(&to, 2);
        let len = |n| arrived.packet(n).len() - TUNNEL_HEADER_LEN - 52;
        assert_eq!((0..arrived.len()).map(len).sum::<usize>(), payload, "{mode:?}");
    }
}
