//! The record: which message an event is, and what happened to it. Its rows are written with what causes them, in one
//! commit.

use parlour_domain::{
    Attachment, ConversationId, MessageId, PersonId, PortalId, Said, Timestamp, rules::Reach,
};
use ruma::{EventId, UserId};

use super::{
    Store, StoreError, parsed,
    seal::{Owner, Place},
    transaction::Transaction,
};

/// Whose key a message's words are sealed with: that of the only patient whom it concerns, else the conversation's.
pub(super) fn owner(lane: Option<&PersonId>, conversation: &ConversationId) -> Owner {
    Owner::of_portal(lane, conversation)
}

/// Where a message's values stand: what it says, and why it was deleted.
pub(super) fn place<'a>(column: &'static str, id: &'a MessageId) -> Place<'a> {
    Place { table: "messages", column, row: id.as_str() }
}

/// A message that is known.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// Its id.
    pub id: MessageId,
    /// Who wrote it.
    pub writer: PersonId,
    /// Whom it reached.
    pub reach: Reach,
    /// Whether it was deleted.
    pub deleted: bool,
}

impl Store {
    /// The message that an event of a portal is, or that it edits. A reaction is none.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn message_at(
        &self,
        portal: &PortalId,
        event_id: &EventId,
    ) -> Result<Option<Recorded>, StoreError> {
        let found: Option<(String, String, Option<String>, Option<i64>)> = sqlx::query_as(
            "SELECT m.id, m.sender_id, m.lane, m.deleted_at
             FROM mapping x JOIN messages s ON s.id = x.message_id
             JOIN messages m ON m.id = CASE WHEN s.kind = 'edit' THEN s.about ELSE s.id END
             WHERE x.portal_id = $1 AND x.event_id = $2 AND m.kind = 'message'",
        )
        .bind(portal.as_str())
        .bind(event_id.as_str())
        .fetch_optional(&self.pool)
        .await?;
        found
            .map(|(id, writer, lane, deleted_at)| {
                let reach = match lane {
                    Some(patient) => Reach::Only(parsed("messages", &patient)?),
                    None => Reach::Everybody,
                };
                let (id, writer) = (parsed("messages", &id)?, parsed("messages", &writer)?);
                Ok(Recorded { id, writer, reach, deleted: deleted_at.is_some() })
            })
            .transpose()
    }

    /// The reaction that an event of a portal is, and whose it is.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn reaction_at(
        &self,
        portal: &PortalId,
        event_id: &EventId,
    ) -> Result<Option<(MessageId, PersonId)>, StoreError> {
        let found: Option<(String, String)> = sqlx::query_as(
            "SELECT m.id, m.sender_id FROM mapping x JOIN messages m ON m.id = x.message_id
             WHERE x.portal_id = $1 AND x.event_id = $2 AND m.kind = 'reaction'",
        )
        .bind(portal.as_str())
        .bind(event_id.as_str())
        .fetch_optional(&self.pool)
        .await?;
        found.map(|(id, by)| Ok((parsed("messages", &id)?, parsed("messages", &by)?))).transpose()
    }

    /// The file that a message brought along, if it did.
    ///
    /// # Errors
    /// When the database fails, or the row does not open.
    pub async fn file_of(&self, message: &MessageId) -> Result<Option<Attachment>, StoreError> {
        let (conversation, lane, content): (String, Option<String>, Vec<u8>) =
            sqlx::query_as("SELECT conversation_id, lane, content FROM messages WHERE id = $1")
                .bind(message.as_str())
                .fetch_one(&self.pool)
                .await?;
        let lane = lane.as_deref().map(|id| parsed::<PersonId>("messages", id)).transpose()?;
        let key = self.key(&owner(lane.as_ref(), &parsed("messages", &conversation)?)).await?;
        let said = key.open_text(place("content", message), &content)?;
        match serde_json::from_str(&said).map_err(|_| StoreError::Malformed("messages"))? {
            Said::Attachment(attachment) => Ok(Some(*attachment)),
            _ => Ok(None),
        }
    }

    /// What somebody said in a portal by this event: a message, an edit or a reaction; and who they are.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn said_by(
        &self,
        portal: &PortalId,
        event_id: &EventId,
        sender: &UserId,
    ) -> Result<Option<(MessageId, PersonId)>, StoreError> {
        let found: Option<(String, String)> = sqlx::query_as(
            "SELECT m.id, p.id FROM messages m JOIN people p ON p.id = m.sender_id
             WHERE m.portal_id = $1 AND m.event_id = $2 AND p.user_id = $3",
        )
        .bind(portal.as_str())
        .bind(event_id.as_str())
        .bind(sender.as_str())
        .fetch_optional(&self.pool)
        .await?;
        found.map(|(id, by)| Ok((parsed("messages", &id)?, parsed("messages", &by)?))).transpose()
    }
}

/// A message is this event in this portal from now on; said again, nothing changes.
pub(super) async fn map(
    tx: &mut Transaction,
    portal: &PortalId,
    message: &MessageId,
    event_id: &EventId,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE mapping SET current = 0 WHERE portal_id = $1 AND message_id = $2 AND event_id <> $3")
        .bind(portal.as_str())
        .bind(message.as_str())
        .bind(event_id.as_str())
        .execute(&mut **tx)
        .await?;
    sqlx::query(
        "INSERT INTO mapping (portal_id, event_id, message_id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
    )
    .bind(portal.as_str())
    .bind(event_id.as_str())
    .bind(message.as_str())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// One more line in the ledger: what became of an event.
pub(super) async fn ledger(
    tx: &mut Transaction,
    conversation: &ConversationId,
    event_id: &EventId,
    message: Option<&MessageId>,
    what: &'static str,
    code: Option<&str>,
    at: Timestamp,
) -> Result<(), StoreError> {
    let about = About { event_id: Some(event_id), message, by: None };
    line(tx, conversation, about, what, code, at).await
}

/// One more line in the ledger: what became of a conversation, and who asked for it.
pub(super) async fn ledger_of_conversation(
    tx: &mut Transaction,
    conversation: &ConversationId,
    by: Option<&PersonId>,
    what: &'static str,
    code: Option<&str>,
    at: Timestamp,
) -> Result<(), StoreError> {
    line(tx, conversation, About { event_id: None, message: None, by }, what, code, at).await
}

/// What a line in the ledger is about.
pub(super) struct About<'a> {
    /// The event that it was, or that it came by.
    pub(super) event_id: Option<&'a EventId>,
    /// The message.
    pub(super) message: Option<&'a MessageId>,
    /// Whoever asked for it.
    pub(super) by: Option<&'a PersonId>,
}

/// One more line in the ledger.
pub(super) async fn line(
    tx: &mut Transaction,
    conversation: &ConversationId,
    about: About<'_>,
    what: &'static str,
    code: Option<&str>,
    at: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO ledger (seq, at, conversation_id, event_id, message_id, by_id, what, code)
         SELECT COALESCE(MAX(seq), 0) + 1, $1, $2, $3, $4, $5, $6, $7 FROM ledger",
    )
    .bind(at.millis())
    .bind(conversation.as_str())
    .bind(about.event_id.map(EventId::as_str))
    .bind(about.message.map(MessageId::as_str))
    .bind(about.by.map(PersonId::as_str))
    .bind(what)
    .bind(code)
    .execute(&mut **tx)
    .await?;
    Ok(())
}
