//! What is kept until something else happens: a file until something is said of it, what came from a device until it is signed.

use parlour_domain::{ConversationId, PortalId, Refusal, Timestamp};
use ruma::{EventId, UserId};

use super::{
    InboxRow, Portal, Store, StoreError,
    inbox::{Row, inbox_rows},
};
use crate::commit_point::CommitPoint;

/// What an event is kept for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeptUntil {
    /// It is a file, and its sender is to say something about it.
    Words,
    /// Its sender is to sign the device that it came from.
    Signature,
}

impl KeptUntil {
    /// The state of its row.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Words => "wordless",
            Self::Signature => "unsigned",
        }
    }

    /// The line in the ledger, and its code.
    pub(super) fn line(self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::Words => ("told-words", None),
            Self::Signature => ("kept", Some(Refusal::UnsignedDevice.code())),
        }
    }
}

impl Store {
    /// What is kept in a conversation behind a place, at most 100, oldest first: all, or what one sender wrote in one portal.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn kept(
        &self,
        conversation: &ConversationId,
        until: KeptUntil,
        of: Option<(&PortalId, &UserId)>,
        after: i64,
    ) -> Result<Vec<InboxRow>, StoreError> {
        let (portal, sender) = of.unzip();
        let rows: Vec<Row> = sqlx::query_as(inbox_rows!(
            "WHERE i.state = $4 AND i.conversation_id = $1 AND i.seq > $5
                 AND ($2 = '' OR (i.portal_id = $2 AND i.kept_of = $3)) ORDER BY i.seq LIMIT 100"
        ))
        .bind(conversation.as_str())
        .bind(portal.map_or("", PortalId::as_str))
        .bind(sender.map_or("", UserId::as_str))
        .bind(until.as_str())
        .bind(after)
        .fetch_all(&self.pool)
        .await?;
        self.opened(conversation, rows).await
    }

    /// What was kept until it is signed waits to be handled, as if it had come now, in the place that it has.
    ///
    /// # Errors
    /// When the database fails; then it is kept on.
    pub async fn is_signed_now(&self, row: &InboxRow, at: Timestamp) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let sql = "UPDATE inbox SET state = 'waiting', kept_of = NULL, received_at = $2
                   WHERE seq = $1 AND state = 'unsigned'";
        sqlx::query(sql).bind(row.seq).bind(at.millis()).execute(&mut *tx).await?;
        self.commit(tx, CommitPoint::EventDecided).await
    }

    /// Whether something waits to be handled in a portal.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn waits_in(&self, portal: &PortalId) -> Result<bool, StoreError> {
        let row: Option<(i64,)> =
            sqlx::query_as("SELECT seq FROM inbox WHERE state = 'waiting' AND portal_id = $1 LIMIT 1")
                .bind(portal.as_str())
                .fetch_optional(&self.pool)
                .await?;
        Ok(row.is_some())
    }

    /// The file of this sender's that waits for words and is an event of a portal, or what the bot has said of one.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn wordless_at(
        &self,
        portal: &Portal,
        sender: &UserId,
        event: &EventId,
    ) -> Result<Option<InboxRow>, StoreError> {
        let rows: Vec<Row> = sqlx::query_as(inbox_rows!(
            "WHERE i.state = 'wordless' AND i.portal_id = $1 AND i.kept_of = $2
                 AND (i.dedup_key = $3 OR EXISTS (SELECT 1 FROM outbox o
                     WHERE o.portal_id = i.portal_id AND o.event_id = $3 AND o.notice_about = i.dedup_key)) LIMIT 1"
        ))
        .bind(portal.id.as_str())
        .bind(sender.as_str())
        .bind(event.as_str())
        .fetch_all(&self.pool)
        .await?;
        Ok(self.opened(&portal.conversation, rows).await?.pop())
    }
}
