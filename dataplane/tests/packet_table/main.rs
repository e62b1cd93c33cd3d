//! The packet tables: against the pipeline alone, in memory, and through real links.

mod cell;
mod exhaustion;
mod expectation;
mod links;
#[path = "../support/namespace.rs"]
mod namespace;
mod table;
mod trace;

use std::collections::BTreeSet;

use cell::TestCell;
use expectation::play;
use sarcenet_dataplane_api::DropReason;
use table::{Outcome, Step, rows};

#[test]
fn every_row() {
    let rows = rows();
    assert!(rows.len() >= 60, "only {} rows", rows.len());
    let failures: Vec<String> = rows
        .iter()
        .filter_map(|row| play(row, &mut TestCell::new(&row.world, 1024)).err())
        .collect();
    assert!(
        failures.is_empty(),
        "{} of {} rows failed:\n{}",
        failures.len(),
        rows.len(),
        failures.join("\n")
    );
}

#[test]
fn names_are_unique() {
    let mut names = BTreeSet::new();
    for row in rows() {
        assert!(names.insert(row.name), "two rows are called {:?}", row.name);
    }
}

/// Every reason that the pipeline can give is given in some row. Those of the doors are not its
/// own; three need a table or a batch that is full: see [`exhaustion`].
#[test]
fn every_reason_is_reached() {
    const ELSEWHERE: [DropReason; 8] = [
        DropReason::WrongMac,
        DropReason::LinkGone,
        DropReason::LinkFull,
        DropReason::LinkError,
        DropReason::NextHopUnknown,
        DropReason::NoBuffer,
        DropReason::FlowTableFull,
        DropReason::HalfOpenLimit,
    ];
    let rows = rows();
    let reached: BTreeSet<DropReason> = rows
        .iter()
        .flat_map(|row| &row.steps)
        .filter_map(|step| match step {
            Step::Send(sent) => match sent.outcome {
                Outcome::Drop(reason) => Some(reason),
                Outcome::Forward(..) => None,
            },
            Step::Change(_) | Step::Wait(_) => None,
        })
        .chain(ELSEWHERE)
        .collect();
    let missing: Vec<_> = DropReason::ALL.iter().filter(|r| !reached.contains(r)).collect();
    assert!(missing.is_empty(), "no row reaches {missing:?}");
}
