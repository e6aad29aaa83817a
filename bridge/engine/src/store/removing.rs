//! What was written in a portal and is no message of the record, because it was refused or waits for something, goes from where
//! it stands (S18).

use parlour_domain::{DeletionReason, PersonId, Timestamp};
use ruma::{EventId, OwnedEventId, OwnedUserId};

use super::{
    NewLeg, Portal, Store, StoreError,
    inbox::{Row, inbox_rows},
    record::{About, line},
    seal::Place,
};
use crate::{commit_point::CommitPoint, intake::Event};

/// Something that is no message of the record is to go from its portal.
pub struct Removal<'a> {
    /// The portal.
    pub portal: &'a Portal,
    /// The event.
    pub event_id: OwnedEventId,
    /// Who has it go.
    pub by: PersonId,
    /// Why, in their words.
    pub reason: Option<DeletionReason>,
    /// The bot's redactions: of the event, and of its copies, where some stand since before a backup was restored.
    pub voids: Vec<NewLeg>,
}

impl Store {
    /// Whoever has written this event in a portal, which is none of the record's: it was refused, or waits.
    ///
    /// # Errors
    /// When the database fails, or the row does not open.
    pub async fn unrecorded_at(
        &self,
        portal: &Portal,
        event_id: &EventId,
    ) -> Result<Option<OwnedUserId>, StoreError> {
        let rows: Vec<Row> = sqlx::query_as(inbox_rows!("WHERE i.dedup_key = $1 AND i.portal_id = $2"))
            .bind(event_id.as_str())
            .bind(portal.id.as_str())
            .fetch_all(&self.pool)
            .await?;
        let row = self.opened(&portal.conversation, rows).await?.pop();
        let event = row.and_then(|row| serde_json::from_str::<Event>(&row.event).ok());
        Ok(event.filter(Event::is_said).map(|event| event.sender))
    }

    /// It goes, and waits for nothing any more. Whether it was there before.
    ///
    /// # Errors
    /// When the database fails, or it has become a message of the record meanwhile; then nothing of it is kept.
    pub async fn remove(&self, removal: &Removal<'_>, at: Timestamp) -> Result<bool, StoreError> {
        let Removal { portal, event_id, by, reason, voids } = removal;
        let key = self.portal_key(portal).await?;
        let mut tx = self.begin().await?;
        let recorded: Option<(i64,)> =
            sqlx::query_as("SELECT 1 FROM mapping WHERE portal_id = $1 AND event_id = $2")
                .bind(portal.id.as_str())
                .bind(event_id.as_str())
                .fetch_optional(&mut *tx)
                .await?;
        if recorded.is_some() {
            return Err(StoreError::Overtaken);
        }
        let place = Place { table: "removals", column: "reason", row: event_id.as_str() };
        let reason = reason.as_ref().map(|reason| key.seal(place, reason.as_str().as_bytes()));
        let first = sqlx::query(
            "INSERT INTO removals (event_id, portal_id, at, by_id, reason) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (event_id) DO NOTHING",
        )
        .bind(event_id.as_str())
        .bind(portal.id.as_str())
        .bind(at.millis())
        .bind(by.as_str())
        .bind(reason)
        .execute(&mut *tx)
        .await?;
        if first.rows_affected() == 0 {
            self.leave(tx).await?;
            return Ok(false);
        }
        let waits_no_more = "UPDATE inbox SET state = 'done', kept_of = NULL
             WHERE dedup_key = $1 AND state IN ('waiting', 'wordless', 'unsigned')";
        sqlx::query(waits_no_more).bind(event_id.as_str()).execute(&mut *tx).await?;
        let about = About { event_id: Some(event_id), message: None, by: Some(by) };
        line(&mut tx, &portal.conversation, about, "removed", None, at).await?;
        self.add(&mut tx, voids, None, at).await?;
        self.commit(tx, CommitPoint::MessageDeleted).await?;
        Ok(true)
    }
}
