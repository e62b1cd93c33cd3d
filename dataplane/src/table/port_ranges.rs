//! Which rule admits a port: a set of port ranges that may overlap.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use sarcenet_dataplane_api::{PortRange, RuleId};

use super::cut::cut;

/// Port ranges with the rule that each stands for, cut into disjoint segments for look-up.
/// Where ranges overlap, the rule with the lowest number answers.
///
/// Immutable: [`PortRanges::changed`] makes another one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortRanges {
    segments: Segments,
    /// The ranges as they were given, when some overlap; else the segments are the ranges.
    overlapping: Box<[Segment]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Segment {
    ports: PortRange,
    rule: RuleId,
}

/// Segments in order. Few of them, the usual case, lie beside the key that they belong to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Segments {
    Few { used: u8, segments: [Segment; FEW] },
    Many(Box<[Segment]>),
}

const FEW: usize = 4;

impl PortRanges {
    /// The set of these ranges. A range that comes twice counts with its last rule.
    pub fn new(ranges: impl IntoIterator<Item = (PortRange, RuleId)>) -> Self {
        // In order of first port, then last: as the segments must be.
        let ranges: BTreeMap<PortRange, RuleId> =
            ranges.into_iter().filter(|(ports, _)| ports.first <= ports.last).collect();
        let ranges: Vec<Segment> =
            ranges.into_iter().map(|(ports, rule)| Segment { ports, rule }).collect();
        if ranges.windows(2).all(|pair| pair[0].ports.last < pair[1].ports.first) {
            Self { segments: Segments::new(ranges), overlapping: Box::default() }
        } else {
            Self { segments: Segments::new(segments(&ranges)), overlapping: ranges.into() }
        }
    }

    /// The rule for a port, if any range contains it.
    #[inline]
    pub fn get(&self, port: u16) -> Option<RuleId> {
        let segments = self.segments.as_slice();
        let at = if segments.len() <= FEW {
            segments.iter().position(|segment| port <= segment.ports.last)?
        } else {
            segments.partition_point(|segment| segment.ports.last < port)
        };
        segments.get(at).filter(|segment| segment.ports.first <= port).map(|segment| segment.rule)
    }

    /// The ranges as they were given, in order.
    pub fn ranges(&self) -> impl Iterator<Item = (PortRange, RuleId)> {
        let given =
            if self.overlapping.is_empty() { self.segments.as_slice() } else { &self.overlapping };
        given.iter().map(|segment| (segment.ports, segment.rule))
    }

    /// How many ranges there are.
    pub fn len(&self) -> usize {
        self.ranges().count()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The set without the ranges `gone`, compared exactly, and then with those in `new`.
    #[must_use]
    pub fn changed(&self, gone: &[PortRange], new: &[(PortRange, RuleId)]) -> Self {
        let mut ranges: BTreeMap<PortRange, RuleId> = self.ranges().collect();
        for ports in gone {
            ranges.remove(ports);
        }
        ranges.extend(new.iter().copied());
        Self::new(ranges)
    }
}

/// Cuts overlapping ranges, ordered by first port, into disjoint segments.
fn segments(ranges: &[Segment]) -> Vec<Segment> {
    let ranges: Vec<_> = ranges.iter().map(|range| (range.ports, Reverse(range.rule))).collect();
    cut(&ranges).map(|(ports, Reverse(rule))| Segment { ports, rule }).collect()
}

impl Segments {
    const NONE: Segment = Segment { ports: PortRange { first: 0, last: 0 }, rule: RuleId(0) };

    fn new(all: Vec<Segment>) -> Self {
        if all.len() > FEW {
            return Self::Many(all.into());
        }
        let mut segments = [Self::NONE; FEW];
        segments[..all.len()].copy_from_slice(&all);
        Self::Few { used: all.len() as u8, segments }
    }

    #[inline]
    fn as_slice(&self) -> &[Segment] {
        match self {
            Self::Few { used, segments } => &segments[..usize::from(*used)],
            Self::Many(segments) => segments,
        }
    }
}

impl Default for Segments {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ports(first: u16, last: u16) -> PortRange {
        PortRange { first, last }
    }

    #[test]
    fn edges_belong_to_the_range() {
        let set = PortRanges::new([(ports(80, 80), RuleId(1)), (ports(7000, 8000), RuleId(2))]);
        let cases = [
            (0, None),
            (79, None),
            (80, Some(RuleId(1))),
            (81, None),
            (6999, None),
            (7000, Some(RuleId(2))),
            (8000, Some(RuleId(2))),
            (8001, None),
            (65535, None),
        ];
        for (port, rule) in cases {
            assert_eq!(set.get(port), rule, "port {port}");
        }
    }

    #[test]
    fn all_ports() {
        let set = PortRanges::new([(ports(0, 65535), RuleId(3))]);
        assert_eq!(set.get(0), Some(RuleId(3)));
        assert_eq!(set.get(65535), Some(RuleId(3)));
    }

    #[test]
    fn nothing_contains_nothing() {
        assert_eq!(PortRanges::default().get(80), None);
        assert!(PortRanges::new([(ports(9, 8), RuleId(1))]).is_empty());
    }

    #[test]
    fn what_an_overlap_hid_comes_back() {
        let both = PortRanges::new([(ports(1, 100), RuleId(2)), (ports(50, 60), RuleId(1))]);
        assert_eq!(both.get(55), Some(RuleId(1)));
        assert_eq!(both.get(61), Some(RuleId(2)));
        let one = both.changed(&[ports(50, 60)], &[]);
        assert_eq!(one.get(55), Some(RuleId(2)));
        assert_eq!(one, PortRanges::new([(ports(1, 100), RuleId(2))]));
        let same = one.changed(&[ports(1, 99)], &[]);
        assert_eq!(same, one, "only the exact range is removed");
        assert!(one.changed(&[ports(1, 100)], &[]).is_empty());
    }

    prop_compose! {
        fn any_range()(a: u16, b: u16, width in 0_u16..40, narrow: bool) -> PortRange {
            // Half of them narrow and near each other, so that many edges meet.
            if narrow {
                ports(a % 64, a % 64 + width)
            } else {
                ports(a.min(b), a.max(b))
            }
        }
    }

    proptest! {
        #[test]
        fn answers_as_a_list_would(
            ranges in prop::collection::vec((any_range(), 1_u32..20), 0..40),
            gone in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
            asked: [u16; 16],
        ) {
            let mut list: BTreeMap<PortRange, RuleId> = BTreeMap::new();
            for &(range, rule) in &ranges {
                list.insert(range, RuleId(rule));
            }
            let mut set = PortRanges::new(ranges.iter().map(|&(r, rule)| (r, RuleId(rule))));
            for pick in gone {
                if !ranges.is_empty() {
                    let (range, _) = ranges[pick.index(ranges.len())];
                    list.remove(&range);
                    set = set.changed(&[range], &[]);
                }
            }
            prop_assert_eq!(set.len(), list.len());
            prop_assert!(set.ranges().eq(list.iter().map(|(&r, &rule)| (r, rule))));
            let near = list.keys().flat_map(|r| {
                [r.first.saturating_sub(1), r.first, r.last, r.last.saturating_add(1)]
            });
            for port in asked.into_iter().chain(near) {
                let expected =
                    list.iter().filter(|(r, _)| r.contains(port)).map(|(_, &rule)| rule).min();
                prop_assert_eq!(set.get(port), expected, "port {}", port);
            }
        }
    }
}
