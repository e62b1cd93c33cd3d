//! The desired state changes while conversations go on.

use sarcenet_dataplane_api::DropReason::{
    NoRoute, PolicyDenied, PolicyRevoked, SpoofedSource, UnknownPeer,
};

use super::packet::{ACK, SYN, tcp, tcp_reply, udp, udp_reply};
use super::world::{A, A2, B, C, REMOTE_A, REMOTE_B, container, tcp_rule, udp_rule};
use super::{HOST_UNREACHABLE, PORT_UNREACHABLE, Row, row};

fn established(name: &'static str) -> Row {
    row(name)
        .allow(tcp_rule(A, B, 8080))
        .passes(tcp(A, B, 8080, SYN), A, B)
        .passes(tcp_reply(B, A, 8080, SYN | ACK), B, A)
        .passes(tcp(A, B, 8080, ACK), A, B)
}

pub(super) fn rows() -> Vec<Row> {
    vec![
        row("a policy works from its generation on")
            .refuses(tcp(A, B, 8080, SYN), PolicyDenied, PORT_UNREACHABLE)
            .change(|world| world.rules.push(tcp_rule(A, B, 8080)))
            .passes(tcp(A, B, 8080, SYN), A, B),
        established("drain: an established connection outlives its policy")
            .change(|world| world.rules.clear())
            .passes(tcp(A, B, 8080, ACK).payload(10), A, B)
            .passes(tcp_reply(B, A, 8080, ACK), B, A),
        established("drain: new connections are refused all the same")
            .change(|world| world.rules.clear())
            .refuses(tcp(A2, B, 8080, SYN), PolicyDenied, PORT_UNREACHABLE),
        established("immediate: an established connection ends with its policy")
            .revoke_immediately()
            .change(|world| world.rules.clear())
            .refuses(tcp(A, B, 8080, ACK).payload(10), PolicyRevoked, PORT_UNREACHABLE)
            .refuses(tcp(A, B, 8080, ACK).payload(10), PolicyDenied, PORT_UNREACHABLE),
        established("immediate: in the direction of its replies too")
            .revoke_immediately()
            .change(|world| world.rules.clear())
            .refuses(tcp_reply(B, A, 8080, ACK).payload(10), PolicyRevoked, PORT_UNREACHABLE),
        established("immediate: it goes on under another rule that admits it")
            .revoke_immediately()
            .change(|world| {
                world.rules = vec![super::world::rule(
                    9,
                    A,
                    B,
                    sarcenet_dataplane_api::Protocol::Tcp,
                    8000,
                    9000,
                )];
            })
            .passes(tcp(A, B, 8080, ACK), A, B)
            .passes(tcp_reply(B, A, 8080, ACK), B, A),
        row("immediate: a conversation from another cell ends with its policy")
            .revoke_immediately()
            .allow(udp_rule(A, B, 53))
            .passes(udp(REMOTE_A, B, 53), REMOTE_A, B)
            .passes(udp_reply(B, REMOTE_A, 53), B, REMOTE_A)
            .change(|world| world.rules.clear())
            .refuses(udp(REMOTE_A, B, 53), PolicyRevoked, PORT_UNREACHABLE),
        row("the next packet of a conversation without a reply is decided anew, whatever the mode")
            .allow(udp_rule(A, B, 53))
            .passes(udp(A, B, 53), A, B)
            .change(|world| world.rules.clear())
            .refuses(udp(A, B, 53), PolicyDenied, PORT_UNREACHABLE),
        row("drain: the reply to a packet that was admitted passes, or its sender waits in vain")
            .allow(tcp_rule(A, B, 8080))
            .passes(tcp(A, B, 8080, SYN), A, B)
            .change(|world| world.rules.clear())
            .passes(tcp_reply(B, A, 8080, SYN | ACK), B, A)
            .passes(tcp(A, B, 8080, ACK), A, B),
        row("immediate: it does not")
            .revoke_immediately()
            .allow(tcp_rule(A, B, 8080))
            .passes(tcp(A, B, 8080, SYN), A, B)
            .change(|world| world.rules.clear())
            .refuses(tcp_reply(B, A, 8080, SYN | ACK), PolicyRevoked, PORT_UNREACHABLE),
        established("a change that is about others changes nothing")
            .revoke_immediately()
            .change(|world| world.rules.push(tcp_rule(C, A, 1)))
            .passes(tcp(A, B, 8080, ACK), A, B)
            .passes(tcp_reply(B, A, 8080, ACK), B, A),
        row("an app's new tag goes out with its next packet")
            .passes_with_tag(udp(A, REMOTE_B, 53), REMOTE_B, 1)
            .change(|world| world.containers[0].tag = 77)
            .passes_with_tag(udp(A, REMOTE_B, 53), REMOTE_B, 77)
            .change(|world| world.containers[0].tag = 0)
            .passes_with_tag(udp(A, REMOTE_B, 53), REMOTE_B, 0),
        established("a container that is gone is gone")
            .change(|world| world.containers.retain(|c| c.address != B.address))
            .refuses(tcp(A, B, 8080, ACK), NoRoute, HOST_UNREACHABLE),
        established("its port sends nothing any more")
            .change(|world| world.containers.retain(|c| c.address != B.address))
            .drops(tcp_reply(B, A, 8080, ACK), SpoofedSource),
        established("an address given to a new container takes over no conversation")
            .change(|world| {
                world.containers.retain(|c| c.address != B.address);
                world.containers.push(container(super::world::End { door: C.door, ..B }));
            })
            .drops(tcp_reply(B, A, 8080, ACK), SpoofedSource),
        row("a peer that is gone is gone")
            .passes(udp(A, REMOTE_B, 53), A, REMOTE_B)
            .passes(udp_reply(REMOTE_B, A, 53), REMOTE_B, A)
            .change(|world| world.peers.clear())
            .refuses(udp(A, REMOTE_B, 53), NoRoute, HOST_UNREACHABLE)
            .drops(udp_reply(REMOTE_B, A, 53), UnknownPeer),
        row("a subnet that moved to another cell is followed there")
            .passes(udp(A, REMOTE_B, 53), A, REMOTE_B)
            .change(|world| world.peers[0].underlay = [10, 77, 0, 44].into())
            .passes(
                udp(A, REMOTE_B, 53),
                A,
                super::world::End {
                    door: sarcenet_dataplane::packet::Via::Tunnel([10, 77, 0, 44].into()),
                    ..REMOTE_B
                },
            ),
    ]
}
