//! Packets, built field by field with smoltcp (not with the code under test).

use std::net::Ipv4Addr;

use sarcenet_dataplane::packet::{Checksum, Offload, Segmentation, Via};
use smoltcp::wire::{
    Icmpv4Message, Icmpv4Packet, IpAddress, IpProtocol, Ipv4Packet, TcpPacket, TcpSeqNumber,
    UdpPacket,
};

use super::world::{End, VNI, WORLD_MAC};

/// Ephemeral port of every conversation's beginner, unless a row says otherwise.
pub(crate) const CLIENT_PORT: u16 = 40_000;

/// Transport header and payload.
#[derive(Debug, Clone)]
pub(crate) enum Transport {
    Tcp {
        ports: (u16, u16),
        flags: u8,
        /// Sequence and acknowledgment number.
        numbers: (u32, u32),
        payload: Vec<u8>,
    },
    Udp {
        ports: (u16, u16),
        payload: Vec<u8>,
    },
    Icmp {
        message: u8,
        code: u8,
        rest: [u8; 4],
        payload: Vec<u8>,
    },
    /// Anything else, as it is.
    Raw(Vec<u8>),
}

/// VXLAN header fields and the parts of the inner Ethernet header that matter.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tunnel {
    pub flags: [u8; 2],
    pub group: u16,
    pub vni: u32,
    pub reserved: u8,
    pub destination_mac: [u8; 6],
    pub ethertype: u16,
}

impl Tunnel {
    pub(crate) fn tagged(tag: u16, destination_mac: [u8; 6]) -> Self {
        let flags = if tag == 0 { [0x08, 0] } else { [0x88, 0] };
        Self { flags, group: tag, vni: VNI, reserved: 0, destination_mac, ethertype: 0x0800 }
    }

    fn header(&self, source_mac: [u8; 6]) -> Vec<u8> {
        let mut bytes = self.flags.to_vec();
        bytes.extend_from_slice(&self.group.to_be_bytes());
        bytes.extend_from_slice(&self.vni.to_be_bytes()[1..]);
        bytes.push(self.reserved);
        bytes.extend_from_slice(&self.destination_mac);
        bytes.extend_from_slice(&source_mac);
        bytes.extend_from_slice(&self.ethertype.to_be_bytes());
        bytes
    }
}

/// One packet, and the door it comes in by.
#[derive(Debug, Clone)]
pub(crate) struct Packet {
    pub door: Via,
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
    pub ttl: u8,
    pub ident: u16,
    pub dont_frag: bool,
    pub more_frags: bool,
    pub frag_offset: u16,
    pub options: Vec<u8>,
    pub protocol: u8,
    pub transport: Transport,
    pub tunnel: Tunnel,
    pub offload: Offload,
    /// What is wrong with it, applied to the finished IP packet.
    pub damage: Option<fn(&mut Vec<u8>)>,
}

fn between(from: End, to: End, protocol: u8, transport: Transport) -> Packet {
    Packet {
        door: from.door,
        source: from.address,
        destination: to.address,
        ttl: 64,
        ident: 0x1234,
        dont_frag: true,
        more_frags: false,
        frag_offset: 0,
        options: Vec::new(),
        protocol,
        transport,
        tunnel: Tunnel::tagged(from.tag, WORLD_MAC),
        offload: Offload::default(),
        damage: None,
    }
}

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const ACK: u8 = 0x10;

/// A TCP segment with these flags from a client to `port`.
pub(crate) fn tcp(from: End, to: End, port: u16, flags: u8) -> Packet {
    let payload = Vec::new();
    between(
        from,
        to,
        6,
        Transport::Tcp { ports: (CLIENT_PORT, port), flags, numbers: (0, 0), payload },
    )
}

/// A TCP segment back from a server's `port`.
pub(crate) fn tcp_reply(from: End, to: End, port: u16, flags: u8) -> Packet {
    let payload = Vec::new();
    between(
        from,
        to,
        6,
        Transport::Tcp { ports: (port, CLIENT_PORT), flags, numbers: (0, 0), payload },
    )
}

