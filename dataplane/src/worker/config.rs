//! How the workers work.
#![forbid(unsafe_code)]

use super::Cores;

/// How the workers work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerConfig {
    /// Threads, at least 1.
    pub count: usize,
    /// Processors that the threads are pinned to, one after the other; they run anywhere if none
    /// are given.
    pub cores: Option<Cores>,
    /// How long a worker looks for more work before it sleeps, in microseconds.
    pub spin_us: u32,
    /// Whether a worker tells the kernel how to schedule it: promptly for single packets, in
    /// batches for bulk transfers.
    pub scheduling: bool,
    /// Whether to leave out TCP acknowledgments that a later one in the same batch supersedes.
    pub merge_acks: bool,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        Self { count, cores: None, spin_us: 50, scheduling: true, merge_acks: true }
    }
}
