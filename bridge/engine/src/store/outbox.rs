//! What goes out: one row a leg, its ciphertext stored before it is sent.

use parlour_domain::{ConversationId, LegId, MessageId, PersonId, PortalId, Said, Timestamp};
use ruma::{EventId, OwnedEventId, OwnedUserId};

use super::{
    Portal, Store, StoreError, matrix_id, one_row, parsed,
    record::{ledger, map},
    seal::{Owner, Place},
    transaction::Transaction,
};
use crate::commit_point::CommitPoint;

/// A leg to be written down.
#[derive(Clone)]
pub struct NewLeg {
    /// Its id.
    pub id: LegId,
    /// Where it goes.
    pub portal: PortalId,
    /// What it says.
    pub says: Says,
    /// The original time.
    pub sent_at: Timestamp,
}

/// What a new leg says.
#[derive(Clone)]
pub enum Says {
    /// The message that it is a leg of.
    TheMessage,
    /// The bot's words, and the event of that portal that they are about.
    Notice(String, Option<OwnedEventId>),
    /// That this event of that portal is void, said by the user of ours whose it was.
    Redaction(OwnedEventId, OwnedUserId),
    /// That the message is deleted, said by this user of ours, or by the ghost of whoever wrote it.
    Deletion(Option<OwnedUserId>),
}

impl Says {
    /// As it is stored.
    fn as_str(&self) -> &'static str {
        match self {
            Self::TheMessage => "message",
            Self::Notice(..) => "notice",
            Self::Redaction(..) => "void",
            Self::Deletion(_) => "deletion",
        }
    }
}

/// What a leg says.
pub enum LegContent {
    /// What a person says, said by their ghost.
    Message {
        /// Who.
        sender: PersonId,
        /// What they say.
        said: Said,
        /// The event, in the leg's own portal, of the message that it answers, edits or reacts to.
        about: Option<OwnedEventId>,
        /// Where it was written: the portal and the event.
        source: (PortalId, OwnedEventId),
    },
    /// That what a person said is deleted.
    Deletion {
        /// Who had said it.
        sender: PersonId,
        /// The user of ours who says that it is deleted, if it is not their ghost.
        by: Option<OwnedUserId>,
        /// The event that it is in the leg's own portal, if it stands there.
        event: Option<OwnedEventId>,
        /// Where it was written: the portal and the event.
        source: (PortalId, OwnedEventId),
    },
    /// That an event is void, said by whose event it was.
    Redaction {
        /// The user of ours whose it was.
        by: OwnedUserId,
        /// The event.
        event: OwnedEventId,
    },
    /// The bot's own words.
    Notice {
        /// The words.
        body: String,
        /// The event, in the leg's own portal, that they are about.
        about: Option<OwnedEventId>,
    },
}

impl LegContent {
    /// Whether there is nothing that it could be about: what it edits, reacts to or deletes does not stand in the portal.
    #[must_use]
    pub fn is_void(&self) -> bool {
        match self {
            Self::Message { said, about, .. } => said.is_about_another() && about.is_none(),
            Self::Deletion { event, .. } => event.is_none(),
            Self::Redaction { .. } | Self::Notice { .. } => false,
        }
    }
}