/// A UDP datagram from a client to `port`.
pub(crate) fn udp(from: End, to: End, port: u16) -> Packet {
    let payload = b"request".to_vec();
    between(from, to, 17, Transport::Udp { ports: (CLIENT_PORT, port), payload })
}

/// A UDP datagram back from a server's `port`.
pub(crate) fn udp_reply(from: End, to: End, port: u16) -> Packet {
    let payload = b"reply".to_vec();
    between(from, to, 17, Transport::Udp { ports: (port, CLIENT_PORT), payload })
}

/// An ICMP message.
pub(crate) fn icmp(
    from: End,
    to: End,
    message: u8,
    code: u8,
    rest: [u8; 4],
    payload: &[u8],
) -> Packet {
    between(from, to, 1, Transport::Icmp { message, code, rest, payload: payload.to_vec() })
}

/// An echo request with identifier 7.
pub(crate) fn ping(from: End, to: End) -> Packet {
    icmp(from, to, 8, 0, [0, 7, 0, 1], b"ping")
}

/// Its reply.
pub(crate) fn pong(from: End, to: End) -> Packet {
    icmp(from, to, 0, 0, [0, 7, 0, 1], b"ping")
}

/// An ICMP error about `packet`, quoting its header and 8 bytes.
pub(crate) fn icmp_error(
    from: End,
    to: End,
    message: u8,
    code: u8,
    mtu: u16,
    packet: &Packet,
) -> Packet {
    let quote = packet.ip_bytes();
    let quoted = &quote[..28.min(quote.len())];
    let [hi, lo] = mtu.to_be_bytes();
    icmp(from, to, message, code, [0, 0, hi, lo], quoted)
}

/// A packet of another protocol.
pub(crate) fn other(from: End, to: End, protocol: u8) -> Packet {
    between(from, to, protocol, Transport::Raw(vec![0; 16]))
}

impl Packet {
    pub(crate) fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    pub(crate) fn damaged(self, damage: fn(&mut Vec<u8>)) -> Self {
        self.with(|packet| packet.damage = Some(damage))
    }

    /// A TCP segment with these sequence and acknowledgment numbers.
    pub(crate) fn numbered(self, sequence: u32, acknowledgment: u32) -> Self {
        self.with(|packet| {
            if let Transport::Tcp { numbers, .. } = &mut packet.transport {
                *numbers = (sequence, acknowledgment);
            }
        })
    }

    pub(crate) fn payload(self, bytes: usize) -> Self {
        self.with(|packet| {
            let filler = (0..bytes).map(|i| i as u8).collect();
            match &mut packet.transport {
                Transport::Tcp { payload, .. }
                | Transport::Udp { payload, .. }
                | Transport::Icmp { payload, .. }
                | Transport::Raw(payload) => *payload = filler,
            }
        })
    }

    /// As a container's kernel hands it over: checksum left to the last door.
    pub(crate) fn partial(self) -> Self {
        self.with(|packet| {
            let offset = if packet.protocol == 6 { 16 } else { 6 };
            let start = 20 + packet.options.len() as u16;
            packet.offload.checksum = Checksum::Partial { start, offset };
        })
    }

    /// A super-packet.
    pub(crate) fn segments_of(self, size: u16) -> Self {
        let mut packet = self.partial();
        packet.offload.segmentation = match packet.protocol {
            6 => Segmentation::Tcp { size },
            _ => Segmentation::Udp { size },
        };
        packet
    }

