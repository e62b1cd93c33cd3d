use proptest::prelude::*;
use smoltcp::wire::IpProtocol;

use super::*;
use crate::flow::FlowKey;
use crate::nat::outer_view;
use crate::wire::checksum::{self, Sum};
use crate::wire::headers::{ipv4_checksum_ok, pseudo_header_of};

/// How a test packet is to look like.
#[derive(Debug, Clone)]
struct Plan {
    key: FlowKey,
    options: usize,
    payload: Vec<u8>,
    /// ICMP: whether it is a reply.
    reply: bool,
    /// UDP: whether it has a checksum.
    has_checksum: bool,
}

fn plan() -> impl Strategy<Value = Plan> {
    (
        (any::<[u32; 2]>(), any::<[u16; 2]>(), prop::sample::select(vec![ICMP, TCP, UDP])),
        0_usize..=10,
        prop::collection::vec(any::<u8>(), 0..60),
        any::<[bool; 2]>(),
    )
        .prop_map(|((addresses, ports, protocol), options, payload, [reply, has_checksum])| {
            let key = FlowKey {
                source: addresses[0].into(),
                destination: addresses[1].into(),
                source_port: ports[0],
                destination_port: if protocol == ICMP { ports[0] } else { ports[1] },
                protocol,
            };
            Plan { key, options: options * 4, payload, reply, has_checksum }
        })
}

fn translation() -> impl Strategy<Value = Translation> {
    (any::<bool>(), any::<u32>(), any::<u16>()).prop_map(|(source, address, port)| Translation {
        side: if source { Side::Source } else { Side::Destination },
        address: address.into(),
        port,
    })
}

impl Plan {
    fn header_len(&self) -> usize {
        IPV4_HEADER_LEN + self.options
    }

    /// The packet, with all checksums computed in full.
    fn packet(&self) -> Vec<u8> {
        let mut transport = match self.key.protocol {
            TCP => {
                let mut tcp = vec![0; TCP_HEADER_LEN];
                tcp[4..12].fill(0x5a);
                tcp[12..14].copy_from_slice(&[0x50, 0x18]);
                tcp
            }
            UDP => {
                let len = (UDP_HEADER_LEN + self.payload.len()) as u16;
                [[0; 4].as_slice(), &len.to_be_bytes(), &[0; 2]].concat()
            }
            _ => vec![if self.reply { 0 } else { 8 }, 0, 0, 0, 0, 0, 0, 7],
        };
        if self.key.protocol == ICMP {
            transport[4..6].copy_from_slice(&self.key.source_port.to_be_bytes());
        } else {
            transport[..2].copy_from_slice(&self.key.source_port.to_be_bytes());
            transport[2..4].copy_from_slice(&self.key.destination_port.to_be_bytes());
        }
        transport.extend(&self.payload);
        let mut bytes = vec![1; self.header_len()];
        bytes[..IPV4_HEADER_LEN].fill(0);
        bytes[0] = 0x40 | (self.header_len() / 4) as u8;
        bytes.extend(transport);
        let len = bytes.len() as u16;
        let mut ip = Ipv4Packet::new_unchecked(&mut bytes[..]);
        ip.set_total_len(len);
        ip.set_hop_limit(64);
        ip.set_next_header(IpProtocol::from(self.key.protocol));
        ip.set_src_addr(self.key.source);
        ip.set_dst_addr(self.key.destination);
        ip.fill_checksum();
        let check = full(&bytes, self.header_len());
        let at = self.header_len() + field(self.key.protocol);
        if self.key.protocol != UDP || self.has_checksum {
            bytes[at..at + 2].copy_from_slice(&check.to_be_bytes());
        }
        bytes
    }

    /// The same plan after a translation.
    fn translated(&self, to: &Translation) -> Self {
        Self { key: outer_view(&self.key, to.side, to.address, to.port), ..self.clone() }
    }

    /// What undoes a translation.
    fn back(&self, to: &Translation) -> Translation {
        let (address, port) = match to.side {
            Side::Source => (self.key.source, self.key.source_port),
            Side::Destination => (self.key.destination, self.key.destination_port),
        };
        Translation { side: to.side, address, port }
    }
}

fn field(protocol: u8) -> usize {
    match protocol {
        TCP => 16,
        UDP => 6,
        _ => 2,
    }
}

/// The transport checksum, computed over everything.
fn full(packet: &[u8], header_len: usize) -> u16 {
    let protocol = packet[9];
    let mut transport = packet[header_len..].to_vec();
    let at = field(protocol);
    transport[at..at + 2].fill(0);
    let pseudo = match protocol {
        ICMP => Sum::zero(),
        _ => pseudo_header_of(packet, transport.len() as u32),
    };
    let sum = pseudo.add(&transport);
    if protocol == UDP { sum.udp_checksum() } else { sum.checksum() }
}

