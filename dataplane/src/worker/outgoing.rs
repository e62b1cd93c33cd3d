//! Bringing together what can be sent together.
#![forbid(unsafe_code)]

use sarcenet_dataplane_api::PortId;

use crate::link::udp::UdpTunnel;
use crate::packet::Via;

/// Kinds of doors, in the order in which they get their packets.
const HOST: u64 = 0;
const CONTAINER: u64 = 1;
const TUNNEL: u64 = 2;

/// A packet that is to be sent, as one number. Sorted, packets for one door stand together, those
/// for the tunnel by peer and sending socket, and packets of one flow in the order in which they
/// came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Outgoing(u64);

impl Outgoing {
    /// The packet at `index` of a batch, for this door.
    pub(super) fn new(via: Via, flow_hash: u32, index: u16) -> Self {
        let (kind, name, sender) = match via {
            Via::Host => (HOST, 0, 0),
            Via::Container(PortId(port)) => (CONTAINER, u64::from(port), 0),
            Via::Tunnel(peer) => {
                (TUNNEL, u64::from(peer.to_bits()), UdpTunnel::sender_of(flow_hash) as u64)
            }
        };
        Self((kind << 52) | (name << 20) | (sender << 16) | u64::from(index))
    }

    /// Its place in the batch.
    pub(super) fn index(self) -> u16 {
        self.0 as u16
    }

    /// The same for packets that one link takes: all peers are behind one.
    pub(super) fn door(self) -> u64 {
        match self.0 >> 52 {
            TUNNEL => TUNNEL << 32,
            _ => self.0 >> 20,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn packets_are_grouped_by_door_and_keep_their_order() {
        let tunnel = |last| Via::Tunnel(Ipv4Addr::new(10, 77, 0, last));
        let packets = [
            (tunnel(12), 5),
            (Via::Container(PortId(3)), 0),
            (tunnel(11), 5),
            (Via::Host, 0),
            (tunnel(12), 4),
            (Via::Container(PortId(u16::MAX)), 0),
            (tunnel(12), 5),
            (Via::Container(PortId(3)), 9),
        ];
        let mut keys: Vec<_> = (0..)
            .zip(packets)
            .map(|(index, (via, hash))| Outgoing::new(via, hash, index))
            .collect();
        keys.sort_unstable();
        let groups: Vec<Vec<u16>> = keys
            .chunk_by(|a, b| a.door() == b.door())
            .map(|group| group.iter().map(|key| key.index()).collect())
            .collect();
        let expected: [&[u16]; 4] = [&[3], &[1, 7], &[5], &[2, 4, 0, 6]];
        assert_eq!(groups, expected);
    }
}