    fn transport_bytes(&self) -> Vec<u8> {
        let (source, destination) =
            (IpAddress::Ipv4(self.source), IpAddress::Ipv4(self.destination));
        match &self.transport {
            Transport::Tcp { ports, flags, numbers, payload } => {
                let mut bytes = vec![0; 20];
                bytes.extend_from_slice(payload);
                let mut tcp = TcpPacket::new_unchecked(&mut bytes);
                tcp.set_src_port(ports.0);
                tcp.set_dst_port(ports.1);
                tcp.set_header_len(20);
                tcp.set_seq_number(TcpSeqNumber(numbers.0 as i32));
                tcp.set_ack_number(TcpSeqNumber(numbers.1 as i32));
                tcp.set_window_len(1000);
                tcp.clear_flags();
                tcp.set_fin(flags & FIN != 0);
                tcp.set_syn(flags & SYN != 0);
                tcp.set_rst(flags & RST != 0);
                tcp.set_ack(flags & ACK != 0);
                tcp.fill_checksum(&source, &destination);
                bytes
            }
            Transport::Udp { ports, payload } => {
                let mut bytes = vec![0; 8];
                bytes.extend_from_slice(payload);
                let len = bytes.len() as u16;
                let mut udp = UdpPacket::new_unchecked(&mut bytes);
                udp.set_src_port(ports.0);
                udp.set_dst_port(ports.1);
                udp.set_len(len);
                udp.fill_checksum(&source, &destination);
                bytes
            }
            Transport::Icmp { message, code, rest, payload } => {
                let mut bytes = vec![0; 4];
                bytes.extend_from_slice(rest);
                bytes.extend_from_slice(payload);
                let mut icmp = Icmpv4Packet::new_unchecked(&mut bytes);
                icmp.set_msg_type(Icmpv4Message::from(*message));
                icmp.set_msg_code(*code);
                icmp.fill_checksum();
                bytes
            }
            Transport::Raw(bytes) => bytes.clone(),
        }
    }

    /// From the IPv4 header on.
    pub(crate) fn ip_bytes(&self) -> Vec<u8> {
        let transport = self.transport_bytes();
        let header_len = 20 + self.options.len();
        let mut bytes = vec![0; 20];
        bytes.extend_from_slice(&self.options);
        bytes.extend_from_slice(&transport);
        let total_len = bytes.len() as u16;
        let mut ip = Ipv4Packet::new_unchecked(&mut bytes);
        ip.set_version(4);
        ip.set_header_len(header_len as u8);
        ip.set_total_len(total_len);
        ip.set_ident(self.ident);
        ip.clear_flags();
        ip.set_frag_offset(self.frag_offset);
        ip.set_dont_frag(self.dont_frag);
        ip.set_more_frags(self.more_frags);
        ip.set_hop_limit(self.ttl);
        ip.set_next_header(IpProtocol::from(self.protocol));
        ip.set_src_addr(self.source);
        ip.set_dst_addr(self.destination);
        ip.fill_checksum();
        if let Checksum::Partial { offset, .. } = self.offload.checksum
            && let Some(field) = bytes[header_len..].get_mut(usize::from(offset)..)
        {
            // What a partial checksum's field holds: the pseudo-header's sum.
            let mut pseudo = self.source.octets().to_vec();
            pseudo.extend_from_slice(&self.destination.octets());
            pseudo.extend_from_slice(&[0, self.protocol]);
            pseudo.extend_from_slice(&(transport.len() as u16).to_be_bytes());
            let sum: u32 =
                pseudo.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
            let folded = (sum & 0xffff) + (sum >> 16);
            field[..2].copy_from_slice(&(folded as u16).to_be_bytes());
        }
        if let Some(damage) = self.damage {
            damage(&mut bytes);
        }
        bytes
    }

    /// As it comes in by its door: with the tunnel header from the tunnel.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let ip = self.ip_bytes();
        match self.door {
            Via::Tunnel(_) => encapsulated(&ip, self.tunnel, [0xee; 6]),
            Via::Host | Via::Container(_) => ip,
        }
    }
}

/// An IP packet behind VXLAN and Ethernet headers.
pub(crate) fn encapsulated(ip: &[u8], tunnel: Tunnel, source_mac: [u8; 6]) -> Vec<u8> {
    let mut bytes = tunnel.header(source_mac);
    bytes.extend_from_slice(ip);
    bytes
}

/// An IP packet after one router.
pub(crate) fn one_hop_on(ip: &[u8]) -> Vec<u8> {
    let mut bytes = ip.to_vec();
    let mut packet = Ipv4Packet::new_unchecked(&mut bytes);
    packet.set_hop_limit(packet.hop_limit() - 1);
    packet.fill_checksum();
    bytes
}
