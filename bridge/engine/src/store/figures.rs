//! What an operator is shown of the queues: counts and times, no ids.

use parlour_domain::Timestamp;

use super::{Store, StoreError};

/// How full the queues are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Events that wait to be handled.
    pub inbox: u64,
    /// Legs that wait to be sent, without those that are held.
    pub waiting: u64,
    /// Legs that wait until somebody can read them.
    pub held: u64,
    /// Since when the oldest waiting leg waits; a held one does not count.
    pub oldest_waiting: Option<Timestamp>,
}

impl Store {
    /// How full the queues are.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn figures(&self) -> Result<Figures, StoreError> {
        let count = |n: i64| u64::try_from(n).map_err(|_| StoreError::Malformed("figures"));
        let (inbox,): (i64,) = sqlx::query_as("SELECT COUNT(*) FROM inbox WHERE state = 'waiting'")
            .fetch_one(&self.pool)
            .await?;
        let (waiting, oldest): (i64, Option<i64>) =
            sqlx::query_as("SELECT COUNT(*), MIN(added_at) FROM outbox WHERE state = 'waiting'")
                .fetch_one(&self.pool)
                .await?;
        let (held,): (i64,) =
            sqlx::query_as("SELECT COUNT(*) FROM outbox WHERE state = 'held'").fetch_one(&self.pool).await?;
        Ok(Figures {
            inbox: count(inbox)?,
            waiting: count(waiting)?,
            held: count(held)?,
            oldest_waiting: oldest.map(Timestamp::from_millis),
        })
    }
}
