//! Without a policy nothing passes between apps, and senders are told at once.

use sarcenet_dataplane_api::DropReason::{
    EgressDenied, HostDenied, NoRoute, NotConfigured, NotUnicast, PolicyDenied,
};

use super::packet::{SYN, other, ping, tcp, udp};
use super::world::{A, A2, B, REMOTE_A, REMOTE_B, THIRD_C, nobody};
use super::{HOST_UNREACHABLE, PORT_UNREACHABLE, Row, row};

pub(super) fn rows() -> Vec<Row> {
    vec![
        row("TCP to an app on the same cell is refused").refuses(
            tcp(A, B, 8080, SYN),
            PolicyDenied,
            PORT_UNREACHABLE,
        ),
        row("UDP to an app on the same cell is refused").refuses(
            udp(A, B, 53),
            PolicyDenied,
            PORT_UNREACHABLE,
        ),
        row("TCP from another cell is refused, back through the tunnel").refuses(
            tcp(REMOTE_A, B, 8080, SYN),
            PolicyDenied,
            PORT_UNREACHABLE,
        ),
        row("UDP from another cell is refused, back through the tunnel").refuses(
            udp(REMOTE_A, B, 53),
            PolicyDenied,
            PORT_UNREACHABLE,
        ),
        row("instances of one app may not talk to each other either")
            .refuses(tcp(A, A2, 8080, SYN), PolicyDenied, PORT_UNREACHABLE)
            .refuses(tcp(REMOTE_A, A, 8080, SYN), PolicyDenied, PORT_UNREACHABLE),
        row("echo between apps is refused")
            .refuses(ping(A, B), PolicyDenied, PORT_UNREACHABLE)
            .refuses(ping(REMOTE_A, B), PolicyDenied, PORT_UNREACHABLE),
        row("other protocols between apps are refused")
            .refuses(other(A, B, 47), PolicyDenied, PORT_UNREACHABLE)
            .refuses(other(REMOTE_B, A, 132), PolicyDenied, PORT_UNREACHABLE),
        row("what goes to another cell is judged there, not here")
            .passes(tcp(A, REMOTE_B, 8080, SYN), A, REMOTE_B)
            .passes(udp(A, THIRD_C, 53), A, THIRD_C)
            .passes(ping(A, REMOTE_B), A, REMOTE_B),
        row("refusing twice refuses twice")
            .refuses(tcp(A, B, 8080, SYN), PolicyDenied, PORT_UNREACHABLE)
            .refuses(tcp(A, B, 8080, SYN), PolicyDenied, PORT_UNREACHABLE),
        row("an overlay address of this cell that no container has")
            .refuses(tcp(A, nobody([10, 255, 55, 99]), 80, SYN), NoRoute, HOST_UNREACHABLE)
            .refuses(udp(REMOTE_A, nobody([10, 255, 55, 99]), 80), NoRoute, HOST_UNREACHABLE),
        row("an overlay address of no cell").refuses(
            udp(A, nobody([10, 255, 99, 1]), 53),
            NoRoute,
            HOST_UNREACHABLE,
        ),
        row("a container's own address is no destination for it").refuses(
            udp(A, A, 53),
            NoRoute,
            HOST_UNREACHABLE,
        ),
        row("the outside is refused").refuses(
            tcp(A, nobody([8, 8, 8, 8]), 443, SYN),
            EgressDenied,
            PORT_UNREACHABLE,
        ),
        row("another cell's underlay address is outside: no VXLAN from containers").refuses(
            udp(A, nobody([10, 77, 0, 12]), 4789),
            HostDenied,
            PORT_UNREACHABLE,
        ),
        row("multicast and broadcast are not carried")
            .drops(udp(A, nobody([224, 0, 0, 251]), 5353), NotUnicast)
            .drops(udp(A, nobody([255, 255, 255, 255]), 67), NotUnicast)
            .drops(udp(A, nobody([10, 255, 255, 255]), 67), NotUnicast),
        row("before the controller has spoken nothing is carried")
            .given(|world| world.cell = None)
            .drops(tcp(A, B, 8080, SYN), NotConfigured)
            .drops(tcp(REMOTE_A, B, 8080, SYN), NotConfigured),
    ]
}
