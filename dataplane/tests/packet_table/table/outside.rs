//! The outside: what leaves a container for it, what comes back, and what comes in by a port of
//! the cell.

use sarcenet_dataplane::packet::Via;
use sarcenet_dataplane_api::DropReason::{
    ConnectionLimit, EgressDenied, HostDenied, PolicyDenied, PolicyRevoked, SnatExhausted,
    SpoofedSource, TtlExceeded, UnrelatedIcmp,
};
use sarcenet_dataplane_api::Traffic;

use super::packet::{
    ACK, CLIENT_PORT, FIN, Packet, RST, SYN, Transport, icmp, icmp_error, other, ping, pong, tcp,
    tcp_reply, udp, udp_reply,
};
use super::world::{
    A, B, CELL, End, OUTSIDE, OUTSIDE_2, SNAT_PORT, World, allow_out, deny_out, limit_connections,
    map_port, nobody, tcp_rule, with_outside,
};
use super::{PORT_UNREACHABLE, Row, TIME_EXCEEDED, row};

/// Everything that container A may reach: all of UDP and ICMP echo, TCP to port 443.
fn open(world: &mut World) {
    with_outside(world);
    allow_out(world, A, "0.0.0.0-255.255.255.255", Traffic::Udp(super::world::ports(1, 65_535)));
    allow_out(world, A, "0.0.0.0-255.255.255.255", Traffic::Icmp { kind: Some(8), code: Some(0) });
    allow_out(world, A, "198.51.100.0-198.51.100.255", Traffic::Tcp(super::world::ports(443, 443)));
}

/// The same packet as it is seen on the other side of the cell: from or to another end.
fn seen(packet: Packet, source: End, destination: End) -> Packet {
    packet.with(|p| {
        p.source = source.address;
        p.destination = destination.address;
    })
}

/// With other ports.
fn with_ports(packet: Packet, source: u16, destination: u16) -> Packet {
    packet.with(|p| match &mut p.transport {
        Transport::Tcp { ports, .. } | Transport::Udp { ports, .. } => {
            *ports = (source, destination);
        }
        Transport::Icmp { rest, .. } => rest[..2].copy_from_slice(&source.to_be_bytes()),
        Transport::Raw(_) => {}
    })
}

/// One router on.
fn hop(packet: Packet) -> Packet {
    packet.with(|p| p.ttl -= 1)
}

/// A row of a cell with a way out.
fn outside(name: &'static str) -> Row {
    row(name).given(open)
}

pub(super) fn rows() -> Vec<Row> {
    let rows = [leaving(), refused(), replies_and_errors(), mapped(), changes()];
    rows.into_iter().flatten().collect()
}

