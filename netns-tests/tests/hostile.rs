//! Bytes that nobody should send, into every door of a Sarcenet cell: each ends with the counted
//! reason it should, and honest traffic goes on.
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, ensure};
use sarcenet_netns_tests::{Datagram, PATIENCE, Setting, TUNNEL_PORT, Tunneled};
use sarcenet_rig::{CellKind, Namespace, Plan, SarcenetCell, eventually, tcp, udp};

/// Port that policies open.
const PORT: u16 = 9090;

/// app-1 on the first cell may reach app-2 on the second.
fn told(test: impl FnOnce(&Setting) -> Result<()>) {
    let plan = Plan::new("h", &[CellKind::Sarcenet, CellKind::Sarcenet]);
    let policies = [udp("app-1", "app-2", PORT..=PORT), tcp("app-1", "app-2", PORT..=PORT)];
    Setting::told(plan, &policies, test);
}

/// An honest datagram to the policy's port.
fn datagram_of(setting: &Setting) -> Datagram<'_> {
    Datagram {
        source: setting.from.address(),
        destination: setting.to.address(),
        port: PORT,
        payload: b"hostile",
    }
}

/// Honest traffic passes.
fn works(setting: &Setting) -> Result<()> {
    let Setting { from, to, .. } = setting;
    let _servers = (to.serve_udp(PORT)?, to.serve_http(PORT)?);
    let answer = from.ask_udp(setting.target(PORT), b"honest", PATIENCE)?;
    ensure!(answer.is_answered(), "{answer:?}");
    from.http(setting.target(PORT), PATIENCE)?.download(1 << 20)
}

/// Does something and waits until exactly so many more packets were dropped for this reason.
fn counted(
    cell: &SarcenetCell,
    reason: &str,
    packets: u64,
    what: &str,
    act: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let before = cell.drops(reason)?;
    act().with_context(|| what.to_owned())?;
    eventually(PATIENCE, || {
        let more = cell.drops(reason)? - before;
        ensure!(
            more == packets,
            "{what}: {more} packets dropped for {reason}, not {packets}; drops now: {:?}",
            cell.dataplane()?.status()?.drops
        );
        Ok(())
    })
}

/// Changes bytes of a packet.
fn with(mut bytes: Vec<u8>, at: usize, new: &[u8]) -> Vec<u8> {
    bytes[at..at + new.len()].copy_from_slice(new);
    bytes
}

#[test]
fn garbage_from_a_container() {
    told(|setting| {
        let honest = datagram_of(setting);
        let packet = honest.bytes();
        let table: [(&str, &str, Vec<u8>); 9] = [
            ("one byte", "malformed", vec![0x45]),
            ("half a header", "malformed", packet[..10].to_vec()),
            ("a header without its packet", "malformed", packet[..20].to_vec()),
            ("IPv6", "not_ipv4", with(packet.clone(), 0, &[0x60])),
            ("an ARP packet", "not_ipv4", vec![0, 1, 8, 0, 6, 4, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]),
            ("a wrong header checksum", "bad_header_checksum", with(packet.clone(), 10, &[0, 0])),
            (
                "multicast",
                "not_unicast",
                Datagram { destination: Ipv4Addr::new(224, 0, 0, 251), ..honest }.bytes(),
            ),
            (
                "a neighbour's address",
                "spoofed_source",
                Datagram { source: Ipv4Addr::new(10, 255, 55, 77), ..honest }.bytes(),
            ),
            (
                "an address that nobody has",
                "no_route",
                Datagram { destination: Ipv4Addr::new(10, 255, 99, 2), ..honest }.bytes(),
            ),
        ];
        let cell = setting.cells()?[0];
        for (what, reason, packet) in table {
            counted(cell, reason, 3, what, || setting.from.inject(&vec![packet; 3]))?;
        }
        works(setting)
    });
}

