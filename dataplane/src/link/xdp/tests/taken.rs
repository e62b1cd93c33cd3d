//! Packets to ports that were taken from the kernel.

use std::io::Write;
use std::net::{SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsRawFd;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket,
};

use super::*;
use crate::packet::{Checksum, Segmentation};
use crate::wire::checksum::sum;
use crate::wire::headers::pseudo_header_of;

const TAKEN: u16 = 61_001;

fn take(uplink: &XdpUplink) {
    let range = sarcenet_dataplane_api::PortRange { first: TAKEN, last: TAKEN };
    let ports = TakenPorts { tcp: vec![range], udp: vec![range] };
    uplink.set_taken_ports(&ports).unwrap();
}

/// Whether the transport checksum of a packet is right, or partial as it says.
fn is_right(packet: &[u8], checksum: Checksum) -> bool {
    let transport = packet.len() as u32 - 20;
    let pseudo = pseudo_header_of(packet, transport);
    match checksum {
        Checksum::Partial { start: 20, offset } => {
            let at = 20 + usize::from(offset);
            packet[at..at + 2] == pseudo.fold().to_be_bytes()
        }
        Checksum::Partial { .. } => false,
        _ => pseudo.add(&packet[20..]).fold() == 0xffff,
    }
}

#[test]
fn a_connection_to_a_taken_port_is_ours_and_others_are_not() {
    for mode in [AttachMode::Native, AttachMode::Generic] {
        let underlay = Underlay::new();
        let uplink = underlay.open(0, mode);
        take(&uplink);
        let listener = underlay.0[0].run(|| TcpListener::bind((CELLS[0], TAKEN)).unwrap());
        listener.set_nonblocking(true).unwrap();
        let other = underlay.0[0].run(|| TcpListener::bind((CELLS[0], TAKEN + 1)).unwrap());
        let kernels = underlay.0[1].run(|| TcpStream::connect((CELLS[0], TAKEN + 1)).unwrap());
        (&kernels).write_all(b"hello").unwrap();
        other.accept().unwrap();
        let address = (CELLS[0], TAKEN).into();
        let patience = Duration::from_millis(100);
        let refused =
            underlay.0[1].run(move || TcpStream::connect_timeout(&address, patience).is_err());
        assert!(refused, "somebody answered");
        let (mut batch, mut report) = (Batch::new(), Report::new());
        receive(&uplink, &mut batch, &mut report);
        nothing_dropped(report);
        let syn = batch.copy_out(0);
        assert_eq!(batch.packet(0).from, Via::Host);
        assert_eq!((syn[0], syn[9], &syn[16..20]), (0x45, 6, &CELLS[0].octets()[..]));
        assert_eq!(syn[22..24], TAKEN.to_be_bytes());
        assert_eq!(syn[33] & 0x12, 2, "SYN");
        assert_eq!(usize::from(u16::from_be_bytes([syn[2], syn[3]])), syn.len(), "padding");
        assert!(is_right(&syn, batch.packet(0).offload.checksum));
        assert!(listener.accept().is_err(), "the kernel had it too");
    }
}

/// Frames as they come from a wire: each with a checksum, put together like those of the tunnel.
#[test]
fn segments_are_put_together() {
    let underlay = Underlay::new();
    let uplink = underlay.open(0, AttachMode::Generic);
    take(&uplink);
    let frames: Vec<Vec<u8>> = (0..10_u32)
        .map(|n| {
            let mut packet = tcp_packet(&[n as u8; 1_000], 1 + n * 1_000);
            packet[12..16].copy_from_slice(&CELLS[1].octets());
            packet[16..20].copy_from_slice(&CELLS[0].octets());
            packet[22..24].copy_from_slice(&TAKEN.to_be_bytes());
            packet[10..12].fill(0);
            let check = sum(&packet[..20]).checksum();
            packet[10..12].copy_from_slice(&check.to_be_bytes());
            packet[36..38].fill(0);
            let len = packet.len() as u32 - 20;
            let check = pseudo_header_of(&packet, len).add(&packet[20..]).checksum();
            packet[36..38].copy_from_slice(&check.to_be_bytes());
            packet
        })
        .collect();
    let sent = frames.clone();
    underlay.0[1].run(move || {
        let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), SockProtocol::Raw)
            .unwrap();
        let to = SockaddrIn::from(SocketAddrV4::new(CELLS[0], TAKEN));
        for packet in &sent {
            sendto(raw.as_raw_fd(), packet, &to, MsgFlags::empty()).unwrap();
        }
    });
    let (mut batch, mut report) = (Batch::new(), Report::new());
    let mut scratch = Scratch::new();
    until("all arrive", || {
        uplink.receive(0, &mut batch, 64, &mut scratch, &mut report).unwrap();
        batch.packets().iter().map(|packet| packet.len().div_ceil(1_000)).sum::<usize>() >= 10
    });
    nothing_dropped(report);
    assert!(batch.len() < 10, "nothing was put together");
    let joined: Vec<u8> = (0..batch.len()).flat_map(|n| batch.copy_out(n)[52..].to_vec()).collect();
    let expected: Vec<u8> = frames.iter().flat_map(|frame| frame[52..].to_vec()).collect();
    assert!(joined == expected, "not what was sent");
    assert_eq!(batch.packet(0).offload.segmentation, Segmentation::Tcp { size: 1_000 });
}
