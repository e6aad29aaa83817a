//! What came in, and what became of it: one commit a transaction, one commit a message.

use parlour_domain::{ConversationId, LegId, MessageId, PersonId, PortalId, Said, Timestamp};
use ruma::{EventId, OwnedEventId, OwnedRoomId};

use super::{
    Closed, NewLeg, Outcome, SaysClosed, Store, StoreError, one_row, outbox, parsed, record,
    record::{ledger, map},
    seal::{Owner, Place},
    transaction::Transaction,
};
use crate::commit_point::CommitPoint;

/// One event of a transaction, ready to be stored.
#[derive(Clone, Debug)]
pub struct Arrived {
    /// Its event id, or a digest of what has none.
    pub dedup_key: String,
    /// Its room, when it names one.
    pub room_id: Option<OwnedRoomId>,
    /// Whether it may need handling; state and what cannot be read is only kept.
    pub matters: bool,
    /// The leg that it is, when one of our own users sent it.
    pub echo: Option<(LegId, OwnedEventId)>,
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
    /// What it says.
    pub said: Said,
    /// The message that it answers, edits or reacts to.
    pub about: Option<MessageId>,
    /// The only patient it concerns; none is every patient.
    pub lane: Option<PersonId>,
    /// Its ways.
    pub legs: Vec<NewLeg>,
    /// That the practice is closed.
    pub closed: Closed,
    /// The bot's word about lanes, which it says once in a conversation.
    pub tells_lanes: Option<NewLeg>,
    /// The only patient whom it was addressed to; none is everybody, however many they are.
    pub addressed: Option<PersonId>,
}

/// Which place of which Megolm session an event was encrypted with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MegolmIndex {
    /// The session.
    pub session_id: String,
    /// The place in it.
    pub index: u32,
}

/// What a transaction has changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Conversations with new events.
    pub conversations: Vec<ConversationId>,
    /// Portals whose legs have landed.
    pub portals: Vec<PortalId>,
}

const INBOX: &str = "inbox";
pub(super) type Row = (i64, String, String, Option<String>, Option<Vec<u8>>, i64);

/// Rows of the inbox, as [`Store::opened`] takes them.
macro_rules! inbox_rows {
    ($which:literal) => {
        concat!(
            "SELECT i.seq, i.dedup_key, i.portal_id, p.patient_id, i.event, i.received_at
             FROM inbox i JOIN portals p ON p.id = i.portal_id ",
            $which
        )
    };
}
pub(super) use inbox_rows;

/// An event's row is its key: it is known before the row is there.
fn place(dedup_key: &str) -> Place<'_> {
    Place { table: INBOX, column: "event", row: dedup_key }
}

impl Store {
    /// Keeps all events of a transaction in one commit, each once whatever transaction it comes in. An echo of our own
    /// settles its leg in the same commit. `transaction` is the number of the homeserver's transaction, if they came by one.
    ///
    /// # Errors
    /// When the database fails; then nothing of it is kept.
    pub async fn accept(
        &self,
        events: &[Arrived],
        transaction: Option<i64>,
        at: Timestamp,
    ) -> Result<Touched, StoreError> {
        let mut touched = Touched::default();
        if events.is_empty() {
            return Ok(touched);
        }
        let mut tx = self.begin().await?;
        for event in events {
            self.keep(&mut tx, event, at, &mut touched).await?;
        }
        if let Some(number) = transaction {
            sqlx::query("UPDATE intake SET transaction_number = $1 WHERE one = 1")
                .bind(number)
                .execute(&mut *tx)
                .await?;
        }
        self.commit(tx, CommitPoint::TransactionKept).await?;
        touched.conversations.sort();
        touched.conversations.dedup();
        Ok(touched)
    }

