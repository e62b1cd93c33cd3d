//! Packets of probes: their bytes, and what can be read of packets that pass.

use std::net::Ipv4Addr;

/// IPv4 protocol numbers.
pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

/// Bits of the TCP flags byte (RFC 9293 section 3.1).
pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const ACK: u8 = 16;

/// A packet to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outgoing {
    pub(crate) source: Ipv4Addr,
    pub(crate) destination: Ipv4Addr,
    pub(crate) content: Content,
    /// Source port, or identifier of an ICMP query.
    pub(crate) port: u16,
    /// By which it is known wherever it is seen.
    pub(crate) marker: u32,
}

/// What is in a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// A TCP segment to this port with these flags.
    Tcp(u16, u8),
    /// A UDP datagram to this port.
    Udp(u16),
    /// An ICMP message of this type and code.
    Icmp(u8, u8),
    /// A packet of another protocol.
    Other(u8),
}

impl Content {
    /// The destination port, 0 where there is none.
    pub(crate) fn port(self) -> u16 {
        match self {
            Self::Tcp(port, _) | Self::Udp(port) => port,
            Self::Icmp(..) | Self::Other(_) => 0,
        }
    }

    pub(crate) fn protocol(self) -> u8 {
        match self {
            Self::Tcp(..) => TCP,
            Self::Udp(_) => UDP,
            Self::Icmp(..) => ICMP,
            Self::Other(protocol) => protocol,
        }
    }
}

impl Outgoing {
    /// Its bytes from the IPv4 header on, all checksums right.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let Self { source, destination, content, port, marker } = *self;
        let [marker, port] = [marker.to_be_bytes().to_vec(), port.to_be_bytes().to_vec()];
        let zeroes = |count: usize| vec![0; count];
        let (payload, checksum_at): (Vec<Vec<u8>>, Option<usize>) = match content {
            Content::Tcp(to, flags) => {
                let acknowledged = if flags & ACK == 0 { zeroes(4) } else { vec![0, 0, 0, 1] };
                let to = to.to_be_bytes().to_vec();
                let rest = vec![0x50, flags, 0xff, 0xff, 0, 0, 0, 0];
                (vec![port, to, marker, acknowledged, rest], Some(16))
            }
            Content::Udp(to) => {
                let to = to.to_be_bytes().to_vec();
                (vec![port, to, vec![0, 16, 0, 0], marker, zeroes(4)], Some(6))
            }
            Content::Icmp(kind, code) => {
                let head = vec![kind, code, 0, 0];
                (vec![head, port, vec![0, 1], marker, zeroes(8)], Some(2))
            }
            Content::Other(_) => (vec![marker, zeroes(12)], None),
        };
        let mut payload = payload.concat();
        if let Some(at) = checksum_at {
            let sum = transport_checksum(source, destination, content.protocol(), &payload);
            payload[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        }
        let length = u16::try_from(20 + payload.len()).unwrap_or(u16::MAX).to_be_bytes();
        // An identification of its own, that nobody needs to choose another.
        let mut header = vec![0x45, 0, length[0], length[1]];
        header.extend_from_slice(&(self.marker as u16 | 1).to_be_bytes());
        header.extend_from_slice(&[0x40, 0, 64, content.protocol(), 0, 0]);
        header.extend_from_slice(&source.octets());
        header.extend_from_slice(&destination.octets());
        let sum = checksum(&header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        [header, payload].concat()
    }
}

/// A packet that passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) ends: Ends,
    /// TCP flags, or 0.
    pub(crate) flags: u8,
    /// Type and code of an ICMP message.
    pub(crate) icmp: Option<(u8, u8)>,
    /// The marker of a probe, were it one.
    pub(crate) marker: u32,
    /// Whether all checksums are right.
    pub(crate) sound: bool,
    /// What an ICMP error is about.
    pub(crate) about: Option<Ends>,
}

/// Who talks to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ends {
    pub(crate) protocol: u8,
    pub(crate) source: Ipv4Addr,
    pub(crate) destination: Ipv4Addr,
    /// Source port, or identifier of an ICMP query.
    pub(crate) from: u16,
    /// Destination port.
    pub(crate) to: u16,
}

