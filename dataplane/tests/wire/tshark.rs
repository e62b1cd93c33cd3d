//! What we say, read by somebody else: frames from our encoder, decoded by tshark.

use std::net::Ipv4Addr;
use std::process::Command;

use sarcenet_dataplane::wire::checksum;
use sarcenet_dataplane::wire::headers::pseudo_header_of;
use sarcenet_dataplane::wire::tunnel::{TUNNEL_HEADER_LEN, TunnelTemplate, vtep_mac};
use sarcenet_dataplane::wire::vxlan;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, IpProtocol, Ipv4Packet,
    Ipv4Repr, TcpPacket, UdpPacket,
};

use crate::pcap;

const CELL1: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 11);
const CELL2: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 12);
const SUBNET1: Ipv4Addr = Ipv4Addr::new(10, 255, 55, 0);
const SUBNET2: Ipv4Addr = Ipv4Addr::new(10, 255, 62, 0);
const APP1: Ipv4Addr = Ipv4Addr::new(10, 255, 55, 2);
const APP2: Ipv4Addr = Ipv4Addr::new(10, 255, 62, 3);

/// Bytes of an IPv4 and a TCP or UDP header without options.
const IPV4: usize = 20;
const TCP: usize = 20;
const UDP: usize = 8;

/// One frame to be made, and what must be read in it.
struct Case {
    vni: u32,
    group: u16,
    port: u16,
    payload: usize,
    /// Whether the outer UDP checksum is filled in.
    outer_checksum: bool,
    /// Set D and A in the header, which the tunnel's template never does.
    policy_flags: bool,
    flags: &'static str,
}

const PLAIN: Case = Case {
    vni: 1,
    group: 1,
    port: 8080,
    payload: 0,
    outer_checksum: false,
    policy_flags: false,
    flags: "0x8800",
};

const CASES: &[Case] = &[
    PLAIN,
    Case { group: 0, flags: "0x0800", ..PLAIN },
    Case { group: 0xffff, port: 65_535, ..PLAIN },
    Case { vni: vxlan::MAX_VNI, payload: 1, ..PLAIN },
    Case { vni: 0, payload: 1_410, outer_checksum: true, ..PLAIN },
    Case { group: 0x1234, payload: 333, outer_checksum: true, ..PLAIN },
    Case { group: 7, policy_flags: true, flags: "0x8848", ..PLAIN },
];

impl Case {
    /// The fields of [`FIELDS`].
    fn row(&self) -> String {
        // Statuses: 1 is a good checksum; the outer UDP one may be absent, which is 3.
        let outer = if self.outer_checksum { 1 } else { 3 };
        format!(
            "{CELL1},{APP1}\t{CELL2},{APP2}\t4789\t{}\t{}\t{}\t\
             02:00:00:00:00:01,ee:ee:0a:ff:37:00\t02:00:00:00:00:02,ee:ee:0a:ff:3e:00\t\
             {}\t{}\t1,1\t{outer}\t1",
            self.flags, self.group, self.vni, self.port, self.payload
        )
    }

    fn frame(&self) -> Vec<u8> {
        let inner = ipv4(APP1, APP2, IpProtocol::Tcp, &self.segment());
        let mut datagram = vec![0; UDP + TUNNEL_HEADER_LEN];
        datagram.extend(&inner);
        let len = datagram.len() as u16;
        let mut udp = UdpPacket::new_unchecked(&mut datagram[..]);
        udp.set_src_port(51_890);
        udp.set_dst_port(vxlan::PORT);
        udp.set_len(len);
        let headers = udp.payload_mut();
        TunnelTemplate::new(self.vni, vtep_mac(SUBNET1), vtep_mac(SUBNET2))
            .write(self.group, headers);
        if self.policy_flags {
            let repr = vxlan::Repr {
                vni: self.vni,
                group: Some(self.group),
                dont_learn: true,
                policy_applied: true,
            };
            repr.emit(&mut vxlan::Packet::new_unchecked(headers));
        }
        let mut outer = ipv4(CELL1, CELL2, IpProtocol::Udp, &datagram);
        if self.outer_checksum {
            let (header, datagram) = outer.split_at_mut(IPV4);
            let sum = pseudo_header_of(header, u32::from(len)).add(datagram);
            UdpPacket::new_unchecked(datagram).set_checksum(sum.udp_checksum());
        }
        let ethernet = EthernetRepr {
            src_addr: EthernetAddress([2, 0, 0, 0, 0, 1]),
            dst_addr: EthernetAddress([2, 0, 0, 0, 0, 2]),
            ethertype: EthernetProtocol::Ipv4,
        };
        let mut frame = vec![0; ethernet.buffer_len()];
        ethernet.emit(&mut EthernetFrame::new_unchecked(&mut frame[..]));
        frame.extend(outer);
        frame
    }