fn leaving() -> Vec<Row> {
    let syn = || tcp(A, OUTSIDE, 443, SYN);
    let synack = || tcp_reply(OUTSIDE, CELL, 443, SYN | ACK);
    vec![
        outside(
            "a connection to the outside leaves with the cell's address, and its replies return",
        )
        .translates(syn(), Via::Host, seen(syn(), CELL, OUTSIDE))
        .translates(synack(), A.door, hop(seen(synack(), OUTSIDE, A)))
        .translates(
            tcp(A, OUTSIDE, 443, ACK),
            Via::Host,
            seen(tcp(A, OUTSIDE, 443, ACK), CELL, OUTSIDE),
        ),
        outside("datagrams too, with their checksums")
            .translates(udp(A, OUTSIDE, 53), Via::Host, seen(udp(A, OUTSIDE, 53), CELL, OUTSIDE))
            .translates(
                udp_reply(OUTSIDE, CELL, 53),
                A.door,
                hop(seen(udp_reply(OUTSIDE, CELL, 53), OUTSIDE, A)),
            ),
        outside("an echo has its identifier exchanged")
            .translates(
                ping(A, OUTSIDE),
                Via::Host,
                with_ports(seen(ping(A, OUTSIDE), CELL, OUTSIDE), SNAT_PORT, 0),
            )
            .translates(
                with_ports(pong(OUTSIDE, CELL), SNAT_PORT, 0),
                A.door,
                hop(pong(OUTSIDE, A)),
            ),
        outside("super-packets stay whole, with a partial checksum for the new address")
            .translates(syn(), Via::Host, seen(syn(), CELL, OUTSIDE))
            .translates(
                tcp(A, OUTSIDE, 443, ACK).payload(9_000).segments_of(1_410),
                Via::Host,
                seen(tcp(A, OUTSIDE, 443, ACK).payload(9_000).segments_of(1_410), CELL, OUTSIDE),
            )
            .translates(
                tcp_reply(OUTSIDE, CELL, 443, ACK).payload(30_000).segments_of(1_410),
                A.door,
                hop(seen(
                    tcp_reply(OUTSIDE, CELL, 443, ACK).payload(30_000).segments_of(1_410),
                    OUTSIDE,
                    A,
                )),
            ),
        outside("a network that is not masqueraded sees the container")
            .given(|world| {
                let net = "198.51.100.0/24".parse().unwrap();
                world.cell.as_mut().unwrap().outside.as_mut().unwrap().not_masqueraded = vec![net];
            })
            .passes(syn(), A, OUTSIDE)
            .passes(tcp_reply(OUTSIDE, A, 443, SYN | ACK), OUTSIDE, A),
        outside("one port serves conversations with many ends, but each end only once")
            .translates(udp(A, OUTSIDE, 53), Via::Host, seen(udp(A, OUTSIDE, 53), CELL, OUTSIDE))
            .translates(
                udp(A, OUTSIDE_2, 53),
                Via::Host,
                seen(udp(A, OUTSIDE_2, 53), CELL, OUTSIDE_2),
            )
            .translates(udp(A, OUTSIDE, 54), Via::Host, seen(udp(A, OUTSIDE, 54), CELL, OUTSIDE))
            .refuses(
                with_ports(udp(A, OUTSIDE, 53), CLIENT_PORT + 1, 53),
                SnatExhausted,
                PORT_UNREACHABLE,
            ),
        outside("services of the cell are reached as the container, others are not")
            .passes(udp(A, nobody([169, 254, 0, 2]), 53), A, HOST_SERVICE)
            .passes(udp_reply(HOST_SERVICE, A, 53), HOST_SERVICE, A)
            .refuses(udp(A, nobody([169, 254, 0, 2]), 54), HostDenied, PORT_UNREACHABLE)
            .refuses(tcp(A, nobody([169, 254, 0, 2]), 53, SYN), HostDenied, PORT_UNREACHABLE)
            .refuses(udp(A, nobody([10, 77, 0, 11]), 53), HostDenied, PORT_UNREACHABLE)
            .refuses(udp(A, nobody([192, 0, 2, 11]), 53), HostDenied, PORT_UNREACHABLE)
            .refuses(udp(A, nobody([127, 0, 0, 1]), 53), HostDenied, PORT_UNREACHABLE),
        outside("nothing enters the tunnel of another cell under the address of this one")
            .given(|world| {
                let cell = "10.77.0.12-10.77.0.12";
                allow_out(world, A, cell, Traffic::Tcp(super::world::ports(443, 443)));
            })
            .refuses(udp(A, OTHER_CELL, 4_789), HostDenied, PORT_UNREACHABLE)
            .translates(
                udp(A, OTHER_CELL, 4_788),
                Via::Host,
                seen(udp(A, OTHER_CELL, 4_788), CELL, OTHER_CELL),
            )
            .refuses(tcp(A, OTHER_CELL, 4_789, SYN), EgressDenied, PORT_UNREACHABLE),
    ]
}

/// The underlay address of another cell.
const OTHER_CELL: End = nobody([10, 77, 0, 12]);

/// The cell's DNS server.
const HOST_SERVICE: End =
    End { door: Via::Host, address: std::net::Ipv4Addr::new(169, 254, 0, 2), tag: 0 };

