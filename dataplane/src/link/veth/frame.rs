//! Which frames a container may send, and the answers to its ARP requests.
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;

use sarcenet_dataplane_api::DropReason;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol,
    EthernetRepr,
};

use crate::wire::tunnel::ETHERNET_HEADER_LEN;

/// Length of an ARP packet for Ethernet and IPv4 (RFC 826), in bytes.
pub const ARP_LEN: usize = 28;

/// The two ends of a container's veth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Macs {
    /// MAC address of the container's end.
    pub container: [u8; 6],
    /// MAC address of the cell's end, which the container takes for its gateway's.
    pub gateway: [u8; 6],
}

/// What a frame that is not dropped at the door carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame {
    /// A packet.
    Ipv4,
    /// A question for an address.
    Arp,
}

impl Macs {
    /// Looks at the Ethernet header of a frame from the container.
    ///
    /// # Errors
    /// Why the frame is dropped.
    pub fn check(&self, header: [u8; ETHERNET_HEADER_LEN]) -> Result<Frame, DropReason> {
        let frame = EthernetFrame::new_unchecked(&header[..]);
        if frame.src_addr().0 != self.container {
            return Err(DropReason::SpoofedSource);
        }
        let destination = frame.dst_addr();
        match frame.ethertype() {
            EthernetProtocol::Arp
                if destination.0 == self.gateway || destination.is_broadcast() =>
            {
                Ok(Frame::Arp)
            }
            EthernetProtocol::Ipv4 if destination.0 == self.gateway => Ok(Frame::Ipv4),
            EthernetProtocol::Arp | EthernetProtocol::Ipv4 if destination.is_unicast() => {
                Err(DropReason::WrongMac)
            }
            EthernetProtocol::Ipv4 => Err(DropReason::NotUnicast),
            _ => Err(DropReason::NotIpv4),
        }
    }

