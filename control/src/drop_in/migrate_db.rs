//! `migrate-db -config-file=FILE`: brings the policy server's database up to date (contract section
//! 1.9). The servers do that themselves when they start; a deployment runs this before them.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use sarcenet_server::database::{Database, DatabaseSettings};

use super::database;
use super::keys::Keys;
use crate::servers::process;

/// What the file of the policy server says of its database.
pub(super) fn spec(keys: &mut Keys) -> Option<DatabaseSettings> {
    let start_timeout = keys.seconds("database_migration_timeout", Duration::from_mins(10));
    let (database, _) = database::with_tags(keys)?;
    keys.leave_the_rest();
    Some(DatabaseSettings { start_timeout, ..database })
}

/// Waits for the database, changes its tables if need be, and ends.
pub(super) fn run(settings: &DatabaseSettings) -> Result<ExitCode> {
    process::runtime()?.block_on(async {
        let seconds = settings.start_timeout.as_secs();
        let opened = match Database::open(settings).await {
            // The words by which scripts know it.
            Err(e) if e.is_temporary() => bail!(
                "migrations and groups table population timed out after {seconds} seconds: {e}"
            ),
            opened => opened?,
        };
        opened.close().await;
        Ok(ExitCode::SUCCESS)
    })
}