impl Seen {
    /// Reads a frame, with an Ethernet header or without; none if it is not IPv4.
    pub(crate) fn read(frame: &[u8]) -> Option<Self> {
        let packet = match frame.first()? {
            0x45 => frame,
            _ if frame.get(12..14)? == [8, 0] => frame.get(14..)?,
            _ => return None,
        };
        let ends = Ends::read(packet)?;
        let header = packet.get(..20)?;
        let payload = packet.get(20..usize::from(word(packet, 2)?)).unwrap_or(&packet[20..]);
        let is = |protocol: u8| ends.protocol == protocol;
        let icmp = is(ICMP).then(|| Some((*payload.first()?, *payload.get(1)?))).flatten();
        let is_error = icmp.is_some_and(|(kind, _)| matches!(kind, 3 | 4 | 5 | 11 | 12));
        let transport_sound = match ends.protocol {
            ICMP => checksum(payload) == 0,
            TCP | UDP => {
                transport_checksum(ends.source, ends.destination, ends.protocol, payload) == 0
            }
            _ => true,
        };
        let marker_at = match ends.protocol {
            TCP => 4,
            UDP | ICMP => 8,
            _ => 0,
        };
        Some(Self {
            ends,
            flags: if is(TCP) { *payload.get(13)? } else { 0 },
            icmp,
            marker: payload
                .get(marker_at..marker_at + 4)
                .and_then(|bytes| bytes.try_into().ok())
                .map_or(0, u32::from_be_bytes),
            sound: checksum(header) == 0 && transport_sound,
            about: is_error.then(|| Ends::read(payload.get(8..)?)).flatten(),
        })
    }
}

impl Ends {
    fn read(packet: &[u8]) -> Option<Self> {
        if packet.first()? >> 4 != 4 {
            return None;
        }
        let payload = packet.get(usize::from(packet[0] & 15) * 4..)?;
        let protocol = *packet.get(9)?;
        let (from, to) = match protocol {
            TCP | UDP => (word(payload, 0)?, word(payload, 2)?),
            ICMP => (word(payload, 4)?, 0),
            _ => (0, 0),
        };
        Some(Self {
            protocol,
            source: address(packet, 12)?,
            destination: address(packet, 16)?,
            from,
            to,
        })
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn address(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(octets.into())
}

/// The Internet checksum (RFC 1071); 0 over bytes that hold their own right one.
fn checksum(bytes: &[u8]) -> u16 {
    let pairs = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or_default()));
    let mut sum: u32 = pairs.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The checksum of a TCP, UDP or ICMP message.
fn transport_checksum(source: Ipv4Addr, to: Ipv4Addr, protocol: u8, payload: &[u8]) -> u16 {
    if protocol == ICMP {
        return checksum(payload);
    }
    let length = u16::try_from(payload.len()).unwrap_or(u16::MAX).to_be_bytes();
    let [source, to] = [source, to].map(|address| address.octets().to_vec());
    checksum(&[source, to, vec![0, protocol, length[0], length[1]], payload.to_vec()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_read_back() {
        let contents = [
            (Content::Tcp(80, SYN), 80, SYN, None),
            (Content::Udp(53), 53, 0, None),
            (Content::Icmp(8, 0), 0, 0, Some((8, 0))),
            (Content::Other(47), 0, 0, None),
        ];
        for (content, to, flags, icmp) in contents {
            let outgoing = Outgoing {
                source: Ipv4Addr::new(10, 255, 55, 2),
                destination: Ipv4Addr::new(203, 0, 113, 9),
                content,
                port: 4711,
                marker: 0xdead_beef,
            };
            let bytes = outgoing.bytes();
            let seen = Seen::read(&bytes).unwrap();
            assert_eq!((seen.flags, seen.icmp, seen.ends.to), (flags, icmp, to));
            assert_eq!((seen.marker, seen.sound, seen.about), (0xdead_beef, true, None));
            let mut bent = bytes;
            bent[25] ^= 1;
            let whole = matches!(content, Content::Other(_));
            assert_eq!(Seen::read(&bent).unwrap().sound, whole, "{content:?}");
        }
    }
}
