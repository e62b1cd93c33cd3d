//! What goes wrong, is counted, and does no harm.

use std::process::Command;

use super::*;
use crate::link::testing::make_super;
use crate::link::xdp::open::ring_len;
use crate::packet::Checksum;

#[test]
fn an_interface_has_one_uplink_and_the_next_waits_for_it() {
    let underlay = Underlay::new();
    let first = underlay.open(0, AttachMode::Native);
    assert_eq!(first.mode(), "xdp native copy 1 queue");
    let error = underlay.try_open(0, AttachMode::Native).err().expect("a second uplink");
    let text = error.to_string();
    assert!(text.contains("up0") && text.contains("another XDP program"), "{text}");
    // One that is just ending.
    let ending = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        drop(first);
    });
    let second = underlay.open(0, AttachMode::Generic);
    ending.join().unwrap();
    assert_eq!(second.mode(), "xdp generic copy 1 queue");
    for _ in 0..3 {
        drop(underlay.open(1, AttachMode::Native));
    }
}

#[test]
fn errors_say_what_to_do() {
    let underlay = Underlay::new();
    let nobody = Ipv4Addr::new(10, 77, 0, 99);
    underlay.0[0].ip(&format!("addr add {nobody}/24 dev up0"));
    let error = underlay.0[0].run(move || {
        let kernel = UdpTunnel::bind(nobody, PORT, MTU).unwrap();
        let line = format!("addr del {nobody}/24 dev up0");
        let removed = Command::new("ip").args(line.split(' ')).status().unwrap();
        assert!(removed.success());
        XdpUplink::open(Arc::new(kernel), MTU, Demand::Best, TUNING).err()
    });
    let text = error.expect("an address that no interface has").to_string();
    assert!(text.contains("10.77.0.99"), "{text}");
    // Capabilities are a thread's own, so a thread of its own can lose them.
    let kernel = underlay.kernel(0);
    let error = underlay.0[0].run(move || {
        let all = caps::read(None, caps::CapSet::Effective).unwrap();
        caps::clear(None, caps::CapSet::Effective).unwrap();
        let error = XdpUplink::open(kernel, MTU, Demand::Best, TUNING).err();
        caps::set(None, caps::CapSet::Effective, &all).unwrap();
        error
    });
    let text = error.expect("no capability at all").to_string();
    assert!(text.contains("CAP_BPF"), "{text}");
}

/// A veth has no zero-copy, and keeps its segmentation offload when that is all that is asked for.
#[test]
fn demands_that_a_veth_meets_and_does_not_meet() {
    let underlay = Underlay::new();
    let open = |demand| underlay.open_with(0, demand, TUNING);
    let error = open(Demand::ZeroCopy).err().expect("zero-copy on a veth");
    assert!(matches!(error, XdpError::NoZeroCopy { .. }), "{error}");
    assert!(error.to_string().contains("driver veth"), "{error}");
    let uplink = open(Demand::Best).unwrap();
    assert_eq!(
        (uplink.mode().as_str(), uplink.is_zero_copy()),
        ("xdp generic copy 1 queue", false)
    );
}

#[test]
fn peers_that_are_gone_are_forgotten() {
    let underlay = Underlay::new();
    let uplink = underlay.open(0, AttachMode::Generic);
    let known = || {
        let guard = crossbeam_epoch::pin();
        let ways = uplink.neighbours.ways(&guard);
        ways.map(|ways| ways.keys().copied().collect::<Vec<_>>()).unwrap_or_default()
    };
    let other = Ipv4Addr::new(10, 77, 0, 99);
    uplink.follow([CELLS[1], other]);
    until("both are looked for", || known().len() == 2);
    uplink.follow([CELLS[1]]);
    until("one is forgotten", || known() == [CELLS[1]]);
    uplink.wait_for_ways(PATIENCE);
    assert!(uplink.neighbours.all_known());
    uplink.follow([]);
    until("the other one too", || known().is_empty());
}

