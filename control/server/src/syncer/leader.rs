//! Which of several replicas says what the security groups are.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use crate::database::{Database, DatabaseError};

/// The name under which replicas agree on who does it, wherever they have the groups from: two
/// that disagree about those would undo each other's work for ever.
const LEADERSHIP: &str = "security-group-syncer";

/// A replica that leads or would. Clones are the same replica.
#[derive(Debug, Clone)]
pub struct Leader {
    database: Database,
    /// As which it leads.
    holder: Arc<str>,
}

impl Leader {
    /// Does not lead yet.
    pub fn new(database: Database) -> Self {
        Self { database, holder: Uuid::new_v4().to_string().into() }
    }

    /// Whether it leads, and does for the next `hold`. Who leads prolongs it.
    pub async fn lead(&self, hold: Duration) -> Result<bool, DatabaseError> {
        self.database.try_lead(LEADERSHIP, &self.holder, hold).await
    }

    /// Lets another one lead at once, for a replica that ends.
    pub async fn resign(&self) -> Result<(), DatabaseError> {
        self.database.resign(LEADERSHIP, &self.holder).await
    }

    pub(super) fn database(&self) -> &Database {
        &self.database
    }
}
