//! Any bytes through every parser of the wire module, as if they were a tunnel packet from the
//! VXLAN header on.

use std::net::Ipv4Addr;

use sarcenet_dataplane::nat::{Side, Translation, rewrite, rewrite_error};
use sarcenet_dataplane::packet::Checksum;
use sarcenet_dataplane::wire::checksum::{Implementation, Sum};
use sarcenet_dataplane::wire::headers::{
    decrement_ttl, ipv4_checksum_ok, ipv4_header_len, pseudo_header_of, set_ident, set_total_len,
    tcp_header_len,
};
use sarcenet_dataplane::wire::tunnel::{TUNNEL_HEADER_LEN, TunnelTemplate};
use sarcenet_dataplane::wire::vxlan::{HEADER_LEN, Packet, Repr};

/// # Panics
/// When something is not as it should be.
pub(crate) fn run(data: &[u8]) {
    vxlan(data);
    ipv4(data.get(TUNNEL_HEADER_LEN..).unwrap_or(data));
    translations(data.get(TUNNEL_HEADER_LEN..).unwrap_or(data));
    checksums(data);
}

/// What is accepted has one form only, and both encoders write it.
fn vxlan(data: &[u8]) {
    let parsed = Repr::parse(&Packet::new_unchecked(data));
    let Ok(packet) = Packet::new_checked(data) else {
        assert!(parsed.is_err());
        return;
    };
    assert_eq!(packet.payload(), &data[HEADER_LEN..]);
    let Ok(repr) = parsed else { return };
    let mut written = [0xa5; HEADER_LEN];
    repr.emit(&mut Packet::new_unchecked(&mut written[..]));
    assert_eq!(written, data[..HEADER_LEN]);
    if !repr.dont_learn && !repr.policy_applied && repr.group != Some(0) {
        let mut written = [0xa5; TUNNEL_HEADER_LEN];
        TunnelTemplate::new(repr.vni, [0; 6], [0; 6]).write(repr.group.unwrap_or(0), &mut written);
        assert_eq!(written[..HEADER_LEN], data[..HEADER_LEN]);
    }
}

/// Lengths stay within what is there, and changes keep a right checksum right.
fn ipv4(data: &[u8]) {
    let Ok(header_len) = ipv4_header_len(data) else { return };
    let (header, transport) = data.split_at(header_len);
    if let Ok(len) = tcp_header_len(transport) {
        assert!((20..=transport.len()).contains(&len));
    }
    let zero = pseudo_header_of(header, 0).fold();
    let len = transport.len().min(usize::from(u16::MAX)) as u16;
    let with_len = Sum::zero().add_u16(zero).add_u16(len).fold();
    assert_eq!(pseudo_header_of(header, u32::from(len)).fold(), with_len);

    if !ipv4_checksum_ok(header) {
        return;
    }
    let mut changed = header.to_vec();
    set_total_len(&mut changed, len);
    set_ident(&mut changed, len.rotate_left(3));
    if changed[8] > 0 {
        decrement_ttl(&mut changed);
    }
    assert!(ipv4_checksum_ok(&changed));
}

/// What is translated has the new address and, if it had one, a right header checksum; what is
/// refused is as it was.
fn translations(data: &[u8]) {
    for side in [Side::Source, Side::Destination] {
        let to = Translation { side, address: Ipv4Addr::new(192, 0, 2, 61), port: 61_000 };
        let at = if side == Side::Source { 12 } else { 16 };
        for error in [false, true] {
            let mut changed = data.to_vec();
            let result = if error {
                rewrite_error(&mut changed, to)
            } else {
                rewrite(&mut changed, Checksum::Unverified, to)
            };
            if result.is_err() {
                assert_eq!(changed, data);
                continue;
            }
            assert_eq!(changed[at..at + 4], to.address.octets());
            let len = ipv4_header_len(data).expect("it was translated");
            assert_eq!(ipv4_checksum_ok(&changed[..len]), ipv4_checksum_ok(&data[..len]));
        }
    }
}

/// All implementations agree, and it does not matter how a packet is scattered.
fn checksums(data: &[u8]) {
    let mut naive = 0u32;
    for pair in data.chunks(2) {
        naive += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
        naive = (naive & 0xffff) + (naive >> 16);
    }
    for implementation in Implementation::available() {
        assert_eq!(u32::from(implementation.sum(data).fold()), naive, "{}", implementation.name());
    }
    let mut scattered = Sum::zero();
    let mut rest = data;
    while let Some(&first) = rest.first() {
        let (piece, next) = rest.split_at(rest.len().min(1 + usize::from(first)));
        scattered = scattered.add(piece);
        rest = next;
    }
    assert_eq!(u32::from(scattered.fold()), naive);
}
