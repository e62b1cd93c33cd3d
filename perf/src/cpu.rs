//! How busy the machine was.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// Ticks of `/proc/stat` in a second: `USER_HZ`, fixed at 100 on Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// Processor time that was not idle, over all cores, at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BusyTime(u64);

impl BusyTime {
    /// Up to now.
    pub(crate) fn now() -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
        Self::parse(&stat).context("understand the first line of /proc/stat")
    }

    /// Processor seconds that were busy since.
    pub(crate) fn elapsed(self) -> Result<f64> {
        Ok((Self::now()?.0 - self.0) as f64 / TICKS_PER_SECOND)
    }

    /// `cpu user nice system idle iowait irq softirq steal ...` (proc(5)).
    fn parse(stat: &str) -> Option<Self> {
        let fields: Vec<u64> = stat
            .lines()
            .next()?
            .strip_prefix("cpu ")?
            .split_whitespace()
            .map_while(|field| field.parse().ok())
            .collect();
        let &[user, nice, system, _idle, _iowait, irq, softirq, ..] = fields.as_slice() else {
            return None;
        };
        Some(Self(user + nice + system + irq + softirq))
    }
}

/// Processor time of one process.
pub(crate) struct ProcessTime;

impl ProcessTime {
    /// That all its threads of now have had so far, to the nanosecond: the first number of
    /// `/proc/PID/task/TID/schedstat` (Documentation/scheduler/sched-stats.rst).
    pub(crate) fn of(pid: u32) -> Result<Duration> {
        let path = format!("/proc/{pid}/task");
        let threads = fs::read_dir(&path).with_context(|| format!("list {path}"))?;
        let mut total = Duration::ZERO;
        for thread in threads {
            let path = thread.with_context(|| format!("list {path}"))?.path().join("schedstat");
            // A thread that ends meanwhile takes its time along.
            let Ok(text) = fs::read_to_string(&path) else { continue };
            let run = text.split_whitespace().next().and_then(|first| first.parse().ok());
            total += Duration::from_nanos(
                run.with_context(|| format!("understand {}", path.display()))?,
            );
        }
        Ok(total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_and_stolen_time_do_not_count() {
        let stat = "cpu  10 1 20 1000 50 2 3 99 0 0\ncpu0 1 1 1 1\n";
        assert_eq!(BusyTime::parse(stat).map(|busy| busy.0), Some(36));
        assert!(BusyTime::parse("intr 1 2 3").is_none());
    }

    #[test]
    fn work_takes_processor_time() -> Result<()> {
        let (pid, before) = (std::process::id(), ProcessTime::of(std::process::id())?);
        let mut sum = 0_u64;
        while ProcessTime::of(pid)? <= before {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(ProcessTime::of(pid)? > before);
        Ok(())
    }
}
