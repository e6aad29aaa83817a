//! What is sent again from the record, and what it replaces.

use std::time::Duration;

use parlour_domain::{ConversationId, MessageId, PortalId, Timestamp};
use ruma::{OwnedEventId, OwnedUserId, UserId};

use super::{NewLeg, Store, StoreError, matrix_id, parsed, record::ledger};
use crate::commit_point::CommitPoint;

const OUTBOX: &str = "outbox";

/// A message that is sent again from the record, because somebody cannot read the event that it is.
pub struct Repair {
    /// The message.
    pub message: MessageId,
    /// Whose conversation.
    pub conversation: ConversationId,
    /// The event that cannot be read.
    pub unreadable: OwnedEventId,
    /// The leg that says it again.
    pub again: NewLeg,
    /// The leg that voids the event, once the message stands in the room again.
    pub redaction: NewLeg,
    /// Why, as the ledger keeps it.
    pub why: &'static str,
}

/// The name of a Megolm session: a keyed hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionName(String);

impl SessionName {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// A session of a ghost's in a portal whose messages are to be sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadableSession {
    /// The ghost.
    pub ghost: OwnedUserId,
    /// The portal.
    pub portal: PortalId,
    /// The session.
    pub session: SessionName,
}

impl Store {
    /// The name that a Megolm session has in the database.
    #[must_use]
    pub fn session_name(&self, session_id: &str) -> SessionName {
        SessionName(self.practice_key().name(&["megolm", session_id]))
    }

