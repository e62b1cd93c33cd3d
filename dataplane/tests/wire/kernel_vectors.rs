//! What cells of the kernel stack say to each other, read field for field.

use sarcenet_dataplane::wire::checksum;
use sarcenet_dataplane::wire::headers::{self, pseudo_header_of, tcp_header_len};
use sarcenet_dataplane::wire::tunnel::{TUNNEL_HEADER_LEN, TunnelTemplate, vtep_mac};
use sarcenet_dataplane::wire::vxlan;
use smoltcp::wire::{EthernetFrame, EthernetProtocol, Ipv4Packet, TcpPacket, UdpPacket};
use std::net::Ipv4Addr;

use crate::pcap;

static RECORDING: &[u8] = include_bytes!("../vectors/kernel-vxlan-gbp.pcap");

/// tshark's reading of the recording: a line of field names, then one line for each frame.
static READING: &str = include_str!("../vectors/kernel-vxlan-gbp.txt");

/// One frame of the recording with its layers taken apart.
struct Frame<'a> {
    outer: Ipv4Packet<&'a [u8]>,
    udp: UdpPacket<&'a [u8]>,
    vxlan: vxlan::Repr,
    /// Both headers before the inner packet.
    tunnel: &'a [u8],
    ethernet: EthernetFrame<&'a [u8]>,
    inner: Ipv4Packet<&'a [u8]>,
    tcp: TcpPacket<&'a [u8]>,
}

impl<'a> Frame<'a> {
    fn read(bytes: &'a [u8]) -> Self {
        let outer = EthernetFrame::new_checked(bytes).expect("an outer frame");
        assert_eq!(outer.ethertype(), EthernetProtocol::Ipv4);
        let outer = Ipv4Packet::new_checked(outer.payload()).expect("an outer IPv4 packet");
        let udp = UdpPacket::new_checked(outer.payload()).expect("a UDP packet");
        let packet = vxlan::Packet::new_checked(udp.payload()).expect("a VXLAN packet");
        let vxlan = vxlan::Repr::parse(&packet).expect("flags of a cell");
        let ethernet = EthernetFrame::new_checked(packet.payload()).expect("an inner frame");
        let inner = Ipv4Packet::new_checked(ethernet.payload()).expect("an inner IPv4 packet");
        let tcp = TcpPacket::new_checked(inner.payload()).expect("a TCP packet");
        let tunnel = &udp.payload()[..TUNNEL_HEADER_LEN];
        Self { outer, udp, vxlan, tunnel, ethernet, inner, tcp }
    }

    /// The fields that the reading lists, in its order and form.
    fn row(&self) -> String {
        let packet = vxlan::Packet::new_checked(self.tunnel).expect("as above");
        [
            format!("{},{}", self.outer.src_addr(), self.inner.src_addr()),
            format!("{},{}", self.outer.dst_addr(), self.inner.dst_addr()),
            self.udp.src_port().to_string(),
            self.udp.dst_port().to_string(),
            format!("{:#06x}", packet.flags()),
            self.vxlan.group.unwrap_or(0).to_string(),
            self.vxlan.vni.to_string(),
            self.tcp.dst_port().to_string(),
            format!("{:#06x}", self.udp.checksum()),
        ]
        .join("\t")
    }
}

fn frames() -> Vec<Frame<'static>> {
    pcap::read(RECORDING).into_iter().map(Frame::read).collect()
}

/// Base address of the /24 that an address lies in, as all cells of the recording have.
fn subnet(address: Ipv4Addr) -> Ipv4Addr {
    let [a, b, c, _] = address.octets();
    Ipv4Addr::new(a, b, c, 0)
}

#[test]
fn every_field_as_tshark_reads_it() {
    let mut lines = READING.lines();
    assert_eq!(
        lines.next(),
        Some(
            "ip.src\tip.dst\tudp.srcport\tudp.dstport\tvxlan.flags\tvxlan.gbp\tvxlan.vni\t\
             tcp.dstport\tudp.checksum"
        )
    );
    let rows: Vec<_> = frames().iter().map(Frame::row).collect();
    assert_eq!(rows, lines.collect::<Vec<_>>());
    assert_eq!(rows.len(), 12);
}

#[test]
fn requests_carry_a_tag_and_replies_do_not() {
    for frame in frames() {
        let request = frame.tcp.dst_port() == 8080;
        let wanted = vxlan::Repr {
            vni: 1,
            group: request.then_some(1),
            dont_learn: false,
            policy_applied: false,
        };
        assert_eq!(frame.vxlan, wanted);
    }
}

#[test]
fn our_template_writes_the_same_bytes() {
    for frame in frames() {
        let source = vtep_mac(subnet(frame.inner.src_addr()));
        let destination = vtep_mac(subnet(frame.inner.dst_addr()));
        assert_eq!(frame.ethernet.src_addr().0, source);
        assert_eq!(frame.ethernet.dst_addr().0, destination);
        let mut ours = [0xa5; TUNNEL_HEADER_LEN];
        TunnelTemplate::new(1, source, destination)
            .write(frame.vxlan.group.unwrap_or(0), &mut ours);
        assert_eq!(ours, frame.tunnel);
    }
}

/// The inner checksum is partial in the recording and the outer one is that of the finished
/// packet: finishing the inner one by hand must make the outer one right.
#[test]
fn checksums_are_the_kernels() {
    for frame in frames() {
        let outer_header = &frame.outer.as_ref()[..usize::from(frame.outer.header_len())];
        assert!(headers::ipv4_checksum_ok(outer_header));
        let inner_len = headers::ipv4_header_len(frame.inner.as_ref()).expect("checked before");
        let (inner_header, segment) = frame.inner.as_ref().split_at(inner_len);
        assert!(headers::ipv4_checksum_ok(inner_header));

        let partial = pseudo_header_of(inner_header, segment.len() as u32).fold();
        assert_eq!(frame.tcp.checksum(), partial);
        assert_eq!(tcp_header_len(segment), Ok(usize::from(frame.tcp.header_len())));
        let mut datagram = frame.udp.as_ref()[..usize::from(frame.udp.len())].to_vec();
        let start = datagram.len() - segment.len();
        let finished = checksum::sum(segment).checksum();
        datagram[start + 16..][..2].copy_from_slice(&finished.to_be_bytes());

        let outer = pseudo_header_of(outer_header, datagram.len() as u32);
        assert_eq!(outer.add(&datagram).fold(), 0xffff);
        assert!(
            TcpPacket::new_unchecked(&datagram[start..])
                .verify_checksum(&frame.inner.src_addr().into(), &frame.inner.dst_addr().into())
        );
    }
}
