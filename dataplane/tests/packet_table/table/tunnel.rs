//! Whom a cell believes.

use sarcenet_dataplane::packet::Via;
use sarcenet_dataplane_api::DropReason::{
    BadTunnelFlags, ForeignSource, HostDenied, NoRoute, NotIpv4, PolicyDenied, SpoofedSource,
    UnknownPeer, WrongVni, WrongVtep,
};

use super::packet::{SYN, tcp, udp, udp_reply};
use super::world::{A, B, HOST, REMOTE_A, REMOTE_B, THIRD_C, nobody, tcp_rule, udp_rule};
use super::{HOST_UNREACHABLE, PORT_UNREACHABLE, Row, row};

pub(super) fn rows() -> Vec<Row> {
    let syn = || tcp(REMOTE_A, B, 8080, SYN);
    vec![
        row("a container that pretends to be another one of this cell")
            .allow(tcp_rule(A, B, 8080))
            .drops(
                tcp(A, B, 8080, SYN).with(|p| p.source = [10, 255, 55, 5].into()),
                SpoofedSource,
            ),
        row("a container that pretends to be on another cell, or outside")
            .drops(tcp(A, B, 8080, SYN).with(|p| p.source = REMOTE_A.address), SpoofedSource)
            .drops(udp(A, REMOTE_B, 53).with(|p| p.source = [8, 8, 8, 8].into()), SpoofedSource)
            .drops(udp(A, REMOTE_B, 53).with(|p| p.source = HOST.address), SpoofedSource),
        row("a container cannot join a conversation of its neighbour")
            .allow(udp_rule(A, B, 53))
            .passes(udp(A, B, 53), A, B)
            .drops(udp(A, B, 53).with(|p| p.door = super::world::C.door), SpoofedSource)
            .drops(udp_reply(B, A, 53).with(|p| p.door = super::world::C.door), SpoofedSource)
            .passes(udp_reply(B, A, 53), B, A),
        row("the host may not pretend to be a container")
            .drops(udp(HOST, A, 53).with(|p| p.source = B.address), SpoofedSource),
        row("an underlay address that no peer has")
            .allow(tcp_rule(A, B, 8080))
            .drops(syn().with(|p| p.door = Via::Tunnel([10, 77, 0, 99].into())), UnknownPeer),
        row("a peer that sends with another peer's source")
            .allow(tcp_rule(A, B, 8080))
            .drops(syn().with(|p| p.door = THIRD_C.door), ForeignSource),
        row("a peer that sends with a source of this cell, or from outside")
            .allow(tcp_rule(A, B, 8080))
            .drops(syn().with(|p| p.source = A.address), ForeignSource)
            .drops(syn().with(|p| p.source = [192, 0, 2, 1].into()), ForeignSource),
        row("a peer cannot join a conversation with another peer")
            .passes(udp(A, REMOTE_B, 53), A, REMOTE_B)
            .drops(udp_reply(REMOTE_B, A, 53).with(|p| p.door = THIRD_C.door), ForeignSource)
            .passes(udp_reply(REMOTE_B, A, 53), REMOTE_B, A),
        row("a peer cannot join a conversation between containers of this cell")
            .allow(udp_rule(A, B, 53))
            .passes(udp(A, B, 53), A, B)
            .drops(udp(A, B, 53).with(|p| p.door = REMOTE_A.door), ForeignSource),
        row("the tag is compared in all its 16 bits")
            .allow(tcp_rule(A, B, 8080))
            .refuses(syn().with(|p| p.tunnel.group = 0x0101), PolicyDenied, PORT_UNREACHABLE)
            .refuses(syn().with(|p| p.tunnel.group = 0x8001), PolicyDenied, PORT_UNREACHABLE),
        row("a group without the G bit is malformed, as is a header without the I bit")
            .allow(tcp_rule(A, B, 8080))
            .drops(syn().with(|p| p.tunnel.flags = [0x08, 0]), BadTunnelFlags)
            .drops(syn().with(|p| p.tunnel.flags = [0x80, 0]), BadTunnelFlags),
        row("reserved bits are not ours to ignore")
            .allow(tcp_rule(A, B, 8080))
            .drops(syn().with(|p| p.tunnel.flags = [0x89, 0]), BadTunnelFlags)
            .drops(syn().with(|p| p.tunnel.flags = [0x88, 1]), BadTunnelFlags)
            .drops(syn().with(|p| p.tunnel.reserved = 1), BadTunnelFlags),
        row("no group at all is no app").allow(tcp_rule(A, B, 8080)).refuses(
            syn().with(|p| (p.tunnel.flags, p.tunnel.group) = ([0x08, 0], 0)),
            PolicyDenied,
            PORT_UNREACHABLE,
        ),
        row("with the D or A bit no policy matches")
            .allow(tcp_rule(A, B, 8080))
            .refuses(syn().with(|p| p.tunnel.flags = [0x88, 0x40]), PolicyDenied, PORT_UNREACHABLE)
            .refuses(syn().with(|p| p.tunnel.flags = [0x88, 0x08]), PolicyDenied, PORT_UNREACHABLE),
        row("with the D or A bit an established conversation goes on")
            .passes(udp(A, REMOTE_B, 53), A, REMOTE_B)
            .passes(udp_reply(REMOTE_B, A, 53).with(|p| p.tunnel.flags[1] = 0x40), REMOTE_B, A),
        row("another network's identifier")
            .allow(tcp_rule(A, B, 8080))
            .drops(syn().with(|p| p.tunnel.vni = 2), WrongVni)
            .drops(syn().with(|p| p.tunnel.vni = 0x01_00_01), WrongVni),
        row("a frame for another VTEP")
            .allow(tcp_rule(A, B, 8080))
            .drops(
                syn().with(|p| p.tunnel.destination_mac = [0xee, 0xee, 10, 255, 56, 0]),
                WrongVtep,
            )
            .drops(syn().with(|p| p.tunnel.destination_mac = [0xff; 6]), WrongVtep),
        row("frames that are not IPv4")
            .drops(syn().with(|p| p.tunnel.ethertype = 0x0806), NotIpv4)
            .drops(syn().with(|p| p.tunnel.ethertype = 0x86dd), NotIpv4),
        row("nothing goes from peer to peer")
            .refuses(tcp(REMOTE_A, THIRD_C, 8080, SYN), NoRoute, HOST_UNREACHABLE)
            .refuses(tcp(REMOTE_A, REMOTE_B, 8080, SYN), NoRoute, HOST_UNREACHABLE)
            .refuses(udp(REMOTE_A, nobody([8, 8, 8, 8]), 53), NoRoute, HOST_UNREACHABLE),
        row("a peer may not open a conversation with the cell itself").refuses(
            tcp(REMOTE_A, HOST, 22, SYN),
            HostDenied,
            PORT_UNREACHABLE,
        ),
        row("an app without a tag is sent through the tunnel without the G bit").passes(
            udp(super::world::UNTAGGED, REMOTE_B, 53),
            super::world::UNTAGGED,
            REMOTE_B,
        ),
    ]
}
