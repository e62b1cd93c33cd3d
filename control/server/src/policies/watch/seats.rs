//! Those who wait: how many may, how many do, and for how long.

use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::Instant;
use uuid::Uuid;

use crate::http::Stop;

/// Room for those who wait, until it is time to stop.
#[derive(Debug)]
pub(super) struct Seats {
    free: Semaphore,
    waiting: Gauge,
    stop: Stop,
}

/// A place to wait, as long as it is kept.
pub(super) struct Seat<'a> {
    _permit: SemaphorePermit<'a>,
    waiting: &'a Gauge,
}

impl Seats {
    /// So many can wait at a time, and nobody when it is time to stop.
    pub(super) fn new(most: usize, stop: Stop) -> Self {
        let free = Semaphore::new(most.min(Semaphore::MAX_PERMITS));
        Self { free, waiting: Gauge::default(), stop }
    }

    /// How many wait, now and later.
    pub(super) fn waiting(&self) -> Gauge {
        self.waiting.clone()
    }

    /// None when all are taken.
    pub(super) fn take(&self) -> Option<Seat<'_>> {
        let permit = self.free.try_acquire().ok()?;
        self.waiting.inc();
        Some(Seat { _permit: permit, waiting: &self.waiting })
    }

    /// Waits for news; whether the time is over instead.
    pub(super) async fn rest(&self, news: &mut watch::Receiver<i64>, deadline: Instant) -> bool {
        tokio::select! {
            // An error is a database that is closed: nothing will change.
            Ok(()) = news.changed() => false,
            () = self.stop.stopped() => true,
            () = tokio::time::sleep_until(deadline) => true,
        }
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.waiting.dec();
    }
}

/// When to answer a cell that waits so long, whatever has happened.
pub(super) fn deadline(timeout: Duration) -> Instant {
    Instant::now() + jitter(timeout)
}

/// Three quarters of the time, and a random part of the last one.
pub(super) fn jitter(timeout: Duration) -> Duration {
    let random = Uuid::new_v4().as_u128() as u16;
    timeout.mul_f64(0.75 + 0.25 * f64::from(random) / f64::from(u16::MAX))
}
