//! Removes policies of apps that are gone (contract section 1.8).

use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::audit::{self, Author, Deed};
use super::guard::{apps, without_tags};
use crate::cloud_controller::{CloudController, CloudControllerError};
use crate::database::{Database, DatabaseError};
use crate::policy::{Policy, PolicyFilter};

/// Why nothing was removed.
#[derive(Debug, thiserror::Error)]
pub enum CleanError {
    /// The policies cannot be read or changed.
    #[error("cannot clean up policies: {0}")]
    Database(#[from] DatabaseError),
    /// It is not known which apps exist.
    #[error("cannot clean up policies: {0}")]
    CloudController(#[from] CloudControllerError),
}

/// Compares policies with the apps that exist.
#[derive(Debug, Clone)]
pub struct Cleaner {
    database: Database,
    cloud_controller: Option<Arc<CloudController>>,
}

impl Cleaner {
    /// Without Cloud Controller no app is ever gone.
    pub fn new(database: Database, cloud_controller: Option<Arc<CloudController>>) -> Self {
        Self { database, cloud_controller }
    }

    /// Removes policies of apps that are gone, each once, and says which.
    pub(super) async fn clean(&self, author: Author<'_>) -> Result<Vec<Policy>, CleanError> {
        let Some(cloud_controller) = &self.cloud_controller else { return Ok(Vec::new()) };
        let mut policies = without_tags(self.database.policies(&PolicyFilter::All).await?);
        let existing = cloud_controller.existing_apps(&apps(&policies)).await?;
        policies.retain(|policy| {
            !existing.contains(&policy.source) || !existing.contains(&policy.destination)
        });
        if !policies.is_empty() {
            self.database.delete_policies(&policies).await?;
            audit::record(author, Deed::Deleted, &policies);
        }
        Ok(policies)
    }

    /// Cleans up after each `interval`, until dropped. What fails is tried again after the next.
    pub async fn run(&self, interval: Duration) {
        loop {
            tokio::time::sleep(interval).await;
            match self.clean(Author::Cleaner).await {
                Ok(gone) if gone.is_empty() => {}
                Ok(gone) => info!(policies = gone.len(), "removed policies of apps that are gone"),
                Err(e) => warn!("{e}"),
            }
        }
    }
}
