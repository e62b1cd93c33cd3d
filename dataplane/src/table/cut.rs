//! Overlapping port ranges cut into disjoint ones.

use std::collections::BinaryHeap;

use sarcenet_dataplane_api::PortRange;

/// Cuts ranges, ordered by first port, into disjoint ones in order; where several overlap, the
/// greatest value of them stands. Neighbours with one value become one. `n` ranges become fewer
/// than `2 n`.
pub(crate) fn cut<V: Copy + Ord>(
    ranges: &[(PortRange, V)],
) -> impl Iterator<Item = (PortRange, V)> {
    // Where the answer may change: one more port than there are, for the end of the last range.
    let mut edges: Vec<u32> = ranges
        .iter()
        .flat_map(|(ports, _)| [u32::from(ports.first), u32::from(ports.last) + 1])
        .collect();
    edges.sort_unstable();
    edges.dedup();
    let mut pieces: Vec<(PortRange, V)> = Vec::with_capacity(edges.len());
    // Ranges that have begun, the greatest value first; those that have ended are found and
    // dropped when they come up.
    let mut open = BinaryHeap::new();
    let mut coming = ranges.iter().peekable();
    for pair in edges.windows(2) {
        let (from, to) = (pair[0] as u16, (pair[1] - 1) as u16);
        while let Some((ports, value)) = coming.next_if(|(ports, _)| ports.first <= from) {
            open.push((*value, ports.last));
        }
        while open.peek().is_some_and(|&(_, last)| last < from) {
            open.pop();
        }
        let Some(&(value, _)) = open.peek() else { continue };
        match pieces.last_mut() {
            Some((ports, before)) if *before == value && u32::from(ports.last) + 1 == pair[0] => {
                ports.last = to;
            }
            _ => pieces.push((PortRange { first: from, last: to }, value)),
        }
    }
    pieces.into_iter()
}
