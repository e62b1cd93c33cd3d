//! What a run has shown.

use std::collections::BTreeMap;

use anyhow::{Result, bail, ensure};

use crate::rules::Rules;

/// After so many differences there is enough to look at.
const MOST: usize = 50;

/// What a run has shown so far.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) rounds: usize,
    pub(crate) packets: usize,
    pub(crate) connections: usize,
    /// How often what became of a packet on the first cell.
    pub(crate) fates: BTreeMap<String, u32>,
    /// How often which known difference was seen.
    known: BTreeMap<&'static str, u32>,
    /// Differences that must not be.
    unknown: Vec<Difference>,
}

/// What did not become the same on both cells.
#[derive(Debug)]
struct Difference {
    /// The packet or connection.
    what: String,
    /// The rules that were in force.
    under: String,
    /// What became of it.
    fates: [String; 2],
}

impl Report {
    /// Notes a difference, under the heading that explains it if there is one.
    pub(crate) fn differs(
        &mut self,
        meant: Option<&'static str>,
        what: String,
        rules: &Rules,
        fates: [String; 2],
    ) {
        if let Some(heading) = meant {
            *self.known.entry(heading).or_default() += 1;
        } else {
            self.unknown.push(Difference { what, under: format!("{rules:?}"), fates });
        }
    }

    /// Whether there are so many differences that more of them show nothing.
    pub(crate) fn is_full(&self) -> bool {
        self.unknown.len() > MOST
    }

    /// The report for people, or the differences if there are any.
    pub(crate) fn finish(self) -> Result<String> {
        let Self { rounds, packets, connections, fates, known, unknown } = self;
        let summary =
            format!("{packets} packets and {connections} connections under {rounds} sets of rules");
        if let Some(Difference { under, .. }) = unknown.first() {
            let list: Vec<String> = unknown
                .iter()
                .map(|Difference { what, fates: [one, other], .. }| {
                    format!("{what}\n  {one}\n  {other}")
                })
                .collect();
            bail!(
                "{} differences in {summary}:\n{}\nthe first under {under}",
                unknown.len(),
                list.join("\n")
            );
        }
        // A run in which nothing passes, or nothing is refused, has shown nothing.
        for needed in ["arrives at outside from cell", "ICMP 3/3 from cell", "SYN-ACK from target"]
        {
            ensure!(fates.keys().any(|fate| fate.contains(needed)), "never `{needed}`: {fates:#?}");
        }
        Ok(format!("{summary}\nfates: {fates:#?}\nknown differences: {known:#?}"))
    }
}
