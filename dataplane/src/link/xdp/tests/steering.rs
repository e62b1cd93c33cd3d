//! Which packets leave the kernel.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;

use super::*;
use sarcenet_dataplane_api::PortRange;

const fn range(first: u16, last: u16) -> PortRange {
    PortRange { first, last }
}

/// `XDP_PASS` and `XDP_REDIRECT` of `linux/bpf.h`.
const PASS: u32 = 2;
const REDIRECT: u32 = 4;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// A frame to a port of the first cell.
fn frame(protocol: u8, port: u16) -> Vec<u8> {
    let mut frame = vec![0; 64];
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[14] = 0x45;
    frame[16..18].copy_from_slice(&50_u16.to_be_bytes());
    frame[22] = 64;
    frame[23] = protocol;
    frame[26..30].copy_from_slice(&CELLS[1].octets());
    frame[30..34].copy_from_slice(&CELLS[0].octets());
    frame[34..36].copy_from_slice(&40_000_u16.to_be_bytes());
    frame[36..38].copy_from_slice(&port.to_be_bytes());
    frame[38..40].copy_from_slice(&30_u16.to_be_bytes());
    frame
}

#[test]
fn only_what_is_ours_leaves_the_kernel() {
    let underlay = Underlay::new();
    let uplink = underlay.open(0, AttachMode::Generic);
    let judge = |frame: &[u8]| uplink.steering.judge(frame).unwrap();
    assert_eq!(judge(&frame(UDP, PORT)), REDIRECT);

    let changed = |changes: &[(usize, u8)]| {
        let mut frame = frame(UDP, PORT);
        for &(at, value) in changes {
            frame[at] = value;
        }
        frame
    };
    let kernels: [(&str, Vec<u8>); 14] = [
        ("SSH", frame(TCP, 22)),
        ("TCP to the tunnel's port", frame(TCP, PORT)),
        ("DNS", frame(UDP, 53)),
        ("a port whose bytes are swapped", frame(UDP, PORT.swap_bytes())),
        ("ICMP", frame(1, PORT)),
        ("another protocol", frame(47, PORT)),
        ("ARP", changed(&[(13, 6)])),
        ("IPv6", changed(&[(12, 0x86), (13, 0xdd)])),
        ("VLAN", changed(&[(12, 0x81), (13, 0)])),
        ("a first fragment", changed(&[(20, 0x20)])),
        ("a later fragment", changed(&[(20, 0x1f), (21, 0xff)])),
        ("IPv4 options", changed(&[(14, 0x46)])),
        ("another version", changed(&[(14, 0x65)])),
        ("another address", changed(&[(33, 99)])),
    ];
    for (what, frame) in kernels {
        assert_eq!(judge(&frame), PASS, "{what}");
    }
    // DF is no fragment.
    assert_eq!(judge(&changed(&[(20, 0x40)])), REDIRECT);
    // Shorter than its headers; the kernel tests no frame shorter than an Ethernet header.
    for len in 14..42 {
        assert_eq!(judge(&frame(UDP, PORT)[..len]), PASS, "{len} bytes");
    }
}

#[test]
fn ports_are_taken_and_given_back() {
    let underlay = Underlay::new();
    let uplink = underlay.open(0, AttachMode::Generic);
    let judge = |protocol, port| uplink.steering.judge(&frame(protocol, port)).unwrap();
    let none = TakenPorts::default();
    let mut taken = TakenPorts {
        tcp: vec![range(61_001, 61_130)],
        udp: vec![range(0, 0), range(65_535, 65_535)],
    };
    uplink.set_taken_ports(&taken).unwrap();
    for (protocol, port, expected) in [
        (TCP, 61_000, PASS),
        (TCP, 61_001, REDIRECT),
        (TCP, 61_064, REDIRECT),
        (TCP, 61_130, REDIRECT),
        (TCP, 61_131, PASS),
        (UDP, 61_064, PASS),
        (UDP, 0, REDIRECT),
        (TCP, 0, PASS),
        (UDP, 65_535, REDIRECT),
        (TCP, 65_535, PASS),
        (UDP, 1, PASS),
    ] {
        assert_eq!(judge(protocol, port), expected, "protocol {protocol}, port {port}");
    }
    taken.tcp = vec![range(61_065, 61_130), range(61_001, 61_063)];
    uplink.set_taken_ports(&taken).unwrap();
    assert_eq!(judge(TCP, 61_064), PASS);
    assert_eq!(judge(TCP, 61_063), REDIRECT);
    assert_eq!(judge(TCP, 61_065), REDIRECT);
    uplink.set_taken_ports(&TakenPorts { udp: vec![range(0, 65_535)], ..none.clone() }).unwrap();
    assert_eq!((judge(UDP, 53), judge(TCP, 61_065)), (REDIRECT, PASS));
    uplink.set_taken_ports(&none).unwrap();
    assert_eq!(judge(UDP, 0), PASS);
    assert_eq!(judge(UDP, PORT), REDIRECT);
}

