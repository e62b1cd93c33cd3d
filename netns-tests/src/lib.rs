//! End-to-end tests of whole cells in network namespaces; see the `tests` directory. They need
//! root.
//!
//! What several of them share is here: the setting of most, and packets that no honest cell or
//! container sends.
#![forbid(unsafe_code)]

mod clean;
mod setting;

use std::net::Ipv4Addr;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, IpProtocol, Ipv4Packet,
    Ipv4Repr, UdpPacket, UdpRepr,
};

pub use clean::{devices, is_clean};
pub use setting::{CLEARED_AWAY, PATIENCE, Setting, interface};

/// UDP port of the tunnel.
pub const TUNNEL_PORT: u16 = 4789;

/// A UDP datagram from its IPv4 header on.
#[derive(Debug, Clone, Copy)]
pub struct Datagram<'a> {
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address.
    pub destination: Ipv4Addr,
    /// Destination port.
    pub port: u16,
    /// Payload.
    pub payload: &'a [u8],
}

impl Datagram<'_> {
    /// Its bytes, all checksums right.
    pub fn bytes(&self) -> Vec<u8> {
        let udp = UdpRepr { src_port: 40_000, dst_port: self.port };
        let ipv4 = Ipv4Repr {
            src_addr: self.source,
            dst_addr: self.destination,
            next_header: IpProtocol::Udp,
            payload_len: udp.header_len() + self.payload.len(),
            hop_limit: 64,
        };
        let checksums = ChecksumCapabilities::default();
        let mut bytes = vec![0; ipv4.buffer_len() + udp.header_len() + self.payload.len()];
        let mut packet = Ipv4Packet::new_unchecked(&mut bytes[..]);
        ipv4.emit(&mut packet, &checksums);
        udp.emit(
            &mut UdpPacket::new_unchecked(packet.payload_mut()),
            &self.source.into(),
            &self.destination.into(),
            self.payload.len(),
            |payload| payload.copy_from_slice(self.payload),
            &checksums,
        );
        bytes
    }
}

/// A tunnel packet from its VXLAN header on.
#[derive(Debug, Clone, Copy)]
pub struct Tunneled<'a> {
    /// First byte of the VXLAN header; 0x88 with a group, 0x08 without.
    pub flags: u8,
    /// Group tag.
    pub group: u16,
    /// Network identifier.
    pub vni: u32,
    /// What it carries; it goes to the VTEP of its destination's /24.
    pub inner: Datagram<'a>,
}

impl Tunneled<'_> {
    /// Its bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let [group_high, group_low] = self.group.to_be_bytes();
        let [_, vni_high, vni_middle, vni_low] = self.vni.to_be_bytes();
        let mut bytes =
            vec![self.flags, 0, group_high, group_low, vni_high, vni_middle, vni_low, 0];
        let ethernet = EthernetRepr {
            src_addr: vtep(self.inner.source),
            dst_addr: vtep(self.inner.destination),
            ethertype: EthernetProtocol::Ipv4,
        };
        let start = bytes.len();
        bytes.resize(start + ethernet.buffer_len(), 0);
        ethernet.emit(&mut EthernetFrame::new_unchecked(&mut bytes[start..]));
        bytes.extend(self.inner.bytes());
        bytes
    }
}

/// MAC address of the VTEP on whose cell this address lives.
fn vtep(address: Ipv4Addr) -> EthernetAddress {
    let [a, b, c, _] = address.octets();
    EthernetAddress([0xee, 0xee, a, b, c, 0])
}
