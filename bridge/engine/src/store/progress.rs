//! How far things have come: the making of a conversation, and the messages that are under way in it; and who takes part.
//! Numbers, and ids of messages and accounts; nobody's name, and nothing of what was said.

use parlour_domain::{ConversationId, MessageId, Role};
use ruma::{OwnedEventId, OwnedUserId};

use super::{Store, StoreError, matrix_id, parsed};

/// How far the making of a conversation has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Making {
    /// How many of its rooms stand, with whom they need in them.
    pub made: i64,
    /// Of how many.
    pub of: i64,
    /// Whether all is done.
    pub ready: bool,
}

/// How far a message has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sending {
    /// Which message.
    pub message: MessageId,
    /// The event that it is in the hub.
    pub event_id: OwnedEventId,
    /// How many of its legs stand in their rooms.
    pub sent: i64,
    /// How many wait until somebody can read them.
    pub held: i64,
    /// How many are still to be sent.
    pub waiting: i64,
    /// How many were given up.
    pub failed: i64,
    /// How many there are.
    pub of: i64,
    /// How many people have read it (S12).
    pub read: i64,
    /// Whether it was deleted (S18).
    pub deleted: bool,
}

/// Who takes part in a conversation, by their accounts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TakingPart {
    /// Whose it is.
    pub owner: Option<OwnedUserId>,
    /// All of the staff, the owner among them.
    pub staff: Vec<OwnedUserId>,
    /// Who of the staff writes in it besides the owner when it is one-way.
    pub senders: Vec<OwnedUserId>,
    /// All of the patients.
    pub patients: Vec<OwnedUserId>,
}

/// Of each message the legs that it went out by first; what a repair sends again is not one more. What was withdrawn is none that
/// waits, and counts among all. A patient's message is told of when it stands in the hub.
const SENDING: &str = "SELECT m.id, x.event_id,
        CAST(SUM(CASE WHEN o.state = 'sent' THEN 1 ELSE 0 END) AS BIGINT),
        CAST(SUM(CASE WHEN o.state = 'held' THEN 1 ELSE 0 END) AS BIGINT),
        CAST(SUM(CASE WHEN o.state = 'waiting' THEN 1 ELSE 0 END) AS BIGINT),
        CAST(SUM(CASE WHEN o.state = 'failed' THEN 1 ELSE 0 END) AS BIGINT),
        CAST(COUNT(o.seq) AS BIGINT),
        CAST((SELECT COUNT(*) FROM reads r WHERE r.message_id = m.id) AS BIGINT),
        CAST(CASE WHEN m.deleted_at IS NULL THEN 0 ELSE 1 END AS BIGINT)
     FROM messages m
     JOIN portals h ON h.conversation_id = m.conversation_id AND h.patient_id IS NULL
     JOIN mapping x ON x.message_id = m.id AND x.portal_id = h.id AND x.current = 1
     LEFT JOIN outbox o ON o.message_id = m.id AND o.repeats = 0 AND o.says = 'message'
     WHERE m.kind = 'message' AND m.id IN (
            SELECT id FROM (
                SELECT r.id FROM messages r
                WHERE r.conversation_id = $1 AND r.kind = 'message' ORDER BY r.sent_at DESC, r.id LIMIT 20
            ) AS last
            UNION SELECT w.message_id FROM portals q JOIN outbox w ON w.portal_id = q.id
                WHERE q.conversation_id = $1 AND w.state = 'waiting')
     GROUP BY m.id, x.event_id, m.sent_at, m.deleted_at ORDER BY m.sent_at DESC, m.id LIMIT 50";

impl Store {
    /// How far the making of a conversation has come; none when there is no such conversation.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn making(&self, id: &ConversationId) -> Result<Option<Making>, StoreError> {
        let row: Option<(i64, i64, i64)> = sqlx::query_as(
            "SELECT CAST(SUM(p.ready) AS BIGINT), CAST(COUNT(*) AS BIGINT), c.ready
             FROM conversations c JOIN portals p ON p.conversation_id = c.id WHERE c.id = $1
             GROUP BY c.id, c.ready",
        )
        .bind(id.as_str())
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.map(|(made, of, ready)| Making { made, of, ready: ready == 1 }))
    }

    /// Who takes part in a conversation.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn taking_part(&self, id: &ConversationId) -> Result<TakingPart, StoreError> {
        let rows: Vec<(String, String, i64, i64)> = sqlx::query_as(
            "SELECT p.user_id, p.role, t.may_send_one_way, CAST(CASE WHEN p.id = c.owner_id THEN 1 ELSE 0 END AS BIGINT)
             FROM participants t JOIN people p ON p.id = t.person_id JOIN conversations c ON c.id = t.conversation_id
             WHERE t.conversation_id = $1 ORDER BY p.user_id",
        )
        .bind(id.as_str())
        .fetch_all(&self.pool)
        .await?;
        let mut all = TakingPart::default();
        for (user_id, role, may_send, owns) in rows {
            let user_id: OwnedUserId = matrix_id("people", user_id)?;
            let role: Role = parsed("people", &role)?;
            if owns == 1 {
                all.owner = Some(user_id.clone());
            } else if may_send == 1 && role.is_staff() {
                all.senders.push(user_id.clone());
            }
            if role.is_staff() { all.staff.push(user_id) } else { all.patients.push(user_id) }
        }
        Ok(all)
    }

    /// How far the messages of a conversation have come: the last twenty, and those of which something is still to be sent;
    /// newest first, at most fifty. What waits for a reader for long is not told for ever.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn sending(&self, id: &ConversationId) -> Result<Vec<Sending>, StoreError> {
        type Row = (String, String, i64, i64, i64, i64, i64, i64, i64);
        let rows: Vec<Row> = sqlx::query_as(SENDING).bind(id.as_str()).fetch_all(&self.pool).await?;
        let sending =
            rows.into_iter().map(|(message, event_id, sent, held, waiting, failed, of, read, deleted)| {
                Ok(Sending {
                    message: parsed("messages", &message)?,
                    event_id: matrix_id("messages", event_id)?,
                    sent,
                    held,
                    waiting,
                    failed,
                    of,
                    read,
                    deleted: deleted == 1,
                })
            });
        sending.collect()
    }
}
