//! What leaks between patients ask the database for, when they are made on purpose.

use parlour_domain::PortalId;
use ruma::OwnedEventId;

use super::{Store, StoreError, matrix_id};

impl Store {
    /// The event that a message is in another portal.
    ///
    /// # Errors
    /// When the database fails.
    pub(crate) async fn event_elsewhere(
        &self,
        portal: &PortalId,
        event: &str,
    ) -> Result<Option<OwnedEventId>, StoreError> {
        let row: Option<(String,)> = sqlx::query_as(
            "SELECT y.event_id FROM mapping x JOIN mapping y ON y.message_id = x.message_id
             WHERE x.portal_id = $1 AND x.event_id = $2 AND y.portal_id <> $1 LIMIT 1",
        )
        .bind(portal.as_str())
        .bind(event)
        .fetch_optional(&self.pool)
        .await?;
        row.map(|(event,)| matrix_id("mapping", event)).transpose()
    }

    /// The event of a message that came last in a portal.
    ///
    /// # Errors
    /// When the database fails.
    pub(crate) async fn last_event(&self, portal: &PortalId) -> Result<Option<OwnedEventId>, StoreError> {
        let row: Option<(String,)> = sqlx::query_as(
            "SELECT x.event_id FROM mapping x JOIN inbox i ON i.dedup_key = x.event_id
             WHERE x.portal_id = $1 ORDER BY i.seq DESC LIMIT 1",
        )
        .bind(portal.as_str())
        .fetch_optional(&self.pool)
        .await?;
        row.map(|(event,)| matrix_id("mapping", event)).transpose()
    }
}
