//! Who has read what (S12): receipts as they come, what they cover, and which of them are to be shown elsewhere. Nothing of it
//! is ever overwritten: who has read something has read it, by the first receipt that covered it.

use parlour_domain::{ConversationId, MessageId, Person, PersonId, PortalId, Timestamp};
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId};

use super::{Store, StoreError, matrix_id, parsed, people::PersonRow, transaction::Transaction};
use crate::commit_point::CommitPoint;

/// A receipt of somebody's, as the bot's `/sync` brings it (Matrix v1.19 client-server §Receipts).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// In which room.
    pub room_id: OwnedRoomId,
    /// Whose.
    pub user_id: OwnedUserId,
    /// Up to which event.
    pub event_id: OwnedEventId,
    /// Whether it is about a thread, and says nothing of what else stands before.
    pub alone: bool,
    /// When, by the homeserver's clock.
    pub at: Timestamp,
}

/// A receipt that is to be shown in another portal, by the ghost of whoever has read.
#[derive(Clone, Debug)]
pub struct DueReceipt {
    /// Where.
    pub portal: PortalId,
    /// Its room.
    pub room_id: OwnedRoomId,
    /// Who has read.
    pub person: PersonId,
    /// Their ghost.
    pub ghost: OwnedUserId,
    /// The event there.
    pub event_id: OwnedEventId,
}

/// Who has read a message, and how that is known.
#[derive(Clone, Debug)]
pub struct Read {
    /// Who.
    pub person: Person,
    /// When.
    pub at: Timestamp,
    /// The event of the receipt.
    pub event_id: OwnedEventId,
    /// Whether the receipt was for a later event.
    pub implied: bool,
}

/// How far a message has come on its way to somebody's portal.
#[derive(Clone, Debug)]
pub struct Way {
    /// The patient whose spoke it is; none is the hub.
    pub patient: Option<PersonId>,
    /// `waiting`, `held` (as is what stands behind something that is), `sent`, `failed` or `withdrawn`.
    pub state: String,
    /// Since when nobody could read it there, if that ever was so.
    pub held_at: Option<Timestamp>,
    /// When it was known to stand there.
    pub landed_at: Option<Timestamp>,
    /// The event that it is there.
    pub event_id: Option<OwnedEventId>,
}

/// All that is known of what became of a message.
#[derive(Clone, Debug)]
pub struct MessageStatus {
    /// When it was written, by the homeserver: from then on it was accepted.
    pub sent_at: Timestamp,
    /// When it was deleted.
    pub deleted_at: Option<Timestamp>,
    /// Its ways, one a portal.
    pub ways: Vec<Way>,
    /// Who has read it, first to last.
    pub reads: Vec<Read>,
}

const RECEIPTS: &str = "receipts";
/// With how many receipts one commit deals.
const MOST_AT_ONCE: i64 = 25;
/// For how long a receipt waits for its event.
const WAITED_FOR_MILLIS: i64 = 24 * 60 * 60 * 1000;

/// A receipt that came, and the place of its event in the order of arrival.
struct Came {
    portal: PortalId,
    conversation: ConversationId,
    patient: Option<PersonId>,
    person: PersonId,
    event: OwnedEventId,
    alone: bool,
    at: i64,
    seq: i64,
}

/// A message that somebody has newly read.
struct NewlyRead {
    message: MessageId,
    writer_portal: PortalId,
    writer_is_patient: bool,
    event: OwnedEventId,
}

impl Store {
    /// Keeps receipts of people in portals, until it is known what they cover; those of others do not matter. Whether there
    /// was any.
    ///
    /// # Errors
    /// When the database fails; then none is kept.
    pub async fn receipts_came(&self, receipts: &[Receipt]) -> Result<bool, StoreError> {
        if receipts.is_empty() {
            return Ok(false);
        }
        let mut tx = self.begin_unordered().await?;
        let mut kept = 0;
        for receipt in receipts {
            let result = sqlx::query(
                "INSERT INTO receipts (portal_id, person_id, event_id, alone, at)
                 SELECT p.id, r.id, $3, $4, $5 FROM portals p, people r WHERE p.room_id = $1 AND r.user_id = $2
                 ON CONFLICT (portal_id, person_id, event_id) DO UPDATE SET alone = 0, at = excluded.at
                     WHERE excluded.alone = 0 AND receipts.alone = 1",
            )
            .bind(receipt.room_id.as_str())
            .bind(receipt.user_id.as_str())
            .bind(receipt.event_id.as_str())
            .bind(i64::from(receipt.alone))
            .bind(receipt.at.millis())
            .execute(&mut *tx)
            .await?;
            kept += result.rows_affected();
        }
        if kept == 0 {
            self.leave(tx).await?;
            return Ok(false);
        }
        // What never comes is not waited for.
        let newest = receipts.iter().map(|receipt| receipt.at.millis()).max().unwrap_or_default();
        sqlx::query("DELETE FROM receipts WHERE at < $1")
            .bind(newest - WAITED_FOR_MILLIS)
            .execute(&mut *tx)
            .await?;
        self.commit(tx, CommitPoint::ReceiptsKept).await?;
        Ok(true)
    }