#[test]
fn garbage_from_the_tunnel() {
    told(|setting| {
        let honest = Tunneled { flags: 0x88, group: 1, vni: 1, inner: datagram_of(setting) };
        let bytes = honest.bytes();
        let foreign = Datagram { source: Ipv4Addr::new(10, 255, 99, 2), ..datagram_of(setting) };
        let table: [(&str, &str, Vec<u8>); 10] = [
            ("an empty datagram", "malformed", Vec::new()),
            ("half a VXLAN header", "malformed", bytes[..5].to_vec()),
            ("no inner frame", "malformed", bytes[..8].to_vec()),
            ("half an inner frame", "malformed", bytes[..30].to_vec()),
            ("no I flag", "bad_tunnel_flags", Tunneled { flags: 0x80, ..honest }.bytes()),
            ("another network", "wrong_vni", Tunneled { vni: 2, ..honest }.bytes()),
            ("another VTEP", "wrong_vtep", with(bytes.clone(), 8, &[2; 6])),
            ("inner ARP", "not_ipv4", with(bytes.clone(), 20, &[0x08, 0x06])),
            (
                "an address of no peer",
                "foreign_source",
                Tunneled { inner: foreign, ..honest }.bytes(),
            ),
            (
                "an address of the receiver's own",
                "foreign_source",
                Tunneled {
                    inner: Datagram { source: Ipv4Addr::new(10, 255, 62, 77), ..honest.inner },
                    ..honest
                }
                .bytes(),
            ),
        ];
        let cell = setting.cells()?[1];
        let peer = setting.world.cells()[0].plan().underlay;
        let target = (setting.world.cells()[1].plan().underlay, TUNNEL_PORT);
        for (what, reason, payload) in table {
            counted(cell, reason, 3, what, || {
                send(setting.world.cells()[0].namespace(), peer, target, &[&payload[..]; 3])
            })?;
        }
        works(setting)
    });
}

/// A packet cut off at every length there is, and one that is longer than it says.
#[test]
fn packets_of_every_length_from_a_container() {
    told(|setting| {
        let Setting { from, to, .. } = setting;
        let payload = vec![b'x'; usize::from(from.mtu()) - 28];
        let honest = Datagram { payload: &payload, ..datagram_of(setting) }.bytes();
        let cell = setting.cells()?[0];
        let cut: Vec<_> = (1..honest.len()).map(|len| honest[..len].to_vec()).collect();
        // In parts, because the device's queue holds 500 packets.
        for part in cut.chunks(200) {
            counted(cell, "malformed", part.len() as u64, "cut off", || from.inject(part))?;
        }
        // Other first bytes: another version, or another length of the header.
        let first: Vec<_> =
            (0..=255).map(|byte| with(datagram_of(setting).bytes(), 0, &[byte])).collect();
        let (not_ipv4, rest): (Vec<_>, Vec<_>) =
            first.into_iter().partition(|packet| packet[0] >> 4 != 4);
        counted(cell, "not_ipv4", 240, "another version", || from.inject(&not_ipv4))?;
        // A header of up to 16 bytes, or longer than the packet, is malformed. One that ends later
        // in the packet than it should has a wrong checksum.
        let (malformed, wrong): (Vec<_>, Vec<_>) = rest
            .into_iter()
            .filter(|packet| packet[0] != 0x45)
            .partition(|packet| !(20..=packet.len()).contains(&(usize::from(packet[0] & 15) * 4)));
        let (n, m) = (malformed.len() as u64, wrong.len() as u64);
        ensure!((n, m) == (12, 3), "{n} and {m}");
        counted(cell, "malformed", n, "a wrong header length", || from.inject(&malformed))?;
        counted(cell, "bad_header_checksum", m, "a longer header", || from.inject(&wrong))?;
        // What is behind the packet's end is thrown away.
        let server = to.serve_udp(PORT)?;
        let mut longer = datagram_of(setting).bytes();
        longer.resize(usize::from(from.mtu()), 0xff);
        from.inject(&[longer])?;
        eventually(PATIENCE, || {
            let received: Vec<_> = server.received().into_iter().map(|(_, what)| what).collect();
            ensure!(received == [b"hostile"], "{received:?}");
            Ok(())
        })?;
        drop(server);
        works(setting)
    });
}

