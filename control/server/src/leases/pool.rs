//! Which subnets there are to lease (contract section 4.2): arithmetic, nothing else.
//!
//! The overlay is cut into blocks. The first one is never leased as a block: its addresses, without
//! the network's own, are leased one by one.

use ipnet::Ipv4Net;
use uuid::Uuid;

use crate::lease::Pools;

/// Why a network cannot be cut into blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// Blocks of this size are of no use.
    #[error("subnet_prefix_length {0} is not between 1 and 30")]
    Prefix(u8),
    /// There would be a single block, or none.
    #[error(
        "subnet_prefix_length {prefix} must be larger than the prefix length of network {network}"
    )]
    NoBlocks {
        /// The prefix length of a block.
        prefix: u8,
        /// The overlay.
        network: Ipv4Net,
    },
}

impl Pools {
    /// The pools of `overlay`, in which blocks have `block_prefix` bits (contract section 13.1).
    pub fn new(overlay: Ipv4Net, block_prefix: u8) -> Result<Self, PoolError> {
        if !(1..=30).contains(&block_prefix) {
            return Err(PoolError::Prefix(block_prefix));
        }
        if block_prefix <= overlay.prefix_len() {
            return Err(PoolError::NoBlocks { prefix: block_prefix, network: overlay });
        }
        Ok(Self { overlay: overlay.trunc(), block_prefix })
    }

    /// How many subnets there are of a kind: single addresses or blocks.
    pub fn size(self, single: bool) -> u32 {
        let bits = if single {
            32 - self.block_prefix
        } else {
            self.block_prefix - self.overlay.prefix_len()
        };
        // 2^32 addresses would need a block prefix of 0, which [`Pools::new`] refuses.
        u32::MAX >> (32 - bits)
    }

    /// The subnet of a kind with this number, from 0 to one less than the [size](Self::size).
    pub fn subnet(self, single: bool, number: u32) -> Option<Ipv4Net> {
        if number >= self.size(single) {
            return None;
        }
        let (step, prefix) = self.step(single);
        let base = u32::from(self.overlay.network());
        Ipv4Net::new((base + (number + 1) * step).into(), prefix).ok()
    }

    /// The number of a subnet of a kind, if it is in that pool.
    pub fn number(self, single: bool, subnet: Ipv4Net) -> Option<u32> {
        let (step, prefix) = self.step(single);
        let above = u32::from(subnet.addr()).checked_sub(u32::from(self.overlay.network()))?;
        if subnet.prefix_len() != prefix || above % step != 0 {
            return None;
        }
        (above / step).checked_sub(1).filter(|number| *number < self.size(single))
    }

    /// Whether it is in either pool.
    pub fn contains(self, subnet: Ipv4Net) -> bool {
        self.number(false, subnet).or(self.number(true, subnet)).is_some()
    }

    /// How many subnets of a kind are free when these are taken. What is not in the pool does not
    /// count.
    pub fn free(self, single: bool, taken: impl IntoIterator<Item = Ipv4Net>) -> u32 {
        self.size(single) - self.numbers(single, taken).len() as u32
    }

    /// A free subnet of a kind, any as likely as any other; none when all are taken.
    pub fn pick(self, single: bool, taken: impl IntoIterator<Item = Ipv4Net>) -> Option<Ipv4Net> {
        // The first 48 bits of a UUID of version 4 are random.
        let random = (Uuid::new_v4().as_u128() >> 80) as u64;
        self.pick_by(single, taken, random << 16)
    }

    /// The same by a number that is random over all values.
    fn pick_by(
        self,
        single: bool,
        taken: impl IntoIterator<Item = Ipv4Net>,
        random: u64,
    ) -> Option<Ipv4Net> {
        let taken = self.numbers(single, taken);
        let free = self.size(single) - taken.len() as u32;
        let mut number = ((u128::from(random) * u128::from(free)) >> 64) as u32;
        // The free one with this number: one further for each taken one that is not above it.
        for taken in taken {
            if taken > number {
                break;
            }
            number += 1;
        }
        self.subnet(single, number)
    }

    /// Addresses from one subnet of a kind to the next, and its prefix length.
    fn step(self, single: bool) -> (u32, u8) {
        if single { (1, 32) } else { (1 << (32 - self.block_prefix), self.block_prefix) }
    }

    /// Numbers in order, each once.
    fn numbers(self, single: bool, subnets: impl IntoIterator<Item = Ipv4Net>) -> Vec<u32> {
        let of_kind = |subnet| self.number(single, subnet);
        let mut numbers: Vec<u32> = subnets.into_iter().filter_map(of_kind).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }
}

