//! Addresses, ports and checksums of packets, changed in place.
//!
//! Checksums are corrected, not computed (RFC 1624): a packet that was wrong before is as wrong
//! afterwards, and its receiver finds out. Everything is checked before anything is written, so a
//! packet that cannot be translated stays as it was.

use std::net::Ipv4Addr;

use smoltcp::wire::Ipv4Packet;

use super::{ICMP, Side, TCP, Translation, UDP};
use crate::packet::Checksum;
use crate::wire::Error;
use crate::wire::checksum::{sum, update_u16, update_u32};
use crate::wire::headers::{IPV4_HEADER_LEN, TCP_HEADER_LEN, UDP_HEADER_LEN, ipv4_header_len};

/// Length of the fixed part of every ICMP message, in bytes (RFC 792).
const ICMP_HEADER_LEN: usize = 8;

/// Translates the packet at the beginning of `head`, which holds all its headers. `checksum` is the
/// state of its transport checksum: a partial one is corrected for the address and stays partial
/// (ports are among what is added to it later), and none in UDP stays none. A later fragment has no
/// transport header, so its addresses change only; so do those of protocols without ports.
///
/// # Errors
/// When the headers are not there. Then nothing has been changed.
#[inline]
pub fn rewrite(
    head: &mut [u8],
    checksum: Checksum,
    translation: &Translation,
) -> Result<(), Error> {
    let header_len = ipv4_header_len(head)?;
    let fields = transport_fields(head, header_len, translation.side)?;
    let (header, transport) = head.split_at_mut(header_len);
    if let Some(fields) = fields {
        if transport.len() < fields.header_len {
            return Err(Error);
        }
        let partial = matches!(checksum, Checksum::Partial { .. });
        fields.write(transport, address(header, translation.side), translation, partial);
    }
    write_address(header, translation);
    Ok(())
}

/// Translates the ICMP error at the beginning of `head`. `translation` is that of the direction in
/// which the error itself runs within the conversation of the packet that it quotes. What is quoted
/// ran the other way, so the same end is on the other side there; of its headers and checksums
/// everything that lies inside the quotation is changed with it (RFC 5508 section 4.2).
///
/// # Errors
/// When it is not an ICMP message that quotes a packet's header and 8 bytes behind it, which every
/// error does (RFC 792). Then nothing has been changed.
#[cold]
pub fn rewrite_error(head: &mut [u8], translation: &Translation) -> Result<(), Error> {
    let header_len = ipv4_header_len(head)?;
    if Ipv4Packet::new_unchecked(&*head).frag_offset() != 0 || head[9] != ICMP {
        return Err(Error);
    }
    let (header, message) = head.split_at_mut(header_len);
    let (icmp, quoted) = message.split_at_mut_checked(ICMP_HEADER_LEN).ok_or(Error)?;
    let quoted_len = quoted_header_len(quoted)?;
    let there = Translation {
        side: match translation.side {
            Side::Source => Side::Destination,
            Side::Destination => Side::Source,
        },
        ..*translation
    };
    let fields = transport_fields(quoted, quoted_len, there.side)?;
    // What may change begins at an even distance from the start of the message, so its sum before
    // and after says how the message's changes.
    let end = quoted.len().min(quoted_len + TCP_HEADER_LEN);
    let before = sum(&quoted[..end]).fold();
    let (quoted_header, transport) = quoted.split_at_mut(quoted_len);
    if let Some(fields) = fields {
        fields.write(transport, address(quoted_header, there.side), &there, false);
    }
    write_address(quoted_header, &there);
    let after = sum(&quoted[..end]).fold();
    let check = update_u16(get(icmp, 2), before, after);
    put(icmp, 2, check);
    write_address(header, translation);
    Ok(())
}

