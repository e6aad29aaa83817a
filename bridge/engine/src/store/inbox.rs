//! What came in, and what became of it: one commit a transaction, one commit a message.

use parlour_domain::{ConversationId, MessageId, PersonId, PortalId, Timestamp};
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId};
use sqlx::{Any, Transaction};

use super::{
    NewLeg, Store, StoreError, one_row, outbox, parsed,
    record::{ledger, map},
};

/// One event of a transaction, ready to be stored.
#[derive(Clone, Debug)]
pub struct Arrived {
    /// Its event id, or a digest of what has none.
    pub dedup_key: String,
    /// Its room, when it names one.
    pub room_id: Option<OwnedRoomId>,
    /// Whether it may need handling; state and what cannot be read is only kept.
    pub matters: bool,
    /// The event exactly as it came.
    pub event: String,
}

/// An event that waits to be handled.
#[derive(Clone, Debug)]
pub struct InboxRow {
    /// Its place in the order of arrival.
    pub seq: i64,
    /// The conversation that its room belongs to.
    pub conversation: ConversationId,
    /// The portal that its room is.
    pub portal: PortalId,
    /// The event exactly as it came.
    pub event: String,
    /// When it came.
    pub received_at: Timestamp,
}

/// A message that goes into the record and on its way.
pub struct RelayedMessage {
    /// Its id in the record.
    pub id: MessageId,
    /// Whose conversation.
    pub conversation: ConversationId,
    /// The portal that it was written in.
    pub portal: PortalId,
    /// The event that it was written as.
    pub event_id: OwnedEventId,
    /// Who wrote it.
    pub sender: PersonId,
    /// When, by the homeserver.
    pub sent_at: Timestamp,
    /// Its words.
    pub body: String,
    /// The message it answers.
    pub answers: Option<MessageId>,
    /// The only patient it concerns; none is every patient.
    pub lane: Option<PersonId>,
    /// Its ways.
    pub legs: Vec<NewLeg>,
    /// Whether the bot's word about lanes is among the legs, so that it is said once.
    pub tells_lanes: bool,
}

/// What became of an event.
pub enum Outcome {
    /// Nothing was to be done.
    Nothing,
    /// Refused, and its sender is told.
    Refused {
        /// The refused event.
        event_id: OwnedEventId,
        /// The code of the refusal.
        code: &'static str,
        /// The bot's words to the sender.
        notice: Box<NewLeg>,
    },
    /// On its way.
    Relayed(Box<RelayedMessage>),
    /// Somebody is no longer in the portal; staff are told when it is one of the people.
    Left {
        /// Who.
        user_id: OwnedUserId,
        /// The event by which they left.
        event_id: OwnedEventId,
        /// The bot's words to staff.
        notice: Option<Box<NewLeg>>,
    },
}

const INBOX: &str = "inbox";
type Row = (i64, String, String, String, i64);

fn row((seq, conversation, portal, event, received_at): Row) -> Result<InboxRow, StoreError> {
    Ok(InboxRow {
        seq,
        conversation: parsed(INBOX, &conversation)?,
        portal: parsed(INBOX, &portal)?,
        event,
        received_at: Timestamp::from_millis(received_at),
    })
}

impl Store {
    /// Keeps all events of a transaction in one commit, each once whatever transaction it comes in, and says
    /// which conversations have something new.
    ///
    /// # Errors
    /// When the database fails; then nothing of it is kept.
    pub async fn accept(&self, events: &[Arrived], at: Timestamp) -> Result<Vec<ConversationId>, StoreError> {
        let mut tx = self.begin().await?;
        let mut touched = Vec::new();
        for event in events {
            let home: Option<(String, String)> = match &event.room_id {
                Some(room_id) if event.matters => {
                    sqlx::query_as("SELECT conversation_id, id FROM portals WHERE room_id = $1")
                        .bind(room_id.as_str())
                        .fetch_optional(&mut *tx)
                        .await?
                }
                _ => None,
            };
            // What concerns no portal is only remembered by its id, so that it is known when it comes again.
            let kept = if home.is_some() || event.room_id.is_none() { &*event.event } else { "" };
            let (conversation, portal) = home.unzip();
            let result = sqlx::query(
                "INSERT INTO inbox (seq, dedup_key, conversation_id, portal_id, event, received_at, state)
                 SELECT COALESCE(MAX(seq), 0) + 1, $1, $2, $3, $4, $5, $6 FROM inbox WHERE 1 = 1
                 ON CONFLICT (dedup_key) DO NOTHING",
            )
            .bind(&event.dedup_key)
            .bind(&conversation)
            .bind(&portal)
            .bind(kept)
            .bind(at.millis())
            .bind(if conversation.is_some() { "waiting" } else { "skipped" })
            .execute(&mut *tx)
            .await?;
            if let (1, Some(conversation)) = (result.rows_affected(), conversation) {
                touched.push(parsed(INBOX, &conversation)?);
            }
        }
        tx.commit().await?;
        touched.sort();
        touched.dedup();
        Ok(touched)
    }

