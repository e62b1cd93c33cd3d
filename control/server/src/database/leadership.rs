//! Which of several replicas does what only one should do.

use std::time::Duration;

use super::Database;
use super::error::DatabaseError;
use super::session::{Access, statement, work};

impl Database {
    /// Whether `holder` leads in what `name` says, and does so for the next `hold` by the database's
    /// clock. Nobody else can meanwhile; who leads can prolong it.
    pub async fn try_lead(
        &self,
        name: &'static str,
        holder: &str,
        hold: Duration,
    ) -> Result<bool, DatabaseError> {
        const LEAD: &str = "INSERT INTO leaders (name, holder, until) VALUES ($1, $2, $3) \
            ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until \
            WHERE leaders.holder = excluded.holder OR leaders.until <= $4";
        let hold = i64::try_from(hold.as_nanos()).unwrap_or(i64::MAX);
        self.run("try to lead", Access::SecurityGroups, move |session| {
            work(async move {
                let now = session.now().await?;
                let lead = statement(LEAD).bind(name).bind(holder.to_owned());
                let lead = lead.bind(now.saturating_add(hold)).bind(now);
                Ok(session.execute(lead).await? > 0)
            })
        })
        .await
    }

    /// `holder` leads no more in what `name` says, so that somebody else can at once.
    pub async fn resign(&self, name: &'static str, holder: &str) -> Result<(), DatabaseError> {
        const RESIGN: &str = "DELETE FROM leaders WHERE name = $1 AND holder = $2";
        self.run("resign", Access::SecurityGroups, move |session| {
            work(async move {
                session.execute(statement(RESIGN).bind(name).bind(holder.to_owned())).await?;
                Ok(())
            })
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::*;
    use crate::database::{Clock, DatabaseSettings};

    #[tokio::test]
    async fn one_leads_until_its_time_is_over() {
        let directory = tempfile::tempdir().unwrap();
        let clock = Arc::new(AtomicI64::new(1_000_000_000));
        let url = format!("sqlite:{}", directory.path().join("db").display());
        let settings = DatabaseSettings {
            clock: Clock::Manual(Arc::clone(&clock)),
            ..DatabaseSettings::new(url)
        };
        let database = Database::open(&settings).await.unwrap();
        let lead = async |name, holder| {
            database.try_lead(name, holder, Duration::from_secs(3)).await.unwrap()
        };
        assert!(lead("a", "one").await);
        assert!(!lead("a", "two").await);
        assert!(lead("b", "two").await, "another matter");
        clock.fetch_add(2_000_000_000, Ordering::SeqCst);
        assert!(lead("a", "one").await, "prolonged");
        clock.fetch_add(2_999_999_999, Ordering::SeqCst);
        assert!(!lead("a", "two").await);
        clock.fetch_add(1, Ordering::SeqCst);
        assert!(lead("a", "two").await);
        assert!(!lead("a", "one").await);
        database.resign("a", "one").await.unwrap();
        assert!(!lead("a", "one").await, "it was another's");
        database.resign("a", "two").await.unwrap();
        assert!(lead("a", "one").await);
    }
}