    /// The answer to an ARP packet of the container: whoever it asks for, it is the gateway. Only
    /// requests that look for somebody else are answered. One that announces the container's own
    /// address, or asks whether somebody has it already (RFC 5227), must hear nothing.
    ///
    /// # Errors
    /// Why there is no answer.
    pub fn answer(&self, arp: &[u8]) -> Result<[u8; ARP_LEN], DropReason> {
        let packet = ArpPacket::new_checked(arp).map_err(|_| DropReason::Malformed)?;
        let asked = ArpRepr::parse(&packet).map_err(|_| DropReason::Malformed)?;
        let ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Request,
            source_hardware_addr,
            source_protocol_addr,
            target_protocol_addr,
            ..
        } = asked
        else {
            return Err(DropReason::NotIpv4);
        };
        if source_hardware_addr.0 != self.container {
            return Err(DropReason::SpoofedSource);
        }
        if source_protocol_addr == Ipv4Addr::UNSPECIFIED
            || source_protocol_addr == target_protocol_addr
        {
            return Err(DropReason::NotIpv4);
        }
        let answer = ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Reply,
            source_hardware_addr: EthernetAddress(self.gateway),
            source_protocol_addr: target_protocol_addr,
            target_hardware_addr: source_hardware_addr,
            target_protocol_addr: source_protocol_addr,
        };
        let mut bytes = [0; ARP_LEN];
        answer.emit(&mut ArpPacket::new_unchecked(&mut bytes[..]));
        Ok(bytes)
    }

    /// Header of a frame to the container with an IPv4 packet.
    pub(super) fn ipv4_header(&self) -> [u8; ETHERNET_HEADER_LEN] {
        self.header(EthernetProtocol::Ipv4)
    }

    /// Header of a frame to the container with an ARP packet.
    pub(super) fn arp_header(&self) -> [u8; ETHERNET_HEADER_LEN] {
        self.header(EthernetProtocol::Arp)
    }

    fn header(&self, ethertype: EthernetProtocol) -> [u8; ETHERNET_HEADER_LEN] {
        let mut header = [0; ETHERNET_HEADER_LEN];
        EthernetRepr {
            src_addr: EthernetAddress(self.gateway),
            dst_addr: EthernetAddress(self.container),
            ethertype,
        }
        .emit(&mut EthernetFrame::new_unchecked(&mut header[..]));
        header
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MACS: Macs =
        Macs { container: [0xee, 0xee, 10, 255, 55, 2], gateway: [0xaa, 0xaa, 10, 255, 55, 2] };
    const OWN: Ipv4Addr = Ipv4Addr::new(10, 255, 55, 2);
    const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 1);

    fn header(to: [u8; 6], from: [u8; 6], ethertype: u16) -> [u8; ETHERNET_HEADER_LEN] {
        [&to[..], &from, &ethertype.to_be_bytes()].concat().try_into().unwrap()
    }

    fn request(from: [u8; 6], source: Ipv4Addr, target: Ipv4Addr) -> ArpRepr {
        ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Request,
            source_hardware_addr: EthernetAddress(from),
            source_protocol_addr: source,
            target_hardware_addr: EthernetAddress::default(),
            target_protocol_addr: target,
        }
    }

    fn bytes(repr: ArpRepr) -> [u8; ARP_LEN] {
        let mut bytes = [0; ARP_LEN];
        repr.emit(&mut ArpPacket::new_unchecked(&mut bytes[..]));
        bytes
    }

    #[test]
    fn frames_by_their_header() {
        let Macs { container, gateway } = MACS;
        let other = [0xee, 0xee, 10, 255, 55, 3];
        let multicast = [1, 0, 0x5e, 0, 0, 1];
        for (header, expected) in [
            (header(gateway, container, 0x0800), Ok(Frame::Ipv4)),
            (header(gateway, container, 0x0806), Ok(Frame::Arp)),
            (header([0xff; 6], container, 0x0806), Ok(Frame::Arp)),
            (header(gateway, other, 0x0800), Err(DropReason::SpoofedSource)),
            (header(gateway, gateway, 0x0800), Err(DropReason::SpoofedSource)),
            (header(gateway, other, 0x0806), Err(DropReason::SpoofedSource)),
            (header(other, container, 0x0800), Err(DropReason::WrongMac)),
            (header(other, container, 0x0806), Err(DropReason::WrongMac)),
            (header([0xff; 6], container, 0x0800), Err(DropReason::NotUnicast)),
            (header(multicast, container, 0x0800), Err(DropReason::NotUnicast)),
            (header(gateway, container, 0x86dd), Err(DropReason::NotIpv4)),
            (header(gateway, container, 0x8100), Err(DropReason::NotIpv4)),
            (header(gateway, container, 60), Err(DropReason::NotIpv4)),
        ] {
            assert_eq!(MACS.check(header), expected, "{header:02x?}");
        }
    }

    #[test]
    fn requests_are_answered_for_every_address_but_the_own() {
        for target in [GATEWAY, Ipv4Addr::new(8, 8, 8, 8)] {
            let answer = MACS.answer(&bytes(request(MACS.container, OWN, target))).unwrap();
            let expected = ArpRepr::EthernetIpv4 {
                operation: ArpOperation::Reply,
                source_hardware_addr: EthernetAddress(MACS.gateway),
                source_protocol_addr: target,
                target_hardware_addr: EthernetAddress(MACS.container),
                target_protocol_addr: OWN,
            };
            assert_eq!(ArpRepr::parse(&ArpPacket::new_checked(&answer).unwrap()), Ok(expected));
        }
        let refused = |repr| MACS.answer(&bytes(repr)).unwrap_err();
        assert_eq!(refused(request(MACS.container, OWN, OWN)), DropReason::NotIpv4);
        let probe = request(MACS.container, Ipv4Addr::UNSPECIFIED, OWN);
        assert_eq!(refused(probe), DropReason::NotIpv4);
        assert_eq!(refused(request([2; 6], OWN, GATEWAY)), DropReason::SpoofedSource);
        let ArpRepr::EthernetIpv4 { .. } = probe else { unreachable!() };
        let reply = MACS.answer(&bytes(request(MACS.container, OWN, GATEWAY))).unwrap();
        assert_eq!(MACS.answer(&reply), Err(DropReason::NotIpv4));
        assert_eq!(MACS.answer(&reply[..27]), Err(DropReason::Malformed));
    }

    proptest! {
        #[test]
        fn any_bytes(header: [u8; ETHERNET_HEADER_LEN], arp: Vec<u8>) {
            let _ = MACS.check(header);
            let _ = MACS.answer(&arp);
        }
    }
}