    async fn keep(
        &self,
        tx: &mut Transaction,
        event: &Arrived,
        at: Timestamp,
        touched: &mut Touched,
    ) -> Result<(), StoreError> {
        if let Some((leg, event_id)) = &event.echo {
            touched.portals.extend(outbox::landed(tx, leg, event_id, at).await?);
        }
        type Home = (String, String, Option<String>);
        let home: Option<Home> = match &event.room_id {
            Some(room_id) if event.matters && event.echo.is_none() => {
                sqlx::query_as("SELECT conversation_id, id, patient_id FROM portals WHERE room_id = $1")
                    .bind(room_id.as_str())
                    .fetch_optional(&mut **tx)
                    .await?
            }
            _ => None,
        };
        let owner = match &home {
            Some((conversation, _, patient)) => {
                let patient = patient.as_deref().map(|id| parsed::<PersonId>(INBOX, id)).transpose()?;
                Some(Owner::of_portal(patient.as_ref(), &parsed(INBOX, conversation)?))
            }
            None if event.room_id.is_none() => Some(Owner::Practice),
            // What concerns no portal is only remembered by its id, so that it is known when it comes again.
            None => None,
        };
        let kept = match owner {
            Some(owner) => {
                let key = self.key_in(tx, &owner).await?;
                Some(key.seal(place(&event.dedup_key), event.event.as_bytes()))
            }
            None => None,
        };
        let (conversation, portal) = home.map(|(conversation, portal, _)| (conversation, portal)).unzip();
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
        .execute(&mut **tx)
        .await?;
        if let (1, Some(conversation)) = (result.rows_affected(), conversation) {
            touched.conversations.push(parsed(INBOX, &conversation)?);
        }
        Ok(())
    }