/// Datagrams of all sizes that there are on the tunnel's port, and all flags.
#[test]
fn datagrams_of_every_length_and_kind_from_the_tunnel() {
    told(|setting| {
        let cell = setting.cells()?[1];
        let from = setting.world.cells()[0].namespace();
        let peer = setting.world.cells()[0].plan().underlay;
        let target = (setting.world.cells()[1].plan().underlay, TUNNEL_PORT);
        let expect = |reason: &str, what: &str, payloads: &[Vec<u8>]| {
            // So few at a time that no buffer on the way overflows.
            payloads.chunks(64).try_for_each(|part| {
                let slices: Vec<&[u8]> = part.iter().map(Vec::as_slice).collect();
                counted(cell, reason, part.len() as u64, what, || send(from, peer, target, &slices))
            })
        };
        let honest = Tunneled { flags: 0x88, group: 1, vni: 1, inner: datagram_of(setting) };
        let bytes = honest.bytes();

        let cut: Vec<_> = (0..bytes.len()).map(|len| bytes[..len].to_vec()).collect();
        expect("malformed", "cut off", &cut)?;
        // An inner packet that claims to go on behind the datagram's end.
        let sizes = [100, 1000, 1472, 1473, 9000, 32_768, 65_000, 65_507];
        let claims: Vec<_> = sizes
            .map(|size| {
                let payload = vec![0; 65_535 - 28];
                let mut long = Datagram { payload: &payload, ..datagram_of(setting) };
                long.source = setting.from.address();
                let inner = Tunneled { inner: long, ..honest }.bytes();
                inner[..size].to_vec()
            })
            .to_vec();
        expect("malformed", "less than it says", &claims)?;
        // Whole ones that no container can take.
        let large: Vec<_> = [1451, 1500, 9000, 65_485]
            .map(|size| {
                let payload = vec![0; size - 28];
                let long = Datagram { payload: &payload, ..datagram_of(setting) };
                Tunneled { inner: long, ..honest }.bytes()
            })
            .to_vec();
        expect("too_big", "larger than the container's MTU", &large)?;
        // Nothing but zeroes, and nothing but ones, of every size.
        for (byte, reason) in [(0, "bad_tunnel_flags"), (0xff, "bad_tunnel_flags")] {
            let junk: Vec<_> = sizes.map(|size| vec![byte; size]).to_vec();
            expect(reason, "junk", &junk)?;
        }

        // All flags but the right ones: I with or without G; then the bits of the second byte but
        // D and A; then the reserved byte behind the network's identifier.
        let flagged = |at: usize, right: fn(u8) -> bool| -> Vec<_> {
            (0..=255).filter(|&byte| !right(byte)).map(|b| with(bytes.clone(), at, &[b])).collect()
        };
        let first = flagged(0, |byte| byte == 0x88);
        ensure!(first.len() == 255);
        // Among them 0x08, whose group may not be there.
        expect("bad_tunnel_flags", "flags", &first)?;
        expect("bad_tunnel_flags", "policy flags", &flagged(1, |byte| byte & !0x48 == 0))?;
        expect("bad_tunnel_flags", "reserved byte", &flagged(7, |byte| byte == 0))?;
        // D and A are known, and no policy admits a packet with either; nor one without a group.
        let marked = [0x40, 0x08, 0x48].map(|byte| with(bytes.clone(), 1, &[byte])).to_vec();
        expect("policy_denied", "marked", &marked)?;
        let bare = Tunneled { flags: 0x08, group: 0, ..honest }.bytes();
        expect("policy_denied", "without a group", &[bare])?;
        works(setting)
    });
}

/// VXLAN that would pass if a peer had sent it, from an underlay address that no peer has.
#[test]
fn a_stranger_on_the_underlay() {
    told(|setting| {
        let forged =
            Tunneled { flags: 0x88, group: 1, vni: 1, inner: datagram_of(setting) }.bytes();
        let server = setting.to.serve_udp(PORT)?;
        let stranger = Ipv4Addr::new(10, 77, 0, 99);
        let namespace = setting.world.cells()[0].namespace();
        namespace.ip(&format!("addr add {stranger}/24 dev eth0\n"))?;
        let target = (setting.world.cells()[1].plan().underlay, TUNNEL_PORT);
        counted(setting.cells()?[1], "unknown_peer", 3, "a stranger", || {
            send(namespace, stranger, target, &[&forged[..]; 3])
        })?;
        ensure!(server.received().is_empty(), "{:?}", server.received());
        // The same bytes from the peer are an honest packet: nothing else was wrong with them.
        let peer = setting.world.cells()[0].plan().underlay;
        send(namespace, peer, target, &[&forged])?;
        eventually(PATIENCE, || {
            ensure!(server.received().len() == 1, "the honest packet did not arrive");
            Ok(())
        })?;
        drop(server);
        works(setting)
    });
}

/// Sends datagrams by a socket of the namespace, each alone.
fn send(
    namespace: &Namespace,
    source: Ipv4Addr,
    target: (Ipv4Addr, u16),
    payloads: &[&[u8]],
) -> Result<()> {
    let socket = namespace.run(|| std::net::UdpSocket::bind((source, 0)))??;
    for payload in payloads {
        socket.send_to(payload, target).with_context(|| format!("send to {target:?}"))?;
    }
    Ok(())
}
