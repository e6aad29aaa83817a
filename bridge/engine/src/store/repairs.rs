//! What is sent again from the record, and what it replaces.

use std::str::FromStr;

use parlour_domain::{ConversationId, MessageId, PortalId, Timestamp};
use ruma::{OwnedDeviceId, OwnedEventId, OwnedUserId, UserId};

use super::{
    DeviceNews, NewLeg, Portal, Says, Store, StoreError, matrix_id, outbox, parsed, record::ledger,
    transaction::Transaction,
};
use crate::commit_point::CommitPoint;

const OUTBOX: &str = "outbox";

/// How often the same words are sent again at most: a device that can never read them must not have them for ever.
const MOST_REPEATS: i64 = 3;

/// A leg that stands in its room.
#[derive(Clone)]
pub struct SentLeg {
    /// The message that it is; none for the bot's own words.
    pub message: Option<MessageId>,
    /// What it says.
    pub says: Says,
    /// The event that it is.
    pub event: OwnedEventId,
    /// Its original time.
    pub sent_at: Timestamp,
    /// The user of ours who said it.
    pub by: OwnedUserId,
    /// How often it had been sent before.
    repeats: i64,
}

/// What is sent again from the record, because somebody cannot read the event that it is.
pub struct Repair {
    /// What cannot be read.
    pub of: SentLeg,
    /// The leg that says it again.
    pub again: NewLeg,
    /// The leg that voids the event, once its words stand in the room again.
    pub redaction: NewLeg,
}

/// Why something is sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// A device could not read its Olm messages.
    Wedged,
    /// It went to devices none of which ever came back.
    DeadDevice,
}

impl Why {
    /// As database and ledger keep it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Wedged => "wedged",
            Self::DeadDevice => "dead-device",
        }
    }
}

impl FromStr for Why {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        [Self::Wedged, Self::DeadDevice].into_iter().find(|why| why.as_str() == text).ok_or(())
    }
}

/// When something has landed: after one moment, and not after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Landed {
    after: i64,
    until: i64,
}

impl Landed {
    /// At any time, also in the time to come.
    pub const EVER: Self = Self { after: -1, until: i64::MAX };

    /// Only later than this.
    #[must_use]
    pub fn after(self, at: Timestamp) -> Self {
        Self { after: at.millis(), ..self }
    }

    /// Not later than this.
    #[must_use]
    pub fn until(self, at: Timestamp) -> Self {
        Self { until: at.millis(), ..self }
    }

    /// Whether something may still land then.
    #[must_use]
    pub fn is_open(self) -> bool {
        self.until == i64::MAX
    }

    /// Whether this moment is within it.
    #[must_use]
    pub fn holds(self, at: Timestamp) -> bool {
        (self.after + 1..=self.until).contains(&at.millis())
    }
}

/// The name of a Megolm session: a keyed hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionName(String);

impl SessionName {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// A session of a user of ours in a portal whose messages are to be sent again, all or some of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadableSession {
    /// Why they are.
    pub why: Why,
    /// Which of them, by when they have landed.
    pub landed: Landed,
    /// The user.
    pub ours: OwnedUserId,
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

