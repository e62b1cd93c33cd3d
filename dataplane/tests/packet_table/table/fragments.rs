//! IP fragments that arrive.

use sarcenet_dataplane_api::DropReason::{
    BadOffload, Malformed, OrphanFragment, PolicyDenied, SpoofedSource,
};

use super::packet::{Packet, SYN, other, tcp, udp};
use super::world::{A, B, C, End, REMOTE_A, REMOTE_B, tcp_rule, udp_rule};
use super::{PORT_UNREACHABLE, PipelineOnly, Row, row};

/// The first fragment of a UDP datagram; its UDP length is that of the whole.
fn first(from: End, to: End) -> Packet {
    udp(from, to, 53).payload(1000 - 8).with(|p| (p.more_frags, p.dont_frag) = (true, false))
}

/// A later fragment of it.
fn later(from: End, to: End, offset: u16, more: bool) -> Packet {
    other(from, to, 17).payload(400).with(|p| {
        (p.frag_offset, p.more_frags, p.dont_frag) = (offset, more, false);
    })
}

pub(super) fn rows() -> Vec<Row> {
    vec![
        row("later fragments follow an admitted first one")
            .allow(udp_rule(A, B, 53))
            .passes(first(A, B), A, B)
            .passes(later(A, B, 1000, true), A, B)
            .passes(later(A, B, 1400, false), A, B),
        row("through the tunnel they carry the same tag")
            .passes(first(A, REMOTE_B), A, REMOTE_B)
            .passes(later(A, REMOTE_B, 1000, false), A, REMOTE_B),
        row("from the tunnel they need no tag of their own")
            .allow(udp_rule(A, B, 53))
            .passes(first(REMOTE_A, B), REMOTE_A, B)
            .passes(
                later(REMOTE_A, B, 1000, false)
                    .with(|p| (p.tunnel.flags, p.tunnel.group) = ([8, 0], 0)),
                REMOTE_A,
                B,
            ),
        row("a later fragment that comes first is an orphan")
            .allow(udp_rule(A, B, 53))
            .drops(later(A, B, 1000, false), OrphanFragment),
        row("a refused first fragment takes its followers along, unanswered")
            .refuses(first(A, B), PolicyDenied, PORT_UNREACHABLE)
            .drops(later(A, B, 1000, false), OrphanFragment),
        row("a follower has its leader's identification, protocol, ends and door")
            .allow(udp_rule(A, B, 53))
            .passes(first(A, B), A, B)
            .drops(later(A, B, 1000, false).with(|p| p.ident += 1), OrphanFragment)
            .drops(later(A, B, 1000, false).with(|p| p.protocol = 47), OrphanFragment)
            .drops(later(A, C, 1000, false), OrphanFragment)
            .drops(later(A, B, 1000, false).with(|p| p.door = C.door), SpoofedSource)
            .passes(later(A, B, 1000, false), A, B),
        row("nobody waits for a fragment longer than 30 seconds")
            .pipeline_only(PipelineOnly::TakesTime)
            .allow(udp_rule(A, B, 53))
            .passes(first(A, B), A, B)
            .wait(29)
            .passes(later(A, B, 1000, true), A, B)
            .wait(2)
            .drops(later(A, B, 1400, false), OrphanFragment),
        row("a change of state parts fragments: their leader was judged before it")
            .allow(udp_rule(A, B, 53))
            .passes(first(A, B), A, B)
            .change(|_| {})
            .drops(later(A, B, 1000, false), OrphanFragment),
        row("a follower may not reach back into the TCP header")
            .allow(tcp_rule(A, B, 8080))
            .passes(
                tcp(A, B, 8080, SYN).with(|p| (p.more_frags, p.dont_frag) = (true, false)),
                A,
                B,
            )
            .drops(later(A, B, 8, false).with(|p| p.protocol = 6), Malformed)
            .drops(later(A, B, 16, false).with(|p| p.protocol = 6), Malformed),
        row("nor beyond the longest packet there is")
            .allow(udp_rule(A, B, 53))
            .passes(first(A, B), A, B)
            .drops(later(A, B, 65_528, false), Malformed),
        row("a first fragment too short for its transport header").drops(
            other(A, B, 6).payload(16).with(|p| (p.more_frags, p.dont_frag) = (true, false)),
            Malformed,
        ),
        row("a fragment has nothing left to be done")
            .allow(udp_rule(A, B, 53))
            .drops(first(A, B).partial(), BadOffload),
    ]
}
