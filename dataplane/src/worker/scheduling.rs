//! What the kernel's scheduler is told about a worker: it follows what the worker carries.
#![forbid(unsafe_code)]

use std::io;
use std::time::{Duration, Instant};

use crate::link::sys;

/// How often a worker looks what it has carried.
const WINDOW: Duration = Duration::from_millis(10);

/// Bytes a window that are a bulk transfer: about 1 Gbit/s.
const BULK_BYTES: u64 = 1_250_000;

/// Packets a window that are one too: 200,000 a second.
const BULK_PACKETS: u64 = 2_000;

/// How long a prompt worker wants the processor at a time; the kernel takes no less
/// (`__setparam_fair` in `kernel/sched/syscalls.c`).
const PROMPT_SLICE: Duration = Duration::from_micros(100);

/// How a worker's thread is scheduled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Single packets, each of which somebody waits for: a thread that wakes up takes the processor
    /// from whoever has it for longer at a time (EEVDF, `SCHED_OTHER` with a slice of its own, Linux
    /// 6.12; before, it waits as any other thread does). A yield costs it no more than that slice.
    Prompt,
    /// A bulk transfer (`SCHED_BATCH`): a thread that wakes up lets others go on, so that there is
    /// more to carry when its turn comes.
    Bulk,
}

/// Chooses the class of the calling thread.
#[derive(Debug)]
pub(super) struct Scheduling {
    /// None when nothing is to be chosen, or nothing can be.
    class: Option<Class>,
    window: Window,
}

impl Scheduling {
    /// Of a worker that begins at `now`, in the calling thread. It stays as it is unless `wanted`.
    pub(super) fn new(wanted: bool, now: Instant) -> Self {
        let mut new = Self { class: None, window: Window::new(now) };
        if wanted {
            new.set(Class::Prompt);
        }
        new
    }

    /// So many packets and bytes were carried, the last of them at `now`.
    pub(super) fn carried(&mut self, packets: usize, bytes: u64, now: Instant) {
        if let Some(right) = self.window.add(packets as u64, bytes, now)
            && self.class.is_some_and(|class| class != right)
        {
            self.set(right);
        }
    }

    fn set(&mut self, class: Class) {
        self.class = match schedule(class) {
            Ok(()) => Some(class),
            Err(error) => {
                tracing::warn!(
                    "scheduling a worker as {class:?}: {error}; it is slower beside other work"
                );
                None
            }
        };
    }
}

fn schedule(class: Class) -> io::Result<()> {
    match class {
        Class::Prompt => sys::schedule(libc::SCHED_OTHER, PROMPT_SLICE),
        // The kernel's own slice.
        Class::Bulk => sys::schedule(libc::SCHED_BATCH, Duration::ZERO),
    }
}

/// What has been carried lately.
#[derive(Debug)]
struct Window {
    ends: Instant,
    packets: u64,
    bytes: u64,
}

impl Window {
    fn new(now: Instant) -> Self {
        Self { ends: now + WINDOW, packets: 0, bytes: 0 }
    }

    /// Adds what was carried at `now`. Returns the class for it when a window is over.
    fn add(&mut self, packets: u64, bytes: u64, now: Instant) -> Option<Class> {
        self.packets += packets;
        self.bytes += bytes;
        if now < self.ends {
            return None;
        }
        // What a window of more than its time holds was carried slowly.
        let late = now.duration_since(self.ends) > WINDOW;
        let bulk = !late && (self.bytes >= BULK_BYTES || self.packets >= BULK_PACKETS);
        *self = Self::new(now);
        Some(if bulk { Class::Bulk } else { Class::Prompt })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// The classes that come of carrying the same every millisecond for a while.
    fn classes(packets: u64, bytes: u64) -> Vec<Class> {
        let start = Instant::now();
        let mut window = Window::new(start);
        (1..=100).filter_map(|n| window.add(packets, bytes, start + n * MS)).collect()
    }

    #[test]
    fn bytes_and_packets_make_a_bulk_transfer() {
        assert_eq!(classes(4, 200_000), [Class::Bulk; 10]);
        assert_eq!(classes(250, 250 * 64), [Class::Bulk; 10]);
    }

    #[test]
    fn questions_and_answers_are_none() {
        assert_eq!(classes(50, 50 * 64), [Class::Prompt; 10]);
        assert_eq!(classes(2, 60_000), [Class::Prompt; 10]);
    }

    #[test]
    fn what_came_in_a_long_time_is_no_bulk_transfer() {
        let start = Instant::now();
        let mut window = Window::new(start);
        assert_eq!(window.add(1_000, BULK_BYTES, start + 9 * MS), None);
        assert_eq!(window.add(1, 64, start + 500 * MS), Some(Class::Prompt));
        assert_eq!(window.add(1_000, BULK_BYTES, start + 509 * MS), None);
        assert_eq!(window.add(1, 64, start + 511 * MS), Some(Class::Bulk));
    }

    /// A thread's own, so in a thread of its own.
    #[test]
    fn a_thread_is_what_it_was_made() {
        let policies = std::thread::spawn(|| {
            let policy = || sys::scheduling_policy().unwrap();
            let start = Instant::now();
            let mut scheduling = Scheduling::new(true, start);
            let first = policy();
            scheduling.carried(100, BULK_BYTES, start + WINDOW);
            let second = policy();
            scheduling.carried(1, 64, start + 2 * WINDOW);
            [first, second, policy()]
        });
        let expected = [libc::SCHED_OTHER, libc::SCHED_BATCH, libc::SCHED_OTHER];
        assert_eq!(policies.join().unwrap(), expected);
    }

    #[test]
    fn a_thread_that_is_left_alone_stays_what_it_was() {
        let (before, after) = std::thread::spawn(|| {
            let before = sys::scheduling_policy().unwrap();
            let start = Instant::now();
            let mut scheduling = Scheduling::new(false, start);
            scheduling.carried(100, BULK_BYTES, start + WINDOW);
            (before, sys::scheduling_policy().unwrap())
        })
        .join()
        .unwrap();
        assert_eq!(before, after);
    }
}
