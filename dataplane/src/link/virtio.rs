//! `virtio_net_hdr` in front of the packets of a TUN or of a packet socket <-> [`Offload`].
//!
//! Reference: VIRTIO 1.2 section 5.1.6, `include/linux/virtio_net.h` of the Linux kernel. Fields
//! are in the machine's byte order, as for a TUN without `TUNSETVNETLE`.
#![forbid(unsafe_code)]

use sarcenet_dataplane_api::DropReason;
use sarcenet_tun::TUNNEL_VNET_HEADER_LEN;
use smoltcp::wire::Ipv4Packet;

use super::segment::MAX_SEGMENTS;
use crate::packet::{Checksum, Offload, Segmentation};
use crate::wire::headers::{UDP_HEADER_LEN, ipv4_header_len, tcp_header_len};
use crate::wire::tunnel::TUNNEL_HEADER_LEN;

/// Length of the header, in bytes.
pub const HEADER_LEN: usize = sarcenet_tun::VNET_HEADER_LEN;

const FLAG_NEEDS_CSUM: u8 = 1;
const FLAG_DATA_VALID: u8 = 2;

const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
/// May accompany [`GSO_TCPV4`]: the first segment carries CWR.
const GSO_ECN: u8 = 0x80;

/// The packet is in a UDP tunnel over IPv4 whose outer checksum is to be filled in, too (Linux 6.17).
const GSO_TUNNEL_IPV4: u8 = 0x20;
const FLAG_TUNNEL_CSUM: u8 = 8;

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;

/// Where the field of the checksum lies in the transport header, in bytes.
pub(super) const fn checksum_offset(protocol: u8) -> Option<u16> {
    match protocol {
        TCP => Some(16),
        UDP => Some(6),
        _ => None,
    }
}

/// Understands the header that came with `packet`, in front of which a link header of so many
/// bytes stood: the header counts from there, [`Offload`] from the IP header on.
///
/// Who sends through a packet socket writes this header himself, so it is believed only where it
/// agrees with the packet: a checksum field elsewhere than where the protocol has it would let the
/// sender rewrite any word of the packet after it was checked.
///
/// # Errors
/// [`DropReason::NotIpv4`] for a super-packet of IPv6, [`DropReason::BadOffload`] for a header
/// that contradicts the packet.
pub fn decode(
    header: [u8; HEADER_LEN],
    packet: &[u8],
    link_header: usize,
) -> Result<Offload, DropReason> {
    let [flags, gso_type, ..] = header;
    let field = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
    let (gso_size, csum_start, csum_offset) = (field(4), field(6), field(8));
    let partial = flags & FLAG_NEEDS_CSUM != 0;
    if gso_type == GSO_NONE && !partial {
        let verified = flags & FLAG_DATA_VALID != 0;
        let checksum = if verified { Checksum::Verified } else { Checksum::Unverified };
        return Ok(Offload { checksum, segmentation: Segmentation::None });
    }
    if gso_type & !GSO_ECN == GSO_TCPV6 || packet.first().is_some_and(|byte| byte >> 4 == 6) {
        return Err(DropReason::NotIpv4);
    }
    let bad = DropReason::BadOffload;
    let start = ipv4_header_len(packet).map_err(|_| bad)?;
    let ip = Ipv4Packet::new_unchecked(packet);
    let protocol = u8::from(ip.next_header());
    let offset = checksum_offset(protocol).ok_or(bad)?;
    let transport = &packet[start..];
    let header_len = match protocol {
        TCP => tcp_header_len(transport).map_err(|_| bad)?,
        _ => UDP_HEADER_LEN,
    };
    let consistent = partial
        && usize::from(csum_start) == link_header + start
        && csum_offset == offset
        && transport.len() >= header_len
        && usize::from(ip.total_len()) == packet.len()
        && !ip.more_frags()
        && ip.frag_offset() == 0;
    if !consistent {
        return Err(bad);
    }
    let payload = transport.len() - header_len;
    let segmentation = match (gso_type & !GSO_ECN, protocol) {
        (GSO_NONE, _) => Segmentation::None,
        // The kernel, too, takes one segment for an ordinary packet.
        (GSO_TCPV4, TCP) | (GSO_UDP_L4, UDP) if payload <= usize::from(gso_size) => {
            Segmentation::None
        }
        (GSO_TCPV4, TCP) => Segmentation::Tcp { size: gso_size },
        (GSO_UDP_L4, UDP) => Segmentation::Udp { size: gso_size },
        _ => return Err(bad),
    };
    if let Some(size) = segmentation.size()
        && (size == 0 || payload.div_ceil(usize::from(size)) > MAX_SEGMENTS)
    {
        return Err(bad);
    }
    Ok(Offload { checksum: Checksum::Partial { start: start as u16, offset }, segmentation })
}