    /// Counts what the receipts cover that have come: the messages up to them, those of others, each once for each reader. What
    /// follows for other portals is due. The conversations in which something was newly read, and whether there is more. A
    /// receipt for an event that has not come waits for it.
    ///
    /// # Errors
    /// When the database fails; then nothing is counted.
    pub async fn count_reads(&self) -> Result<(Vec<ConversationId>, bool), StoreError> {
        let mut tx = self.begin().await?;
        let came = Self::came(&mut tx).await?;
        if came.is_empty() {
            self.leave(tx).await?;
            return Ok((Vec::new(), false));
        }
        let mut conversations = Vec::new();
        for receipt in &came {
            let newly = Self::newly_read(&mut tx, receipt).await?;
            if !newly.is_empty() {
                conversations.push(receipt.conversation.clone());
            }
            for read in &newly {
                sqlx::query(
                    "INSERT INTO reads (message_id, person_id, at, event_id, implied) VALUES ($1, $2, $3, $4, $5)
                     ON CONFLICT DO NOTHING",
                )
                .bind(read.message.as_str())
                .bind(receipt.person.as_str())
                .bind(receipt.at)
                .bind(receipt.event.as_str())
                .bind(i64::from(read.event != receipt.event))
                .execute(&mut *tx)
                .await?;
            }
            Self::are_due(&mut tx, receipt, &newly).await?;
            Self::is_counted(&mut tx, receipt).await?;
            sqlx::query("DELETE FROM receipts WHERE portal_id = $1 AND person_id = $2 AND event_id = $3")
                .bind(receipt.portal.as_str())
                .bind(receipt.person.as_str())
                .bind(receipt.event.as_str())
                .execute(&mut *tx)
                .await?;
        }
        self.commit(tx, CommitPoint::ReadsCounted).await?;
        conversations.sort();
        conversations.dedup();
        Ok((conversations, i64::try_from(came.len()).is_ok_and(|count| count == MOST_AT_ONCE)))
    }

