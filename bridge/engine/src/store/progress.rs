//! How far things have come: the making of a conversation, and the messages that are under way in it. Numbers, and ids of
//! messages; nobody's name, and nothing of what was said.

use parlour_domain::{ConversationId, MessageId};
use ruma::OwnedEventId;

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