/// An ICMP error from `source` to `destination` that quotes so many bytes of a packet.
fn error(source: Ipv4Addr, destination: Ipv4Addr, quoted: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; IPV4_HEADER_LEN];
    bytes[0] = 0x45;
    bytes.extend([3, 4, 0, 0, 0, 0, 5, 0x78]);
    bytes.extend(quoted);
    let len = bytes.len() as u16;
    let mut ip = Ipv4Packet::new_unchecked(&mut bytes[..]);
    ip.set_total_len(len);
    ip.set_hop_limit(64);
    ip.set_next_header(IpProtocol::Icmp);
    ip.set_src_addr(source);
    ip.set_dst_addr(destination);
    ip.fill_checksum();
    let check = full(&bytes, IPV4_HEADER_LEN);
    bytes[22..24].copy_from_slice(&check.to_be_bytes());
    bytes
}

proptest! {
    /// Bytes for bytes what a packet with the new addresses and ports is, checksums computed anew.
    #[test]
    fn a_translated_packet_is_as_if_made_so(plan in plan(), to in translation()) {
        let mut bytes = plan.packet();
        rewrite(&mut bytes, Checksum::Unverified, &to).unwrap();
        prop_assert_eq!(&bytes, &plan.translated(&to).packet());
        prop_assert!(ipv4_checksum_ok(&bytes[..plan.header_len()]));
        rewrite(&mut bytes, Checksum::Verified, &plan.back(&to)).unwrap();
        prop_assert_eq!(&bytes, &plan.packet());
    }

    /// A partial checksum, completed by the last door, is the right one.
    #[test]
    fn a_partial_checksum_stays_partial(plan in plan(), to in translation()) {
        prop_assume!(plan.key.protocol != ICMP);
        let at = plan.header_len() + field(plan.key.protocol);
        let partial = |plan: &Plan| {
            let mut bytes = plan.packet();
            let sum = pseudo_header_of(&bytes, (bytes.len() - plan.header_len()) as u32).fold();
            bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
            bytes
        };
        let state = Checksum::Partial {
            start: plan.header_len() as u16,
            offset: field(plan.key.protocol) as u16,
        };
        let mut bytes = partial(&plan);
        rewrite(&mut bytes, state, &to).unwrap();
        prop_assert_eq!(&bytes, &partial(&plan.translated(&to)));
        let transport = checksum::sum(&bytes[plan.header_len()..]);
        let check = full(&bytes, plan.header_len());
        prop_assert!(check == transport.checksum() || check == transport.udp_checksum());
        rewrite(&mut bytes, state, &plan.back(&to)).unwrap();
        prop_assert_eq!(&bytes, &partial(&plan));
    }

    /// Of a super-packet's or long packet's bytes only the headers need to be there.
    #[test]
    fn the_payload_may_be_elsewhere(plan in plan(), to in translation()) {
        let whole = plan.packet();
        let headers = plan.header_len() + if plan.key.protocol == TCP { 20 } else { 8 };
        let mut head = whole[..headers].to_vec();
        rewrite(&mut head, Checksum::Unverified, &to).unwrap();
        prop_assert_eq!(&head, &plan.translated(&to).packet()[..headers]);
    }

    #[test]
    fn later_fragments_have_addresses_only(plan in plan(), to in translation(), offset in 1_u16..8191) {
        let mut bytes = plan.packet();
        let mut ip = Ipv4Packet::new_unchecked(&mut bytes[..]);
        ip.set_frag_offset(offset * 8);
        ip.fill_checksum();
        let before = bytes.clone();
        rewrite(&mut bytes, Checksum::Unverified, &to).unwrap();
        prop_assert!(ipv4_checksum_ok(&bytes[..plan.header_len()]));
        prop_assert_eq!(address(&bytes, to.side), to.address);
        prop_assert_eq!(&bytes[plan.header_len()..], &before[plan.header_len()..]);
    }

    /// An error about a packet of the outer view becomes one about the packet that was sent, and
    /// the other way round, whatever its quotation's length.
    #[test]
    fn errors_are_translated_inside_too(
        plan in plan(), to in translation(), router: u32, cut in 4_usize..40,
    ) {
        // Quoted is the packet that ran the other way: what it has as its other end.
        let there = Translation {
            side: if to.side == Side::Source { Side::Destination } else { Side::Source },
            ..to
        };
        // Not in the middle of a field, which then stays as it was.
        let cut = plan.header_len() + 2 * cut;
        let cut = |packet: &[u8]| packet[..packet.len().min(cut)].to_vec();
        let quoted = cut(&plan.packet());
        let after = cut(&plan.translated(&there).packet());
        let ends = |end: Ipv4Addr, quoted: &[u8]| match to.side {
            Side::Source => error(end, router.into(), quoted),
            Side::Destination => error(router.into(), end, quoted),
        };
        let mine = match there.side {
            Side::Source => plan.key.source,
            Side::Destination => plan.key.destination,
        };
        let mut bytes = ends(mine, &quoted);
        rewrite_error(&mut bytes, &to).unwrap();
        prop_assert_eq!(&bytes, &ends(to.address, &after));
        let back = Translation { side: to.side, ..plan.back(&there) };
        rewrite_error(&mut bytes, &back).unwrap();
        prop_assert_eq!(&bytes, &ends(mine, &quoted));
    }

    /// Whatever the bytes: no panic, and nothing changed when it is refused.
    #[test]
    fn any_bytes_do_no_harm(
        bytes in prop::collection::vec(any::<u8>(), 0..120),
        first in prop::option::of(0x40_u8..0x50),
        protocol in prop::option::of(prop::sample::select(vec![ICMP, TCP, UDP])),
        to in translation(),
        partial: bool,
    ) {
        let mut bytes = bytes;
        if let (Some(first), [byte, ..]) = (first, &mut bytes[..]) {
            *byte = first;
        }
        if let (Some(protocol), Some(byte)) = (protocol, bytes.get_mut(9)) {
            *byte = protocol;
        }
        let checksum = if partial {
            Checksum::Partial { start: 20, offset: 16 }
        } else {
            Checksum::Unverified
        };
        for error in [false, true] {
            let mut changed = bytes.clone();
            let result = match error {
                false => rewrite(&mut changed, checksum, &to),
                true => rewrite_error(&mut changed, &to),
            };
            match result {
                Ok(()) => prop_assert_eq!(address(&changed, to.side), to.address),
                Err(_) => prop_assert_eq!(&changed, &bytes),
            }
            prop_assert_eq!(changed.len(), bytes.len());
        }
    }

    /// The same for errors that quote anything.
    #[test]
    fn any_quotation_does_no_harm(
        quoted in prop::collection::vec(any::<u8>(), 0..100), first in 0x44_u8..0x50,
        to in translation(),
    ) {
        let mut quoted = quoted;
        if let Some(byte) = quoted.first_mut() {
            *byte = first;
        }
        let mut bytes = error([192, 0, 2, 1].into(), [192, 0, 2, 2].into(), &quoted);
        let before = bytes.clone();
        match rewrite_error(&mut bytes, &to) {
            Ok(()) => {
                prop_assert_eq!(&bytes[22..24], &full(&bytes, IPV4_HEADER_LEN).to_be_bytes());
                prop_assert!(ipv4_checksum_ok(&bytes[..IPV4_HEADER_LEN]));
            }
            Err(_) => prop_assert_eq!(bytes, before),
        }
    }
}