    /// The conversations that have events waiting.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn conversations_waiting(&self) -> Result<Vec<ConversationId>, StoreError> {
        let rows: Vec<(String,)> =
            sqlx::query_as("SELECT DISTINCT conversation_id FROM inbox WHERE state = 'waiting'")
                .fetch_all(&self.pool)
                .await?;
        rows.iter().map(|(id,)| parsed(INBOX, id)).collect()
    }

    /// A conversation's waiting events after a place in the order of arrival, at most 100.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn waiting(
        &self,
        conversation: &ConversationId,
        after: i64,
    ) -> Result<Vec<InboxRow>, StoreError> {
        sqlx::query_as(
            "SELECT seq, conversation_id, portal_id, event, received_at FROM inbox
             WHERE state = 'waiting' AND conversation_id = $1 AND seq > $2 ORDER BY seq LIMIT 100",
        )
        .bind(conversation.as_str())
        .bind(after)
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(row)
        .collect()
    }

    /// What became of an event, in one commit: record, ledger, mapping and outbox together, and the event done.
    ///
    /// # Errors
    /// When the database fails; then nothing of it is kept.
    pub async fn finish(&self, row: &InboxRow, outcome: &Outcome, at: Timestamp) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        match outcome {
            Outcome::Nothing => {}
            Outcome::Refused { event_id, code, notice } => {
                ledger(&mut tx, &row.conversation, event_id, None, "refused", Some(code), at).await?;
                outbox::add(&mut tx, notice, None).await?;
            }
            Outcome::Relayed(message) => relayed(&mut tx, message, at).await?,
            Outcome::Left { user_id, event_id, notice } => {
                sqlx::query("DELETE FROM portal_members WHERE portal_id = $1 AND user_id = $2")
                    .bind(row.portal.as_str())
                    .bind(user_id.as_str())
                    .execute(&mut *tx)
                    .await?;
                if let Some(notice) = notice {
                    ledger(&mut tx, &row.conversation, event_id, None, "left", None, at).await?;
                    outbox::add(&mut tx, notice, None).await?;
                }
            }
        }
        let result = sqlx::query("UPDATE inbox SET state = 'done' WHERE seq = $1 AND state = 'waiting'")
            .bind(row.seq)
            .execute(&mut *tx)
            .await?;
        one_row(INBOX, &result)?;
        tx.commit().await?;
        Ok(())
    }
}

async fn relayed(
    tx: &mut Transaction<'static, Any>,
    message: &RelayedMessage,
    at: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO messages (id, conversation_id, portal_id, event_id, sender_id, sent_at, body, answers, lane)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(message.id.as_str())
    .bind(message.conversation.as_str())
    .bind(message.portal.as_str())
    .bind(message.event_id.as_str())
    .bind(message.sender.as_str())
    .bind(message.sent_at.millis())
    .bind(&message.body)
    .bind(message.answers.as_ref().map(MessageId::as_str))
    .bind(message.lane.as_ref().map(PersonId::as_str))
    .execute(&mut **tx)
    .await?;
    map(tx, &message.portal, &message.id, &message.event_id).await?;
    ledger(tx, &message.conversation, &message.event_id, Some(&message.id), "accepted", None, at).await?;
    if message.tells_lanes {
        sqlx::query("UPDATE conversations SET lanes_told = 1 WHERE id = $1")
            .bind(message.conversation.as_str())
            .execute(&mut **tx)
            .await?;
    }
    for leg in &message.legs {
        outbox::add(tx, leg, Some(&message.id)).await?;
    }
    Ok(())
}
