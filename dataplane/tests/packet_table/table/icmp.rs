//! ICMP errors: those about known conversations reach who has to know, others nobody.

use sarcenet_dataplane_api::DropReason::{
    ForeignSource, PolicyDenied, SpoofedSource, UnrelatedIcmp,
};

use super::packet::{SYN, icmp, icmp_error, ping, pong, tcp, udp};
use super::world::{A, B, C, HOST, REMOTE_A, REMOTE_B, REMOTE_HOST, THIRD_C, tcp_rule, udp_rule};
use super::{PORT_UNREACHABLE, Row, row};

pub(super) fn rows() -> Vec<Row> {
    let to_remote = || udp(A, REMOTE_B, 53);
    vec![
        row("a closed port on the same cell is reported to the sender")
            .allow(udp_rule(A, B, 53))
            .passes(udp(A, B, 53), A, B)
            .passes(icmp_error(B, A, 3, 3, 0, &udp(A, B, 53)), B, A),
        row("a closed port is reported to a sender on another cell")
            .allow(udp_rule(A, B, 53))
            .passes(udp(REMOTE_A, B, 53), REMOTE_A, B)
            .passes(icmp_error(B, REMOTE_A, 3, 3, 0, &udp(REMOTE_A, B, 53)), B, REMOTE_A),
        row("another cell's refusal reaches the sender")
            .passes(tcp(A, REMOTE_B, 8080, SYN), A, REMOTE_B)
            .passes(
                icmp_error(REMOTE_HOST, A, 3, 3, 0, &tcp(A, REMOTE_B, 8080, SYN)),
                REMOTE_HOST,
                A,
            ),
        row("fragmentation needed reaches the sender: path MTU discovery works")
            .passes(to_remote(), A, REMOTE_B)
            .passes(icmp_error(REMOTE_HOST, A, 3, 4, 1300, &to_remote()), REMOTE_HOST, A),
        row("time exceeded and parameter problem reach the sender")
            .passes(to_remote(), A, REMOTE_B)
            .passes(icmp_error(REMOTE_HOST, A, 11, 0, 0, &to_remote()), REMOTE_HOST, A)
            .passes(icmp_error(REMOTE_B, A, 12, 0, 0, &to_remote()), REMOTE_B, A),
        row("an error about a reply goes to the replier")
            .allow(tcp_rule(A, B, 8080))
            .passes(tcp(A, B, 8080, SYN), A, B)
            .passes(super::packet::tcp_reply(B, A, 8080, 0x12), B, A)
            .passes(
                icmp_error(A, B, 3, 4, 1300, &super::packet::tcp_reply(B, A, 8080, 0x10)),
                A,
                B,
            ),
        row("an error about an echo follows the echo")
            .passes(ping(HOST, A), HOST, A)
            .passes(pong(A, HOST), A, HOST)
            .passes(icmp_error(A, HOST, 3, 1, 0, &ping(HOST, A)), A, HOST),
        row("an error about nothing known")
            .drops(icmp_error(REMOTE_HOST, A, 3, 3, 0, &to_remote()), UnrelatedIcmp)
            .drops(icmp_error(B, A, 3, 3, 0, &udp(A, B, 53)), UnrelatedIcmp),
        row("an error from somebody who has no part in the conversation")
            .passes(to_remote(), A, REMOTE_B)
            .drops(icmp_error(THIRD_C, A, 3, 3, 0, &to_remote()), UnrelatedIcmp)
            .drops(icmp_error(C, A, 3, 3, 0, &to_remote()), UnrelatedIcmp),
        row("an error to somebody else than the sender of what it quotes")
            .passes(to_remote(), A, REMOTE_B)
            .drops(icmp_error(REMOTE_HOST, B, 3, 3, 0, &to_remote()), UnrelatedIcmp),
        row("not even to a neighbour of that sender, behind the same door")
            .allow(udp_rule(A, B, 53))
            .passes(udp(REMOTE_A, B, 53), REMOTE_A, B)
            .drops(icmp_error(B, REMOTE_B, 3, 3, 0, &udp(REMOTE_A, B, 53)), UnrelatedIcmp),
        row("an error with a source that does not belong where it came from")
            .passes(to_remote(), A, REMOTE_B)
            .drops(
                icmp_error(REMOTE_HOST, A, 3, 3, 0, &to_remote())
                    .with(|p| p.source = THIRD_C.address),
                ForeignSource,
            )
            .drops(
                icmp_error(B, A, 3, 3, 0, &to_remote()).with(|p| p.source = REMOTE_B.address),
                SpoofedSource,
            ),
        row("an error about an error quotes no conversation")
            .allow(udp_rule(A, B, 53))
            .passes(udp(A, B, 53), A, B)
            .drops(
                icmp_error(A, B, 3, 3, 0, &icmp_error(B, A, 3, 3, 0, &udp(A, B, 53))),
                UnrelatedIcmp,
            ),
        row("an error that quotes too little")
            .passes(to_remote(), A, REMOTE_B)
            .drops(icmp(REMOTE_B, A, 3, 3, [0; 4], &to_remote().ip_bytes()[..27]), UnrelatedIcmp)
            .drops(icmp(REMOTE_B, A, 3, 3, [0; 4], &[]), UnrelatedIcmp),
        row("a redirect is refused and not answered: it is an error message")
            .drops(icmp(A, B, 5, 1, [10, 255, 55, 9], &[0; 28]), PolicyDenied),
        row("a timestamp request is refused").refuses(
            icmp(A, B, 13, 0, [0; 4], &[0; 12]),
            PolicyDenied,
            PORT_UNREACHABLE,
        ),
    ]
}