    /// The number of the homeserver's transaction that was taken last.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn last_transaction(&self) -> Result<Option<i64>, StoreError> {
        let (number,): (Option<i64>,) = sqlx::query_as("SELECT transaction_number FROM intake WHERE one = 1")
            .fetch_one(&self.pool)
            .await?;
        Ok(number)
    }

    /// The place in the bot's `/sync` up to which everything that was said is known.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn caught_up_to(&self) -> Result<Option<String>, StoreError> {
        let (place,): (Option<String>,) =
            sqlx::query_as("SELECT caught_up_to FROM intake WHERE one = 1").fetch_one(&self.pool).await?;
        Ok(place)
    }

    /// Everything that was said is known up to this place.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn caught_up(&self, place: &str) -> Result<(), StoreError> {
        let caught = sqlx::query("UPDATE intake SET caught_up_to = $1 WHERE one = 1").bind(place);
        one_row("intake", &self.alone(CommitPoint::CaughtUp, caught).await?)
    }

    /// No place is known any more.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn caught_up_to_nothing(&self) -> Result<(), StoreError> {
        let forgotten = sqlx::query("UPDATE intake SET caught_up_to = NULL WHERE one = 1");
        one_row("intake", &self.alone(CommitPoint::CaughtUp, forgotten).await?)
    }

    /// Whether an event came before.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn knows_event(&self, dedup_key: &str) -> Result<bool, StoreError> {
        let found: Option<(i64,)> = sqlx::query_as("SELECT seq FROM inbox WHERE dedup_key = $1")
            .bind(dedup_key)
            .fetch_optional(&self.pool)
            .await?;
        Ok(found.is_some())
    }

    /// The conversations that have events waiting.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn conversations_waiting(&self) -> Result<Vec<ConversationId>, StoreError> {
        let rows: Vec<(String,)> = sqlx::query_as(
            "SELECT DISTINCT conversation_id FROM inbox WHERE state IN ('waiting', 'wordless', 'unsigned')",
        )
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(|(id,)| parsed(INBOX, id)).collect()
    }

    /// A conversation's waiting events after a place in the order of arrival, at most 100.
    ///
    /// # Errors
    /// When the database fails, or a row does not open.
    pub async fn waiting(
        &self,
        conversation: &ConversationId,
        after: i64,
    ) -> Result<Vec<InboxRow>, StoreError> {
        let rows: Vec<Row> = sqlx::query_as(inbox_rows!(
            "WHERE i.state = 'waiting' AND i.conversation_id = $1 AND i.seq > $2 ORDER BY i.seq LIMIT 100"
        ))
        .bind(conversation.as_str())
        .bind(after)
        .fetch_all(&self.pool)
        .await?;
        self.opened(conversation, rows).await
    }

    /// These rows, with their events as they came.
    pub(super) async fn opened(
        &self,
        conversation: &ConversationId,
        rows: Vec<Row>,
    ) -> Result<Vec<InboxRow>, StoreError> {
        let mut waiting = Vec::with_capacity(rows.len());
        for (seq, dedup_key, portal, patient, event, received_at) in rows {
            let patient = patient.as_deref().map(|id| parsed::<PersonId>(INBOX, id)).transpose()?;
            let key = self.key(&Owner::of_portal(patient.as_ref(), conversation)).await?;
            let event = event.ok_or(StoreError::Malformed(INBOX))?;
            waiting.push(InboxRow {
                seq,
                conversation: conversation.clone(),
                portal: parsed(INBOX, &portal)?,
                // A damaged row is its own matter, not that of the rows behind it.
                event: key.open_text(place(&dedup_key), &event).unwrap_or_default(),
                received_at: Timestamp::from_millis(received_at),
            });
        }
        Ok(waiting)
    }

    /// The event that used a place of a Megolm session, if one has.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn event_at(&self, index: &MegolmIndex) -> Result<Option<OwnedEventId>, StoreError> {
        let found: Option<(String,)> =
            sqlx::query_as("SELECT event_id FROM megolm_indexes WHERE session = $1 AND place = $2")
                .bind(self.practice_key().name(&["megolm", &index.session_id]))
                .bind(i64::from(index.index))
                .fetch_optional(&self.pool)
                .await?;
        found.map(|(event_id,)| super::matrix_id("megolm_indexes", event_id)).transpose()
    }

    /// What became of an event, in one commit: record, ledger, mapping and outbox together, the place in its session
    /// used, and the event done.
    ///
    /// # Errors
    /// When the database fails; then nothing of it is kept.
    pub async fn finish(
        &self,
        row: &InboxRow,
        outcome: &Outcome,
        index: Option<(&MegolmIndex, &EventId)>,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        self.finish_ahead_of(None, row, outcome, index, at).await
    }

    /// The same ahead of what is handled: not, if that waits no more, because somebody has deleted it meanwhile.
    ///
    /// # Errors
    /// [`StoreError::Overtaken`] then; or when the database fails. Nothing of it is kept.
    pub async fn finish_ahead_of(
        &self,
        handled: Option<&InboxRow>,
        row: &InboxRow,
        outcome: &Outcome,
        index: Option<(&MegolmIndex, &EventId)>,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        if let Some(handled) = handled {
            let waits: Option<(i64,)> =
                sqlx::query_as("SELECT seq FROM inbox WHERE seq = $1 AND state = 'waiting'")
                    .bind(handled.seq)
                    .fetch_optional(&mut *tx)
                    .await?;
            waits.ok_or(StoreError::Overtaken)?;
        }
        match outcome {
            Outcome::Nothing => {}
            Outcome::Kept { until, event_id, sender, notices, closed } => {
                let (what, code) = until.line();
                ledger(&mut tx, &row.conversation, event_id, None, what, code, at).await?;
                self.add(&mut tx, notices, None, at).await?;
                sqlx::query("UPDATE inbox SET kept_of = $2 WHERE seq = $1")
                    .bind(row.seq)
                    .bind(sender.as_str())
                    .execute(&mut *tx)
                    .await?;
                self.is_closed(&mut tx, &row.portal, closed, at).await?;
            }
            Outcome::Unread { event_id, voids } => {
                ledger(&mut tx, &row.conversation, event_id, None, "deleted-unread", None, at).await?;
                self.add(&mut tx, voids, None, at).await?;
            }
            Outcome::Refused { event_id, code, notice, void, closed } => {
                ledger(&mut tx, &row.conversation, event_id, None, "refused", Some(code), at).await?;
                self.add(&mut tx, std::slice::from_ref(&**notice), None, at).await?;
                if let Some(void) = void {
                    self.add(&mut tx, std::slice::from_ref(&**void), None, at).await?;
                }
                self.is_closed(&mut tx, &row.portal, closed, at).await?;
            }
            Outcome::Deleted(deletion) => drop(self.deleted(&mut tx, deletion, at).await?),
            Outcome::Relayed(message) => self.relayed(&mut tx, message, at).await?,
            Outcome::Left { user_id, event_id, at: gone_at, departure } => {
                if let Some(departure) = departure {
                    self.departed(&mut tx, departure, event_id, at).await?;
                }
                Self::is_gone(&mut tx, &row.portal, user_id, *gone_at).await?;
            }
            Outcome::Revised { revision, since, notices } => {
                Self::revised(&mut tx, &row.conversation, (*revision, *since)).await?;
                self.add(&mut tx, notices, None, at).await?;
            }
            Outcome::Switched { event_id, mode, since, notice } => {
                self.switched(&mut tx, row, event_id, (*mode, *since), at).await?;
                if let Some(notice) = notice {
                    self.add(&mut tx, std::slice::from_ref(&**notice), None, at).await?;
                }
            }
        }
        if let Some((index, event_id)) = index {
            sqlx::query(
                "INSERT INTO megolm_indexes (session, place, event_id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
            )
            .bind(self.practice_key().name(&["megolm", &index.session_id]))
            .bind(i64::from(index.index))
            .bind(event_id.as_str())
            .execute(&mut *tx)
            .await?;
        }
        let state = match outcome {
            Outcome::Kept { until, .. } => until.as_str(),
            _ => "done",
        };
        let next = "UPDATE inbox SET state = $2 WHERE seq = $1 AND state IN ('waiting', 'wordless', 'unsigned') AND state <> $2";
        let result = sqlx::query(next).bind(row.seq).bind(state).execute(&mut *tx).await?;
        one_row(INBOX, &result)?;
        self.commit(tx, CommitPoint::EventDecided).await
    }

    async fn relayed(
        &self,
        tx: &mut Transaction,
        message: &RelayedMessage,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        if let Some(edited) = message.about.as_ref().filter(|_| message.said.is_edit()) {
            Self::must_stand(tx, edited).await?;
        }
        let said = serde_json::to_string(&message.said).map_err(|_| StoreError::Malformed("messages"))?;
        let owner = record::owner(message.lane.as_ref(), &message.conversation);
        let key = self.key_in(tx, &owner).await?;
        sqlx::query(
            "INSERT INTO messages
                 (id, conversation_id, portal_id, event_id, sender_id, sent_at, kind, content, about, lane)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        )
        .bind(message.id.as_str())
        .bind(message.conversation.as_str())
        .bind(message.portal.as_str())
        .bind(message.event_id.as_str())
        .bind(message.sender.as_str())
        .bind(message.sent_at.millis())
        .bind(message.said.kind())
        .bind(key.seal(record::place("content", &message.id), said.as_bytes()))
        .bind(message.about.as_ref().map(MessageId::as_str))
        .bind(message.lane.as_ref().map(PersonId::as_str))
        .execute(&mut **tx)
        .await?;
        map(tx, &message.portal, &message.id, &message.event_id).await?;
        let (conversation, event) = (&message.conversation, &message.event_id);
        ledger(tx, conversation, event, Some(&message.id), "accepted", None, at).await?;
        self.add(tx, &message.legs, Some(&message.id), at).await?;
        if let Some(word) = &message.tells_lanes {
            let first =
                sqlx::query("UPDATE conversations SET lanes_told = 1 WHERE id = $1 AND lanes_told = 0")
                    .bind(message.conversation.as_str())
                    .execute(&mut **tx)
                    .await?;
            if first.rows_affected() == 1 {
                self.add(tx, std::slice::from_ref(word), None, at).await?;
            }
        }
        self.is_closed(tx, &message.portal, &message.closed, at).await
    }

    /// Whoever has written in a portal hears that the practice is closed, if they have not yet.
    async fn is_closed(
        &self,
        tx: &mut Transaction,
        portal: &PortalId,
        closed: &Closed,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let Some(SaysClosed { until, has_come, answer }) = closed.as_deref() else { return Ok(()) };
        // That nothing has come is told below zero.
        let told = if *has_come { *until } else { -1 - until };
        let first = sqlx::query(
            "UPDATE portals SET told_closed = $2
             WHERE id = $1 AND (told_closed IS NULL OR (told_closed <> $2 AND told_closed <> $3))",
        )
        .bind(portal.as_str())
        .bind(told)
        .bind(until)
        .execute(&mut **tx)
        .await?;
        if first.rows_affected() == 1 {
            self.add(tx, std::slice::from_ref(answer), None, at).await?;
        }
        Ok(())
    }
}
