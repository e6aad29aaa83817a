//! What is sent again from the record, and what it replaces.

use parlour_domain::{ConversationId, MessageId, PortalId, Timestamp};
use ruma::{OwnedEventId, UserId};

use super::{NewLeg, Store, StoreError, matrix_id, parsed, record::ledger};
use crate::commit_point::CommitPoint;

const OUTBOX: &str = "outbox";

/// A message that is sent again from the record, because somebody cannot read the event that it is.
pub struct Repair {
    /// The message.
    pub message: MessageId,
    /// Whose conversation.
    pub conversation: ConversationId,
    /// The event that cannot be read.
    pub unreadable: OwnedEventId,
    /// The leg that says it again.
    pub again: NewLeg,
    /// The leg that voids the event, once the message stands in the room again.
    pub redaction: NewLeg,
    /// Why, as the ledger keeps it.
    pub why: &'static str,
}

impl Store {
    /// The portals that a user of ours has sent messages to.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn portals_written_by(&self, sender: &UserId) -> Result<Vec<PortalId>, StoreError> {
        let sql = "SELECT DISTINCT portal_id FROM outbox WHERE sender_user_id = $1 AND state = 'sent'";
        let rows: Vec<(String,)> = sqlx::query_as(sql).bind(sender.as_str()).fetch_all(&self.pool).await?;
        rows.iter().map(|(id,)| parsed(OUTBOX, id)).collect()
    }

    /// The messages that a user of ours has sent to a portal in one Megolm session, oldest first, each with the event
    /// that stands for it and its time. One that was sent again before is not among them: it would have no end.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn sent_in(
        &self,
        portal: &PortalId,
        sender: &UserId,
        session_id: &str,
    ) -> Result<Vec<(MessageId, OwnedEventId, Timestamp)>, StoreError> {
        let rows: Vec<(String, String, i64)> = sqlx::query_as(
            "SELECT o.message_id, o.event_id, o.sent_at FROM outbox o
             JOIN mapping x ON x.portal_id = o.portal_id AND x.event_id = o.event_id AND x.current = 1
             WHERE o.portal_id = $1 AND o.sender_user_id = $2 AND o.session = $3 AND o.state = 'sent'
                 AND o.message_id IS NOT NULL AND o.redacts IS NULL
                 AND NOT EXISTS (SELECT 1 FROM mapping y WHERE y.portal_id = o.portal_id
                     AND y.message_id = o.message_id AND y.current = 0)
             ORDER BY o.seq",
        )
        .bind(portal.as_str())
        .bind(sender.as_str())
        .bind(self.practice_key().name(&["megolm", session_id]))
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter()
            .map(|(message, event, at)| {
                Ok((parsed(OUTBOX, &message)?, matrix_id(OUTBOX, event)?, Timestamp::from_millis(at)))
            })
            .collect()
    }

    /// Messages are to be sent again from the record, and the events that they were voided, in one commit. Each event is
    /// repaired once, however often this is asked.
    ///
    /// # Errors
    /// When the database fails; then nothing of it is kept.
    pub async fn begin_repairs(&self, repairs: &[Repair], at: Timestamp) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        for repair in repairs {
            let begun: Option<(i64,)> = sqlx::query_as("SELECT seq FROM outbox WHERE leg_id = $1")
                .bind(repair.again.id.as_str())
                .fetch_optional(&mut *tx)
                .await?;
            if begun.is_some() {
                continue;
            }
            let (conversation, message) = (&repair.conversation, Some(&repair.message));
            ledger(&mut tx, conversation, &repair.unreadable, message, "repair", Some(repair.why), at)
                .await?;
            self.add(&mut tx, &repair.again, message, at).await?;
            self.add(&mut tx, &repair.redaction, message, at).await?;
        }
        self.commit(tx, CommitPoint::RepairBegun).await
    }
}