/// The next leg of a portal.
pub struct Leg {
    /// Its place in the order.
    pub seq: i64,
    /// Its id.
    pub id: LegId,
    /// Where it goes.
    pub portal: Portal,
    /// The message that it is a leg of; none is the bot's own words, or the redaction of some.
    pub message: Option<MessageId>,
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

pub(super) const OUTBOX: &str = "outbox";
/// Where a leg's values stand.
pub(super) fn place<'a>(column: &'static str, leg: &'a LegId) -> Place<'a> {
    Place { table: OUTBOX, column, row: leg.as_str() }
}

/// A leg stands in its room as this event; the portal whose leg it is, when this was news.
pub(super) async fn landed(
    tx: &mut Transaction,
    leg: &LegId,
    event: &EventId,
    at: Timestamp,
) -> Result<Option<PortalId>, StoreError> {
    type Found = (String, String, Option<String>, String, String, Option<String>);
    let found: Option<Found> = sqlx::query_as(
        "SELECT o.says, o.portal_id, o.message_id, p.conversation_id, o.state, o.redacts FROM outbox o
         JOIN portals p ON p.id = o.portal_id WHERE o.leg_id = $1",
    )
    .bind(leg.as_str())
    .fetch_optional(&mut **tx)
    .await?;
    let Some((says, portal, message, conversation, state, redacts)) = found else {
        // A database that was restored does not know it yet: what it is a leg of is decided anew, with the same id.
        sqlx::query("INSERT INTO early_echoes (leg_id, event_id) VALUES ($1, $2) ON CONFLICT DO NOTHING")
            .bind(leg.as_str())
            .bind(event.as_str())
            .execute(&mut **tx)
            .await?;
        return Ok(None);
    };
    if state == "sent" {
        return Ok(None);
    }
    let portal: PortalId = parsed(OUTBOX, &portal)?;
    let result = sqlx::query(
        "UPDATE outbox SET state = 'sent', event_id = $2, ciphertext = NULL, landed_at = $3,
                 landing = (SELECT COALESCE(MAX(landing), 0) + 1 FROM outbox)
             WHERE leg_id = $1",
    )
    .bind(leg.as_str())
    .bind(event.as_str())
    .bind(at.millis())
    .execute(&mut **tx)
    .await?;
    one_row(OUTBOX, &result)?;
    let message = message.map(|id| parsed::<MessageId>(OUTBOX, &id)).transpose()?;
    let conversation = parsed(OUTBOX, &conversation)?;
    match (says.as_str(), redacts, &message) {
        ("void", Some(redacted), _) => {
            let redacted: OwnedEventId = matrix_id(OUTBOX, redacted)?;
            ledger(tx, &conversation, &redacted, message.as_ref(), "redacted", None, at).await?;
        }
        ("deletion", None, Some(_)) => {
            ledger(tx, &conversation, event, message.as_ref(), "redacted", None, at).await?;
        }
        ("message", None, Some(message)) => {
            map(tx, &portal, message, event).await?;
            ledger(tx, &conversation, event, Some(message), "sent", None, at).await?;
        }
        // The bot's words stand in the ledger as what they are about.
        ("notice", None, _) => {}
        _ => return Err(StoreError::Malformed(OUTBOX)),
    }
    Ok(Some(portal))
}

impl Store {
    /// Writes legs down; behind what is held, they are held as well. What stands in its room already is settled.
    pub(super) async fn add(
        &self,
        tx: &mut Transaction,
        legs: &[NewLeg],
        message: Option<&MessageId>,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        for leg in legs {
            self.add_one(tx, leg, message, at).await?;
        }
        // There are some only after a backup was restored.
        let (early,): (i64,) =
            sqlx::query_as("SELECT COUNT(*) FROM early_echoes").fetch_one(&mut **tx).await?;
        for leg in legs.iter().filter(|_| early > 0) {
            let early: Option<(String,)> =
                sqlx::query_as("DELETE FROM early_echoes WHERE leg_id = $1 RETURNING event_id")
                    .bind(leg.id.as_str())
                    .fetch_optional(&mut **tx)
                    .await?;
            if let Some((event,)) = early {
                let event: OwnedEventId = matrix_id("early_echoes", event)?;
                landed(tx, &leg.id, &event, at).await?;
            }
        }
        Ok(())
    }