/// Makes the header for a packet whose first bytes, all headers among them, are `head`, with a link
/// header of so many bytes in front.
pub fn encode(offload: Offload, head: &[u8], link_header: usize) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    let mut field = |at: usize, value: u16| {
        header[at..at + 2].copy_from_slice(&value.to_ne_bytes());
    };
    let mut flags = 0;
    let mut gso_type = GSO_NONE;
    match offload.checksum {
        Checksum::Unverified => {}
        Checksum::Verified => flags = FLAG_DATA_VALID,
        Checksum::Partial { start, offset } => {
            flags = FLAG_NEEDS_CSUM;
            field(6, start + link_header as u16);
            field(8, offset);
            if let Some(size) = offload.segmentation.size() {
                let transport = head.get(usize::from(start)..).unwrap_or_default();
                let header_len = if let Segmentation::Tcp { .. } = offload.segmentation {
                    gso_type = GSO_TCPV4;
                    tcp_header_len(transport).unwrap_or_default()
                } else {
                    gso_type = GSO_UDP_L4;
                    UDP_HEADER_LEN
                };
                field(2, start + (link_header + header_len) as u16);
                field(4, size);
            }
        }
    }
    header[0] = flags;
    header[1] = gso_type;
    header
}

/// Makes the header for a tunnel super-packet in front of which `outer` bytes of Ethernet, IPv4 and
/// UDP headers are written; `head` begins with its tunnel header.
pub fn encode_tunnel(offload: Offload, head: &[u8], outer: usize) -> [u8; TUNNEL_VNET_HEADER_LEN] {
    let inner = outer + TUNNEL_HEADER_LEN;
    let mut header = [0; TUNNEL_VNET_HEADER_LEN];
    let plain = encode(offload, head.get(TUNNEL_HEADER_LEN..).unwrap_or_default(), inner);
    header[..HEADER_LEN].copy_from_slice(&plain);
    header[0] |= FLAG_TUNNEL_CSUM;
    header[1] |= GSO_TUNNEL_IPV4;
    // These two are little-endian everywhere.
    let outer_transport = (outer - UDP_HEADER_LEN) as u16;
    header[20..22].copy_from_slice(&outer_transport.to_le_bytes());
    header[22..].copy_from_slice(&(inner as u16).to_le_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::testing::{tcp_packet, udp_packet};
    use proptest::prelude::*;

    fn header(flags: u8, gso_type: u8, size: u16, start: u16, offset: u16) -> [u8; HEADER_LEN] {
        let mut header = [flags, gso_type, 0, 0, 0, 0, 0, 0, 0, 0];
        header[4..6].copy_from_slice(&size.to_ne_bytes());
        header[6..8].copy_from_slice(&start.to_ne_bytes());
        header[8..10].copy_from_slice(&offset.to_ne_bytes());
        header
    }

    #[test]
    fn understands_what_the_kernel_sends() {
        let tcp = tcp_packet(&[7; 3000], 1000);
        let partial = Checksum::Partial { start: 20, offset: 16 };
        assert_eq!(
            decode(header(1, GSO_TCPV4, 1448, 20, 16), &tcp, 0),
            Ok(Offload { checksum: partial, segmentation: Segmentation::Tcp { size: 1448 } })
        );
        assert_eq!(
            decode(header(1, GSO_NONE, 0, 20, 16), &tcp, 0),
            Ok(Offload { checksum: partial, segmentation: Segmentation::None })
        );
        let udp = udp_packet(&[7; 3000]);
        assert_eq!(
            decode(header(1, GSO_UDP_L4, 1200, 20, 6), &udp, 0),
            Ok(Offload {
                checksum: Checksum::Partial { start: 20, offset: 6 },
                segmentation: Segmentation::Udp { size: 1200 }
            })
        );
        assert_eq!(decode(header(0, GSO_NONE, 0, 0, 0), &udp, 0), Ok(Offload::default()));
        let verified = Offload { checksum: Checksum::Verified, segmentation: Segmentation::None };
        assert_eq!(decode(header(2, GSO_NONE, 0, 0, 0), &udp, 0), Ok(verified));
    }

    #[test]
    fn refuses_headers_that_contradict_the_packet() {
        let bad = Err(DropReason::BadOffload);
        let tcp = tcp_packet(&[7; 3000], 1000);
        for (what, header) in [
            ("checksum into the source address", header(1, GSO_NONE, 0, 0, 12)),
            ("start beside the TCP header", header(1, GSO_NONE, 0, 24, 16)),
            ("field of UDP in TCP", header(1, GSO_NONE, 0, 20, 6)),
            ("super-packet without a partial checksum", header(0, GSO_TCPV4, 1448, 20, 16)),
            ("UDP segments of TCP", header(1, GSO_UDP_L4, 1448, 20, 16)),
            ("segments of no bytes", header(1, GSO_TCPV4, 0, 20, 16)),
            ("a type that nobody asked for", header(1, 3, 1448, 20, 16)),
        ] {
            assert_eq!(decode(header, &tcp, 0), bad, "{what}");
        }
        let mut fragment = tcp.clone();
        fragment[6] = 0x20;
        assert_eq!(decode(header(1, GSO_NONE, 0, 20, 16), &fragment, 0), bad);
        assert_eq!(decode(header(1, GSO_NONE, 0, 20, 16), &tcp[..35], 0), bad);
        let many = tcp_packet(&vec![7; 60_000], 1000);
        assert_eq!(decode(header(1, GSO_TCPV4, 1, 20, 16), &many, 0), bad, "60,000 segments");
        assert_eq!(
            decode(header(1, GSO_TCPV6, 1448, 40, 16), &[0x60; 80], 0),
            Err(DropReason::NotIpv4)
        );
    }

    proptest! {
        #[test]
        fn any_bytes(header: [u8; HEADER_LEN], packet: Vec<u8>) {
            if let Ok(offload) = decode(header, &packet, 0)
                && let Checksum::Partial { start, offset } = offload.checksum
            {
                prop_assert!(usize::from(start) + usize::from(offset) + 2 <= packet.len());
            }
        }

        #[test]
        fn round_trip(
            payload in 1usize..4000,
            size in 1u16..1500,
            link in 0usize..20,
            udp: bool,
            gso: bool,
        ) {
            let payload = vec![1; payload];
            let packet = if udp { udp_packet(&payload) } else { tcp_packet(&payload, 1) };
            let (kind, offset) = if udp { (GSO_UDP_L4, 6) } else { (GSO_TCPV4, 16) };
            let kind = if gso { kind } else { GSO_NONE };
            let came = header(1, kind, size, 20 + link as u16, offset);
            if let Ok(offload) = decode(came, &packet, link) {
                let again = encode(offload, &packet, link);
                prop_assert_eq!(decode(again, &packet, link), Ok(offload));
            }
        }
    }
}
