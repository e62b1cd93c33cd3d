//! What makes two packets parts of one conversation.

use std::net::Ipv4Addr;

use crate::table::hash_pair;

/// Addresses, ports and protocol of a packet, as the packet says them.
///
/// An ICMP echo has its identifier in both ports. Both directions of a conversation have the same
/// [`FlowKey::hash`] and find the same entry.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub struct FlowKey {
    /// Sender.
    pub source: Ipv4Addr,
    /// Receiver.
    pub destination: Ipv4Addr,
    /// Sender's port, or ICMP identifier.
    pub source_port: u16,
    /// Receiver's port, or ICMP identifier.
    pub destination_port: u16,
    /// IP protocol number.
    pub protocol: u8,
}

impl FlowKey {
    /// Hash of the conversation, the same for both directions; differs from process to process.
    #[inline]
    pub fn hash(&self) -> u64 {
        let (source, destination) = self.ends();
        let (low, high) = (source.min(destination), source.max(destination));
        hash_pair(low, high | u64::from(self.protocol) << 48)
    }

    /// The same conversation, seen from the other side.
    #[must_use]
    pub const fn reversed(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            protocol: self.protocol,
        }
    }

    /// Sender and receiver, each as `address << 16 | port`.
    #[inline]
    pub(super) fn ends(&self) -> (u64, u64) {
        (end(self.source, self.source_port), end(self.destination, self.destination_port))
    }
}

fn end(address: Ipv4Addr, port: u16) -> u64 {
    u64::from(u32::from(address)) << 16 | u64::from(port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    prop_compose! {
        fn any_key()(source: u32, destination: u32, ports: [u16; 2], protocol: u8) -> FlowKey {
            FlowKey {
                source: source.into(),
                destination: destination.into(),
                source_port: ports[0],
                destination_port: ports[1],
                protocol,
            }
        }
    }

    proptest! {
        #[test]
        fn both_directions_hash_alike(key in any_key()) {
            prop_assert_eq!(key.hash(), key.reversed().hash());
            prop_assert_eq!(key.reversed().reversed(), key);
        }
    }

    #[test]
    fn neighbours_spread_over_buckets() {
        // Sequential ports between two fixed hosts: the usual shape of many conversations.
        let hashes: HashSet<u64> = (0..=u16::MAX)
            .map(|port| {
                FlowKey {
                    source: Ipv4Addr::new(10, 255, 1, 2),
                    destination: Ipv4Addr::new(10, 255, 2, 3),
                    source_port: port,
                    destination_port: 8080,
                    protocol: 6,
                }
                .hash()
            })
            .collect();
        assert_eq!(hashes.len(), 1 << 16);
        let mut low = vec![0_u32; 4096];
        let mut high = vec![0_u32; 4096];
        for hash in hashes {
            low[(hash & 4095) as usize] += 1;
            high[(hash >> 52) as usize] += 1;
        }
        // 16 on average; 64 is 12 standard deviations away.
        assert!(low.iter().chain(&high).all(|&n| n < 64));
    }

    #[test]
    fn protocol_matters() {
        let tcp = FlowKey {
            source: Ipv4Addr::new(10, 255, 1, 2),
            destination: Ipv4Addr::new(10, 255, 2, 3),
            source_port: 1,
            destination_port: 2,
            protocol: 6,
        };
        assert_ne!(tcp.hash(), FlowKey { protocol: 17, ..tcp }.hash());
    }
}