/// Protocols without ports, and ICMP that is no echo: addresses only.
#[test]
fn others_keep_what_is_behind_their_addresses() {
    let to = Translation { side: Side::Source, address: [192, 0, 2, 61].into(), port: 61_000 };
    for (protocol, kind) in [(47, 0), (50, 8), (ICMP, 3), (ICMP, 13)] {
        let mut bytes = error([10, 255, 55, 2].into(), [198, 51, 100, 7].into(), &[kind; 30]);
        bytes[9] = protocol;
        bytes[20] = kind;
        Ipv4Packet::new_unchecked(&mut bytes[..]).fill_checksum();
        let before = bytes.clone();
        rewrite(&mut bytes, Checksum::Unverified, &to).unwrap();
        assert!(ipv4_checksum_ok(&bytes[..20]));
        assert_eq!((address(&bytes, Side::Source), &bytes[20..]), (to.address, &before[20..]));
    }
}

#[test]
fn headers_that_are_cut_off_are_refused() {
    let to = Translation { side: Side::Source, address: [192, 0, 2, 61].into(), port: 61_000 };
    for (protocol, least) in [(TCP, 40), (UDP, 28), (ICMP, 28)] {
        let key = FlowKey {
            source: [10, 255, 55, 2].into(),
            destination: [198, 51, 100, 7].into(),
            source_port: 40_000,
            destination_port: 443,
            protocol,
        };
        let plan = Plan { key, options: 0, payload: vec![], reply: false, has_checksum: true };
        let whole = plan.packet();
        for len in 0..whole.len() {
            let mut bytes = whole[..len].to_vec();
            let result = rewrite(&mut bytes, Checksum::Unverified, &to);
            assert_eq!(result.is_ok(), len >= least, "{len} bytes of protocol {protocol}");
            let mut bytes = error([192, 0, 2, 1].into(), [192, 0, 2, 61].into(), &whole[..len]);
            assert_eq!(rewrite_error(&mut bytes, &to).is_ok(), len >= 28, "{len} bytes quoted");
        }
    }
}
