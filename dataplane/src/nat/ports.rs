//! Which ports are tried for a conversation that gets source NAT.

use std::net::Ipv4Addr;

use sarcenet_dataplane_api::PortRange;

use super::has_ports;
use crate::flow::FlowKey;
use crate::table::hash_pair;

/// Ports tried at most. With nine ports of ten taken towards one endpoint the odds of finding none
/// are one in a million, at 99 of 100 one in four.
const TRIES: u32 = 128;

/// Fewest ports of which a container is kept from some.
const MIN_SHARED: u32 = 4;

/// The ports of the cell to try for one conversation, in this order: the container's own one, so
/// that most ports stay as they are (RFC 4787 section 4.2.1), then others at random, which an
/// attacker cannot foresee (RFC 6056 section 3.3.1). All of them when the range is small.
///
/// A quarter of the range, chosen by the container's address, is never tried. So no container alone
/// takes all ports towards a destination from all others.
#[derive(Debug, Clone)]
pub struct Candidates {
    range: PortRange,
    own: Option<u16>,
    forbidden: Option<u32>,
    seed: u64,
    tried: u32,
}

impl Candidates {
    /// For a conversation that a container begins, `key` being its inner view.
    pub fn new(key: &FlowKey, range: PortRange) -> Self {
        if !has_ports(key.protocol) {
            return Self {
                range: PortRange { first: 1, last: 0 },
                own: Some(0),
                forbidden: None,
                seed: 0,
                tried: 0,
            };
        }
        let mut candidates = Self {
            range,
            own: None,
            forbidden: (size(range) >= MIN_SHARED).then(|| forbidden_quarter(key.source)),
            seed: key.hash(),
            tried: 0,
        };
        candidates.own = Some(key.source_port).filter(|&port| candidates.allows(port));
        candidates
    }

    /// Whether the conversation may have this port.
    fn allows(&self, port: u16) -> bool {
        self.range.contains(port)
            && self.forbidden.is_none_or(|forbidden| quarter(self.range, port) != forbidden)
    }
}

impl Iterator for Candidates {
    type Item = u16;

    fn next(&mut self) -> Option<u16> {
        if let Some(own) = self.own.take() {
            return Some(own);
        }
        let size = size(self.range);
        while self.tried < TRIES.min(size) {
            let offset = if size <= TRIES {
                // All of them, from a place that differs between conversations on.
                (self.seed as u32 % size + self.tried) % size
            } else {
                let random = hash_pair(self.seed, u64::from(self.tried));
                ((u128::from(random) * u128::from(size)) >> 64) as u32
            };
            self.tried += 1;
            let port = (u32::from(self.range.first) + offset) as u16;
            if self.allows(port) {
                return Some(port);
            }
        }
        None
    }
}

/// Ports in a range; 0 when it is inverted.
fn size(range: PortRange) -> u32 {
    (u32::from(range.last) + 1).saturating_sub(u32::from(range.first))
}

/// In which quarter of the range a port lies, from 0 to 3. The range is not empty.
fn quarter(range: PortRange, port: u16) -> u32 {
    u32::from(port.saturating_sub(range.first)) * 4 / size(range).max(1)
}

fn forbidden_quarter(container: Ipv4Addr) -> u32 {
    hash_pair(u64::from(container.to_bits()), u64::from_le_bytes(*b"quarters")) as u32 % 4
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeSet, HashSet};

    fn key(container: u32, source_port: u16, protocol: u8) -> FlowKey {
        FlowKey {
            source: Ipv4Addr::from(0x0aff_3700 + container),
            destination: Ipv4Addr::new(198, 51, 100, 7),
            source_port,
            destination_port: 443,
            protocol,
        }
    }

    fn all(key: &FlowKey, first: u16, last: u16) -> Vec<u16> {
        Candidates::new(key, PortRange { first, last }).collect()
    }

    #[test]
    fn small_ranges_are_tried_whole() {
        assert_eq!(all(&key(1, 5, 6), 61_000, 61_000), [61_000]);
        assert_eq!(all(&key(1, 61_000, 6), 61_000, 61_000), [61_000, 61_000]);
        for last in [61_001, 61_002] {
            let tried: BTreeSet<u16> = all(&key(1, 5, 17), 61_000, last).into_iter().collect();
            assert_eq!(tried, (61_000..=last).collect());
        }
        // Three quarters of 100, nothing twice.
        let tried = all(&key(1, 5, 17), 61_000, 61_099);
        assert_eq!(tried.len(), 75);
        assert_eq!(tried.iter().collect::<HashSet<_>>().len(), 75);
        assert_eq!(all(&key(1, 5, 6), 2, 1), [0_u16; 0], "no range");
    }

    #[test]
    fn no_port_is_out_of_anybodys_reach_and_none_is_in_everybodys() {
        let (first, last) = (65_500, 65_535);
        let reach: Vec<BTreeSet<u16>> =
            (0..64).map(|n| all(&key(n, 1, 6), first, last).into_iter().collect()).collect();
        assert!(reach.iter().all(|ports| ports.len() == 27));
        for port in first..=last {
            assert!(reach.iter().any(|ports| ports.contains(&port)));
            assert!(reach.iter().any(|ports| !ports.contains(&port)));
        }
    }

    #[test]
    fn the_own_port_first_where_it_is_allowed() {
        let (first, last) = (32_768, 65_535);
        let mut kept = 0;
        for port in (first..=last).step_by(64) {
            let tried = all(&key(3, port, 6), first, last);
            assert!(tried.len() >= 60 && tried.len() <= 129, "{}", tried.len());
            assert!(tried.iter().all(|&tried| (first..=last).contains(&tried)));
            kept += usize::from(tried[0] == port);
        }
        assert_eq!(kept, 384, "three quarters of 512");
        assert_ne!(all(&key(3, 80, 6), first, last)[0], 80);
    }

    #[test]
    fn the_whole_range_of_ports_spreads() {
        let mut seen = HashSet::new();
        for port in 1..=2_000 {
            seen.extend(all(&key(1, port, 6), 0, u16::MAX).into_iter().nth(1));
        }
        assert!(seen.len() > 1_900, "{} different second choices", seen.len());
    }

    #[test]
    fn a_protocol_without_ports_has_one_candidate() {
        assert_eq!(all(&key(1, 0, 47), 61_000, 61_010), [0]);
    }
}
