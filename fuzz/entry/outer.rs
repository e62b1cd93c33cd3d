//! Any bytes as a frame that the steering program took, for the address that the frame names.

use std::net::Ipv4Addr;

use sarcenet_dataplane::link::xdp::outer::{Hop, OUTER_LEN, Outer, Received, sum_by_headers};
use sarcenet_dataplane::wire::checksum;
use sarcenet_dataplane::wire::tunnel::ETHERNET_HEADER_LEN;

const PORT: u16 = 4789;
const HOP: Hop = Hop { source: [2; 6], destination: [4; 6] };

/// # Panics
/// When something is not as it should be.
pub(crate) fn run(data: &[u8]) {
    sum_by_headers(data, data.len());
    let local = data.get(30..34).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
    let local = Ipv4Addr::from(local.unwrap_or_default());
    let Ok(received) = Received::parse(data, local, PORT) else { return };
    assert!(received.is_like(&received));
    if !received.is_tunnel() {
        assert_eq!(received.skip(), ETHERNET_HEADER_LEN);
        assert!((28..=65_535).contains(&received.len), "room for headers");
        return;
    }
    assert_eq!(received.skip(), OUTER_LEN);
    assert!((1..=65_535 - 28).contains(&received.len));
    let Some(datagram) = data[OUTER_LEN..].get(..received.len) else { return };
    let agreed = received.agrees(datagram);

    // Written by us and read again it is the same, and agrees whatever is in it.
    let outer = Outer {
        hop: HOP,
        source: *received.source.ip(),
        destination: local,
        source_port: received.source.port(),
        port: PORT,
    };
    let mut front = [0; OUTER_LEN];
    outer.emit(datagram.len(), checksum::sum(datagram), &mut front);
    let frame = [&front, datagram].concat();
    let again = Received::parse(&frame, local, PORT).expect("what we write can be read");
    assert!(again.is_like(&received) && again.len == received.len);
    assert!(again.agrees(datagram));
    // One changed bit of a payload that has no other checksum is noticed.
    if agreed && sum_by_headers(datagram, datagram.len()).is_none() {
        let mut changed = datagram.to_vec();
        changed[0] ^= 1;
        if sum_by_headers(&changed, changed.len()).is_none() {
            let partial = frame[40..42] == pseudo(&outer, datagram.len()).to_be_bytes();
            assert!(partial || !again.agrees(&changed));
        }
    }
}

/// Sum of the pseudo-header of what is sent, which a partial checksum is.
fn pseudo(outer: &Outer, len: usize) -> u16 {
    let len = len as u32 + 8;
    checksum::pseudo_header(outer.source, outer.destination, 17, len).fold()
}
