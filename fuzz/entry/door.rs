//! Any bytes as a frame at a container's door: Ethernet header (14 bytes), `virtio_net_hdr` (10
//! bytes), then the packet. A container with a packet socket writes all of them itself.

use sarcenet_dataplane::link::veth::{Frame, Macs};
use sarcenet_dataplane::link::virtio::{decode, encode};
use sarcenet_dataplane::packet::{Checksum, Segmentation};

const MACS: Macs = Macs { container: [0xee; 6], gateway: [0xaa; 6] };

/// # Panics
/// When something is not as it should be.
pub(crate) fn run(data: &[u8]) {
    let Some((ethernet, rest)) = data.split_first_chunk::<14>() else { return };
    if let Ok(frame) = MACS.check(*ethernet) {
        assert_eq!(ethernet[6..12], MACS.container, "nobody else may send");
        assert_eq!(frame == Frame::Ipv4, ethernet[12..] == [8, 0]);
    }
    if let Ok(answer) = MACS.answer(rest) {
        // From the gateway's MAC to the container's, for the address that was asked for.
        assert_eq!((&answer[8..14], &answer[18..24]), (&MACS.gateway[..], &MACS.container[..]));
        assert_eq!((&answer[14..18], &answer[24..28]), (&rest[24..28], &rest[14..18]));
    }
    let Some((header, packet)) = rest.split_first_chunk() else { return };
    for link_header in [0, ethernet.len()] {
        let Ok(offload) = decode(*header, packet, link_header) else { continue };
        if let Checksum::Partial { start, offset } = offload.checksum {
            let end = usize::from(start) + usize::from(offset) + 2;
            assert!(start >= 20 && end <= packet.len(), "the checksum lies behind the IP header");
        }
        if let Some(size) = offload.segmentation.size() {
            assert!(size > 0 && usize::from(size) < packet.len());
            assert!(matches!(offload.checksum, Checksum::Partial { .. }));
        }
        // What is said to the next device means the same.
        let again = encode(offload, packet, link_header);
        assert_eq!(decode(again, packet, link_header), Ok(offload));
        let plain = encode(offload, packet, 0);
        assert_eq!(plain[1] == 0, offload.segmentation == Segmentation::None);
    }
}