fn refused() -> Vec<Row> {
    let syn = |port| tcp(A, OUTSIDE, port, SYN);
    vec![
        row("without a way out nothing leaves").refuses(syn(443), EgressDenied, PORT_UNREACHABLE),
        row("with a way out, but without security groups, neither").given(with_outside).refuses(
            syn(443),
            EgressDenied,
            PORT_UNREACHABLE,
        ),
        outside("what no security group names is refused")
            .refuses(syn(444), EgressDenied, PORT_UNREACHABLE)
            .refuses(tcp(A, OUTSIDE_2, 443, SYN), EgressDenied, PORT_UNREACHABLE)
            .refuses(tcp(B, OUTSIDE, 443, SYN), EgressDenied, PORT_UNREACHABLE)
            .refuses(ping(B, OUTSIDE), EgressDenied, PORT_UNREACHABLE)
            .refuses(other(A, OUTSIDE, 47), EgressDenied, PORT_UNREACHABLE),
        outside("an echo request with another code than 0 is none").refuses(
            ping(A, OUTSIDE).with(|p| {
                if let Transport::Icmp { code, .. } = &mut p.transport {
                    *code = 1;
                }
            }),
            PolicyDenied,
            PORT_UNREACHABLE,
        ),
        outside("denied networks come before security groups")
            .given(|world| deny_out(world, A, "198.51.100.7-198.51.100.7"))
            .refuses(syn(443), EgressDenied, PORT_UNREACHABLE)
            .refuses(udp(A, OUTSIDE, 53), EgressDenied, PORT_UNREACHABLE)
            .translates(
                udp(A, OUTSIDE_2, 53),
                Via::Host,
                seen(udp(A, OUTSIDE_2, 53), CELL, OUTSIDE_2),
            ),
        outside("security groups do not open the overlay, whatever they name").refuses(
            udp(A, B, 53),
            PolicyDenied,
            PORT_UNREACHABLE,
        ),
        row("nor do policies open the outside")
            .given(with_outside)
            .allow(tcp_rule(A, B, 443))
            .refuses(syn(443), EgressDenied, PORT_UNREACHABLE),
        outside("a container may not use the cell's address, even in its own conversation")
            .translates(udp(A, OUTSIDE, 53), Via::Host, seen(udp(A, OUTSIDE, 53), CELL, OUTSIDE))
            .drops(udp(A, OUTSIDE, 53).with(|p| p.source = CELL.address), SpoofedSource),
        outside("the last hop of a packet ends at the cell").refuses(
            udp(A, OUTSIDE, 53).with(|p| p.ttl = 1),
            TtlExceeded,
            TIME_EXCEEDED,
        ),
        outside("more connections at once than the container may open")
            .given(|world| limit_connections(world, A, 1, false))
            .translates(syn(443), Via::Host, seen(syn(443), CELL, OUTSIDE))
            .refuses(with_ports(syn(443), CLIENT_PORT + 1, 443), ConnectionLimit, PORT_UNREACHABLE)
            .refuses(tcp(A, OUTSIDE, 444, SYN), EgressDenied, PORT_UNREACHABLE),
    ]
}

fn replies_and_errors() -> Vec<Row> {
    let request = || udp(A, OUTSIDE, 53);
    let outer = || seen(request(), CELL, OUTSIDE);
    let router = || End { address: [203, 0, 113, 9].into(), ..OUTSIDE };
    vec![
        outside("an error about a conversation reaches the container, about its own packet")
            .translates(request(), Via::Host, outer())
            .translates(
                icmp_error(OUTSIDE, CELL, 3, 3, 0, &outer()),
                A.door,
                hop(icmp_error(OUTSIDE, A, 3, 3, 0, &request())),
            ),
        outside("also from a router on the way: path MTU discovery works")
            .translates(request(), Via::Host, outer())
            .translates(
                icmp_error(router(), CELL, 3, 4, 1_300, &outer()),
                A.door,
                hop(icmp_error(router(), A, 3, 4, 1_300, &request())),
            ),
        outside("a container's error about a reply leaves with the cell's address")
            .translates(request(), Via::Host, outer())
            .translates(
                icmp_error(A, OUTSIDE, 3, 3, 0, &udp_reply(OUTSIDE, A, 53)),
                Via::Host,
                icmp_error(CELL, OUTSIDE, 3, 3, 0, &udp_reply(OUTSIDE, CELL, 53)),
            ),
        outside("what concerns nobody here goes back to the kernel as it came")
            .passes(udp(OUTSIDE, CELL, 5_353), OUTSIDE, CELL)
            .passes(tcp(OUTSIDE, CELL, 22, SYN), OUTSIDE, CELL)
            .passes(tcp_reply(OUTSIDE, CELL, 443, SYN | ACK), OUTSIDE, CELL)
            .passes(pong(OUTSIDE, CELL), OUTSIDE, CELL)
            .passes(icmp_error(OUTSIDE, CELL, 3, 3, 0, &outer()), OUTSIDE, CELL)
            .passes(icmp(OUTSIDE, CELL, 13, 0, [0; 4], &[0; 12]), OUTSIDE, CELL),
        outside("a container's error about no conversation ends")
            .drops(icmp_error(A, OUTSIDE, 3, 3, 0, &udp_reply(OUTSIDE, A, 53)), UnrelatedIcmp),
        outside("nobody from outside reaches a container by its own address")
            .refuses(tcp(OUTSIDE, A, 8_080, SYN), PolicyDenied, PORT_UNREACHABLE)
            .drops(tcp(OUTSIDE, A, 8_080, SYN).with(|p| p.source = B.address), SpoofedSource),
        outside("fragments follow the first one, both ways")
            .translates(first(request()), Via::Host, first(outer()))
            .translates(later(request()), Via::Host, later(outer()))
            .translates(
                first(udp_reply(OUTSIDE, CELL, 53)),
                A.door,
                hop(seen(first(udp_reply(OUTSIDE, CELL, 53)), OUTSIDE, A)),
            )
            .translates(
                later(udp_reply(OUTSIDE, CELL, 53)),
                A.door,
                hop(seen(later(udp_reply(OUTSIDE, CELL, 53)), OUTSIDE, A)),
            ),
    ]
}

