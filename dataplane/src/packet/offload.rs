//! What is still to be done to a packet: checksum and segmentation.

/// State of the transport checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Checksum {
    /// Complete in the packet, but nobody has looked whether it is right.
    #[default]
    Unverified,
    /// Complete, and found right.
    Verified,
    /// The field holds the folded pseudo-header sum only; the sum over everything from `start`
    /// on is to be added at `start + offset`. As `CHECKSUM_PARTIAL` of the Linux kernel and
    /// `VIRTIO_NET_HDR_F_NEEDS_CSUM`.
    Partial {
        /// Where the transport header begins, in bytes from the IPv4 header.
        start: u16,
        /// Where the field lies, in bytes from `start`: 16 for TCP, 6 for UDP.
        offset: u16,
    },
}

/// How a super-packet is to be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Segmentation {
    /// It is an ordinary packet.
    #[default]
    None,
    /// TCP over IPv4 in segments of so many payload bytes (`VIRTIO_NET_HDR_GSO_TCPV4`).
    Tcp {
        /// Payload bytes of every segment but the last.
        size: u16,
    },
    /// UDP in datagrams of so many payload bytes (`VIRTIO_NET_HDR_GSO_UDP_L4`).
    Udp {
        /// Payload bytes of every datagram but the last.
        size: u16,
    },
}

impl Segmentation {
    /// Payload bytes of a segment, for a super-packet.
    pub const fn size(self) -> Option<u16> {
        match self {
            Self::None => None,
            Self::Tcp { size } | Self::Udp { size } => Some(size),
        }
    }
}

/// Checksum and segmentation state of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offload {
    /// Transport checksum.
    pub checksum: Checksum,
    /// Segmentation. A super-packet's checksum is always [`Checksum::Partial`].
    pub segmentation: Segmentation,
}
