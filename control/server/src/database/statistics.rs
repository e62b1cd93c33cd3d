//! What the database costs: queries and operations (contract section 1.9).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Counts since the database was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DatabaseStatistics {
    /// Connections open now.
    pub connections: u32,
    /// Queries that have ended.
    pub queries: u64,
    /// Those of them that failed.
    pub queries_failed: u64,
    /// Queries that have begun and not ended.
    pub queries_in_flight: u64,
    /// How long the slowest query took.
    pub slowest_query: Duration,
    /// Operations by name (`create policies`).
    pub operations: BTreeMap<&'static str, OperationStatistics>,
}

/// How often an operation was done, and how long it took with its waits and repetitions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OperationStatistics {
    /// How many succeeded.
    pub succeeded: u64,
    /// Their time, all together.
    pub success_time: Duration,
    /// How many failed.
    pub failed: u64,
    /// Their time, all together.
    pub failure_time: Duration,
    /// The longest one of both.
    pub slowest: Duration,
}

/// Where they are counted.
#[derive(Debug, Default)]
pub(super) struct Counters(Mutex<DatabaseStatistics>);

impl Counters {
    /// What was counted, with `connections` open now.
    pub(super) fn read(&self, connections: u32) -> DatabaseStatistics {
        DatabaseStatistics { connections, ..self.0.lock().clone() }
    }

    /// A query begins. One that is dropped before its end has failed.
    pub(super) fn query(&self) -> RunningQuery<'_> {
        self.0.lock().queries_in_flight += 1;
        RunningQuery { counters: self, begun: Instant::now(), succeeded: false }
    }

    /// An operation has ended.
    pub(super) fn operation(&self, name: &'static str, took: Duration, succeeded: bool) {
        let mut counts = self.0.lock();
        let operation = counts.operations.entry(name).or_default();
        operation.slowest = operation.slowest.max(took);
        if succeeded {
            operation.succeeded += 1;
            operation.success_time += took;
        } else {
            operation.failed += 1;
            operation.failure_time += took;
        }
    }
}

/// A query that is under way.
pub(super) struct RunningQuery<'a> {
    counters: &'a Counters,
    begun: Instant,
    succeeded: bool,
}

impl RunningQuery<'_> {
    /// It has ended with `result`.
    pub(super) fn ended<T, E>(mut self, result: Result<T, E>) -> Result<T, E> {
        self.succeeded = result.is_ok();
        result
    }
}

impl Drop for RunningQuery<'_> {
    fn drop(&mut self) {
        let mut counts = self.counters.0.lock();
        counts.queries += 1;
        counts.queries_failed += u64::from(!self.succeeded);
        counts.queries_in_flight -= 1;
        counts.slowest_query = counts.slowest_query.max(self.begun.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_counted_when_they_end_and_as_failed_when_nobody_waits_for_them() {
        let counters = Counters::default();
        let running = counters.query();
        assert_eq!(counters.read(3).queries_in_flight, 1);
        assert_eq!(counters.read(3).queries, 0);
        assert_eq!(running.ended::<_, ()>(Ok(7)), Ok(7));
        assert_eq!(counters.query().ended::<(), _>(Err("no")), Err("no"));
        drop(counters.query());
        let read = counters.read(3);
        assert_eq!(
            (read.connections, read.queries, read.queries_failed, read.queries_in_flight),
            (3, 3, 2, 0)
        );
    }

    #[test]
    fn operations_are_counted_by_name_and_outcome() {
        let counters = Counters::default();
        let ms = Duration::from_millis;
        counters.operation("list", ms(2), true);
        counters.operation("list", ms(3), true);
        counters.operation("list", ms(9), false);
        counters.operation("other", ms(1), false);
        let operations = counters.read(0).operations;
        assert_eq!(
            operations["list"],
            OperationStatistics {
                succeeded: 2,
                success_time: ms(5),
                failed: 1,
                failure_time: ms(9),
                slowest: ms(9),
            }
        );
        assert_eq!(operations["other"].failed, 1);
    }
}