/// The first fragment of a datagram.
fn first(packet: Packet) -> Packet {
    packet.payload(64).with(|p| {
        p.dont_frag = false;
        p.more_frags = true;
    })
}

/// A later one: no transport header, so nothing but the addresses can be written anew.
fn later(packet: Packet) -> Packet {
    packet.with(|p| {
        p.dont_frag = false;
        p.frag_offset = 72;
        p.transport = Transport::Raw(b"the rest".to_vec());
    })
}

fn mapped() -> Vec<Row> {
    let syn = || tcp(OUTSIDE, CELL, 61_001, SYN);
    let inner = |flags| tcp(OUTSIDE, A, 8_080, flags);
    let row = |name| outside(name).given(|world| map_port(world, A, 61_000, 61_003, 8_079));
    vec![
        row("a port of the cell leads to its container, a range of them in order")
            .translates(syn(), A.door, hop(inner(SYN)))
            .translates(
                tcp_reply(A, OUTSIDE, 8_080, SYN | ACK),
                Via::Host,
                tcp_reply(CELL, OUTSIDE, 61_001, SYN | ACK),
            )
            .translates(tcp(OUTSIDE, CELL, 61_001, ACK), A.door, hop(inner(ACK)))
            .translates(tcp(OUTSIDE, CELL, 61_003, SYN), A.door, hop(tcp(OUTSIDE, A, 8_082, SYN))),
        row("ports beside it do not, nor does another protocol")
            .passes(tcp(OUTSIDE, CELL, 61_004, SYN), OUTSIDE, CELL)
            .passes(tcp(OUTSIDE, CELL, 60_999, SYN), OUTSIDE, CELL)
            .passes(udp(OUTSIDE, CELL, 61_001), OUTSIDE, CELL),
        row("what opens nothing is for the kernel to answer")
            .passes(tcp(OUTSIDE, CELL, 61_001, RST), OUTSIDE, CELL)
            .passes(tcp(OUTSIDE, CELL, 61_001, SYN | FIN), OUTSIDE, CELL),
        row("containers of the cell do not reach it")
            .refuses(tcp(B, CELL_FROM_INSIDE, 61_001, SYN), HostDenied, PORT_UNREACHABLE)
            .refuses(tcp(A, CELL_FROM_INSIDE, 61_001, SYN), HostDenied, PORT_UNREACHABLE),
        row("the cell itself does").translates(
            tcp(CELL, CELL, 61_001, SYN),
            A.door,
            hop(tcp(CELL, A, 8_080, SYN)),
        ),
    ]
}

const CELL_FROM_INSIDE: End = CELL;

fn changes() -> Vec<Row> {
    let syn = || tcp(A, OUTSIDE, 443, SYN);
    let ack = || tcp(A, OUTSIDE, 443, ACK);
    let established = |name| {
        outside(name)
            .translates(syn(), Via::Host, seen(syn(), CELL, OUTSIDE))
            .translates(
                tcp_reply(OUTSIDE, CELL, 443, SYN | ACK),
                A.door,
                hop(tcp_reply(OUTSIDE, A, 443, SYN | ACK)),
            )
            .translates(ack(), Via::Host, seen(ack(), CELL, OUTSIDE))
    };
    vec![
        established("a security group that goes leaves established connections alone")
            .change(|world| world.grants.clear())
            .translates(ack(), Via::Host, seen(ack(), CELL, OUTSIDE))
            .refuses(with_ports(syn(), CLIENT_PORT + 1, 443), EgressDenied, PORT_UNREACHABLE),
        established("but not when revocation is immediate")
            .revoke_immediately()
            .change(|world| world.grants.clear())
            .refuses(ack(), PolicyRevoked, PORT_UNREACHABLE),
        outside("a security group that comes takes effect with the next packet")
            .change(|world| world.grants.clear())
            .refuses(syn(), EgressDenied, PORT_UNREACHABLE)
            .change(open)
            .translates(syn(), Via::Host, seen(syn(), CELL, OUTSIDE)),
    ]
}
