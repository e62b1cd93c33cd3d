//! The headers between the outer UDP header and an inner IPv4 packet: VXLAN and Ethernet.
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;

use smoltcp::wire::{EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr};

use super::vxlan;

/// Length of an Ethernet header without tags, in bytes.
pub const ETHERNET_HEADER_LEN: usize = 14;

/// Length of both headers, in bytes.
pub const TUNNEL_HEADER_LEN: usize = vxlan::HEADER_LEN + ETHERNET_HEADER_LEN;

/// Flags of the first word with and without a group, as numbers.
const FLAGS: u32 = 0x0800_0000;
const GROUP_FLAG: u32 = 0x8000_0000;

/// Hardware address of the tunnel end of a cell: `ee:ee` and the base address of the cell's
/// subnet, as every cell of the overlay computes it for every other (contract section 5.3).
pub const fn vtep_mac(subnet_base: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = subnet_base.octets();
    [0xee, 0xee, a, b, c, d]
}

/// Both headers for one receiver, ready but for the sender's group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TunnelTemplate([u8; TUNNEL_HEADER_LEN]);

impl TunnelTemplate {
    /// Headers for an IPv4 packet. The upper 8 bits of `vni` are ignored.
    pub fn new(vni: u32, source_mac: [u8; 6], destination_mac: [u8; 6]) -> Self {
        let mut bytes = [0; TUNNEL_HEADER_LEN];
        let (vxlan, ethernet) = bytes.split_at_mut(vxlan::HEADER_LEN);
        vxlan::Repr { vni, group: None, dont_learn: false, policy_applied: false }
            .emit(&mut vxlan::Packet::new_unchecked(vxlan));
        EthernetRepr {
            src_addr: EthernetAddress(source_mac),
            dst_addr: EthernetAddress(destination_mac),
            ethertype: EthernetProtocol::Ipv4,
        }
        .emit(&mut EthernetFrame::new_unchecked(ethernet));
        Self(bytes)
    }

    /// Writes the headers into the first [`TUNNEL_HEADER_LEN`] bytes of `out`. A `group` of 0 is
    /// no group: the G flag is not set, as a Linux device does for a packet without a mark.
    ///
    /// # Panics
    /// When `out` is shorter.
    #[inline]
    pub fn write(&self, group: u16, out: &mut [u8]) {
        // Of constant lengths, so that this becomes three stores.
        let out = &mut out[..TUNNEL_HEADER_LEN];
        out.copy_from_slice(&self.0);
        let flags = FLAGS | if group == 0 { 0 } else { GROUP_FLAG };
        out[..4].copy_from_slice(&(flags | u32::from(group)).to_be_bytes());
    }
}
