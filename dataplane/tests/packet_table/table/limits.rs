//! Time to live, and the size of packets.

use sarcenet_dataplane::packet::{Checksum, Offload};
use sarcenet_dataplane_api::DropReason::{RateLimit, TooBig, TtlExceeded};

use super::packet::{ACK, Packet, SYN, Transport, icmp_error, tcp, tcp_reply, udp};
use super::world::{A, B, End, HOST, MTU, REMOTE_A, REMOTE_B, limit_rate, tcp_rule, udp_rule};
use super::{
    FRAGMENTATION_NEEDED, Leaving, Outcome, PipelineOnly, Row, TIME_EXCEEDED, leaving, row,
};

/// Payload bytes of the first fragments of a packet with a 20-byte header: a multiple of 8.
const PIECE: usize = (MTU as usize - 20) & !7;

/// A packet without DF is cut into fragments, each behind the sender's tag.
fn is_cut(row: Row, packet: Packet, from: End, to: End) -> Row {
    // What is cut is the packet with its checksum complete.
    let whole = packet.clone().with(|p| p.offload = Offload::default()).ip_bytes();
    let payload = &whole[20..];
    let offload = match packet.offload.checksum {
        Checksum::Partial { .. } => Checksum::Verified,
        other => other,
    };
    let fragments = payload
        .chunks(PIECE)
        .enumerate()
        .map(|(n, chunk)| {
            let fragment = packet.clone().with(|p| {
                p.offload = Offload::default();
                p.transport = Transport::Raw(chunk.to_vec());
                p.frag_offset = (n * PIECE) as u16;
                p.more_frags = (n + 1) * PIECE < payload.len();
            });
            let checksum = if n == 0 { offload } else { Checksum::Unverified };
            Leaving {
                bytes: leaving(&fragment, &fragment.ip_bytes(), to, from.tag),
                offload: Offload { checksum, ..Offload::default() },
            }
        })
        .collect();
    row.becomes(packet, Outcome::Forward(to.door, fragments))
}

pub(super) fn rows() -> Vec<Row> {
    let sized = |from, to, len: usize| udp(from, to, 53).payload(len - 28);
    let may_cut = |packet: Packet| packet.with(|p| p.dont_frag = false);
    vec![
        row("a container is sent no more than it may be")
            .allow(udp_rule(A, B, 53))
            .given(|world| limit_rate(world, B, 10, 1))
            .passes(udp(A, B, 53), A, B)
            .drops(udp(A, B, 53), RateLimit)
            .wait(20)
            .pipeline_only(PipelineOnly::TakesTime)
            .drops(udp(A, B, 53), RateLimit)
            .wait(25)
            .passes(udp(A, B, 53), A, B),
        row("what a container may not have yet, it gets in time")
            .allow(udp_rule(A, B, 53))
            .given(|world| limit_rate(world, B, 50_000, 1_000))
            .passes(udp(A, B, 53), A, B)
            .passes(udp(A, B, 53), A, B)
            .passes(udp(A, B, 53), A, B)
            .passes(udp(A, B, 53), A, B),
        row("a time to live that ends here is answered")
            .allow(udp_rule(A, B, 53))
            .refuses(udp(A, B, 53).with(|p| p.ttl = 1), TtlExceeded, TIME_EXCEEDED)
            .refuses(udp(A, REMOTE_B, 53).with(|p| p.ttl = 1), TtlExceeded, TIME_EXCEEDED)
            .refuses(udp(REMOTE_A, B, 53).with(|p| p.ttl = 0), TtlExceeded, TIME_EXCEEDED),
        row("a time to live of 2 is enough for one router")
            .allow(udp_rule(A, B, 53))
            .passes(udp(A, B, 53).with(|p| p.ttl = 2), A, B)
            .passes(udp(A, REMOTE_B, 53).with(|p| p.ttl = 255), A, REMOTE_B),
        row("an ICMP error whose time ends here is not answered")
            .allow(udp_rule(A, B, 53))
            .passes(udp(A, B, 53), A, B)
            .drops(icmp_error(B, A, 3, 3, 0, &udp(A, B, 53)).with(|p| p.ttl = 1), TtlExceeded),
        row("a packet of exactly the MTU passes")
            .allow(udp_rule(A, B, 53))
            .passes(sized(A, REMOTE_B, 1450), A, REMOTE_B)
            .passes(sized(A, B, 1450), A, B)
            .passes(sized(REMOTE_A, B, 1450), REMOTE_A, B),
        row("one byte more does not, and the sender learns the MTU")
            .allow(udp_rule(A, B, 53))
            .refuses(sized(A, REMOTE_B, 1451), TooBig, FRAGMENTATION_NEEDED)
            .refuses(sized(A, B, 1451), TooBig, FRAGMENTATION_NEEDED)
            .refuses(sized(REMOTE_A, B, 1451), TooBig, FRAGMENTATION_NEEDED)
            .refuses(sized(HOST, A, 1451), TooBig, FRAGMENTATION_NEEDED),
        row("for a super-packet the size of its segments counts")
            .allow(tcp_rule(A, B, 8080))
            .passes(tcp(A, B, 8080, ACK).payload(30_000).segments_of(1410), A, B)
            .refuses(
                tcp(A, B, 8080, ACK).payload(30_000).segments_of(1411),
                TooBig,
                FRAGMENTATION_NEEDED,
            ),
        row("a super-packet with a single segment is as long as it is")
            .allow(tcp_rule(A, B, 8080))
            .passes(tcp(A, B, 8080, ACK).payload(500).segments_of(9000), A, B),
        row("super-packets through the tunnel")
            .passes(tcp(A, REMOTE_B, 8080, SYN), A, REMOTE_B)
            .passes(tcp_reply(REMOTE_B, A, 8080, SYN | ACK), REMOTE_B, A)
            .passes(tcp(A, REMOTE_B, 8080, ACK).payload(61_000).segments_of(1410), A, REMOTE_B)
            .passes(
                tcp_reply(REMOTE_B, A, 8080, ACK).payload(61_000).segments_of(1410),
                REMOTE_B,
                A,
            ),
        is_cut(
            row("without DF it is cut into fragments, same cell").allow(udp_rule(A, B, 53)),
            may_cut(sized(A, B, 1451)),
            A,
            B,
        ),
        is_cut(
            row("without DF it is cut into fragments, through the tunnel"),
            may_cut(sized(A, REMOTE_B, 4000)),
            A,
            REMOTE_B,
        ),
        is_cut(
            row("without DF it is cut into fragments, from the tunnel").allow(udp_rule(A, B, 53)),
            may_cut(sized(REMOTE_A, B, 9000)),
            REMOTE_A,
            B,
        ),
        is_cut(
            row("before it is cut its checksum is completed"),
            may_cut(sized(A, REMOTE_B, 3333).partial()),
            A,
            REMOTE_B,
        ),
        is_cut(
            row("the longest datagram there is"),
            may_cut(sized(A, REMOTE_B, 65_535)),
            A,
            REMOTE_B,
        ),
    ]
}
