//! The numbers, for people and for programs.

use serde::Serialize;

use super::cell::{Measured, Memory, Times};
use crate::report::spread::{Spread, verdict};

/// Milliseconds of an ADD besides process start, the median of those made one at a time.
const BAR: f64 = 10.0;

/// All that was measured.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    containers: u16,
    /// One at a time: a plugin that only tells its versions, ADD to an empty cell and to a full one.
    process_start: Spread,
    add: Spread,
    add_to_full: Spread,
    /// All in the same moment.
    process_start_at_once: Spread,
    add_at_once: Spread,
    del_at_once: Spread,
    all_started_ms: f64,
    all_added_ms: f64,
    all_removed_ms: f64,
    agent: Growth,
    dataplane: Growth,
    /// Medians without process start.
    add_alone_ms: f64,
    add_to_full_alone_ms: f64,
    bar_ms: f64,
    passed: bool,
}

/// Megabytes of memory.
#[derive(Debug, Serialize)]
struct Growth {
    before_mb: f64,
    with_mb: f64,
    after_mb: f64,
    kb_per_container: f64,
}

impl Growth {
    fn of(memory: &[Memory; 3], containers: u16, which: impl Fn(&Memory) -> u64) -> Self {
        let [before, with, after] = memory.each_ref().map(|one| which(one) as f64);
        let kb_per_container = (with - before) / 1e3 / f64::from(containers);
        let (before_mb, with_mb, after_mb) = (before / 1e6, with / 1e6, after / 1e6);
        Self { before_mb, with_mb, after_mb, kb_per_container }
    }

    fn line(&self, what: &str) -> String {
        let Self { before_mb, with_mb, after_mb, kb_per_container } = self;
        format!(
            "{what:<36} before {before_mb:.1} MB, with all {with_mb:.1} MB, after {after_mb:.1} MB: \
             {kb_per_container:.0} kB for each container"
        )
    }
}

impl Report {
    pub(super) fn new(containers: u16, measured: &Measured) -> Self {
        let spread = |times: &Times| Spread::of(&times.each);
        let all = |times: &Times| times.all as f64 * 1e-6;
        let Measured { memory, .. } = measured;
        let (process_start, add) = (spread(&measured.start), spread(&measured.add));
        let add_to_full = spread(&measured.add_to_full);
        let add_alone_ms = add.p50_ms - process_start.p50_ms;
        let add_to_full_alone_ms = add_to_full.p50_ms - process_start.p50_ms;
        Self {
            containers,
            process_start,
            add,
            add_to_full,
            process_start_at_once: spread(&measured.start_at_once),
            add_at_once: spread(&measured.add_at_once),
            del_at_once: spread(&measured.del_at_once),
            all_started_ms: all(&measured.start_at_once),
            all_added_ms: all(&measured.add_at_once),
            all_removed_ms: all(&measured.del_at_once),
            agent: Growth::of(memory, containers, |memory| memory.agent),
            dataplane: Growth::of(memory, containers, |memory| memory.dataplane),
            add_alone_ms,
            add_to_full_alone_ms,
            bar_ms: BAR,
            passed: add_alone_ms < BAR && add_to_full_alone_ms < BAR,
        }
    }

    pub(super) fn print(&self) {
        let Self { containers, all_started_ms, all_added_ms, all_removed_ms, .. } = self;
        println!(
            "{containers} containers on one cell, each reached by a policy, nothing left of any"
        );
        println!("{}", self.process_start.line("process start, one at a time"));
        println!("{}", self.add.line("ADD, one at a time"));
        println!("{}", self.add_to_full.line("ADD to a full cell"));
        println!("{}", self.process_start_at_once.line("process start, all at once"));
        println!("{}", self.add_at_once.line("ADD, all at once"));
        println!("{}", self.del_at_once.line("DEL, all at once"));
        println!(
            "all processes have ended after {all_started_ms:.0} ms, all are attached after \
             {all_added_ms:.0} ms, detached after {all_removed_ms:.0} ms"
        );
        println!("{}", self.agent.line("the agent's memory"));
        println!("{}", self.dataplane.line("the dataplane's memory"));
        let Self { add_alone_ms, add_to_full_alone_ms, .. } = self;
        println!(
            "bar: ADD besides process start below {BAR} ms: {add_alone_ms:.1} ms, on a full cell \
             {add_to_full_alone_ms:.1} ms: {}",
            verdict(self.passed)
        );
    }
}
