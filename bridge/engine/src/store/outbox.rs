//! What goes out: one row a leg, its ciphertext stored before it is sent.

use parlour_domain::{ConversationId, LegId, MessageId, PersonId, PortalId, Timestamp};
use ruma::{EventId, OwnedEventId, OwnedUserId, UserId};
use sqlx::{Any, Transaction};

use super::{
    Store, StoreError, matrix_id, one_row, parsed,
    record::{ledger, map},
};

/// A leg to be written down.
#[derive(Clone)]
pub struct NewLeg {
    /// Its id.
    pub id: LegId,
    /// Where it goes.
    pub portal: PortalId,
    /// The bot's words and the event of that portal they are about, if it is not the message itself.
    pub notice: Option<(String, Option<OwnedEventId>)>,
    /// The original time.
    pub sent_at: Timestamp,
}

/// What a leg says.
pub enum LegContent {
    /// A person's words, said by their ghost.
    Message {
        /// Whose words.
        sender: PersonId,
        /// The words.
        body: String,
        /// The event, in the leg's own portal, of the message it answers.
        answers: Option<OwnedEventId>,
        /// Where it was written: the portal and the event.
        source: (PortalId, OwnedEventId),
    },
    /// The bot's own words.
    Notice {
        /// The words.
        body: String,
        /// The event, in the leg's own portal, that they are about.
        about: Option<OwnedEventId>,
    },
}

/// The next leg of a portal.
pub struct Leg {
    /// Its place in the order.
    pub seq: i64,
    /// Its id.
    pub id: LegId,
    /// Where it goes.
    pub portal: PortalId,
    /// What it says.
    pub content: LegContent,
    /// The original time.
    pub sent_at: Timestamp,
    /// The encrypted content and who says it, once it was encrypted.
    pub sealed: Option<(String, OwnedUserId)>,
    /// Whether it was found before that nobody can read it.
    pub held: bool,
    /// How often sending it failed.
    pub attempts: i64,
    /// Not to be tried before.
    pub next_attempt_at: Timestamp,
}

const OUTBOX: &str = "outbox";