    async fn add_one(
        &self,
        tx: &mut Transaction,
        leg: &NewLeg,
        message: Option<&MessageId>,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let (notice, about) = match &leg.says {
            Says::Notice(words, about) => {
                let home: (String, Option<String>) =
                    sqlx::query_as("SELECT conversation_id, patient_id FROM portals WHERE id = $1")
                        .bind(leg.portal.as_str())
                        .fetch_one(&mut **tx)
                        .await?;
                let patient = home.1.as_deref().map(|id| parsed::<PersonId>(OUTBOX, id)).transpose()?;
                let owner = Owner::of_portal(patient.as_ref(), &parsed(OUTBOX, &home.0)?);
                let sealed = self.key_in(tx, &owner).await?.seal(place("notice", &leg.id), words.as_bytes());
                (Some(sealed), about.as_ref().map(|id| id.to_string()))
            }
            Says::TheMessage | Says::Redaction(..) | Says::Deletion(_) => (None, None),
        };
        let (redacts, sender) = match &leg.says {
            Says::Redaction(event, by) => (Some(event.as_str()), Some(by.as_str())),
            Says::Deletion(by) => (None, by.as_ref().map(|by| by.as_str())),
            Says::TheMessage | Says::Notice(..) => (None, None),
        };
        sqlx::query(
            "INSERT INTO outbox
                 (seq, leg_id, portal_id, message_id, notice, notice_about, sent_at, added_at, redacts,
                  sender_user_id, says, state, held_at)
             SELECT n.seq, $1, $2, $3, $4, $5, $6, $7, $8, $9, $10,
                 CASE WHEN n.held = 1 THEN 'held' ELSE 'waiting' END, CASE WHEN n.held = 1 THEN CAST($7 AS BIGINT) END
             FROM (SELECT (SELECT COALESCE(MAX(seq), 0) + 1 FROM outbox) AS seq,
                 CASE WHEN CAST($10 AS TEXT) IN ('message', 'notice') AND EXISTS (
                     SELECT 1 FROM outbox h WHERE h.state = 'held' AND h.portal_id = $2) THEN 1 ELSE 0 END AS held) AS n
             WHERE 1 = 1
             ON CONFLICT (leg_id) DO NOTHING",
        )
        .bind(leg.id.as_str())
        .bind(leg.portal.as_str())
        .bind(message.filter(|_| notice.is_none()).map(MessageId::as_str))
        .bind(notice)
        .bind(about)
        .bind(leg.sent_at.millis())
        .bind(at.millis())
        .bind(redacts)
        .bind(sender)
        .bind(leg.says.as_str())
        .execute(&mut **tx)
        .await?;
        Ok(())
    }

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
        let woken = "UPDATE outbox SET next_attempt_at = 0 WHERE state IN ('waiting', 'held') AND next_attempt_at > 0";
        self.alone(CommitPoint::OutboxWoken, sqlx::query(woken)).await.map(drop)
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
        let Some((message,)) = given_up else { return self.leave(tx).await };
        // Where these words were sent again, the event that cannot be read is the only one that has them: its redaction, which
        // was written down right behind, is given up as well.
        sqlx::query(
            "UPDATE outbox SET state = 'failed' WHERE seq = $1 + 1 AND redacts IS NOT NULL AND state = 'waiting'
                 AND EXISTS (SELECT 1 FROM outbox again WHERE again.seq = $1 AND again.repeats > 0)",
        )
        .bind(leg.seq)
        .execute(&mut *tx)
        .await?;
        if let LegContent::Message { source: (_, source), .. }
        | LegContent::Deletion { source: (_, source), .. } = &leg.content
        {
            let message = message.map(|id| parsed::<MessageId>(OUTBOX, &id)).transpose()?;
            ledger(&mut tx, conversation, source, message.as_ref(), "failed", Some(code), at).await?;
        }
        if let Some(notice) = notice {
            self.add(&mut tx, std::slice::from_ref(notice), None, at).await?;
        }
        self.commit(tx, CommitPoint::LegFailed).await
    }

    /// The event of ours that stands in a room, and whose leg is not known.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn early_echo(&self, leg: &LegId) -> Result<Option<OwnedEventId>, StoreError> {
        let found: Option<(String,)> = sqlx::query_as("SELECT event_id FROM early_echoes WHERE leg_id = $1")
            .bind(leg.as_str())
            .fetch_optional(&self.pool)
            .await?;
        found.map(|(event,)| matrix_id("early_echoes", event)).transpose()
    }
}
