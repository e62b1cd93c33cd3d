//! What a policy admits: its source, its destination, its protocol and its ports, in its
//! direction.

use sarcenet_dataplane_api::DropReason::PolicyDenied;
use sarcenet_dataplane_api::Protocol::{Tcp, Udp};

use super::packet::{ACK, SYN, tcp, tcp_reply, udp, udp_reply};
use super::world::{A, A2, B, C, REMOTE_A, REMOTE_B, THIRD_C, UNTAGGED, rule, tcp_rule, udp_rule};
use super::{PORT_UNREACHABLE, Row, row};

pub(super) fn rows() -> Vec<Row> {
    vec![
        row("an admitted connection on the same cell")
            .allow(tcp_rule(A, B, 8080))
            .passes(tcp(A, B, 8080, SYN), A, B)
            .passes(tcp_reply(B, A, 8080, SYN | ACK), B, A)
            .passes(tcp(A, B, 8080, ACK), A, B)
            .passes(tcp_reply(B, A, 8080, ACK).payload(100), B, A),
        row("an admitted connection from another cell")
            .allow(tcp_rule(A, B, 8080))
            .passes(tcp(REMOTE_A, B, 8080, SYN), REMOTE_A, B)
            .passes(tcp_reply(B, REMOTE_A, 8080, SYN | ACK), B, REMOTE_A)
            .passes(tcp(REMOTE_A, B, 8080, ACK).payload(1000), REMOTE_A, B),
        row("a connection to another cell: its replies come back without a tag")
            .passes(tcp(A, REMOTE_B, 8080, SYN), A, REMOTE_B)
            .passes(
                tcp_reply(REMOTE_B, A, 8080, SYN | ACK)
                    .with(|p| p.tunnel.flags = [0x08, 0])
                    .with(|p| p.tunnel.group = 0),
                REMOTE_B,
                A,
            ),
        row("both instances of the app are admitted, by one rule")
            .allow(tcp_rule(A, B, 8080))
            .passes(tcp(A, B, 8080, SYN), A, B)
            .passes(tcp(A2, B, 8080, SYN), A2, B),
        row("another app is not")
            .allow(tcp_rule(A, B, 8080))
            .refuses(tcp(C, B, 8080, SYN), PolicyDenied, PORT_UNREACHABLE)
            .refuses(tcp(THIRD_C, B, 8080, SYN), PolicyDenied, PORT_UNREACHABLE),
        row("an app without a tag is not, whatever the rules")
            .allow(tcp_rule(UNTAGGED, B, 8080))
            .refuses(tcp(UNTAGGED, B, 8080, SYN), PolicyDenied, PORT_UNREACHABLE),
        row("another instance's address is not opened by the rule for one")
            .allow(tcp_rule(B, A, 8080))
            .passes(tcp(B, A, 8080, SYN), B, A)
            .refuses(tcp(B, A2, 8080, SYN), PolicyDenied, PORT_UNREACHABLE),
        row("a policy has a direction, same cell")
            .allow(tcp_rule(A, B, 8080))
            .passes(tcp(A, B, 8080, SYN), A, B)
            .refuses(tcp(B, A, 8080, SYN), PolicyDenied, PORT_UNREACHABLE),
        row("a policy has a direction, across cells").allow(tcp_rule(A, B, 8080)).refuses(
            tcp(REMOTE_B, A, 8080, SYN),
            PolicyDenied,
            PORT_UNREACHABLE,
        ),
        row("one port is one port")
            .allow(tcp_rule(A, B, 8080))
            .passes(tcp(A, B, 8080, SYN), A, B)
            .refuses(tcp(A, B, 8079, SYN), PolicyDenied, PORT_UNREACHABLE)
            .refuses(tcp(A, B, 8081, SYN), PolicyDenied, PORT_UNREACHABLE),
        row("a range has both its ends and nothing outside")
            .allow(rule(7, A, B, Tcp, 7000, 8000))
            .passes(tcp(A, B, 7000, SYN), A, B)
            .passes(tcp(A, B, 7500, SYN), A, B)
            .passes(tcp(A, B, 8000, SYN), A, B)
            .refuses(tcp(A, B, 6999, SYN), PolicyDenied, PORT_UNREACHABLE)
            .refuses(tcp(A, B, 8001, SYN), PolicyDenied, PORT_UNREACHABLE),
        row("the whole range of ports")
            .allow(rule(7, A, B, Udp, 1, 65_535))
            .passes(udp(A, B, 1), A, B)
            .passes(udp(A, B, 65_535), A, B)
            .refuses(udp(A, B, 0), PolicyDenied, PORT_UNREACHABLE),
        row("a TCP rule does not admit UDP").allow(tcp_rule(A, B, 8080)).refuses(
            udp(A, B, 8080),
            PolicyDenied,
            PORT_UNREACHABLE,
        ),
        row("a UDP rule does not admit TCP")
            .allow(udp_rule(A, B, 8080))
            .refuses(tcp(A, B, 8080, SYN), PolicyDenied, PORT_UNREACHABLE)
            .refuses(tcp(REMOTE_A, B, 8080, SYN), PolicyDenied, PORT_UNREACHABLE),
        row("UDP and its replies")
            .allow(udp_rule(A, B, 53))
            .passes(udp(A, B, 53), A, B)
            .passes(udp_reply(B, A, 53), B, A)
            .passes(udp(REMOTE_A, B, 53), REMOTE_A, B)
            .passes(udp_reply(B, REMOTE_A, 53), B, REMOTE_A),
        row("an app may talk to itself with a policy that says so")
            .allow(tcp_rule(A, A2, 8080))
            .passes(tcp(A, A2, 8080, SYN), A, A2)
            .passes(tcp_reply(A2, A, 8080, SYN | ACK), A2, A),
        row("super-packets stay whole")
            .allow(tcp_rule(A, B, 8080))
            .passes(tcp(A, B, 8080, SYN), A, B)
            .passes(tcp_reply(B, A, 8080, SYN | ACK), B, A)
            .passes(tcp(A, B, 8080, ACK).payload(60_000).segments_of(1410), A, B)
            .passes(tcp_reply(B, A, 8080, ACK).payload(60_000).segments_of(1410), B, A),
        row("super-packets of datagrams stay whole, through the tunnel too").passes(
            udp(A, REMOTE_B, 53).payload(20_000).segments_of(1000),
            A,
            REMOTE_B,
        ),
        row("a checksum left to the last door is left to it")
            .allow(udp_rule(A, B, 53))
            .passes(udp(A, B, 53).partial(), A, B)
            .passes(udp_reply(B, A, 53).partial(), B, A),
    ]
}