#[test]
fn a_peer_that_does_not_answer() {
    let underlay = Underlay::new();
    let uplink = underlay.open(0, AttachMode::Native);
    let nobody = Ipv4Addr::new(10, 77, 0, 99);
    let elsewhere = Ipv4Addr::new(127, 0, 0, 2);
    let nowhere = Ipv4Addr::new(192, 0, 2, 1);
    let mut batch = Batch::new();
    for peer in [nobody, elsewhere, nowhere] {
        push(&mut batch, &datagram(&udp_packet(b"x")), Offload::default(), peer);
    }
    for _ in 0..2 {
        let (sent, report) = send(&uplink, &batch);
        assert_eq!((sent, report.count(DropReason::NextHopUnknown)), (0, 3));
        until("the routes were looked at", || {
            let guard = crossbeam_epoch::pin();
            uplink.neighbours.ways(&guard).is_some_and(|ways| ways.len() == 3)
        });
    }
}

/// A gateway, its MAC, and the interface's own MAC change.
#[test]
fn changes_are_followed() {
    let underlay = Underlay::new();
    let uplink = underlay.open(0, AttachMode::Native);
    let far = Ipv4Addr::new(10, 99, 0, 1);
    let way = |peer| {
        let guard = crossbeam_epoch::pin();
        uplink.neighbours.way(uplink.neighbours.ways(&guard), peer)
    };
    let is = |source: [u8; 6], destination: [u8; 6]| move |way: Way| matches!(way, Way::Known(hop) if hop.source == source && hop.destination == destination);
    underlay.0[0].ip("link set up0 address 02:00:00:00:00:01");
    underlay.0[1].ip("link set up0 address 02:00:00:00:00:02");
    uplink.follow([far]);
    until("it is known that there is no route", || {
        let guard = crossbeam_epoch::pin();
        uplink.neighbours.ways(&guard).is_some_and(|ways| ways.contains_key(&far))
    });
    underlay.0[0].ip("route add 10.99.0.0/24 via 10.77.0.12");
    let expected = is([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    until("the gateway is known", || expected(way(far)));
    underlay.0[0].ip("neigh replace 10.77.0.12 lladdr 02:00:00:00:00:03 dev up0 nud permanent");
    let expected = is([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 3]);
    until("its new MAC is known", || expected(way(far)));
    underlay.0[0].ip("link set up0 address 02:00:00:00:00:04");
    // With it the kernel forgets all neighbours; this one is asked again.
    let expected = is([2, 0, 0, 0, 0, 4], [2, 0, 0, 0, 0, 2]);
    until("our new MAC is known", || expected(way(far)));
    underlay.0[0].ip("route replace 10.99.0.0/24 dev lo");
    until("the route leads away", || way(far) == Way::Elsewhere);
    underlay.0[0].ip("link set up0 mtu 1400");
    until("the MTU is known", || uplink.neighbours.device_mtu() == 1400);
}

#[test]
fn a_packet_that_the_card_cannot_carry() {
    let underlay = Underlay::new();
    let uplink = underlay.open(0, AttachMode::Native);
    resolve(&uplink, CELLS[1]);
    let mut batch = Batch::new();
    push(&mut batch, &datagram(&udp_packet(&[1; 1450])), Offload::default(), CELLS[1]);
    // Too short for the offload that it claims.
    let partial = Checksum::Partial { start: 20, offset: 16 };
    let offload = Offload { checksum: partial, ..Offload::default() };
    push(&mut batch, &datagram(&udp_packet(b""))[..30], offload, CELLS[1]);
    push(&mut batch, &datagram(&udp_packet(b"fits")), Offload::default(), CELLS[1]);
    let (sent, report) = send(&uplink, &batch);
    assert_eq!((sent, report.count(DropReason::LinkError)), (1, 2));
    assert_eq!(uplink.counters().errors(), 2);
}

/// A ring that the kernel does not empty: the interface is down.
#[test]
fn a_full_ring_is_counted_and_recovers() {
    let underlay = Underlay::new();
    let uplink = underlay.open(0, AttachMode::Native);
    let peer = underlay.socket(1, PORT);
    resolve(&uplink, CELLS[1]);
    // Else it would be known soon that a peer behind an interface that is down cannot be reached.
    uplink.neighbours.freeze();
    underlay.0[0].ip("link set up0 down");
    let segments = 40;
    let fit = ring_len(1) / segments;
    let mut inner = tcp_packet(&vec![1; 1_000 * segments as usize], 1);
    let offload = make_super(&mut inner, 1_000);
    let mut batch = Batch::new();
    for _ in 0..fit + 2 {
        push(&mut batch, &datagram(&inner), offload, CELLS[1]);
    }
    let (sent, report) = send(&uplink, &batch);
    assert_eq!((sent as u32, report.count(DropReason::LinkFull)), (fit, 2));
    assert!(uplink.counters().errors() > 0, "the interface is down, and nobody said so");
    underlay.0[0].ip("link set up0 up");
    peer.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut batch = Batch::new();
    push(&mut batch, &datagram(&udp_packet(b"after")), Offload::default(), CELLS[1]);
    let mut buffer = [0; 2_000];
    // The interface needs a moment until it carries again. What waited goes first.
    until("packets flow again", || {
        send(&uplink, &batch).0 == 1
            && std::iter::from_fn(|| peer.recv(&mut buffer).ok()).any(|len| len == 22 + 28 + 5)
    });
}

/// The capabilities that the process keeps are enough.
#[test]
fn no_other_rights_are_needed() {
    let underlay = Underlay::new();
    let kernel = underlay.kernel(0);
    let uplink = underlay.0[0].run(move || {
        let kept = crate::process::drop_privileges().unwrap();
        assert!(kept.len() <= 4, "{kept:?}");
        XdpUplink::open(kernel, MTU, Demand::Attached(AttachMode::Native), TUNING).unwrap()
    });
    resolve(&uplink, CELLS[1]);
}

/// Nobody receives for a while: the kernel runs out of frames, says so, and goes on.
#[test]
fn a_full_receive_ring_is_counted_and_recovers() {
    let underlay = Underlay::new();
    let uplink = underlay.open(0, AttachMode::Native);
    let peer = underlay.socket(1, 0);
    let bytes = datagram(&udp_packet(b"hello"));
    let frames = 3 * ring_len(1) as usize;
    for _ in 0..frames {
        peer.send_to(&bytes, (CELLS[0], PORT)).unwrap();
    }
    let (mut packets, mut lost) = (0, 0);
    until("all is received, and what was lost is counted", || {
        let (now, mut report) = receive_now(&uplink);
        report.take(|reason, n| {
            assert_eq!(reason, DropReason::NoBuffer);
            lost += n;
        });
        packets += now;
        now == 0 && lost > 0
    });
    assert!(packets > 0);
    peer.send_to(&bytes, (CELLS[0], PORT)).unwrap();
    let (mut batch, mut report) = (Batch::new(), Report::new());
    receive(&uplink, &mut batch, &mut report);
    assert_eq!(batch.copy_out(0), bytes);
}

#[test]
fn an_interface_that_is_removed() {
    let underlay = Underlay::new();
    let uplink = underlay.open(0, AttachMode::Native);
    resolve(&uplink, CELLS[1]);
    assert_eq!(receive_now(&uplink).0, 0);
    underlay.0[0].ip("link del up0");
    gone(&uplink);
}

#[test]
fn a_namespace_that_is_destroyed() {
    let underlay = Underlay::new();
    let uplink = underlay.open(0, AttachMode::Native);
    resolve(&uplink, CELLS[1]);
    // The veth's other end ends with its namespace, and takes ours with it.
    let Underlay([here, there], _) = underlay;
    drop(there);
    gone(&uplink);
    drop(here);
}

fn gone(uplink: &XdpUplink) {
    let (mut batch, mut scratch, mut report) = (Batch::new(), Scratch::new(), Report::new());
    until("it is known to be gone", || {
        uplink.receive(0, &mut batch, 64, &mut scratch, &mut report).is_err()
    });
    // And stays so.
    assert!(uplink.receive(0, &mut batch, 64, &mut scratch, &mut report).is_err());
    assert_eq!(uplink.mode(), "xdp gone");
    push(&mut batch, &datagram(&udp_packet(b"x")), Offload::default(), CELLS[1]);
    let (sent, report) = send(uplink, &batch);
    assert_eq!((sent, report.count(DropReason::LinkGone)), (0, 1));
}
