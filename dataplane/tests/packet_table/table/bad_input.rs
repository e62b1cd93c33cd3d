//! Bytes that are no packets, packets that contradict themselves.

use sarcenet_dataplane::packet::{Checksum, Segmentation};
use sarcenet_dataplane_api::DropReason::{BadHeaderChecksum, BadOffload, Malformed, NotIpv4};
use smoltcp::wire::Ipv4Packet;

use super::PipelineOnly::KernelIntervenes;
use super::packet::{ACK, SYN, ping, tcp, udp};
use super::world::{A, B, REMOTE_A, tcp_rule, udp_rule};
use super::{PORT_UNREACHABLE, Row, row};

/// Changes a header byte and makes the header's checksum right again.
fn forge(bytes: &mut [u8], at: usize, value: u8) {
    bytes[at] = value;
    Ipv4Packet::new_unchecked(bytes).fill_checksum();
}

pub(super) fn rows() -> Vec<Row> {
    let syn = || tcp(A, B, 8080, SYN);
    let from_tunnel = || tcp(REMOTE_A, B, 8080, SYN);
    vec![
        row("nothing at all")
            .pipeline_only(KernelIntervenes)
            .drops(syn().damaged(Vec::clear), Malformed),
        row("less than an IPv4 header").drops(syn().damaged(|b| b.truncate(19)), Malformed),
        row("less than the header says")
            .drops(syn().damaged(|b| b.truncate(39)), Malformed)
            .drops(from_tunnel().damaged(|b| b.truncate(39)), Malformed)
            .drops(from_tunnel().damaged(Vec::clear), Malformed),
        row("IPv6, and no version at all")
            .drops(syn().damaged(|b| b[0] = 0x60), NotIpv4)
            .drops(syn().damaged(|b| b[0] = 0x00), NotIpv4),
        row("a header shorter than a header can be")
            .drops(syn().damaged(|b| b[0] = 0x44), Malformed),
        row("a header longer than the packet").drops(syn().damaged(|b| b[0] = 0x4f), Malformed),
        row("a total length shorter than the header")
            .drops(syn().damaged(|b| b[3] = 19), Malformed),
        row("a wrong header checksum")
            .drops(syn().damaged(|b| b[10] ^= 1), BadHeaderChecksum)
            .drops(from_tunnel().damaged(|b| b[8] ^= 1), BadHeaderChecksum),
        row("padding behind the packet is cut off")
            .allow(tcp_rule(A, B, 8080))
            .passes(syn().damaged(|b| b.extend_from_slice(&[0; 6])), A, B)
            .passes(from_tunnel().damaged(|b| b.extend_from_slice(&[0; 6])), REMOTE_A, B),
        row("header options are carried")
            .allow(tcp_rule(A, B, 8080))
            .passes(syn().with(|p| p.options = vec![1; 8]), A, B)
            .passes(from_tunnel().with(|p| p.options = [7, 39, 4, 0].repeat(10)), REMOTE_A, B),
        row("a TCP header longer than its packet, or too short")
            .drops(syn().damaged(|b| b[32] = 0xf0), Malformed)
            .drops(syn().damaged(|b| b[32] = 0x40), Malformed),
        row("TCP without a whole header").drops(
            syn().damaged(|b| {
                b.truncate(39);
                forge(b, 3, 39);
            }),
            Malformed,
        ),
        row("UDP whose length contradicts the packet's")
            .drops(udp(A, B, 53).damaged(|b| b[25] = 7), Malformed)
            .drops(udp(A, B, 53).damaged(|b| b[24] = 1), Malformed),
        row("ICMP without a whole header").drops(
            ping(A, B).damaged(|b| {
                b.truncate(27);
                forge(b, 3, 27);
            }),
            Malformed,
        ),
        row("a partial checksum elsewhere than in the transport header")
            .pipeline_only(KernelIntervenes)
            .allow(tcp_rule(A, B, 8080))
            .drops(
                syn().with(|p| p.offload.checksum = Checksum::Partial { start: 0, offset: 10 }),
                BadOffload,
            )
            .drops(
                syn().with(|p| {
                    p.offload.checksum = Checksum::Partial { start: u16::MAX, offset: u16::MAX };
                }),
                BadOffload,
            ),
        row("a partial checksum where another protocol has it")
            .allow(tcp_rule(A, B, 8080))
            .drops(
                syn().with(|p| p.offload.checksum = Checksum::Partial { start: 20, offset: 6 }),
                BadOffload,
            )
            .drops(
                ping(A, B)
                    .with(|p| p.offload.checksum = Checksum::Partial { start: 20, offset: 2 }),
                BadOffload,
            ),
        row("a super-packet of another protocol than its metadata says")
            .pipeline_only(KernelIntervenes)
            .drops(
                tcp(A, B, 8080, ACK).payload(5000).partial().with(|p| {
                    p.offload.segmentation = Segmentation::Udp { size: 1000 };
                }),
                BadOffload,
            )
            .drops(
                udp(A, B, 53).payload(5000).partial().with(|p| {
                    p.offload.segmentation = Segmentation::Tcp { size: 1000 };
                }),
                BadOffload,
            ),
        row("a super-packet with segments of nothing, or with too many")
            .pipeline_only(KernelIntervenes)
            .drops(tcp(A, B, 8080, ACK).payload(5000).segments_of(0), BadOffload)
            .drops(udp(A, B, 53).payload(5000).segments_of(0), BadOffload)
            .drops(udp(A, B, 53).payload(5000).segments_of(10), BadOffload),
        row("a super-packet with segments of next to nothing")
            .drops(tcp(A, B, 8080, ACK).payload(5000).segments_of(7), BadOffload),
        row("a super-packet whose checksum claims to be complete")
            .pipeline_only(KernelIntervenes)
            .drops(
                tcp(A, B, 8080, ACK).payload(5000).with(|p| {
                    p.offload.segmentation = Segmentation::Tcp { size: 1400 };
                }),
                BadOffload,
            ),
        row("a super-packet with padding").drops(
            tcp(A, B, 8080, ACK)
                .payload(5000)
                .segments_of(1400)
                .damaged(|b| b.extend_from_slice(&[0; 4])),
            BadOffload,
        ),
        row("a refused super-packet is answered like a small one").refuses(
            tcp(A, B, 8080, ACK).payload(5000).segments_of(1400),
            sarcenet_dataplane_api::DropReason::PolicyDenied,
            PORT_UNREACHABLE,
        ),
        row("UDP without a checksum is carried").allow(udp_rule(A, B, 53)).passes(
            udp(A, B, 53).damaged(|b| b[26..28].fill(0)),
            A,
            B,
        ),
    ]
}
