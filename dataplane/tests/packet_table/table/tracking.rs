//! Conversations: replies pass, and nothing else that only looks like one.

use sarcenet_dataplane_api::DropReason::{PolicyDenied, Untracked};

use super::packet::{
    ACK, CLIENT_PORT, FIN, RST, SYN, Transport, pong, tcp, tcp_reply, udp, udp_reply,
};
use super::world::{A, B, C, REMOTE_A, REMOTE_B, THIRD_C, tcp_rule, udp_rule};
use super::{PORT_UNREACHABLE, Row, row};

pub(super) fn rows() -> Vec<Row> {
    vec![
        row("a SYN-ACK opens nothing")
            .drops(tcp_reply(REMOTE_B, A, 8080, SYN | ACK), Untracked)
            .drops(tcp_reply(A, REMOTE_B, 8080, SYN | ACK), Untracked)
            .drops(tcp_reply(A, B, 8080, SYN | ACK), Untracked),
        row("a reset opens nothing")
            .allow(tcp_rule(A, B, 8080))
            .drops(tcp(A, B, 8080, RST), Untracked)
            .drops(tcp(REMOTE_A, B, 8080, RST | ACK), Untracked),
        row("an echo reply opens nothing")
            .drops(pong(A, B), Untracked)
            .drops(pong(REMOTE_A, B), Untracked)
            .drops(pong(A, REMOTE_B), Untracked),
        row("impossible TCP flags open nothing")
            .allow(tcp_rule(A, B, 8080))
            .drops(tcp(A, B, 8080, 0), Untracked)
            .drops(tcp(A, B, 8080, SYN | FIN), Untracked)
            .drops(tcp(A, B, 8080, SYN | RST), Untracked)
            .drops(tcp(A, B, 8080, FIN), Untracked),
        row("a connection that was forgotten is taken up where policy admits it")
            .allow(tcp_rule(A, B, 8080))
            .passes(tcp(A, B, 8080, ACK).payload(10), A, B)
            .passes(tcp_reply(B, A, 8080, ACK), B, A)
            .passes(tcp(REMOTE_A, B, 8080, ACK).payload(10), REMOTE_A, B),
        row("and refused where it does not").allow(tcp_rule(A, B, 8080)).refuses(
            tcp(C, B, 8080, ACK),
            PolicyDenied,
            PORT_UNREACHABLE,
        ),
        row("to another cell it is not taken up: it may as well be a reply")
            .drops(tcp_reply(B, REMOTE_A, 8080, ACK).payload(10), Untracked),
        row("a reply from somebody else is none")
            .allow(udp_rule(A, B, 53))
            .passes(udp(A, B, 53), A, B)
            .refuses(udp_reply(C, A, 53), PolicyDenied, PORT_UNREACHABLE)
            .refuses(udp_reply(REMOTE_B, A, 53), PolicyDenied, PORT_UNREACHABLE),
        row("a reply from another port is none")
            .allow(udp_rule(A, B, 53))
            .passes(udp(A, B, 53), A, B)
            .refuses(udp_reply(B, A, 54), PolicyDenied, PORT_UNREACHABLE),
        row("a reply to a conversation with another cell comes from that cell")
            .passes(udp(A, REMOTE_B, 53), A, REMOTE_B)
            .passes(udp_reply(REMOTE_B, A, 53), REMOTE_B, A)
            .refuses(udp_reply(THIRD_C, A, 53), PolicyDenied, PORT_UNREACHABLE),
        row("UDP in one direction only goes on")
            .allow(udp_rule(A, B, 53))
            .passes(udp(A, B, 53), A, B)
            .passes(udp(A, B, 53), A, B)
            .passes(udp(A, B, 53), A, B),
        row("datagrams of one way do not pass with another tag")
            .allow(udp_rule(A, B, 53))
            .passes(udp(REMOTE_A, B, 53), REMOTE_A, B)
            .refuses(
                udp(REMOTE_A, B, 53).with(|p| p.tunnel.group = 9),
                PolicyDenied,
                PORT_UNREACHABLE,
            )
            .passes(udp(REMOTE_A, B, 53), REMOTE_A, B),
        row("once there was a reply the tag no longer matters")
            .allow(udp_rule(A, B, 53))
            .passes(udp(REMOTE_A, B, 53), REMOTE_A, B)
            .passes(udp_reply(B, REMOTE_A, 53), B, REMOTE_A)
            .passes(udp(REMOTE_A, B, 53).with(|p| p.tunnel.group = 9), REMOTE_A, B),
        row("a connection closed from both sides can be opened again")
            .allow(tcp_rule(A, B, 8080))
            .passes(tcp(A, B, 8080, SYN), A, B)
            .passes(tcp_reply(B, A, 8080, SYN | ACK), B, A)
            .passes(tcp(A, B, 8080, ACK | FIN), A, B)
            .passes(tcp_reply(B, A, 8080, ACK | FIN), B, A)
            .passes(tcp(A, B, 8080, ACK), A, B)
            .passes(tcp(A, B, 8080, SYN), A, B)
            .passes(tcp_reply(B, A, 8080, SYN | ACK), B, A),
        row("a connection that was reset can be opened again")
            .allow(tcp_rule(A, B, 8080))
            .passes(tcp(A, B, 8080, SYN), A, B)
            .passes(tcp_reply(B, A, 8080, RST | ACK), B, A)
            .passes(tcp(A, B, 8080, SYN), A, B),
        row("the other end of a finished connection cannot open it the other way round")
            .allow(tcp_rule(A, B, 8080))
            .passes(tcp(A, B, 8080, SYN), A, B)
            .passes(tcp_reply(B, A, 8080, RST | ACK), B, A)
            .refuses(tcp_reply(B, A, 8080, SYN), PolicyDenied, PORT_UNREACHABLE),
        row("two connections between the same ends are two")
            .allow(tcp_rule(A, B, 8080))
            .passes(tcp(A, B, 8080, SYN), A, B)
            .drops(
                tcp_reply(B, A, 8080, SYN | ACK).with(|p| {
                    if let Transport::Tcp { ports, .. } = &mut p.transport {
                        ports.1 = CLIENT_PORT + 1;
                    }
                }),
                Untracked,
            ),
    ]
}
