//! What connection tracking asks of a TCP header.

use smoltcp::wire::{TcpOption, TcpPacket};

use super::parse::{Headers, Kind};
use crate::flow::{Segment, TCP_FIN, TCP_SYN};
use crate::wire::headers::TCP_HEADER_LEN;

/// The segment that a parsed packet is, `head` beginning with its IPv4 header; none for other
/// protocols than TCP. Of the first of several fragments it is what is in that fragment.
#[inline]
pub(super) fn segment(head: &[u8], headers: &Headers) -> Option<Segment> {
    let Kind::Tcp(flags) = headers.kind else { return None };
    let transport = head.get(usize::from(headers.header_len)..)?;
    if transport.len() < TCP_HEADER_LEN {
        return None;
    }
    let tcp = TcpPacket::new_unchecked(transport);
    let payload = headers
        .total_len
        .saturating_sub(headers.header_len)
        .saturating_sub(u16::from(tcp.header_len()));
    let controls = u32::from(flags & TCP_SYN != 0) + u32::from(flags & TCP_FIN != 0);
    Some(Segment {
        flags,
        sequence: tcp.seq_number().0 as u32,
        acknowledgment: tcp.ack_number().0 as u32,
        window: tcp.window_len(),
        length: u32::from(payload) + controls,
        scale: if flags & TCP_SYN == 0 { None } else { scale(transport) },
    })
}

/// The window scale that a SYN announces (RFC 7323 section 2.2).
#[cold]
fn scale(transport: &[u8]) -> Option<u8> {
    let len = usize::from(TcpPacket::new_unchecked(transport).header_len());
    let mut options = transport.get(TCP_HEADER_LEN..len)?;
    while !options.is_empty() {
        match TcpOption::parse(options).ok()? {
            (_, TcpOption::EndOfList) => return None,
            (_, TcpOption::WindowScale(scale)) => return Some(scale),
            (rest, _) => options = rest,
        }
    }
    None
}
