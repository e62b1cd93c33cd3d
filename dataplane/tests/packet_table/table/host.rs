//! The cell itself: it reaches its containers, they do not reach it.

use sarcenet_dataplane_api::DropReason::{HostDenied, NoRoute, Untracked};

use super::packet::{ACK, SYN, ping, pong, tcp, tcp_reply, udp, udp_reply};
use super::world::{A, HOST, REMOTE_A, REMOTE_HOST, ROUTER, as_router, nobody};
use super::{HOST_UNREACHABLE, PORT_UNREACHABLE, Row, row};

pub(super) fn rows() -> Vec<Row> {
    vec![
        row("a health check of a container, with no hop counted")
            .passes(tcp(HOST, A, 8080, SYN), HOST, A)
            .passes(tcp_reply(A, HOST, 8080, SYN | ACK), A, HOST)
            .passes(tcp(HOST, A, 8080, ACK), HOST, A),
        row("the cell pings a container").passes(ping(HOST, A), HOST, A).passes(
            pong(A, HOST),
            A,
            HOST,
        ),
        row("the cell reaches containers of other cells, without a tag")
            .passes(udp(HOST, REMOTE_A, 53), HOST, REMOTE_A)
            .passes(udp_reply(REMOTE_A, HOST, 53), REMOTE_A, HOST),
        row("a router's packets to other cells carry its tag")
            .given(as_router)
            .passes(tcp(ROUTER, REMOTE_A, 8080, SYN), ROUTER, REMOTE_A)
            .passes(tcp_reply(REMOTE_A, ROUTER, 8080, SYN | ACK), REMOTE_A, ROUTER)
            .passes(tcp(ROUTER, REMOTE_A, 8080, ACK), ROUTER, REMOTE_A)
            .passes(ping(ROUTER, REMOTE_A), ROUTER, REMOTE_A),
        row("a router that got its tag later sends it from then on, also in what it began before")
            .passes(udp(HOST, REMOTE_A, 53), HOST, REMOTE_A)
            .change(as_router)
            .passes(udp(ROUTER, REMOTE_A, 53), ROUTER, REMOTE_A),
        row("nobody reaches a router by the overlay").given(as_router).refuses(
            tcp(REMOTE_A, ROUTER, 22, SYN),
            HostDenied,
            PORT_UNREACHABLE,
        ),
        row("even with a time to live of 1: the cell is no router of its own packets")
            .passes(udp(HOST, A, 53).with(|p| p.ttl = 1), HOST, A)
            .passes(udp_reply(A, HOST, 53).with(|p| p.ttl = 1), A, HOST),
        row("a container may not reach its cell by its overlay address")
            .refuses(tcp(A, HOST, 22, SYN), HostDenied, PORT_UNREACHABLE)
            .refuses(ping(A, HOST), HostDenied, PORT_UNREACHABLE),
        row("nor by its underlay address").refuses(
            tcp(A, nobody([10, 77, 0, 11]), 22, SYN),
            HostDenied,
            PORT_UNREACHABLE,
        ),
        row("nor another cell by its overlay address, where a kernel cell listens for tunnels")
            .refuses(udp(A, REMOTE_HOST, 4789), HostDenied, PORT_UNREACHABLE),
        row("nor the link-local services of the cell").refuses(
            udp(A, nobody([169, 254, 0, 2]), 53),
            HostDenied,
            PORT_UNREACHABLE,
        ),
        row("nor by what looks like a reply")
            .drops(tcp_reply(A, HOST, 8080, SYN | ACK), Untracked)
            .refuses(udp_reply(A, HOST, 53), HostDenied, PORT_UNREACHABLE),
        row("another cell's host is no app: its connections are refused").refuses(
            tcp(REMOTE_HOST, A, 8080, SYN),
            sarcenet_dataplane_api::DropReason::PolicyDenied,
            PORT_UNREACHABLE,
        ),
        row("the host TUN leads into the overlay and nowhere else")
            .refuses(udp(HOST, nobody([8, 8, 8, 8]), 53), NoRoute, HOST_UNREACHABLE)
            .refuses(udp(HOST, nobody([10, 255, 99, 1]), 53), NoRoute, HOST_UNREACHABLE)
            .refuses(udp(HOST, HOST, 53), NoRoute, HOST_UNREACHABLE),
    ]
}
