//! An open cell: whoever is in the overlay may talk to its containers, and nothing else is open.

use sarcenet_dataplane::packet::Via;
use sarcenet_dataplane_api::DropReason::{
    EgressDenied, ForeignSource, HostDenied, NoRoute, PolicyDenied, PolicyRevoked, SpoofedSource,
    UnknownPeer, Untracked,
};

use super::packet::{ACK, SYN, other, ping, pong, tcp, tcp_reply, udp, udp_reply};
use super::world::{
    A, A2, B, CELL, HOST, OUTSIDE, REMOTE_A, REMOTE_B, REMOTE_HOST, THIRD_C, UNTAGGED, nobody,
    set_open, with_outside,
};
use super::{HOST_UNREACHABLE, PORT_UNREACHABLE, Row, row};

fn open(name: &'static str) -> Row {
    row(name).given(|world| set_open(world, true))
}

fn established(name: &'static str) -> Row {
    open(name)
        .passes(tcp(REMOTE_A, B, 8080, SYN), REMOTE_A, B)
        .passes(tcp_reply(B, REMOTE_A, 8080, SYN | ACK), B, REMOTE_A)
        .passes(tcp(REMOTE_A, B, 8080, ACK), REMOTE_A, B)
}

pub(super) fn rows() -> Vec<Row> {
    vec![
        open("apps of one cell talk without a policy")
            .passes(tcp(A, B, 8080, SYN), A, B)
            .passes(tcp_reply(B, A, 8080, SYN | ACK), B, A)
            .passes(udp(B, A, 53), B, A)
            .passes(udp_reply(A, B, 53), A, B)
            .passes(ping(A, A2), A, A2)
            .passes(pong(A2, A), A2, A)
            .passes(other(A, B, 47), A, B),
        open("apps of other cells talk to those here, with a tag and without")
            .passes(tcp(REMOTE_A, B, 8080, SYN), REMOTE_A, B)
            .passes(tcp_reply(B, REMOTE_A, 8080, SYN | ACK), B, REMOTE_A)
            .passes(udp(REMOTE_B, UNTAGGED, 53), REMOTE_B, UNTAGGED)
            .passes(ping(THIRD_C, A), THIRD_C, A)
            .passes(pong(A, THIRD_C), A, THIRD_C),
        open("so do other cells themselves")
            .passes(tcp(REMOTE_HOST, A, 8080, SYN), REMOTE_HOST, A)
            .passes(tcp_reply(A, REMOTE_HOST, 8080, SYN | ACK), A, REMOTE_HOST),
        open("a container does not reach its cell, or another one, itself")
            .refuses(tcp(A, HOST, 22, SYN), HostDenied, PORT_UNREACHABLE)
            .refuses(tcp(A, nobody([10, 77, 0, 11]), 22, SYN), HostDenied, PORT_UNREACHABLE)
            .refuses(udp(A, REMOTE_HOST, 4789), HostDenied, PORT_UNREACHABLE)
            .refuses(tcp(REMOTE_A, HOST, 22, SYN), HostDenied, PORT_UNREACHABLE),
        open("nor the outside, which has rules of its own")
            .given(with_outside)
            .refuses(tcp(A, OUTSIDE, 443, SYN), EgressDenied, PORT_UNREACHABLE)
            .refuses(tcp(OUTSIDE, A, 8080, SYN), PolicyDenied, PORT_UNREACHABLE),
        open("nobody speaks for somebody else")
            .drops(udp(A, B, 53).with(|p| p.source = REMOTE_A.address), SpoofedSource)
            .drops(udp(A, B, 53).with(|p| p.source = A2.address), SpoofedSource)
            .drops(udp(A, B, 53).with(|p| p.source = CELL.address), SpoofedSource)
            .drops(udp(REMOTE_A, B, 53).with(|p| p.source = THIRD_C.address), ForeignSource)
            .drops(udp(REMOTE_A, B, 53).with(|p| p.source = OUTSIDE.address), ForeignSource)
            .drops(
                udp(REMOTE_A, B, 53).with(|p| p.door = Via::Tunnel([10, 77, 0, 99].into())),
                UnknownPeer,
            ),
        open("nobody is where nobody was").refuses(
            tcp(A, nobody([10, 255, 55, 99]), 80, SYN),
            NoRoute,
            HOST_UNREACHABLE,
        ),
        open("what looks like a reply opens nothing")
            .drops(tcp_reply(A, B, 8080, SYN | ACK), Untracked)
            .drops(pong(A, B), Untracked),
        established(
            "closed again, an established connection goes on as with a policy that is gone",
        )
        .change(|world| set_open(world, false))
        .passes(tcp(REMOTE_A, B, 8080, ACK).payload(10), REMOTE_A, B)
        .passes(tcp_reply(B, REMOTE_A, 8080, ACK), B, REMOTE_A)
        .refuses(tcp(A, B, 8080, SYN), PolicyDenied, PORT_UNREACHABLE),
        established("or ends where revocation is immediate")
            .revoke_immediately()
            .change(|world| set_open(world, false))
            .refuses(tcp(REMOTE_A, B, 8080, ACK).payload(10), PolicyRevoked, PORT_UNREACHABLE),
    ]
}
