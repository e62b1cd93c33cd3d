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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CELL1: [u8; 6] = vtep_mac(Ipv4Addr::new(10, 255, 55, 0));
    const CELL2: [u8; 6] = vtep_mac(Ipv4Addr::new(10, 255, 62, 0));

    /// Recorded on the way from a kernel cell to another.
    static RECORDED: [u8; TUNNEL_HEADER_LEN] = [
        0x88, 0x00, 0x00, 0x01, 0x00, 0x00, 0x01, 0x00, 0xee, 0xee, 0x0a, 0xff, 0x3e, 0x00, 0xee,
        0xee, 0x0a, 0xff, 0x37, 0x00, 0x08, 0x00,
    ];

    #[test]
    fn vtep_mac_is_the_fleets() {
        assert_eq!(CELL1, [0xee, 0xee, 0x0a, 0xff, 0x37, 0x00]);
    }

    #[test]
    fn writes_what_a_kernel_cell_sends() {
        let mut out = [0xa5; TUNNEL_HEADER_LEN + 2];
        TunnelTemplate::new(1, CELL1, CELL2).write(1, &mut out);
        assert_eq!(out[..TUNNEL_HEADER_LEN], RECORDED);
        assert_eq!(out[TUNNEL_HEADER_LEN..], [0xa5; 2], "wrote past its headers");
    }

    #[test]
    fn a_group_does_not_stay_in_the_template() {
        let template = TunnelTemplate::new(1, CELL1, CELL2);
        let mut out = [0xa5; TUNNEL_HEADER_LEN];
        template.write(0xffff, &mut out);
        template.write(0, &mut out);
        assert_eq!(out[..4], [0x08, 0, 0, 0]);
        assert_eq!(out[4..], RECORDED[4..]);
    }

    proptest! {
        #[test]
        fn reads_back(
            vni in 0..=vxlan::MAX_VNI,
            source: [u8; 6],
            destination: [u8; 6],
            group: u16,
        ) {
            let mut out = [0xa5; TUNNEL_HEADER_LEN];
            TunnelTemplate::new(vni, source, destination).write(group, &mut out);
            let packet = vxlan::Packet::new_checked(&out[..]).unwrap();
            prop_assert_eq!(vxlan::Repr::parse(&packet), Ok(vxlan::Repr {
                vni,
                group: (group != 0).then_some(group),
                dont_learn: false,
                policy_applied: false,
            }));
            let ethernet = EthernetFrame::new_checked(packet.payload()).unwrap();
            prop_assert_eq!(ethernet.src_addr().0, source);
            prop_assert_eq!(ethernet.dst_addr().0, destination);
            prop_assert_eq!(ethernet.ethertype(), EthernetProtocol::Ipv4);
        }
    }
}
