//! Soft delete (S18): what somebody said disappears from every portal, and stays in the record, with who deleted it, when and
//! why.

use std::sync::Arc;

use parlour_domain::{ConversationId, DeletionReason, MessageId, PersonId, PortalId, Timestamp};
use ruma::{OwnedEventId, OwnedUserId};

use super::{
    Store, StoreError, matrix_id, parsed,
    record::{self, About, line},
    transaction::Transaction,
};
use crate::{commit_point::CommitPoint, notices::LegIds};

/// Something that somebody said is to be deleted.
#[derive(Clone)]
pub struct Deletion {
    /// Whose conversation.
    pub conversation: ConversationId,
    /// The message, edit or reaction.
    pub message: MessageId,
    /// The redaction by which its writer has deleted it; none when it was asked for by the practice API.
    pub event_id: Option<OwnedEventId>,
    /// Who deletes it.
    pub by: PersonId,
    /// Why, in their words.
    pub reason: Option<DeletionReason>,
    /// The practice bot. It deletes what its writer's own client has left in the room where it was written, and everything
    /// when somebody else than the writer deletes.
    pub bot: OwnedUserId,
    /// What makes the ids of the legs.
    pub(crate) ids: Arc<LegIds>,
}

/// Something that goes with a deletion: the message itself, and what was said in its place since.
struct Entry {
    id: MessageId,
    event: OwnedEventId,
    home: PortalId,
}

impl Store {
    /// Deletes what somebody said, as the practice API asks for it. The portals that are to look, none when it was deleted
    /// before.
    ///
    /// # Errors
    /// When the database fails; then nothing of it is kept.
    pub async fn delete(&self, deletion: &Deletion, at: Timestamp) -> Result<Vec<PortalId>, StoreError> {
        let mut tx = self.begin().await?;
        let portals = self.deleted(&mut tx, deletion, at).await?;
        if portals.is_none() {
            self.leave(tx).await?;
            return Ok(Vec::new());
        }
        self.commit(tx, CommitPoint::MessageDeleted).await?;
        Ok(portals.unwrap_or_default())
    }

    /// The same within what becomes of an event; none when it was deleted before.
    pub(super) async fn deleted(
        &self,
        tx: &mut Transaction,
        deletion: &Deletion,
        at: Timestamp,
    ) -> Result<Option<Vec<PortalId>>, StoreError> {
        let Some((writer, lane)) = Self::to_delete(tx, &deletion.message).await? else { return Ok(None) };
        let owner = record::owner(lane.as_ref(), &deletion.conversation);
        let reason = match &deletion.reason {
            Some(reason) => {
                let place = record::place("reason", &deletion.message);
                Some(self.key_in(tx, &owner).await?.seal(place, reason.as_str().as_bytes()))
            }
            None => None,
        };
        let entries = Self::entries(tx, &deletion.message).await?;
        for entry in &entries {
            sqlx::query("UPDATE messages SET deleted_at = $2, deleted_by = $3, reason = $4 WHERE id = $1")
                .bind(entry.id.as_str())
                .bind(at.millis())
                .bind(deletion.by.as_str())
                .bind(reason.as_ref().filter(|_| entry.id == deletion.message))
                .execute(&mut **tx)
                .await?;
        }
        let about = About {
            event_id: deletion.event_id.as_deref(),
            message: Some(&deletion.message),
            by: Some(&deletion.by),
        };
        line(tx, &deletion.conversation, about, "deleted", None, at).await?;
        let own = writer == deletion.by;
        let mut portals = Vec::new();
        for entry in &entries {
            self.taken_back.add(&entry.id);
            let by = (!own).then(|| deletion.bot.clone());
            let mut places: Vec<_> = Self::take_back(tx, &entry.id)
                .await?
                .into_iter()
                .map(|portal| (portal, by.clone()))
                .collect();
            // Whoever deletes by their own client has redacted that one event, and no other.
            if deletion.event_id.is_none() || entry.id != deletion.message {
                places.push((entry.home.clone(), Some(deletion.bot.clone())));
            }
            for (portal, event) in Self::left_behind(tx, &entry.id).await? {
                let leg = deletion.ids.void(&event, &portal, deletion.bot.clone(), at);
                self.add(tx, std::slice::from_ref(&leg), Some(&entry.id), at).await?;
                portals.push(portal);
            }
            for (portal, by) in places {
                let leg = deletion.ids.deletion(&entry.event, &portal, by, at);
                self.add(tx, std::slice::from_ref(&leg), Some(&entry.id), at).await?;
                portals.push(portal);
            }
        }
        Ok(Some(portals))
    }

