//! Brings security groups to the database, from where cells have them: from Cloud Controller
//! (contract section 1.10), or those that are given here. Of several replicas one does it at a time.

mod given;
mod leader;
mod metrics;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

pub use given::{Given, GivenSyncer};
pub use leader::Leader;
pub use metrics::SyncMetrics;

use crate::cloud_controller::{CloudController, CloudControllerError, Latest, SecurityGroupSource};
use crate::database::DatabaseError;
use crate::outbound::OutboundError;

/// How often a list is asked for in a row when it changes under way.
const ATTEMPTS: usize = 3;

/// After so long everything is compared, whatever Cloud Controller says of the last change: edits by
/// its older API are not in that, and neither is a database that was put back.
const FULL: Duration = Duration::from_hours(1);

/// Why security groups are as old as they were.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The database cannot be read or changed.
    #[error("cannot bring security groups up to date: {0}")]
    Database(#[from] DatabaseError),
    /// Cloud Controller does not say when they changed.
    #[error("cannot bring security groups up to date: {0}")]
    Latest(#[from] OutboundError),
    /// Cloud Controller does not say what they are.
    #[error("cannot bring security groups up to date: {0}")]
    List(#[from] CloudControllerError),
    /// They changed each time they were listed.
    #[error(
        "cannot bring security groups up to date: they changed during each of {ATTEMPTS} attempts"
    )]
    Unstable,
}

/// What there was to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Synced {
    /// It is not known here what they should be.
    Nothing,
    /// Another replica does it.
    Elsewhere,
    /// Nothing has changed in Cloud Controller.
    Unchanged,
    /// They were compared; whether anything was different.
    Compared(bool),
}

/// Keeps the security groups of the database like those of Cloud Controller.
#[derive(Debug)]
pub struct Syncer {
    leader: Leader,
    cloud_controller: Arc<CloudController>,
    source: SecurityGroupSource,
    /// What was brought last, and when.
    last: Option<(Latest, Instant)>,
}

impl Syncer {
    /// Nothing is asked yet.
    pub fn new(
        leader: Leader,
        cloud_controller: Arc<CloudController>,
        source: SecurityGroupSource,
    ) -> Self {
        Self { leader, cloud_controller, source, last: None }
    }

    /// Synchronizes after each `interval`, until dropped. What fails is tried again after the next.
    pub async fn run(&mut self, interval: Duration, metrics: &SyncMetrics) {
        loop {
            tokio::time::sleep(interval).await;
            // Who leads does so past the next turn, so that one turn that fails changes nothing.
            let outcome = self.sync(interval * 3).await;
            metrics.count(&outcome);
            match outcome {
                Ok(Synced::Compared(true)) => info!("security groups have changed"),
                Ok(done) => debug!(?done, "looked for changes of security groups"),
                Err(e) => warn!("{e}"),
            }
        }
    }

    /// One turn, if this replica leads or can lead for the next `hold`.
    pub async fn sync(&mut self, hold: Duration) -> Result<Synced, SyncError> {
        if !self.leader.lead(hold).await? {
            self.last = None;
            return Ok(Synced::Elsewhere);
        }
        for _ in 0..ATTEMPTS {
            let latest = self.source.latest().await?;
            if self.is_known(latest) {
                return Ok(Synced::Unchanged);
            }
            let listed = self.cloud_controller.security_groups(&self.source, latest).await?;
            if let Some(groups) = listed {
                let changed = self.leader.database().replace_security_groups(&groups).await?;
                self.last = Some((latest, Instant::now()));
                return Ok(Synced::Compared(changed));
            }
        }
        Err(SyncError::Unstable)
    }

    fn is_known(&self, latest: Latest) -> bool {
        match (latest, self.last) {
            (Latest::At(moment), Some((Latest::At(known), when))) => {
                moment <= known && when.elapsed() < FULL
            }
            _ => false,
        }
    }
}