/// Length of the IPv4 header at the beginning of a quotation that holds at least 8 bytes behind
/// it. Its total length is not looked at: routers and hosts have changed it, or filled it in late.
fn quoted_header_len(quoted: &[u8]) -> Result<usize, Error> {
    if quoted.len() < IPV4_HEADER_LEN || quoted[0] >> 4 != 4 {
        return Err(Error);
    }
    let len = usize::from(quoted[0] & 0x0f) * 4;
    if len < IPV4_HEADER_LEN || quoted.len() < len + 8 { Err(Error) } else { Ok(len) }
}

/// Where the fields of a transport header are, in bytes from its start.
#[derive(Debug, Clone, Copy)]
struct Fields {
    /// The port to change, or the identifier.
    port: usize,
    checksum: usize,
    header_len: usize,
    protocol: u8,
}

/// The fields of the transport header behind an IPv4 header of `header_len` bytes; none when it has
/// none, or none that are translated.
#[inline]
fn transport_fields(packet: &[u8], header_len: usize, side: Side) -> Result<Option<Fields>, Error> {
    let ip = Ipv4Packet::new_unchecked(packet);
    let protocol = u8::from(ip.next_header());
    if ip.frag_offset() != 0 {
        return Ok(None);
    }
    let port = match side {
        Side::Source => 0,
        Side::Destination => 2,
    };
    Ok(match protocol {
        TCP => Some(Fields { port, checksum: 16, header_len: TCP_HEADER_LEN, protocol }),
        UDP => Some(Fields { port, checksum: 6, header_len: UDP_HEADER_LEN, protocol }),
        // Echo reply and request; of the others none is part of a conversation.
        ICMP => match packet.get(header_len).ok_or(Error)? {
            0 | 8 => Some(Fields { port: 4, checksum: 2, header_len: ICMP_HEADER_LEN, protocol }),
            _ => None,
        },
        _ => None,
    })
}

impl Fields {
    /// Writes the port and corrects the checksum. The port must lie inside `transport`; the
    /// checksum may lie outside, in a quotation.
    #[inline]
    fn write(self, transport: &mut [u8], old: Ipv4Addr, translation: &Translation, partial: bool) {
        let old_port = get(transport, self.port);
        put(transport, self.port, translation.port);
        if transport.len() < self.checksum + 2 {
            return;
        }
        let check = get(transport, self.checksum);
        let (from, to) = (old.to_bits(), translation.address.to_bits());
        let new = match self.protocol {
            // A partial checksum is the sum of the pseudo-header, not complemented.
            TCP | UDP if partial => !update_u32(!check, from, to),
            UDP if check == 0 => return,
            // An ICMP checksum covers no addresses.
            ICMP => update_u16(check, old_port, translation.port),
            _ => update_u16(update_u32(check, from, to), old_port, translation.port),
        };
        // In UDP 0 would say that there is none (RFC 768).
        let none = self.protocol == UDP && !partial && new == 0;
        put(transport, self.checksum, if none { 0xffff } else { new });
    }
}

/// One of the addresses of a checked IPv4 header.
#[inline]
fn address(header: &[u8], side: Side) -> Ipv4Addr {
    let ip = Ipv4Packet::new_unchecked(header);
    match side {
        Side::Source => ip.src_addr(),
        Side::Destination => ip.dst_addr(),
    }
}

/// Writes an address into a checked IPv4 header and corrects its checksum.
#[inline]
fn write_address(header: &mut [u8], translation: &Translation) {
    let old = address(header, translation.side);
    let mut ip = Ipv4Packet::new_unchecked(header);
    ip.set_checksum(update_u32(ip.checksum(), old.to_bits(), translation.address.to_bits()));
    match translation.side {
        Side::Source => ip.set_src_addr(translation.address),
        Side::Destination => ip.set_dst_addr(translation.address),
    }
}

/// A 16-bit field; 0 when it lies outside, which callers have excluded.
#[inline]
fn get(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |field| u16::from_be_bytes([field[0], field[1]]))
}

#[inline]
fn put(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(field) = bytes.get_mut(at..at + 2) {
        field.copy_from_slice(&value.to_be_bytes());
    }
}

#[cfg(test)]
mod tests;
