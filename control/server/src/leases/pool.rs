//! Which subnets there are to lease (contract section 4.2): arithmetic, nothing else.
//!
//! The overlay is cut into blocks. The first one is never leased as a block: its addresses, without
//! the network's own, are leased one by one.

use ipnet::Ipv4Net;

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
        self.pool(single).count
    }

    /// The subnet of a kind with this number, from 0 to one less than the [size](Self::size).
    pub fn subnet(self, single: bool, number: u32) -> Option<Ipv4Net> {
        self.pool(single).subnet(number)
    }

    /// The number of a subnet of a kind, if it is in that pool.
    pub fn number(self, single: bool, subnet: Ipv4Net) -> Option<u32> {
        let pool = self.pool(single);
        let (number, _) = pool.overlap(subnet)?;
        (pool.subnet(number) == Some(subnet)).then_some(number)
    }

    /// Whether it is in either pool.
    pub fn contains(self, subnet: Ipv4Net) -> bool {
        self.number(false, subnet).or(self.number(true, subnet)).is_some()
    }

    /// How many subnets of a kind share no address with those that are taken.
    pub fn free(self, single: bool, taken: impl IntoIterator<Item = Ipv4Net>) -> u32 {
        let pool = self.pool(single);
        pool.count - pool.taken(taken).iter().map(|(from, to)| to - from + 1).sum::<u32>()
    }

    /// A free subnet of a kind by a number that is random over many more values than there are
    /// subnets: any is as likely as any other. None when none is free.
    pub fn pick(
        self,
        single: bool,
        taken: impl IntoIterator<Item = Ipv4Net>,
        random: u64,
    ) -> Option<Ipv4Net> {
        let pool = self.pool(single);
        let taken = pool.taken(taken);
        let free = taken.iter().fold(pool.count, |free, (from, to)| free - (to - from + 1));
        let mut number = random.checked_rem(u64::from(free))? as u32;
        // The free one with this number: further by each taken one that is before it.
        for (from, to) in taken {
            if from > number {
                break;
            }
            number += to - from + 1;
        }
        pool.subnet(number)
    }

    fn pool(self, single: bool) -> Pool {
        let block_prefix = self.block_prefix.min(32);
        let (prefix, bits) = if single {
            (32, 32 - block_prefix)
        } else {
            (block_prefix, block_prefix.saturating_sub(self.overlay.prefix_len()))
        };
        let begin = u64::from(self.overlay.network().to_bits());
        Pool { first: begin + (1 << (32 - prefix)), count: ((1_u64 << bits) - 1) as u32, prefix }
    }
}

/// Subnets of one size, one after the other.
#[derive(Debug, Clone, Copy)]
struct Pool {
    /// The first address of the first one.
    first: u64,
    count: u32,
    prefix: u8,
}

impl Pool {
    /// Addresses in a subnet.
    fn step(self) -> u64 {
        1 << (32 - self.prefix)
    }

    fn subnet(self, number: u32) -> Option<Ipv4Net> {
        let address = u32::try_from(self.first + u64::from(number) * self.step()).ok()?;
        let subnet = Ipv4Net::new(address.into(), self.prefix).ok()?;
        (number < self.count).then_some(subnet)
    }

    /// The numbers of the first and the last one that share addresses with `subnet`.
    fn overlap(self, subnet: Ipv4Net) -> Option<(u32, u32)> {
        let end = self.first + u64::from(self.count) * self.step();
        let from = u64::from(subnet.network().to_bits()).max(self.first);
        let to = u64::from(subnet.broadcast().to_bits()).min(end - 1);
        let number = |address| ((address - self.first) / self.step()) as u32;
        (from <= to).then(|| (number(from), number(to)))
    }

    /// From where to where subnets are taken, in order and without overlap.
    fn taken(self, subnets: impl IntoIterator<Item = Ipv4Net>) -> Vec<(u32, u32)> {
        let mut ranges: Vec<_> = subnets.into_iter().filter_map(|net| self.overlap(net)).collect();
        ranges.sort_unstable();
        let mut merged: Vec<(u32, u32)> = Vec::with_capacity(ranges.len());
        for (from, to) in ranges {
            match merged.last_mut() {
                Some((_, end)) if from <= *end => *end = to.max(*end),
                _ => merged.push((from, to)),
            }
        }
        merged
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
        // Two blocks, one of them twice; a network of another size over two blocks; and elsewhere.
        let taken = ["10.1.3.0/24", "10.1.15.0/24", "10.1.3.0/24", "10.1.6.0/23", "9.9.9.9/32"];
        let taken = taken.map(net);
        assert_eq!(pools.free(false, taken), 11);
        let mut seen: HashMap<Ipv4Net, u32> = HashMap::new();
        for random in 1000..1110 {
            *seen.entry(pools.pick(false, taken, random).unwrap()).or_default() += 1;
        }
        assert_eq!(seen.len(), 11);
        assert!(seen.values().all(|times| *times == 10), "{seen:?}");
        let is_taken = |free: &Ipv4Net| taken.iter().any(|taken| taken.contains(free));
        assert!(!seen.keys().any(is_taken));
    }

    #[test]
    fn settings_that_nobody_checked_make_empty_pools() {
        for (overlay, block_prefix) in
            [("10.0.0.0/24", 24), ("10.0.0.0/24", 8), ("255.255.255.255/32", 255), ("0.0.0.0/0", 0)]
        {
            let pools = Pools { overlay: net(overlay), block_prefix };
            assert_eq!(pools.size(false), 0);
            assert_eq!(pools.subnet(false, 0), None);
            assert_eq!(pools.pick(false, [], 7), None);
            assert_eq!(pools.free(false, [net("0.0.0.0/0")]), 0);
            assert_eq!(pools.free(true, [net("0.0.0.0/0")]), 0);
        }
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
                let picked = pools.pick(single, taken.iter().copied(), random).unwrap();
                prop_assert!(pools.number(single, picked).is_some());
                prop_assert!(!taken.contains(&picked));
                taken.push(picked);
                prop_assert_eq!(pools.free(single, taken.iter().copied()), left);
            }
            prop_assert_eq!(pools.pick(single, taken, random), None);
        }

        /// Networks of any size, inside and outside: what is picked shares no address with them.
        #[test]
        fn what_is_picked_is_free(
            network: u32, prefix in 20_u8..=28, more in 1_u8..=2, single: bool, random: u64,
            taken in prop::collection::vec((0_u32..5000, 18_u8..=32), 0..60),
        ) {
            let overlay = Ipv4Net::new(network.into(), prefix).unwrap().trunc();
            let pools = Pools::new(overlay, prefix + more).unwrap();
            let base = overlay.network().to_bits().wrapping_sub(500);
            let near = |(offset, prefix)| {
                Ipv4Net::new(base.wrapping_add(offset).into(), prefix).unwrap().trunc()
            };
            let taken: Vec<Ipv4Net> = taken.into_iter().map(near).collect();
            let is_free = |subnet: Ipv4Net| {
                !taken.iter().any(|net| net.contains(&subnet) || subnet.contains(net))
            };
            let all = (0..pools.size(single)).filter_map(|number| pools.subnet(single, number));
            let free: Vec<Ipv4Net> = all.filter(|subnet| is_free(*subnet)).collect();
            prop_assert_eq!(pools.free(single, taken.iter().copied()) as usize, free.len());
            match pools.pick(single, taken.iter().copied(), random) {
                Some(picked) => prop_assert!(free.contains(&picked)),
                None => prop_assert!(free.is_empty()),
            }
        }
    }
}
