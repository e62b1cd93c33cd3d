//! Brings security groups from Cloud Controller to the database, from where cells have them
//! (contract section 1.10). Of several replicas one does it at a time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};
use uuid::Uuid;

use crate::cloud_controller::{CloudController, CloudControllerError, Latest, SecurityGroupSource};
use crate::database::{Database, DatabaseError};
use crate::outbound::OutboundError;

/// The name under which replicas agree on who does it.
const LEADERSHIP: &str = "security-group-syncer";

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
    database: Database,
    cloud_controller: Arc<CloudController>,
    source: SecurityGroupSource,
    /// As which it leads.
    holder: String,
    /// What was brought last, and when.
    last: Option<(Latest, Instant)>,
}

impl Syncer {
    /// Nothing is asked yet.
    pub fn new(
        database: Database,
        cloud_controller: Arc<CloudController>,
        source: SecurityGroupSource,
    ) -> Self {
        let holder = Uuid::new_v4().to_string();
        Self { database, cloud_controller, source, holder, last: None }
    }

    /// Synchronizes after each `interval`, until dropped. What fails is tried again after the next.
    pub async fn run(&mut self, interval: Duration) {
        loop {
            tokio::time::sleep(interval).await;
            // Who leads does so past the next turn, so that one turn that fails changes nothing.
            match self.sync(interval * 3).await {
                Ok(Synced::Compared(true)) => info!("security groups have changed"),
                Ok(done) => debug!(?done, "looked for changes of security groups"),
                Err(e) => warn!("{e}"),
            }
        }
    }

    /// One turn, if this replica leads or can lead for the next `hold`.
    pub async fn sync(&mut self, hold: Duration) -> Result<Synced, SyncError> {
        if !self.database.try_lead(LEADERSHIP, &self.holder, hold).await? {
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
                let changed = self.database.replace_security_groups(&groups).await?;
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
