//! Sequence numbers: what lies far from a connection is no part of it.

use sarcenet_dataplane::packet::Via;
use sarcenet_dataplane_api::DropReason::OutOfWindow;
use sarcenet_dataplane_api::Traffic;

use super::packet::{ACK, FIN, Packet, RST, SYN, tcp, tcp_reply};
use super::world::{
    A, B, CELL, End, OUTSIDE, REMOTE_A, REMOTE_B, allow_out, map_port, ports, tcp_rule,
    with_outside,
};
use super::{Row, row};

/// First sequence number of the beginner, and of the other side: both go round soon.
const ISS: u32 = u32::MAX - 50;
const IRS: u32 = 0x7fff_ffff;

/// From the beginner, that many bytes behind its SYN, having got that many.
fn there(from: End, to: End, flags: u8, sent: u32, got: u32) -> Packet {
    let begin = u32::from(flags & SYN == 0);
    let numbers = (ISS.wrapping_add(begin + sent), IRS.wrapping_add(1 + got));
    tcp(from, to, 8080, flags).numbered(numbers.0, if flags & ACK == 0 { 0 } else { numbers.1 })
}

/// From the other side.
fn back(from: End, to: End, flags: u8, sent: u32, got: u32) -> Packet {
    let begin = u32::from(flags & SYN == 0);
    tcp_reply(from, to, 8080, flags)
        .numbered(IRS.wrapping_add(begin + sent), ISS.wrapping_add(1 + got))
}

/// A connection between two ends is opened.
fn opened(name: &'static str, from: End, to: End) -> Row {
    row(name)
        .allow(tcp_rule(A, B, 8080))
        .passes(there(from, to, SYN, 0, 0), from, to)
        .passes(back(to, from, SYN | ACK, 0, 0), to, from)
        .passes(there(from, to, ACK, 0, 0), from, to)
}

/// Farther than any window without scale and its slack.
const FAR: u32 = 0x0010_0000;

pub(super) fn rows() -> Vec<Row> {
    vec![
        opened("a blind reset ends no connection", REMOTE_A, B)
            .drops(there(REMOTE_A, B, RST, FAR, 0), OutOfWindow)
            .drops(there(REMOTE_A, B, RST, FAR.wrapping_neg(), 0), OutOfWindow)
            .passes(there(REMOTE_A, B, ACK, 0, 0).payload(100), REMOTE_A, B)
            .passes(back(B, REMOTE_A, ACK, 0, 100), B, REMOTE_A),
        opened("nor does one from the other side", A, REMOTE_B)
            .drops(back(REMOTE_B, A, RST | ACK, FAR, 0), OutOfWindow)
            .drops(back(REMOTE_B, A, RST, 0x8000_0000, 0), OutOfWindow)
            .passes(back(REMOTE_B, A, ACK, 0, 0).payload(100), REMOTE_B, A),
        opened("data and ends far from a connection do not pass", REMOTE_A, B)
            .drops(there(REMOTE_A, B, ACK, FAR, 0).payload(100), OutOfWindow)
            .drops(there(REMOTE_A, B, FIN | ACK, FAR, 0), OutOfWindow)
            .drops(there(REMOTE_A, B, ACK, 0, FAR).payload(100), OutOfWindow)
            .drops(back(B, REMOTE_A, ACK, FAR, 0).payload(100), OutOfWindow)
            .passes(there(REMOTE_A, B, ACK, 0, 0).payload(100), REMOTE_A, B),
        opened("a reset in its place ends a connection", REMOTE_A, B)
            .passes(there(REMOTE_A, B, RST, 0, 0), REMOTE_A, B)
            .passes(there(REMOTE_A, B, SYN, 0, 0).numbered(77, 0), REMOTE_A, B)
            .passes(back(B, REMOTE_A, SYN | ACK, 0, 0).numbered(88, 78), B, REMOTE_A)
            .drops(there(REMOTE_A, B, ACK, FAR, 0), OutOfWindow)
            .passes(there(REMOTE_A, B, ACK, 0, 0).numbered(78, 89), REMOTE_A, B),
        opened("a SYN inside a connection moves nothing", REMOTE_A, B)
            .passes(there(REMOTE_A, B, SYN, FAR, 0), REMOTE_A, B)
            .drops(there(REMOTE_A, B, ACK, FAR, 0).payload(10), OutOfWindow)
            .passes(there(REMOTE_A, B, ACK, 0, 0).payload(10), REMOTE_A, B),
        opened("super-packets, repetitions and keep-alives pass", A, REMOTE_B)
            .passes(there(A, REMOTE_B, ACK, 0, 0).payload(60_000).segments_of(1410), A, REMOTE_B)
            .passes(there(A, REMOTE_B, ACK, 0, 0).payload(1410), A, REMOTE_B)
            .passes(back(REMOTE_B, A, ACK, 0, 60_000), REMOTE_B, A)
            .passes(there(A, REMOTE_B, ACK, 59_999, 0), A, REMOTE_B)
            .passes(
                back(REMOTE_B, A, ACK, 0, 60_000).payload(30_000).segments_of(1410),
                REMOTE_B,
                A,
            )
            .passes(there(A, REMOTE_B, ACK, 60_000, 30_000), A, REMOTE_B),
        row("a connection that is taken up is held to its numbers once both sides were seen")
            .allow(tcp_rule(A, B, 8080))
            .passes(there(A, B, ACK, 500, 0).payload(10), A, B)
            .passes(back(B, A, ACK, 0, 510).payload(10), B, A)
            .passes(there(A, B, ACK, 510, 10), A, B)
            .drops(there(A, B, RST, 0x4000_0000, 0), OutOfWindow)
            .drops(back(B, A, RST, 0x4000_0000, 0), OutOfWindow)
            .passes(back(B, A, ACK, 10, 510), B, A),
        from_outside(),
        to_a_mapped_port(),
    ]
}