    /// A TCP segment of the inner connection, its checksum by our own sum over two pieces.
    fn segment(&self) -> Vec<u8> {
        let mut segment = vec![0; TCP];
        segment.extend((0..self.payload).map(|i| i as u8));
        let mut tcp = TcpPacket::new_unchecked(&mut segment[..]);
        tcp.set_src_port(43_150);
        tcp.set_dst_port(self.port);
        tcp.set_header_len(TCP as u8);
        tcp.set_ack(true);
        tcp.set_window_len(512);
        let (header, payload) = segment.split_at(TCP);
        let len = segment.len() as u32;
        let check = checksum::pseudo_header(APP1, APP2, IpProtocol::Tcp.into(), len)
            .add(header)
            .add(payload)
            .checksum();
        TcpPacket::new_unchecked(&mut segment[..]).set_checksum(check);
        segment
    }
}

fn ipv4(source: Ipv4Addr, destination: Ipv4Addr, protocol: IpProtocol, payload: &[u8]) -> Vec<u8> {
    let repr = Ipv4Repr {
        src_addr: source,
        dst_addr: destination,
        next_header: protocol,
        payload_len: payload.len(),
        hop_limit: 64,
    };
    let mut packet = vec![0; IPV4];
    packet.extend(payload);
    let mut lens = Ipv4Packet::new_unchecked(&mut packet[..]);
    repr.emit(&mut lens, &ChecksumCapabilities::ignored());
    lens.set_checksum(0);
    let check = checksum::sum(&packet[..IPV4]).checksum();
    Ipv4Packet::new_unchecked(&mut packet[..]).set_checksum(check);
    packet
}

/// What tshark is asked for, in the order of [`Case::row`].
const FIELDS: &[&str] = &[
    "ip.src",
    "ip.dst",
    "udp.dstport",
    "vxlan.flags",
    "vxlan.gbp",
    "vxlan.vni",
    "eth.src",
    "eth.dst",
    "tcp.dstport",
    "tcp.len",
    "ip.checksum.status",
    "udp.checksum.status",
    "tcp.checksum.status",
];

/// Runs tshark over a file of frames and returns its lines.
fn tshark(frames: &[Vec<u8>]) -> Vec<String> {
    let file = tempfile::Builder::new().suffix(".pcap").tempfile().expect("a temporary file");
    std::fs::write(file.path(), pcap::write(frames)).expect("room for a small file");
    let mut command = Command::new("tshark");
    command.arg("-n").arg("-r").arg(file.path()).args(["-T", "fields"]);
    for protocol in ["ip", "udp", "tcp"] {
        command.args(["-o", &format!("{protocol}.check_checksum:TRUE")]);
    }
    for field in FIELDS {
        command.args(["-e", field]);
    }
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => panic!("cannot run tshark ({error}); install it with `make deps`"),
    };
    let (out, err) = (String::from_utf8(output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "tshark failed: {err}");
    out.expect("tshark prints UTF-8").lines().map(str::to_owned).collect()
}

#[test]
fn tshark_reads_what_we_wrote() {
    let frames: Vec<_> = CASES.iter().map(Case::frame).collect();
    let wanted: Vec<_> = CASES.iter().map(Case::row).collect();
    assert_eq!(tshark(&frames), wanted);
}