/// Writes a leg down.
pub(super) async fn add(
    tx: &mut Transaction<'static, Any>,
    leg: &NewLeg,
    message: Option<&MessageId>,
) -> Result<(), StoreError> {
    let (notice, about) = leg.notice.clone().unzip();
    sqlx::query(
        "INSERT INTO outbox (seq, leg_id, portal_id, message_id, notice, notice_about, sent_at, state)
         SELECT COALESCE(MAX(seq), 0) + 1, $1, $2, $3, $4, $5, $6, 'waiting' FROM outbox WHERE 1 = 1
         ON CONFLICT (leg_id) DO NOTHING",
    )
    .bind(leg.id.as_str())
    .bind(leg.portal.as_str())
    .bind(message.filter(|_| notice.is_none()).map(MessageId::as_str))
    .bind(notice)
    .bind(about.flatten().map(|id| id.to_string()))
    .bind(leg.sent_at.millis())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

impl Store {
    /// The portals that have legs to send, held ones included.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn portals_waiting(&self) -> Result<Vec<PortalId>, StoreError> {
        let rows: Vec<(String,)> =
            sqlx::query_as("SELECT DISTINCT portal_id FROM outbox WHERE state IN ('waiting', 'held')")
                .fetch_all(&self.pool)
                .await?;
        rows.iter().map(|(id,)| parsed(OUTBOX, id)).collect()
    }

    /// The homeserver is back: nothing is put off any longer.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn nothing_is_put_off(&self) -> Result<(), StoreError> {
        sqlx::query("UPDATE outbox SET next_attempt_at = 0 WHERE state IN ('waiting', 'held')")
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// A leg can never be sent: it is given up, and the next ones go on. The ledger says why; for a message the bot
    /// tells its sender, in `notice`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn leg_has_failed(
        &self,
        leg: &Leg,
        conversation: &ConversationId,
        code: &str,
        notice: Option<&NewLeg>,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let given_up: Option<(Option<String>,)> = sqlx::query_as(
            "UPDATE outbox SET state = 'failed' WHERE seq = $1 AND state IN ('waiting', 'held') RETURNING message_id",
        )
        .bind(leg.seq)
        .fetch_optional(&mut *tx)
        .await?;
        // Its echo may have come meanwhile: then it stands in its room.
        let Some((message,)) = given_up else { return Ok(()) };
        if let LegContent::Message { source: (_, source), .. } = &leg.content {
            let message = message.map(|id| parsed::<MessageId>(OUTBOX, &id)).transpose()?;
            ledger(&mut tx, conversation, source, message.as_ref(), "failed", Some(code), at).await?;
        }
        if let Some(notice) = notice {
            add(&mut tx, notice, None).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// The next leg of a portal, the oldest that is not sent.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn next_leg(&self, portal: &PortalId) -> Result<Option<Leg>, StoreError> {
        type Row = (
            i64,
            String,
            Option<String>,
            Option<String>,
            i64,
            Option<String>,
            Option<String>,
            i64,
            i64,
            String,
        );
        type Message = (String, String, Option<String>, String, String);
        let row: Option<Row> = sqlx::query_as(
            "SELECT seq, leg_id, message_id, notice, sent_at, ciphertext, sender_user_id, attempts, next_attempt_at,
                    state
             FROM outbox WHERE portal_id = $1 AND state IN ('waiting', 'held') ORDER BY seq LIMIT 1",
        )
        .bind(portal.as_str())
        .fetch_optional(&self.pool)
        .await?;
        let Some((seq, id, message, notice, sent_at, ciphertext, sender, attempts, next, state)) = row else {
            return Ok(None);
        };
        let content = match (message, notice) {
            (Some(message), None) => {
                let (sender, body, answers, home, source): Message = sqlx::query_as(
                    "SELECT m.sender_id, m.body, x.event_id, m.portal_id, m.event_id FROM messages m
                     LEFT JOIN mapping x ON x.message_id = m.answers AND x.portal_id = $2 WHERE m.id = $1",
                )
                .bind(message)
                .bind(portal.as_str())
                .fetch_one(&self.pool)
                .await?;
                let answers = answers.map(|id| matrix_id("mapping", id)).transpose()?;
                let source = (parsed("messages", &home)?, matrix_id("messages", source)?);
                LegContent::Message { sender: parsed("messages", &sender)?, body, answers, source }
            }
            (None, Some(body)) => {
                let (about,): (Option<String>,) =
                    sqlx::query_as("SELECT notice_about FROM outbox WHERE seq = $1")
                        .bind(seq)
                        .fetch_one(&self.pool)
                        .await?;
                LegContent::Notice { body, about: about.map(|id| matrix_id(OUTBOX, id)).transpose()? }
            }
            _ => return Err(StoreError::Malformed(OUTBOX)),
        };
        let sender = sender.map(|id| matrix_id(OUTBOX, id)).transpose()?;
        Ok(Some(Leg {
            seq,
            id: parsed(OUTBOX, &id)?,
            portal: portal.clone(),
            content,
            sent_at: Timestamp::from_millis(sent_at),
            sealed: ciphertext.zip(sender),
            held: state == "held",
            attempts,
            next_attempt_at: Timestamp::from_millis(next),
        }))
    }

    /// A leg is encrypted: from now on exactly these bytes are sent, by this user.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn leg_is_sealed(&self, seq: i64, ciphertext: &str, sender: &UserId) -> Result<(), StoreError> {
        let result = sqlx::query(
            "UPDATE outbox SET ciphertext = $2, sender_user_id = $3, state = 'waiting'
             WHERE seq = $1 AND ciphertext IS NULL",
        )
        .bind(seq)
        .bind(ciphertext)
        .bind(sender.as_str())
        .execute(&self.pool)
        .await?;
        one_row(OUTBOX, &result)
    }

    /// Nobody in the portal can read the leg yet.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn leg_is_held(&self, seq: i64) -> Result<(), StoreError> {
        let result = sqlx::query("UPDATE outbox SET state = 'held' WHERE seq = $1")
            .bind(seq)
            .execute(&self.pool)
            .await?;
        one_row(OUTBOX, &result)
    }

    /// Sending a leg failed; it is tried again not before `next`. Only a failure that does not pass counts as an
    /// attempt.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn leg_is_put_off(&self, seq: i64, counts: bool, next: Timestamp) -> Result<(), StoreError> {
        let result =
            sqlx::query("UPDATE outbox SET attempts = attempts + $3, next_attempt_at = $2 WHERE seq = $1")
                .bind(seq)
                .bind(next.millis())
                .bind(i64::from(counts))
                .execute(&self.pool)
                .await?;
        one_row(OUTBOX, &result)
    }

    /// A leg stands in its room as this event: told by the homeserver's answer, or by the echo of the event,
    /// whichever comes first. An unknown leg, and one that stands already, change nothing.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn leg_has_landed(
        &self,
        leg: &LegId,
        event: &EventId,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let found: Option<(String, Option<String>, String)> = sqlx::query_as(
            "SELECT o.portal_id, o.message_id, p.conversation_id FROM outbox o
             JOIN portals p ON p.id = o.portal_id WHERE o.leg_id = $1 AND o.state <> 'sent'",
        )
        .bind(leg.as_str())
        .fetch_optional(&mut *tx)
        .await?;
        let Some((portal, message, conversation)) = found else { return Ok(()) };
        let result = sqlx::query("UPDATE outbox SET state = 'sent', event_id = $2 WHERE leg_id = $1")
            .bind(leg.as_str())
            .bind(event.as_str())
            .execute(&mut *tx)
            .await?;
        one_row(OUTBOX, &result)?;
        if let Some(message) = message {
            let message: MessageId = parsed(OUTBOX, &message)?;
            map(&mut tx, &parsed(OUTBOX, &portal)?, &message, event).await?;
            ledger(&mut tx, &parsed(OUTBOX, &conversation)?, event, Some(&message), "sent", None, at).await?;
        }
        tx.commit().await?;
        Ok(())
    }
}
