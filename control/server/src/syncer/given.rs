//! Brings security groups to the database that somebody here is told otherwise: by a file.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::{Leader, SyncError, SyncMetrics, Synced};
use crate::policy::SecurityGroup;

/// How often a replica looks whether it leads, or prolongs it.
const TURN: Duration = Duration::from_secs(5);

/// How long it leads after that. One that was killed is followed by another so much later.
const HOLD: Duration = Duration::from_secs(15);

/// After so long everything is compared: a database may have been put back.
const FULL: Duration = Duration::from_mins(1);

/// Groups as they are given; none while nothing has been.
pub type Given = Option<Arc<Vec<SecurityGroup>>>;

/// Keeps the security groups of the database like those that it is given. Of several replicas one
/// does; what the others are given is in the database when they lead.
#[derive(Debug)]
pub struct GivenSyncer {
    leader: Leader,
    given: watch::Receiver<Given>,
    /// What was brought last, and when.
    last: Option<(Arc<Vec<SecurityGroup>>, Instant)>,
}

impl GivenSyncer {
    /// Nothing is brought yet.
    pub fn new(leader: Leader, given: watch::Receiver<Given>) -> Self {
        Self { leader, given, last: None }
    }

    /// Brings them whenever others are given, until dropped. What fails is tried again.
    pub async fn run(&mut self, metrics: &SyncMetrics) {
        let mut told = None;
        loop {
            let outcome = self.sync(HOLD).await;
            metrics.count(&outcome);
            let problem = outcome.as_ref().err().map(ToString::to_string);
            match outcome {
                Ok(Synced::Compared(true)) => info!("security groups have changed"),
                Ok(done) => debug!(?done, "looked for changes of security groups"),
                Err(e) if told != problem => warn!("{e}"),
                Err(_) => {}
            }
            told = problem;
            tokio::select! {
                Ok(()) = self.given.changed() => {}
                () = tokio::time::sleep(TURN) => {}
            }
        }
    }

    /// One turn, if this replica leads or can lead for the next `hold`. One that has been given
    /// nothing does not.
    pub async fn sync(&mut self, hold: Duration) -> Result<Synced, SyncError> {
        let Some(groups) = self.given.borrow_and_update().clone() else {
            return Ok(Synced::Nothing);
        };
        if !self.leader.lead(hold).await? {
            self.last = None;
            return Ok(Synced::Elsewhere);
        }
        if let Some((last, when)) = &self.last
            && Arc::ptr_eq(last, &groups)
            && when.elapsed() < FULL
        {
            return Ok(Synced::Unchanged);
        }
        let changed = self.leader.database().replace_security_groups(&groups).await?;
        self.last = Some((groups, Instant::now()));
        Ok(Synced::Compared(changed))
    }
}
