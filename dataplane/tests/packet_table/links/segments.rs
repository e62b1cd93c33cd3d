//! What becomes of a super-packet or a partial checksum at a link that can carry neither, built
//! with smoltcp (not with the code under test).

use sarcenet_dataplane::packet::{Checksum, Offload};
use smoltcp::wire::{IpProtocol, Ipv4Packet, TcpPacket, UdpPacket};

/// The ordinary packets that a packet, given from its IPv4 header on, is on a wire.
pub(super) fn segments(bytes: &[u8], offload: Offload) -> Vec<Vec<u8>> {
    let Checksum::Partial { start, .. } = offload.checksum else { return vec![bytes.to_vec()] };
    let start = usize::from(start);
    let tcp = Ipv4Packet::new_unchecked(bytes).next_header() == IpProtocol::Tcp;
    let transport_len =
        if tcp { TcpPacket::new_unchecked(&bytes[start..]).header_len() } else { 8 };
    let (header, payload) = bytes.split_at(start + usize::from(transport_len));
    let size = offload.segmentation.size().map_or(usize::MAX, usize::from);
    let count = payload.len().div_ceil(size).max(1);
    (0..count)
        .map(|number| {
            let done = number.saturating_mul(size);
            let part = &payload[done..payload.len().min(done.saturating_add(size))];
            segment(header, start, tcp, part, number, done, number + 1 == count)
        })
        .collect()
}

fn segment(
    header: &[u8],
    start: usize,
    tcp: bool,
    payload: &[u8],
    number: usize,
    done: usize,
    last: bool,
) -> Vec<u8> {
    let mut bytes = [header, payload].concat();
    let total_len = bytes.len() as u16;
    let mut ip = Ipv4Packet::new_unchecked(&mut bytes);
    ip.set_total_len(total_len);
    ip.set_ident(ip.ident().wrapping_add(number as u16));
    ip.fill_checksum();
    let (source, destination) = (ip.src_addr().into(), ip.dst_addr().into());
    let transport = &mut bytes[start..];
    if tcp {
        let mut tcp = TcpPacket::new_unchecked(transport);
        tcp.set_seq_number(tcp.seq_number() + done);
        if !last {
            tcp.set_fin(false);
            tcp.set_psh(false);
        }
        tcp.fill_checksum(&source, &destination);
    } else {
        let len = transport.len() as u16;
        let mut udp = UdpPacket::new_unchecked(transport);
        udp.set_len(len);
        udp.fill_checksum(&source, &destination);
    }
    bytes
}