/// Only the kernel knows how super-packets of UDP are to be cut.
#[test]
fn super_packets_of_udp_stay_with_the_kernel() {
    let underlay = Underlay::new();
    let uplink = underlay.open(0, AttachMode::Generic);
    uplink
        .set_taken_ports(&TakenPorts { tcp: vec![range(80, 80)], udp: vec![range(443, 443)] })
        .unwrap();
    let judge = |frame: &[u8]| uplink.steering.judge(frame).unwrap();
    let plain = |protocol, port, len: u16| {
        let mut frame = frame(protocol, port);
        frame[16..18].copy_from_slice(&len.to_be_bytes());
        frame
    };
    assert_eq!(judge(&plain(UDP, 443, MTU + 50)), REDIRECT);
    assert_eq!(judge(&plain(UDP, 443, MTU + 51)), PASS);
    assert_eq!(judge(&plain(TCP, 80, 65_000)), REDIRECT, "the MTU says how TCP is cut");
    let tunnel = |protocol, len: u16| {
        let mut inner = udp_packet(b"payload");
        inner[9] = protocol;
        inner[2..4].copy_from_slice(&len.to_be_bytes());
        [&frame(UDP, PORT)[..42], &datagram(&inner)].concat()
    };
    assert_eq!(judge(&tunnel(UDP, MTU)), REDIRECT);
    assert_eq!(judge(&tunnel(UDP, MTU + 1)), PASS);
    assert_eq!(judge(&tunnel(TCP, MTU + 1)), REDIRECT);
    assert_eq!(judge(&tunnel(UDP, MTU + 1)[..83]), REDIRECT, "cut off: nothing to look at");
    uplink.set_mtu(MTU + 1).unwrap();
    assert_eq!(judge(&tunnel(UDP, MTU + 1)), REDIRECT);
}

/// The host's own traffic is what it was, in both modes, and what is ours reaches us.
#[test]
fn the_kernels_traffic_stays_the_kernels() {
    for mode in [AttachMode::Native, AttachMode::Generic] {
        let underlay = Underlay::new();
        let uplink = underlay.open(0, mode);
        let shown = shown(&underlay);
        assert!(shown.contains("xdp"), "not attached: {shown}");

        let listener = underlay.0[0].run(|| TcpListener::bind((CELLS[0], 22)).unwrap());
        let client = underlay.0[1].run(|| TcpStream::connect((CELLS[0], 22)).unwrap());
        let (mut server, _) = listener.accept().unwrap();
        (&client).write_all(b"SSH-2.0-test").unwrap();
        let mut said = [0; 12];
        server.read_exact(&mut said).unwrap();
        assert_eq!(&said, b"SSH-2.0-test");

        let (dns, taken) = (underlay.socket(0, 53), underlay.socket(0, 8053));
        let peer = underlay.socket(1, 0);
        peer.send_to(b"query", (CELLS[0], 53)).unwrap();
        let mut buffer = [0; 4000];
        assert_eq!(dns.recv(&mut buffer).unwrap(), 5);

        // Ours. What is larger than the MTU comes in fragments, which the kernel puts together.
        for payload in [&b"hello"[..], &[7; 3000]] {
            peer.send_to(&datagram(&udp_packet(payload)), (CELLS[0], PORT)).unwrap();
            let (mut batch, mut report) = (Batch::new(), Report::new());
            receive(&uplink, &mut batch, &mut report);
            assert_eq!((batch.len(), batch.packet(0).from), (1, Via::Tunnel(CELLS[1])));
            assert!(batch.copy_out(0) == datagram(&udp_packet(payload)), "not what was sent");
            nothing_dropped(report);
        }
        let whole = uplink.kernel().counters().rx();
        assert_eq!(whole, (0, 0), "counted twice");
        uplink.set_taken_ports(&TakenPorts { udp: vec![range(8053, 8053)], tcp: vec![] }).unwrap();
        peer.send_to(b"mapped", (CELLS[0], 8053)).unwrap();
        let (mut batch, mut report) = (Batch::new(), Report::new());
        receive(&uplink, &mut batch, &mut report);
        assert_eq!((batch.len(), batch.packet(0).from), (1, Via::Host));
        taken.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        assert!(taken.recv(&mut buffer).is_err(), "the kernel had it too");

        // With us gone everything is the kernel's.
        drop(uplink);
        let shown = self::shown(&underlay);
        assert!(!shown.contains("xdp"), "still attached: {shown}");
        peer.send_to(b"tunnel", (CELLS[0], PORT)).unwrap();
        let (mut batch, mut scratch, mut report) = (Batch::new(), Scratch::new(), Report::new());
        until("it arrives at the kernel's socket", || {
            underlay.kernel(0).receive(&mut batch, 64, &mut scratch, &mut report).packets == 1
        });
        assert_eq!(batch.copy_out(0), b"tunnel");
        peer.send_to(b"mapped", (CELLS[0], 8053)).unwrap();
        taken.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(taken.recv(&mut buffer).unwrap(), 6);
    }
}

fn shown(underlay: &Underlay) -> String {
    let output = underlay.0[0].run(|| Command::new("ip").args(["link", "show", "up0"]).output());
    String::from_utf8(output.unwrap().stdout).unwrap()
}
