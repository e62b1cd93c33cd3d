//! Offload metadata against headers. A container's kernel writes the metadata, but whoever owns
//! the container's namespace may have written it instead, and later stages and links rely on it.

use super::parse::Kind;
use crate::packet::{Checksum, Offload, Segmentation};
use crate::wire::headers::{TCP_HEADER_LEN, UDP_HEADER_LEN, tcp_header_len};

/// Most datagrams in a UDP super-packet, as `UDP_MAX_SEGMENTS` of the Linux kernel.
const MAX_DATAGRAMS: usize = 128;

/// Fewest payload bytes of a TCP segment: the kernel's smallest MSS (`TCP_MIN_SND_MSS`, 48) less
/// the options that may lie in it (40). Bounds what one super-packet can be cut into.
const MIN_TCP_PAYLOAD: usize = 8;

/// What a packet will be cut into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cut {
    /// Number of ordinary packets, at least 1.
    pub segments: u16,
    /// Length of the longest of them, from the IPv4 header on, in bytes.
    pub largest: u16,
}

/// Compares `offload` with a packet whose IPv4 header is `header_len` bytes long, whose `head`
/// holds all headers, and which is `total_len` bytes long in all. None when they contradict.
#[inline]
pub(super) fn check(
    offload: Offload,
    head: &[u8],
    header_len: usize,
    total_len: usize,
    kind: Kind,
    is_fragment: bool,
) -> Option<Cut> {
    let field = match kind {
        Kind::Tcp(_) => Some((16, TCP_HEADER_LEN)),
        Kind::Udp => Some((6, UDP_HEADER_LEN)),
        _ => None,
    };
    let partial = match offload.checksum {
        Checksum::Unverified | Checksum::Verified => false,
        Checksum::Partial { start, offset } => {
            let (expected, _) = field?;
            if is_fragment || usize::from(start) != header_len || offset != expected {
                return None;
            }
            true
        }
    };
    let (size, transport_len) = match offload.segmentation {
        Segmentation::None => {
            return Some(Cut { segments: 1, largest: total_len as u16 });
        }
        Segmentation::Tcp { size } if matches!(kind, Kind::Tcp(_)) => {
            (usize::from(size), tcp_header_len(&head[header_len..]).ok()?)
        }
        Segmentation::Udp { size } if kind == Kind::Udp => (usize::from(size), UDP_HEADER_LEN),
        Segmentation::Tcp { .. } | Segmentation::Udp { .. } => return None,
    };
    let headers_len = header_len + transport_len;
    let payload_len = total_len - headers_len;
    let (least, most) = match kind {
        Kind::Udp => (1, MAX_DATAGRAMS),
        _ => (MIN_TCP_PAYLOAD, usize::from(u16::MAX)),
    };
    if !partial || is_fragment || size < least {
        return None;
    }
    let segments = payload_len.div_ceil(size).max(1);
    (segments <= most).then(|| Cut {
        segments: segments as u16,
        largest: (headers_len + size.min(payload_len)) as u16,
    })
}