/// The same packet one router on.
fn hop(packet: Packet) -> Packet {
    packet.with(|p| p.ttl -= 1)
}

fn from_outside() -> Row {
    row("nobody outside ends a container's connection blindly")
        .given(|world| {
            with_outside(world);
            allow_out(world, A, "0.0.0.0-255.255.255.255", Traffic::Tcp(ports(8080, 8080)));
        })
        .translates(there(A, OUTSIDE, SYN, 0, 0), Via::Host, there(CELL, OUTSIDE, SYN, 0, 0))
        .translates(
            back(OUTSIDE, CELL, SYN | ACK, 0, 0),
            A.door,
            hop(back(OUTSIDE, A, SYN | ACK, 0, 0)),
        )
        .translates(there(A, OUTSIDE, ACK, 0, 0), Via::Host, there(CELL, OUTSIDE, ACK, 0, 0))
        .drops(back(OUTSIDE, CELL, RST, FAR, 0), OutOfWindow)
        .drops(back(OUTSIDE, CELL, ACK, FAR, 0).payload(9), OutOfWindow)
        .translates(
            back(OUTSIDE, CELL, ACK, 0, 0).payload(9),
            A.door,
            hop(back(OUTSIDE, A, ACK, 0, 0).payload(9)),
        )
        .translates(back(OUTSIDE, CELL, RST, 9, 0), A.door, hop(back(OUTSIDE, A, RST, 9, 0)))
}

fn to_a_mapped_port() -> Row {
    row("nor one that came in by a mapped port")
        .given(|world| {
            with_outside(world);
            map_port(world, A, 8080, 8080, 8080);
        })
        .translates(there(OUTSIDE, CELL, SYN, 0, 0), A.door, hop(there(OUTSIDE, A, SYN, 0, 0)))
        .translates(
            back(A, OUTSIDE, SYN | ACK, 0, 0),
            Via::Host,
            back(CELL, OUTSIDE, SYN | ACK, 0, 0),
        )
        .translates(there(OUTSIDE, CELL, ACK, 0, 0), A.door, hop(there(OUTSIDE, A, ACK, 0, 0)))
        .drops(there(OUTSIDE, CELL, RST, FAR, 0), OutOfWindow)
        .drops(there(OUTSIDE, CELL, FIN | ACK, FAR, 0), OutOfWindow)
        .translates(
            there(OUTSIDE, CELL, ACK, 0, 0).payload(9),
            A.door,
            hop(there(OUTSIDE, A, ACK, 0, 0).payload(9)),
        )
}