/// The MAC of the VTEP of who leases `subnet` (contract section 4.3, step 4).
pub fn hardware_address(subnet: Ipv4Net) -> [u8; 6] {
    let [a, b, c, d] = subnet.network().octets();
    [0xee, 0xee, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    fn pools(overlay: &str, block_prefix: u8) -> Pools {
        Pools::new(net(overlay), block_prefix).unwrap()
    }

    #[test]
    fn the_contracts_networks() {
        // Network, prefix length, then of each pool: size, first, last.
        let table = [
            (
                "10.255.0.0/16",
                24,
                (255, "10.255.1.0/24", "10.255.255.0/24"),
                (255, "10.255.0.1/32", "10.255.0.255/32"),
            ),
            (
                "10.255.9.9/16",
                24,
                (255, "10.255.1.0/24", "10.255.255.0/24"),
                (255, "10.255.0.1/32", "10.255.0.255/32"),
            ),
            (
                "10.10.10.0/29",
                30,
                (1, "10.10.10.4/30", "10.10.10.4/30"),
                (3, "10.10.10.1/32", "10.10.10.3/32"),
            ),
            (
                "0.0.0.0/0",
                1,
                (1, "128.0.0.0/1", "128.0.0.0/1"),
                (0x7fff_ffff, "0.0.0.1/32", "127.255.255.255/32"),
            ),
            (
                "0.0.0.0/0",
                30,
                (0x3fff_ffff, "0.0.0.4/30", "255.255.255.252/30"),
                (3, "0.0.0.1/32", "0.0.0.3/32"),
            ),
        ];
        for (network, prefix, blocks, singles) in table {
            let pools = pools(network, prefix);
            for (single, (size, first, last)) in [(false, blocks), (true, singles)] {
                assert_eq!(pools.size(single), size, "{network}");
                assert_eq!(pools.subnet(single, 0), Some(net(first)));
                assert_eq!(pools.subnet(single, size - 1), Some(net(last)));
                assert_eq!(pools.subnet(single, size), None);
            }
        }
    }

    #[test]
    fn networks_that_cannot_be_cut_are_refused() {
        let refused = |overlay, prefix| Pools::new(net(overlay), prefix).unwrap_err();
        assert_eq!(refused("10.0.0.0/8", 0), PoolError::Prefix(0));
        assert_eq!(refused("10.0.0.0/8", 31), PoolError::Prefix(31));
        assert_eq!(
            refused("10.0.0.0/24", 24).to_string(),
            "subnet_prefix_length 24 must be larger than the prefix length of network 10.0.0.0/24"
        );
    }

    #[test]
    fn what_is_in_the_pools() {
        let pools = pools("10.255.0.0/16", 24);
        for inside in ["10.255.1.0/24", "10.255.255.0/24", "10.255.0.1/32", "10.255.0.255/32"] {
            assert!(pools.contains(net(inside)), "{inside}");
        }
        for outside in [
            "10.255.0.0/24",
            "10.255.0.0/32",
            "10.255.1.0/32",
            "10.255.1.0/25",
            "10.255.1.1/24",
            "10.254.1.0/24",
            "10.0.1.0/24",
            "11.0.1.0/24",
            "10.255.0.0/16",
            "0.0.0.0/0",
        ] {
            assert!(!pools.contains(net(outside)), "{outside}");
        }
    }

    #[test]
    fn the_address_of_a_vtep() {
        assert_eq!(hardware_address(net("10.255.73.0/24")), [0xee, 0xee, 10, 255, 73, 0]);
        assert_eq!(hardware_address(net("10.255.73.9/24")), [0xee, 0xee, 10, 255, 73, 0]);
        assert_eq!(hardware_address(net("10.255.0.7/32")), [0xee, 0xee, 10, 255, 0, 7]);
    }

    #[test]
    fn each_free_subnet_is_as_likely_as_any_other() {
        let pools = pools("10.1.0.0/20", 24);
        let taken =
            [net("10.1.3.0/24"), net("10.1.15.0/24"), net("10.1.3.0/24"), net("9.9.9.9/32")];
        let free = pools.free(false, taken);
        assert_eq!(free, 13);
        let mut seen: HashMap<Ipv4Net, u32> = HashMap::new();
        let step = u64::MAX / u64::from(free * 10);
        for part in 0..u64::from(free * 10) {
            let random = step * part + step / 2;
            *seen.entry(pools.pick_by(false, taken, random).unwrap()).or_default() += 1;
        }
        assert_eq!(seen.len(), 13);
        assert!(seen.values().all(|times| *times == 10), "{seen:?}");
        assert!(taken.iter().all(|taken| !seen.contains_key(taken)));
    }

    fn any_pools() -> impl Strategy<Value = Pools> {
        (any::<u32>(), 1_u8..=30).prop_flat_map(|(address, block_prefix)| {
            (0..block_prefix).prop_map(move |prefix| {
                Pools::new(Ipv4Net::new(address.into(), prefix).unwrap(), block_prefix).unwrap()
            })
        })
    }

    proptest! {
        #[test]
        fn numbers_and_subnets_are_the_same_thing(
            pools in any_pools(), single: bool, number: u32, address: u32, prefix in 0_u8..=32,
        ) {
            match pools.subnet(single, number % pools.size(single)) {
                Some(subnet) => {
                    prop_assert_eq!(pools.number(single, subnet), Some(number % pools.size(single)));
                    prop_assert!(pools.overlay.contains(&subnet));
                    prop_assert_eq!(pools.number(!single, subnet), None);
                    prop_assert_eq!(subnet, subnet.trunc());
                }
                None => prop_assert!(false, "no subnet"),
            }
            let other = Ipv4Net::new(address.into(), prefix).unwrap();
            if let Some(number) = pools.number(single, other) {
                prop_assert_eq!(pools.subnet(single, number), Some(other));
            }
        }

        /// As long as some are free one of them is picked, until none is left.
        #[test]
        fn all_can_be_picked_and_none_twice(extra in 1_u8..7, single: bool, random: u64) {
            let pools = if single { pools("10.0.0.0/8", 32 - extra.max(2)) } else { pools("10.0.0.0/8", 8 + extra) };
            let mut taken = Vec::new();
            for left in (0..pools.size(single)).rev() {
                let random = random.rotate_left(left);
                let picked = pools.pick_by(single, taken.iter().copied(), random).unwrap();
                prop_assert!(pools.number(single, picked).is_some());
                prop_assert!(!taken.contains(&picked));
                taken.push(picked);
                prop_assert_eq!(pools.free(single, taken.iter().copied()), left);
            }
            prop_assert_eq!(pools.pick(single, taken), None);
        }
    }
}
