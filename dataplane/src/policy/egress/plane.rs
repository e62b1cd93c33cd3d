//! Rectangles of addresses and selectors, and the topmost one at a point.
//!
//! A segment tree over the addresses at which something changes: a rectangle lies at those nodes
//! whose addresses it covers, but not all of their parent's, at most two on each level. At a node
//! only the selectors remain, cut into disjoint segments that name the topmost rectangle. All
//! rectangles over an address lie on the way from its leaf to the root.

use std::net::Ipv4Addr;

use sarcenet_dataplane_api::PortRange;

use crate::table::cut;

/// A rectangle: addresses `first` to `last` and these selectors (ports, or ICMP type and code).
#[derive(Debug, Clone, Copy)]
pub(super) struct Area {
    pub(super) first: u32,
    pub(super) last: u32,
    pub(super) selectors: PortRange,
    /// The highest one at a point counts; not 0.
    pub(super) rank: u32,
}

/// Rectangles, compiled.
#[derive(Debug, Default)]
pub(super) struct Plane {
    /// First addresses of the leaves: of each two neighbours, one lies in a rectangle in which the
    /// other does not. The first is 0.
    leaves: Box<[u32]>,
    /// The tree without pointers: node 1 is the root, those above node i are i / 2, i / 4 and so
    /// on, and the leaves are the second half. Their number need not be a power of two: every leaf
    /// under a node's rectangles still reaches that node. Node 0 is not used.
    nodes: Box<[Node]>,
    /// Segments of all nodes, in order of the nodes, then of selectors.
    segments: Box<[Segment]>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Node {
    /// Where its segments end and those of the next node begin.
    end: usize,
    /// The highest rank here; 0 for none.
    top: u32,
    /// The highest rank of a rectangle with all selectors. Only higher ones have segments.
    whole: u32,
}

#[derive(Debug, Clone, Copy)]
struct Segment {
    selectors: PortRange,
    rank: u32,
}

impl Plane {
    /// Compiles rectangles. Those with nothing in them are left out.
    pub(super) fn new(mut areas: Vec<Area>) -> Self {
        areas.retain(|area| area.first <= area.last && area.selectors.first <= area.selectors.last);
        if areas.is_empty() {
            return Self::default();
        }
        // The ranges at each node come out in order of first selector, as they are cut.
        areas.sort_unstable_by_key(|area| area.selectors);
        let leaves = leaves(&areas);
        let mut nodes = vec![Node::default(); 2 * leaves.len()];
        let (whole, narrow): (Vec<Area>, Vec<Area>) =
            areas.iter().partition(|area| area.selectors == super::ALL);
        for area in &whole {
            for_nodes(&leaves, area, |node| nodes[node].whole = nodes[node].whole.max(area.rank));
        }
        let ranges = ranges(&leaves, &nodes, &narrow);
        let mut segments = Vec::with_capacity(ranges.list.len());
        let mut rest = &ranges.list[..];
        for (node, &count) in nodes.iter_mut().zip(&ranges.counts) {
            let (here, others) = rest.split_at(count);
            rest = others;
            segments.extend(cut(here).map(|(selectors, rank)| Segment { selectors, rank }));
            node.top = here.iter().map(|&(_, rank)| rank).fold(node.whole, u32::max);
            node.end = segments.len();
        }
        Self { leaves: leaves.into(), nodes: nodes.into(), segments: segments.into() }
    }

    /// The highest rank at a point; 0 for none.
    #[inline]
    pub(super) fn top(&self, address: Ipv4Addr, selector: u16) -> u32 {
        let address = u32::from(address);
        let after = self.leaves.partition_point(|&first| first <= address);
        let Some(leaf) = after.checked_sub(1) else { return 0 };
        let mut node = self.leaves.len() + leaf;
        let mut top = 0;
        while node > 0 {
            let Node { end, top: here, whole } = self.nodes[node];
            if here > top {
                top = top.max(whole);
                if here > top {
                    let begin = self.nodes[node - 1].end;
                    top = top.max(find(&self.segments[begin..end], selector));
                }
            }
            node /= 2;
        }
        top
    }

    /// Memory that it takes beside itself, in bytes.
    pub(super) fn memory(&self) -> usize {
        size_of_val(&*self.leaves) + size_of_val(&*self.nodes) + size_of_val(&*self.segments)
    }
}

/// The rank for a selector among disjoint segments in order; 0 for none.
#[inline]
fn find(segments: &[Segment], selector: u16) -> u32 {
    let at = segments.partition_point(|segment| segment.selectors.last < selector);
    segments.get(at).filter(|found| found.selectors.first <= selector).map_or(0, |found| found.rank)
}

/// Addresses at which a rectangle begins, or the first one behind it.
fn leaves(areas: &[Area]) -> Vec<u32> {
    let edges = areas.iter().flat_map(|area| [Some(area.first), area.last.checked_add(1)]);
    let mut leaves: Vec<u32> = edges.flatten().chain([0]).collect();
    leaves.sort_unstable();
    leaves.dedup();
    leaves
}

/// Calls `at` with each node whose addresses `area` covers, but not all of its parent's.
fn for_nodes(leaves: &[u32], area: &Area, mut at: impl FnMut(usize)) {
    let mut from = leaves.len() + leaves.partition_point(|&first| first < area.first);
    let mut to = leaves.len() + leaves.partition_point(|&first| first <= area.last);
    while from < to {
        if from % 2 == 1 {
            at(from);
            from += 1;
        }
        if to % 2 == 1 {
            to -= 1;
            at(to);
        }
        from /= 2;
        to /= 2;
    }
}

/// Ranges of selectors of all nodes, in order of the nodes, and how many each has.
struct Ranges {
    counts: Vec<usize>,
    list: Vec<(PortRange, u32)>,
}

/// Spreads rectangles over their nodes. Those that lie under one with all selectors are left out.
fn ranges(leaves: &[u32], nodes: &[Node], areas: &[Area]) -> Ranges {
    let mut counts = vec![0; nodes.len()];
    for area in areas {
        for_nodes(leaves, area, |node| {
            counts[node] += usize::from(area.rank > nodes[node].whole);
        });
    }
    let mut next: Vec<usize> = Vec::with_capacity(counts.len());
    let mut total = 0;
    for count in &counts {
        next.push(total);
        total += count;
    }
    let mut list = vec![(super::ALL, 0); total];
    for area in areas {
        for_nodes(leaves, area, |node| {
            if area.rank > nodes[node].whole {
                list[next[node]] = (area.selectors, area.rank);
                next[node] += 1;
            }
        });
    }
    Ranges { counts, list }
}