    /// Somebody may not have been able to read what a ghost has sent them. Whether this is news.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn repair_is_wished(&self, ghost: &UserId, reader: &UserId) -> Result<bool, StoreError> {
        let sql = "INSERT INTO repair_wishes (ghost, reader) VALUES ($1, $2) ON CONFLICT DO NOTHING";
        let wished = sqlx::query(sql).bind(ghost.as_str()).bind(reader.as_str());
        Ok(self.alone(CommitPoint::RepairWished, wished).await?.rows_affected() == 1)
    }

    /// They could after all.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn repair_is_needless(&self, ghost: &UserId, reader: &UserId) -> Result<(), StoreError> {
        let sql = "DELETE FROM repair_wishes WHERE ghost = $1 AND reader = $2";
        let needless = sqlx::query(sql).bind(ghost.as_str()).bind(reader.as_str());
        self.alone(CommitPoint::RepairWished, needless).await.map(drop)
    }

    /// Who could not read what which ghost has sent, as (ghost, reader).
    ///
    /// # Errors
    /// When the database fails.
    pub async fn repairs_wished(&self) -> Result<Vec<(OwnedUserId, OwnedUserId)>, StoreError> {
        let rows: Vec<(String, String)> =
            sqlx::query_as("SELECT ghost, reader FROM repair_wishes").fetch_all(&self.pool).await?;
        let parsed = rows.into_iter().map(|(ghost, reader)| {
            Ok((matrix_id("repair_wishes", ghost)?, matrix_id("repair_wishes", reader)?))
        });
        parsed.collect()
    }

    /// These are the sessions which somebody could not read, in one commit: the wish is granted by them.
    ///
    /// # Errors
    /// When the database fails; then nothing of it is kept.
    pub async fn sessions_are_unreadable(
        &self,
        ghost: &UserId,
        reader: &UserId,
        sessions: &[UnreadableSession],
    ) -> Result<(), StoreError> {
        let mut tx = self.begin_unordered().await?;
        for session in sessions {
            sqlx::query(
                "INSERT INTO repair_sessions (ghost, portal_id, session) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
            )
            .bind(session.ghost.as_str())
            .bind(session.portal.as_str())
            .bind(&session.session.0)
            .execute(&mut *tx)
            .await?;
        }
        sqlx::query("DELETE FROM repair_wishes WHERE ghost = $1 AND reader = $2")
            .bind(ghost.as_str())
            .bind(reader.as_str())
            .execute(&mut *tx)
            .await?;
        self.commit(tx, CommitPoint::RepairNamed).await
    }

    /// The sessions whose messages are to be sent again.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn unreadable_sessions(&self) -> Result<Vec<UnreadableSession>, StoreError> {
        let rows: Vec<(String, String, String)> =
            sqlx::query_as("SELECT ghost, portal_id, session FROM repair_sessions")
                .fetch_all(&self.pool)
                .await?;
        let parsed = rows.into_iter().map(|(ghost, portal, session)| {
            Ok(UnreadableSession {
                ghost: matrix_id("repair_sessions", ghost)?,
                portal: parsed("repair_sessions", &portal)?,
                session: SessionName(session),
            })
        });
        parsed.collect()
    }

    /// The portals that a user of ours has sent messages to.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn portals_written_by(&self, sender: &UserId) -> Result<Vec<PortalId>, StoreError> {
        let sql = "SELECT DISTINCT portal_id FROM outbox WHERE sender_user_id = $1 AND state = 'sent'";
        let rows: Vec<(String,)> = sqlx::query_as(sql).bind(sender.as_str()).fetch_all(&self.pool).await?;
        rows.iter().map(|(id,)| parsed(OUTBOX, id)).collect()
    }

    /// The ghosts that have spoken in this time before anybody of ours spoke last.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn spoke_last(&self, within: Duration) -> Result<Vec<OwnedUserId>, StoreError> {
        let sql = "SELECT DISTINCT sender_user_id FROM outbox
                   WHERE state = 'sent' AND message_id IS NOT NULL AND sender_user_id IS NOT NULL
                       AND added_at >= (SELECT MAX(added_at) FROM outbox) - $1";
        let within = i64::try_from(within.as_millis()).unwrap_or(i64::MAX);
        let rows: Vec<(String,)> = sqlx::query_as(sql).bind(within).fetch_all(&self.pool).await?;
        rows.into_iter().map(|(id,)| matrix_id(OUTBOX, id)).collect()
    }

    /// The messages that a user of ours has sent to a portal in one Megolm session, oldest first, each with the event
    /// that stands for it and its time. One that was sent again before is not among them: it would have no end.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn sent_in(
        &self,
        portal: &PortalId,
        sender: &UserId,
        session: &SessionName,
    ) -> Result<Vec<(MessageId, OwnedEventId, Timestamp)>, StoreError> {
        let rows: Vec<(String, String, i64)> = sqlx::query_as(
            "SELECT o.message_id, o.event_id, o.sent_at FROM outbox o
             JOIN mapping x ON x.portal_id = o.portal_id AND x.event_id = o.event_id AND x.current = 1
             WHERE o.portal_id = $1 AND o.sender_user_id = $2 AND o.session = $3 AND o.state = 'sent'
                 AND o.message_id IS NOT NULL AND o.redacts IS NULL
                 AND NOT EXISTS (SELECT 1 FROM mapping y WHERE y.portal_id = o.portal_id
                     AND y.message_id = o.message_id AND y.current = 0)
             ORDER BY o.seq",
        )
        .bind(portal.as_str())
        .bind(sender.as_str())
        .bind(&session.0)
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter()
            .map(|(message, event, at)| {
                Ok((parsed(OUTBOX, &message)?, matrix_id(OUTBOX, event)?, Timestamp::from_millis(at)))
            })
            .collect()
    }

    /// Messages are to be sent again from the record, and the events that they were voided, in one commit. Each event is
    /// repaired once, however often this is asked.
    ///
    /// # Errors
    /// When the database fails; then nothing of it is kept.
    pub async fn begin_repairs(
        &self,
        of: &UnreadableSession,
        repairs: &[Repair],
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        for repair in repairs {
            let begun: Option<(i64,)> = sqlx::query_as("SELECT seq FROM outbox WHERE leg_id = $1")
                .bind(repair.again.id.as_str())
                .fetch_optional(&mut *tx)
                .await?;
            if begun.is_some() {
                continue;
            }
            let (conversation, message) = (&repair.conversation, Some(&repair.message));
            ledger(&mut tx, conversation, &repair.unreadable, message, "repair", Some(repair.why), at)
                .await?;
            self.add(&mut tx, &repair.again, message, at).await?;
            self.add(&mut tx, &repair.redaction, message, at).await?;
        }
        sqlx::query("DELETE FROM repair_sessions WHERE ghost = $1 AND portal_id = $2 AND session = $3")
            .bind(of.ghost.as_str())
            .bind(of.portal.as_str())
            .bind(&of.session.0)
            .execute(&mut *tx)
            .await?;
        self.commit(tx, CommitPoint::RepairBegun).await
    }
}