    /// Receipts whose events have come, oldest first.
    async fn came(tx: &mut Transaction) -> Result<Vec<Came>, StoreError> {
        type Row = (String, String, Option<String>, String, String, i64, i64, i64);
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT c.portal_id, p.conversation_id, p.patient_id, c.person_id, c.event_id, c.alone, c.at, i.seq
             FROM receipts c JOIN inbox i ON i.dedup_key = c.event_id JOIN portals p ON p.id = c.portal_id
             WHERE i.state NOT IN ('waiting', 'wordless') ORDER BY i.seq LIMIT $1",
        )
        .bind(MOST_AT_ONCE)
        .fetch_all(&mut **tx)
        .await?;
        let parse = |(portal, conversation, patient, person, event, alone, at, seq): Row| {
            Ok(Came {
                portal: parsed(RECEIPTS, &portal)?,
                conversation: parsed(RECEIPTS, &conversation)?,
                patient: patient.as_deref().map(|id| parsed(RECEIPTS, id)).transpose()?,
                person: parsed(RECEIPTS, &person)?,
                event: matrix_id(RECEIPTS, event)?,
                alone: alone == 1,
                at,
                seq,
            })
        };
        rows.into_iter().map(parse).collect()
    }

    /// What a receipt covers that its reader had not read: in the order of the portal, from the place on up to which that was
    /// counted before. What was deleted when it was read was not read.
    async fn newly_read(tx: &mut Transaction, receipt: &Came) -> Result<Vec<NewlyRead>, StoreError> {
        let rows: Vec<(String, String, Option<String>, String)> = sqlx::query_as(
            "SELECT m.id, m.portal_id, w.patient_id, x.event_id
             FROM mapping x JOIN messages m ON m.id = x.message_id JOIN inbox i ON i.dedup_key = x.event_id
             JOIN portals w ON w.id = m.portal_id
             WHERE x.portal_id = $1 AND x.current = 1 AND m.kind = 'message' AND m.sender_id <> $2
                 AND i.seq <= $3 AND ($4 = 0 OR x.event_id = $5)
                 AND i.seq > COALESCE((SELECT c.seq FROM read_places c WHERE c.portal_id = $1 AND c.person_id = $2), 0)
                 AND (m.deleted_at IS NULL OR m.deleted_at > $6)
                 AND NOT EXISTS (SELECT 1 FROM reads r WHERE r.message_id = m.id AND r.person_id = $2)
             ORDER BY i.seq",
        )
        .bind(receipt.portal.as_str())
        .bind(receipt.person.as_str())
        .bind(receipt.seq)
        .bind(i64::from(receipt.alone))
        .bind(receipt.event.as_str())
        .bind(receipt.at)
        .fetch_all(&mut **tx)
        .await?;
        rows.into_iter()
            .map(|(message, portal, patient, event)| {
                Ok(NewlyRead {
                    message: parsed(RECEIPTS, &message)?,
                    writer_portal: parsed(RECEIPTS, &portal)?,
                    writer_is_patient: patient.is_some(),
                    event: matrix_id(RECEIPTS, event)?,
                })
            })
            .collect()
    }

    /// All up to a receipt is counted for its reader; not what is still to be handled, and what stands behind that.
    async fn is_counted(tx: &mut Transaction, receipt: &Came) -> Result<(), StoreError> {
        if receipt.alone {
            return Ok(());
        }
        sqlx::query(
            "INSERT INTO read_places (portal_id, person_id, seq)
             SELECT $1, $2, CASE WHEN MIN(i.seq) IS NULL OR MIN(i.seq) > $3 THEN CAST($3 AS BIGINT) ELSE MIN(i.seq) - 1 END
             FROM inbox i WHERE i.state IN ('waiting', 'wordless') AND i.conversation_id = $4
             ON CONFLICT (portal_id, person_id) DO UPDATE SET seq = excluded.seq WHERE excluded.seq > read_places.seq",
        )
        .bind(receipt.portal.as_str())
        .bind(receipt.person.as_str())
        .bind(receipt.seq)
        .bind(receipt.conversation.as_str())
        .execute(&mut **tx)
        .await?;
        Ok(())
    }

    /// Where what somebody has newly read is to be shown: a patient's reading in the hub; that of staff in the spokes of those
    /// patients whose own words they have read (S17).
    async fn are_due(tx: &mut Transaction, receipt: &Came, newly: &[NewlyRead]) -> Result<(), StoreError> {
        for read in newly {
            let own = receipt.patient.is_none() == read.writer_is_patient;
            if !own {
                // Colleagues see each other's receipts where they are.
                continue;
            }
            let event: Option<(String,)> = sqlx::query_as(
                "SELECT event_id FROM mapping WHERE portal_id = $1 AND message_id = $2 AND current = 1",
            )
            .bind(read.writer_portal.as_str())
            .bind(read.message.as_str())
            .fetch_optional(&mut **tx)
            .await?;
            let Some((event,)) = event else { continue };
            sqlx::query(
                "INSERT INTO receipts_due (portal_id, person_id, event_id) VALUES ($1, $2, $3)
                 ON CONFLICT (portal_id, person_id) DO UPDATE SET event_id = excluded.event_id
                     WHERE COALESCE((SELECT n.seq FROM inbox n WHERE n.dedup_key = excluded.event_id), 0)
                         > COALESCE((SELECT b.seq FROM inbox b WHERE b.dedup_key = receipts_due.event_id), 0)",
            )
            .bind(read.writer_portal.as_str())
            .bind(receipt.person.as_str())
            .bind(event)
            .execute(&mut **tx)
            .await?;
        }
        Ok(())
    }

    /// The receipts that can be shown now: whose ghost is in the portal. Others wait for it to speak there; reading alone makes
    /// no ghost join.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn receipts_due(&self) -> Result<Vec<DueReceipt>, StoreError> {
        let rows: Vec<(String, String, String, String, String)> = sqlx::query_as(
            "SELECT d.portal_id, p.room_id, d.person_id, u.user_id, d.event_id
             FROM receipts_due d JOIN portals p ON p.id = d.portal_id
             JOIN our_users u ON u.person_id = d.person_id AND u.ready = 1
             JOIN portal_members i ON i.portal_id = d.portal_id AND i.user_id = u.user_id
             WHERE p.room_id IS NOT NULL LIMIT $1",
        )
        .bind(MOST_AT_ONCE)
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter()
            .map(|(portal, room_id, person, ghost, event)| {
                Ok(DueReceipt {
                    portal: parsed(RECEIPTS, &portal)?,
                    room_id: matrix_id(RECEIPTS, room_id)?,
                    person: parsed(RECEIPTS, &person)?,
                    ghost: matrix_id(RECEIPTS, ghost)?,
                    event_id: matrix_id(RECEIPTS, event)?,
                })
            })
            .collect()
    }

    /// These receipts are shown. One that has moved on meanwhile is still due.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn receipts_are_shown(&self, shown: &[DueReceipt]) -> Result<(), StoreError> {
        let mut tx = self.begin_unordered().await?;
        for receipt in shown {
            sqlx::query("DELETE FROM receipts_due WHERE portal_id = $1 AND person_id = $2 AND event_id = $3")
                .bind(receipt.portal.as_str())
                .bind(receipt.person.as_str())
                .bind(receipt.event_id.as_str())
                .execute(&mut *tx)
                .await?;
        }
        self.commit(tx, CommitPoint::ReceiptsShown).await
    }

    /// What became of a message.
    ///
    /// # Errors
    /// When the database fails, or there is no such message.
    pub async fn status_of(&self, message: &MessageId) -> Result<MessageStatus, StoreError> {
        let (sent_at, deleted_at): (i64, Option<i64>) =
            sqlx::query_as("SELECT sent_at, deleted_at FROM messages WHERE id = $1")
                .bind(message.as_str())
                .fetch_one(&self.pool)
                .await?;
        type WayRow = (Option<String>, String, Option<i64>, Option<i64>, Option<String>);
        let ways: Vec<WayRow> = sqlx::query_as(
            // When it was sent is when it was first. Where it stands now is where a repair has put it.
            "SELECT p.patient_id, o.state, o.held_at, o.landed_at, COALESCE((
                SELECT r.event_id FROM outbox r
                WHERE r.message_id = o.message_id AND r.portal_id = o.portal_id AND r.says = 'message' AND r.state = 'sent'
                ORDER BY r.repeats DESC LIMIT 1), o.event_id)
             FROM outbox o JOIN portals p ON p.id = o.portal_id
             WHERE o.message_id = $1 AND o.says = 'message' AND o.repeats = 0 ORDER BY o.seq",
        )
        .bind(message.as_str())
        .fetch_all(&self.pool)
        .await?;
        let ways = ways.into_iter().map(|(patient, state, held_at, landed_at, event)| {
            Ok(Way {
                patient: patient.as_deref().map(|id| parsed("portals", id)).transpose()?,
                state,
                held_at: held_at.map(Timestamp::from_millis),
                landed_at: landed_at.map(Timestamp::from_millis),
                event_id: event.map(|event| matrix_id("outbox", event)).transpose()?,
            })
        });
        Ok(MessageStatus {
            sent_at: Timestamp::from_millis(sent_at),
            deleted_at: deleted_at.map(Timestamp::from_millis),
            ways: ways.collect::<Result<_, StoreError>>()?,
            reads: self.reads_of(message).await?,
        })
    }

    async fn reads_of(&self, message: &MessageId) -> Result<Vec<Read>, StoreError> {
        type Row = (String, String, String, Vec<u8>, Option<Vec<u8>>, i64, String, i64);
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT p.id, p.user_id, p.role, p.name, p.record_number, r.at, r.event_id, r.implied
             FROM reads r JOIN people p ON p.id = r.person_id WHERE r.message_id = $1 ORDER BY r.at, p.id",
        )
        .bind(message.as_str())
        .fetch_all(&self.pool)
        .await?;
        let mut reads = Vec::with_capacity(rows.len());
        for (id, user_id, role, name, number, at, event, implied) in rows {
            let row: PersonRow = (id, user_id, role, name, number);
            reads.push(Read {
                person: self.person_of_row(row).await?,
                at: Timestamp::from_millis(at),
                event_id: matrix_id("reads", event)?,
                implied: implied == 1,
            });
        }
        Ok(reads)
    }
}