    /// Somebody may not have been able to read what a user of ours has sent them. Whether this is news.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn repair_is_wished(&self, ours: &UserId, reader: &UserId) -> Result<bool, StoreError> {
        let sql = "INSERT INTO repair_wishes (ours, reader) VALUES ($1, $2) ON CONFLICT DO NOTHING";
        let wished = sqlx::query(sql).bind(ours.as_str()).bind(reader.as_str());
        Ok(self.alone(CommitPoint::RepairWished, wished).await?.rows_affected() == 1)
    }

    /// They could after all.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn repair_is_needless(&self, ours: &UserId, reader: &UserId) -> Result<(), StoreError> {
        let sql = "DELETE FROM repair_wishes WHERE ours = $1 AND reader = $2";
        let needless = sqlx::query(sql).bind(ours.as_str()).bind(reader.as_str());
        self.alone(CommitPoint::RepairWished, needless).await.map(drop)
    }

    /// Who could not read what which user of ours has sent, as (ours, reader).
    ///
    /// # Errors
    /// When the database fails.
    pub async fn repairs_wished(&self) -> Result<Vec<(OwnedUserId, OwnedUserId)>, StoreError> {
        let rows: Vec<(String, String)> =
            sqlx::query_as("SELECT ours, reader FROM repair_wishes").fetch_all(&self.pool).await?;
        let parsed = rows.into_iter().map(|(ours, reader)| {
            Ok((matrix_id("repair_wishes", ours)?, matrix_id("repair_wishes", reader)?))
        });
        parsed.collect()
    }

    /// These are the sessions which somebody could not read, in one commit: the wish is granted by them.
    ///
    /// # Errors
    /// When the database fails; then nothing of it is kept.
    pub async fn sessions_are_unreadable(
        &self,
        ours: &UserId,
        reader: &UserId,
        sessions: &[UnreadableSession],
    ) -> Result<(), StoreError> {
        let mut tx = self.begin_unordered().await?;
        are_unreadable(&mut tx, sessions).await?;
        sqlx::query("DELETE FROM repair_wishes WHERE ours = $1 AND reader = $2")
            .bind(ours.as_str())
            .bind(reader.as_str())
            .execute(&mut *tx)
            .await?;
        self.commit(tx, CommitPoint::RepairNamed).await
    }

    /// What users of ours have sent to a patient's spokes that landed after a moment, or is on its way: each session, and
    /// when the first of it landed, if any has.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn sent_to_after(
        &self,
        reader: &UserId,
        after: Option<Timestamp>,
    ) -> Result<Vec<(OwnedUserId, PortalId, SessionName, Option<Timestamp>)>, StoreError> {
        let rows: Vec<(String, String, String, Option<i64>)> = sqlx::query_as(
            "SELECT o.sender_user_id, o.portal_id, o.session, MIN(o.landed_at) FROM outbox o
             JOIN portals p ON p.id = o.portal_id JOIN people r ON r.id = p.patient_id
             WHERE r.user_id = $1 AND o.session IS NOT NULL AND o.sender_user_id IS NOT NULL AND o.repeats < $3
                 AND ((o.state = 'sent' AND o.landed_at > $2) OR o.state = 'waiting')
                 AND NOT EXISTS (SELECT 1 FROM outbox r WHERE r.redacts = o.event_id AND r.portal_id = o.portal_id)
                 AND NOT EXISTS (SELECT 1 FROM messages w WHERE w.id = o.message_id AND w.deleted_at IS NOT NULL)
             GROUP BY o.sender_user_id, o.portal_id, o.session",
        )
        .bind(reader.as_str())
        .bind(after.map_or(-1, Timestamp::millis))
        .bind(MOST_REPEATS)
        .fetch_all(&self.pool)
        .await?;
        let parsed = rows.into_iter().map(|(ours, portal, session, first)| {
            let first = first.map(Timestamp::from_millis);
            Ok((matrix_id(OUTBOX, ours)?, parsed(OUTBOX, &portal)?, SessionName(session), first))
        });
        parsed.collect()
    }

    /// What was heard of somebody's devices is dealt with: these sessions are what nobody got, and these devices are no
    /// longer fresh. In one commit.
    ///
    /// # Errors
    /// When the database fails; then nothing of it is kept.
    pub async fn device_news_is_dealt_with(
        &self,
        news: &DeviceNews,
        fresh: &[OwnedDeviceId],
        sessions: &[UnreadableSession],
    ) -> Result<(), StoreError> {
        let mut tx = self.begin_unordered().await?;
        are_unreadable(&mut tx, sessions).await?;
        Self::news_is_dealt_with(&mut tx, news, fresh).await?;
        let named = if sessions.is_empty() { CommitPoint::DevicesKnown } else { CommitPoint::RepairNamed };
        self.commit(tx, named).await
    }

    /// The sessions whose messages are to be sent again.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn unreadable_sessions(&self) -> Result<Vec<UnreadableSession>, StoreError> {
        let rows: Vec<(String, String, String, String, i64, i64)> = sqlx::query_as(
            "SELECT ours, portal_id, session, why, landed_after, landed_until FROM repair_sessions",
        )
        .fetch_all(&self.pool)
        .await?;
        let parsed = rows.into_iter().map(|(ours, portal, session, why, after, until)| {
            Ok(UnreadableSession {
                why: parsed("repair_sessions", &why)?,
                landed: Landed { after, until },
                ours: matrix_id("repair_sessions", ours)?,
                portal: parsed("repair_sessions", &portal)?,
                session: SessionName(session),
            })
        });
        parsed.collect()
    }

    /// The portals that a user of ours writes to, of those that somebody reads.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn portals_between(
        &self,
        sender: &UserId,
        reader: &UserId,
    ) -> Result<Vec<PortalId>, StoreError> {
        let rows: Vec<(String,)> = sqlx::query_as(
            "SELECT p.id FROM portals p
             WHERE EXISTS (SELECT 1 FROM outbox o WHERE o.sender_user_id = $1 AND o.portal_id = p.id)
                 AND p.id IN (SELECT s.id FROM people r JOIN portals s ON s.patient_id = r.id WHERE r.user_id = $2
                              UNION SELECT h.id FROM people r JOIN participants t ON t.person_id = r.id
                              JOIN portals h ON h.conversation_id = t.conversation_id AND h.patient_id IS NULL
                              WHERE r.user_id = $2 AND r.role <> 'patient')",
        )
        .bind(sender.as_str())
        .bind(reader.as_str())
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(|(id,)| parsed(OUTBOX, id)).collect()
    }

    /// Whether something may still land in a portal that is encrypted with this session: it is on its way, or was not
    /// encrypted yet when this is asked.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn is_on_its_way(&self, of: &UnreadableSession) -> Result<bool, StoreError> {
        let found: Option<(i64,)> = sqlx::query_as(
            "SELECT seq FROM outbox WHERE portal_id = $1 AND state IN ('waiting', 'held') AND says IN ('message', 'notice')
                 AND (session IS NULL OR session = $2) LIMIT 1",
        )
        .bind(of.portal.as_str())
        .bind(&of.session.0)
        .fetch_optional(&self.pool)
        .await?;
        Ok(found.is_some())
    }

    /// The session in which a user of ours has sent to a portal last.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn last_session(
        &self,
        sender: &UserId,
        portal: &PortalId,
    ) -> Result<Option<SessionName>, StoreError> {
        let found: Option<(String,)> = sqlx::query_as(
            "SELECT session FROM outbox WHERE sender_user_id = $1 AND portal_id = $2 AND session IS NOT NULL
             ORDER BY seq DESC LIMIT 1",
        )
        .bind(sender.as_str())
        .bind(portal.as_str())
        .fetch_optional(&self.pool)
        .await?;
        Ok(found.map(|(session,)| SessionName(session)))
    }

    /// What a user of ours has sent to a portal that is to be sent again, oldest first, and what stands about it: that goes with
    /// the event that goes. What was sent again since is not
    /// among it, nor what was sent again too often.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn sent_in(&self, portal: &Portal, of: &UnreadableSession) -> Result<Vec<SentLeg>, StoreError> {
        type Row = (String, Option<String>, Option<Vec<u8>>, Option<String>, String, i64, i64, String);
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT o.leg_id, o.message_id, o.notice, o.notice_about, o.event_id, o.sent_at, o.repeats,
                 o.sender_user_id FROM outbox o LEFT JOIN messages m ON m.id = o.message_id
             WHERE o.portal_id = $1 AND o.state = 'sent' AND o.says IN ('message', 'notice') AND o.repeats < $4
                 AND o.sender_user_id IS NOT NULL AND m.deleted_at IS NULL
                 AND NOT EXISTS (SELECT 1 FROM outbox r WHERE r.redacts = o.event_id AND r.portal_id = o.portal_id)
                 AND ((o.sender_user_id = $2 AND o.session = $3 AND o.landed_at > $5 AND o.landed_at <= $6)
                     OR (m.kind IN ('edit', 'reaction') AND EXISTS (
                         SELECT 1 FROM outbox b JOIN messages w ON w.id = b.message_id
                         WHERE b.message_id = m.about AND b.portal_id = $1 AND b.sender_user_id = $2 AND b.session = $3
                             AND b.state = 'sent' AND b.says = 'message' AND b.repeats < $4
                             AND b.landed_at > $5 AND b.landed_at <= $6 AND w.deleted_at IS NULL
                             AND NOT EXISTS (
                                 SELECT 1 FROM outbox g WHERE g.redacts = b.event_id AND g.portal_id = b.portal_id))))
             ORDER BY o.seq",
        )
        .bind(portal.id.as_str())
        .bind(of.ours.as_str())
        .bind(&of.session.0)
        .bind(MOST_REPEATS)
        .bind(of.landed.after)
        .bind(of.landed.until)
        .fetch_all(&self.pool)
        .await?;
        let key = self.portal_key(portal).await?;
        rows.into_iter()
            .map(|(leg, message, notice, about, event, at, repeats, by)| {
                let leg = parsed(OUTBOX, &leg)?;
                Ok(SentLeg {
                    message: message.map(|id| parsed(OUTBOX, &id)).transpose()?,
                    says: match notice {
                        Some(words) => Says::Notice(
                            key.open_text(outbox::place("notice", &leg), &words)?,
                            about.map(|id| matrix_id(OUTBOX, id)).transpose()?,
                        ),
                        None => Says::TheMessage,
                    },
                    event: matrix_id(OUTBOX, event)?,
                    sent_at: Timestamp::from_millis(at),
                    by: matrix_id(OUTBOX, by)?,
                    repeats,
                })
            })
            .collect()
    }

    /// Whether a message was deleted, perhaps since it was looked for what is to be sent again.
    async fn is_deleted(tx: &mut Transaction, message: Option<&MessageId>) -> Result<bool, StoreError> {
        let found: Option<(String,)> =
            sqlx::query_as("SELECT id FROM messages WHERE id = $1 AND deleted_at IS NOT NULL")
                .bind(message.map(MessageId::as_str))
                .fetch_optional(&mut **tx)
                .await?;
        Ok(found.is_some())
    }

    /// Words are to be sent again from the record, and the events that they were voided, in one commit. Each event is
    /// repaired once, however often this is asked. The session is dealt with when this `is_all` that can land in it.
    ///
    /// # Errors
    /// When the database fails; then nothing of it is kept.
    pub async fn begin_repairs(
        &self,
        of: &UnreadableSession,
        conversation: &ConversationId,
        repairs: &[Repair],
        is_all: bool,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        for repair in repairs {
            let begun: Option<(i64,)> = sqlx::query_as("SELECT seq FROM outbox WHERE leg_id = $1")
                .bind(repair.again.id.as_str())
                .fetch_optional(&mut *tx)
                .await?;
            if begun.is_some() || Self::is_deleted(&mut tx, repair.of.message.as_ref()).await? {
                continue;
            }
            let message = repair.of.message.as_ref();
            ledger(&mut tx, conversation, &repair.of.event, message, "repair", Some(of.why.as_str()), at)
                .await?;
            self.add(&mut tx, std::slice::from_ref(&repair.again), message, at).await?;
            sqlx::query("UPDATE outbox SET repeats = $2 WHERE leg_id = $1")
                .bind(repair.again.id.as_str())
                .bind(repair.of.repeats + 1)
                .execute(&mut *tx)
                .await?;
            self.add(&mut tx, std::slice::from_ref(&repair.redaction), message, at).await?;
        }
        if is_all {
            sqlx::query(
                "DELETE FROM repair_sessions WHERE ours = $1 AND portal_id = $2 AND session = $3 AND why = $4",
            )
            .bind(of.ours.as_str())
            .bind(of.portal.as_str())
            .bind(&of.session.0)
            .bind(of.why.as_str())
            .execute(&mut *tx)
            .await?;
        }
        self.commit(tx, CommitPoint::RepairBegun).await
    }
}

/// Writes down what is to be sent again. Where that stood there for the same reason, all of both is.
async fn are_unreadable(tx: &mut Transaction, sessions: &[UnreadableSession]) -> Result<(), StoreError> {
    for session in sessions {
        sqlx::query(
            "INSERT INTO repair_sessions (ours, portal_id, session, why, landed_after, landed_until)
             VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (ours, portal_id, session, why) DO UPDATE SET
                 landed_after = CASE WHEN excluded.landed_after < repair_sessions.landed_after
                     THEN excluded.landed_after ELSE repair_sessions.landed_after END,
                 landed_until = CASE WHEN excluded.landed_until > repair_sessions.landed_until
                     THEN excluded.landed_until ELSE repair_sessions.landed_until END",
        )
        .bind(session.ours.as_str())
        .bind(session.portal.as_str())
        .bind(&session.session.0)
        .bind(session.why.as_str())
        .bind(session.landed.after)
        .bind(session.landed.until)
        .execute(&mut **tx)
        .await?;
    }
    Ok(())
}
