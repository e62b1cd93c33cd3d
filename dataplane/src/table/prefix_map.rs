//! Longest-prefix match over IPv4 prefixes.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// Values by prefix, built once. The prefixes are cut into disjoint segments of the address
/// space, so that a look-up is one binary search however they nest.
#[derive(Debug, Clone)]
pub struct PrefixMap<V> {
    /// First addresses of the segments, in order, beginning with 0.0.0.0.
    starts: Box<[u32]>,
    /// For each segment the index of its value, or [`NOTHING`].
    owners: Box<[u32]>,
    values: Box<[V]>,
}

const NOTHING: u32 = u32::MAX;

impl<V> Default for PrefixMap<V> {
    fn default() -> Self {
        Self::new([])
    }
}

impl<V> PrefixMap<V> {
    /// A map of these prefixes. Of equal ones the last counts; host bits are ignored.
    pub fn new(prefixes: impl IntoIterator<Item = (Ipv4Net, V)>) -> Self {
        let (nets, values): (Vec<Ipv4Net>, Vec<V>) =
            prefixes.into_iter().map(|(net, value)| (net.trunc(), value)).unzip();
        let mut order: Vec<u32> = (0..nets.len() as u32).collect();
        // Outer prefixes before the ones inside them; stable, so equal ones stay in order.
        order.sort_by_key(|&i| (nets[i as usize].network(), nets[i as usize].prefix_len()));

        let mut segments = vec![(0_u32, NOTHING)];
        // Prefixes that contain the address reached, innermost last: last address and index.
        let mut around: Vec<(u32, u32)> = Vec::new();
        for i in order {
            let (first, last) = bounds(nets[i as usize]);
            close(&mut around, Some(first), &mut segments);
            segments.push((first, i));
            around.push((last, i));
        }
        close(&mut around, None, &mut segments);

        // Of segments that begin at the same address the last one covers the others.
        let mut merged: Vec<(u32, u32)> = Vec::with_capacity(segments.len());
        for segment in segments {
            match merged.last_mut() {
                Some(last) if last.0 == segment.0 => *last = segment,
                _ => merged.push(segment),
            }
        }
        let (starts, owners): (Vec<u32>, Vec<u32>) = merged.into_iter().unzip();
        Self { starts: starts.into(), owners: owners.into(), values: values.into() }
    }

    /// The value of the longest prefix that contains the address.
    #[inline]
    pub fn get(&self, address: Ipv4Addr) -> Option<&V> {
        let address = u32::from(address);
        let segment = self.starts.partition_point(|&start| start <= address).checked_sub(1)?;
        self.values.get(*self.owners.get(segment)? as usize)
    }
}

/// Ends the prefixes that do not reach `next`: behind each, the one around it goes on.
fn close(around: &mut Vec<(u32, u32)>, next: Option<u32>, segments: &mut Vec<(u32, u32)>) {
    while let Some(&(last, _)) = around.last()
        && next.is_none_or(|next| last < next)
    {
        around.pop();
        if let Some(behind) = last.checked_add(1) {
            segments.push((behind, around.last().map_or(NOTHING, |&(_, outer)| outer)));
        }
    }
}

fn bounds(net: Ipv4Net) -> (u32, u32) {
    (net.network().into(), net.broadcast().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    #[test]
    fn the_longest_prefix_wins() {
        let map = PrefixMap::new([
            (net("10.255.0.0/16"), "overlay"),
            (net("10.255.55.0/24"), "cell1"),
            (net("10.255.62.0/24"), "cell2"),
            (net("10.255.62.7/32"), "one"),
        ]);
        let cases = [
            ("10.254.255.255", None),
            ("10.255.0.0", Some("overlay")),
            ("10.255.55.0", Some("cell1")),
            ("10.255.55.255", Some("cell1")),
            ("10.255.56.0", Some("overlay")),
            ("10.255.62.6", Some("cell2")),
            ("10.255.62.7", Some("one")),
            ("10.255.62.8", Some("cell2")),
            ("10.255.255.255", Some("overlay")),
            ("11.0.0.0", None),
        ];
        for (address, value) in cases {
            let found = map.get(address.parse().unwrap()).copied();
            assert_eq!(found, value, "{address}");
        }
    }

    #[test]
    fn the_ends_of_the_address_space() {
        let map = PrefixMap::new([(net("0.0.0.0/0"), 0), (net("255.255.255.255/32"), 1)]);
        assert_eq!(map.get(Ipv4Addr::UNSPECIFIED), Some(&0));
        assert_eq!(map.get(Ipv4Addr::BROADCAST), Some(&1));
        assert_eq!(PrefixMap::<u8>::default().get(Ipv4Addr::BROADCAST), None);
    }

    prop_compose! {
        fn any_net()(address: u32, len in 0_u8..=32, near: bool) -> Ipv4Net {
            let address = if near { 0x0aff_0000 | address & 0x3ff } else { address };
            Ipv4Net::new(address.into(), if near { len.max(20) } else { len }).unwrap()
        }
    }

    proptest! {
        #[test]
        fn answers_as_a_list_would(
            nets in prop::collection::vec(any_net(), 0..60),
            asked: [u32; 8],
        ) {
            let map = PrefixMap::new(nets.iter().copied().enumerate().map(|(i, net)| (net, i)));
            let edges = nets.iter().flat_map(|&net| {
                let (first, last) = bounds(net);
                [first.wrapping_sub(1), first, last, last.wrapping_add(1)]
            });
            for address in asked.into_iter().chain(edges).map(Ipv4Addr::from) {
                let expected = nets
                    .iter()
                    .enumerate()
                    .filter(|(_, net)| net.contains(&address))
                    .max_by_key(|(i, net)| (net.prefix_len(), *i))
                    .map(|(i, _)| i);
                prop_assert_eq!(map.get(address).copied(), expected, "{}", address);
            }
        }
    }
}