    /// Who wrote what is to be deleted, and the only patient it concerns; none when it is deleted already.
    async fn to_delete(
        tx: &mut Transaction,
        message: &MessageId,
    ) -> Result<Option<(PersonId, Option<PersonId>)>, StoreError> {
        let found: Option<(String, Option<String>)> =
            sqlx::query_as("SELECT sender_id, lane FROM messages WHERE id = $1 AND deleted_at IS NULL")
                .bind(message.as_str())
                .fetch_optional(&mut **tx)
                .await?;
        let parse = |id: &str| parsed::<PersonId>("messages", id);
        found.map(|(writer, lane)| Ok((parse(&writer)?, lane.as_deref().map(parse).transpose()?))).transpose()
    }

    /// A message, and the edits of it that are not deleted.
    async fn entries(tx: &mut Transaction, message: &MessageId) -> Result<Vec<Entry>, StoreError> {
        let rows: Vec<(String, String, String)> = sqlx::query_as(
            "SELECT id, event_id, portal_id FROM messages
             WHERE id = $1 OR (about = $1 AND kind = 'edit' AND deleted_at IS NULL) ORDER BY sent_at, id",
        )
        .bind(message.as_str())
        .fetch_all(&mut **tx)
        .await?;
        let parse = |(id, event, home): (String, String, String)| {
            Ok(Entry {
                id: parsed("messages", &id)?,
                event: matrix_id("messages", event)?,
                home: parsed("messages", &home)?,
            })
        };
        rows.into_iter().map(parse).collect()
    }

    /// What was not begun to be sent is not sent any more: what is not encrypted at once, and what waits for its turn when that
    /// comes ([`Store::is_taken_back`]). The portals where it stands, or is about to.
    async fn take_back(tx: &mut Transaction, message: &MessageId) -> Result<Vec<PortalId>, StoreError> {
        sqlx::query(
            "UPDATE outbox SET state = 'withdrawn'
             WHERE message_id = $1 AND says = 'message' AND ciphertext IS NULL AND state IN ('waiting', 'held')",
        )
        .bind(message.as_str())
        .execute(&mut **tx)
        .await?;
        let rows: Vec<(String,)> = sqlx::query_as(
            "SELECT DISTINCT portal_id FROM outbox
             WHERE message_id = $1 AND says = 'message' AND state IN ('waiting', 'held', 'sent')",
        )
        .bind(message.as_str())
        .fetch_all(&mut **tx)
        .await?;
        rows.iter().map(|(id,)| parsed("outbox", id)).collect()
    }

    /// Events that a message was before it was sent again, and that nothing makes go.
    async fn left_behind(
        tx: &mut Transaction,
        message: &MessageId,
    ) -> Result<Vec<(PortalId, OwnedEventId)>, StoreError> {
        let rows: Vec<(String, String)> = sqlx::query_as(
            "SELECT x.portal_id, x.event_id FROM mapping x WHERE x.message_id = $1 AND x.current = 0
                 AND NOT EXISTS (SELECT 1 FROM outbox v WHERE v.says = 'void' AND v.redacts = x.event_id
                     AND v.portal_id = x.portal_id AND v.state IN ('waiting', 'held', 'sent'))",
        )
        .bind(message.as_str())
        .fetch_all(&mut **tx)
        .await?;
        rows.into_iter()
            .map(|(portal, event)| Ok((parsed("mapping", &portal)?, matrix_id("mapping", event)?)))
            .collect()
    }

    /// What is edited must not have been deleted since it was asked whether it may be.
    pub(super) async fn must_stand(tx: &mut Transaction, message: &MessageId) -> Result<(), StoreError> {
        match Self::to_delete(tx, message).await? {
            Some(_) => Ok(()),
            None => Err(StoreError::Overtaken),
        }
    }
}
