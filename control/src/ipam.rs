//! Which address comes next.
//!
//! Addresses of containers are base + 2 to broadcast - 1 of the cell's subnet: base is the cell
//! itself, base + 1 is kept free as the gateway of cells that run the kernel stack (host-local,
//! contract section 6.2). The search goes on after the last address given, so that a freed
//! address rests as long as possible before another container gets it.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// First and last address of containers; none when the subnet has no room.
pub fn range(subnet: Ipv4Net) -> Option<(Ipv4Addr, Ipv4Addr)> {
    let first = u32::from(subnet.network()).checked_add(2)?;
    let last = u32::from(subnet.broadcast()).checked_sub(1)?;
    (subnet.prefix_len() <= 30 && first <= last).then(|| (first.into(), last.into()))
}

/// How many containers fit.
pub fn capacity(subnet: Ipv4Net) -> u32 {
    range(subnet).map_or(0, |(first, last)| u32::from(last) - u32::from(first) + 1)
}

/// The first free address after `last`, from the beginning again behind the end.
pub fn next_free(
    subnet: Ipv4Net,
    last: Option<Ipv4Addr>,
    used: impl Fn(Ipv4Addr) -> bool,
) -> Option<Ipv4Addr> {
    let (first, end) = range(subnet)?;
    let (first, end) = (u32::from(first), u32::from(end));
    let after = last.map(u32::from).filter(|last| (first..end).contains(last));
    let start = after.map_or(first, |last| last + 1);
    (start..=end).chain(first..start).map(Ipv4Addr::from).find(|&address| !used(address))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn subnet(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    #[test]
    fn the_range_is_host_locals() {
        let range = range(subnet("10.255.73.0/24")).unwrap();
        assert_eq!(range, ([10, 255, 73, 2].into(), [10, 255, 73, 254].into()));
        assert_eq!(capacity(subnet("10.255.73.0/24")), 253);
        assert_eq!(capacity(subnet("10.255.73.0/29")), 5);
        assert_eq!(capacity(subnet("10.255.73.0/30")), 1);
        assert_eq!(capacity(subnet("10.255.73.0/31")), 0);
    }

    #[test]
    fn a_freed_address_rests() {
        let net = subnet("10.1.2.0/29");
        let mut last = None;
        let given: Vec<_> = (0..7)
            .map(|_| {
                last = next_free(net, last, |_| false);
                last.unwrap().octets()[3]
            })
            .collect();
        assert_eq!(given, [2, 3, 4, 5, 6, 2, 3]);
    }

    #[test]
    fn a_last_address_of_another_subnet_is_no_start() {
        let other = Some([10, 9, 9, 9].into());
        assert_eq!(next_free(subnet("10.1.2.0/24"), other, |_| false), Some([10, 1, 2, 2].into()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]
        /// 10,000 random additions and removals: never twice, never outside, never refused while
        /// one is free.
        #[test]
        fn never_twice(
            prefix in 24_u8..=30,
            operations in prop::collection::vec((prop::bool::weighted(0.55), any::<prop::sample::Index>()), 10_000),
        ) {
            let net = Ipv4Net::new([10, 7, 7, 0].into(), prefix).unwrap().trunc();
            let (first, end) = range(net).unwrap();
            let mut used = BTreeSet::new();
            let mut last = None;
            for (add, index) in operations {
                if add {
                    if let Some(address) = next_free(net, last, |one| used.contains(&one)) {
                        prop_assert!(used.insert(address), "{address} twice");
                        prop_assert!(first <= address && address <= end);
                        last = Some(address);
                    } else {
                        prop_assert_eq!(used.len() as u32, capacity(net));
                    }
                } else if !used.is_empty() {
                    let address = *index.get(&used.iter().copied().collect::<Vec<_>>());
                    used.remove(&address);
                }
            }
        }
    }
}
