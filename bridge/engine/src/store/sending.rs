//! The outbox as the sender sees it: the next legs of many portals, and what has become of them, many in one commit.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use parlour_domain::{LegId, MessageId, PersonId, PortalId, Timestamp};
use ruma::{OwnedEventId, OwnedUserId};
use sqlx::{AssertSqlSafe, FromRow};

use super::{
    Leg, LegContent, SessionName, Store, StoreError, conversations,
    lists::{self, padded, with_list},
    matrix_id, one_row,
    outbox::{OUTBOX, landed, place},
    parsed, record,
};
use crate::commit_point::CommitPoint;

/// The messages that were deleted last, so that nobody who is about to send something need ask the database.
#[derive(Clone, Debug, Default)]
pub(super) struct TakenBack(Arc<Mutex<HashSet<MessageId>>>);

/// Of so many, or fewer.
const MOST_TAKEN_BACK: usize = 10_000;

impl TakenBack {
    /// This one is about to be.
    pub(super) fn add(&self, message: &MessageId) {
        let mut messages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if messages.len() >= MOST_TAKEN_BACK {
            messages.clear();
        }
        messages.insert(message.clone());
    }

    fn may_have(&self, message: &MessageId) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(message)
    }
}

/// A leg that was encrypted.
pub struct SealedLeg<'a> {
    /// The leg.
    pub leg: &'a Leg,
    /// The encrypted content, as JSON.
    pub ciphertext: String,
    /// The Megolm session; none is what Matrix never encrypts.
    pub session_id: Option<String>,
    /// The user of ours who sends it.
    pub sender: OwnedUserId,
}

/// Who is in a portal.
#[derive(Debug, Default)]
pub struct Members {
    /// The people who read it.
    pub readers: Vec<OwnedUserId>,
    /// The others: users of ours, and whoever is still in it who does not take part any more.
    pub others: HashSet<OwnedUserId>,
}

#[derive(FromRow)]
struct LegRow {
    seq: i64,
    leg_id: String,
    message_id: Option<String>,
    notice: Option<Vec<u8>>,
    notice_about: Option<String>,
    says: String,
    redacts: Option<String>,
    sent_at: i64,
    ciphertext: Option<Vec<u8>>,
    sender_user_id: Option<String>,
    attempts: i64,
    next_attempt_at: i64,
    state: String,
    portal_id: String,
    conversation_id: String,
    patient_id: Option<String>,
    room_id: Option<String>,
    attempted: Option<i64>,
    mode: Option<String>,
    mode_since: i64,
    revision: i64,
    revision_set: i64,
    sender_id: Option<String>,
    content: Option<Vec<u8>>,
    lane: Option<String>,
    about_event: Option<String>,
    deleted_event: Option<String>,
    home_id: Option<String>,
    source: Option<String>,
}

const LEGS: &str = "SELECT o.seq, o.leg_id, o.message_id, o.notice, o.notice_about, o.says, o.redacts, o.sent_at, o.ciphertext,
        o.sender_user_id, o.attempts, o.next_attempt_at, o.state, o.portal_id, p.conversation_id, p.patient_id, p.room_id,
        p.attempted, p.mode, p.mode_since, p.revision, p.revision_set, m.sender_id, m.content, m.lane, x.event_id AS about_event,
        d.event_id AS deleted_event, m.portal_id AS home_id, m.event_id AS source
     FROM outbox o JOIN portals p ON p.id = o.portal_id
     LEFT JOIN messages m ON m.id = o.message_id
     LEFT JOIN mapping x ON x.message_id = m.about AND x.portal_id = o.portal_id AND x.current = 1
     LEFT JOIN mapping d ON o.says = 'deletion' AND d.message_id = o.message_id AND d.portal_id = o.portal_id AND d.current = 1
     WHERE o.seq IN (
         SELECT COALESCE(MIN(CASE WHEN says = 'deletion' AND NOT EXISTS (
                 SELECT 1 FROM outbox w WHERE w.message_id = n.message_id AND w.portal_id = n.portal_id
                     AND w.says = 'message' AND w.state IN ('waiting', 'held')) THEN seq END), MIN(seq))
         FROM outbox n WHERE state IN ('waiting', 'held') AND portal_id IN";
const A_PORTAL_EACH: &str = "GROUP BY portal_id)";
/// Whoever is in a portal reads it: in the hub, staff who take part; in a spoke its patient, always. What is on its way there was
/// said while they took part.
const MEMBERS: &str =
    "SELECT i.portal_id, i.user_id, CASE WHEN p.patient_id = r.id OR t.person_id IS NOT NULL THEN 1 ELSE 0 END
     FROM portal_members i JOIN portals p ON p.id = i.portal_id
     LEFT JOIN people r ON r.user_id = i.user_id
     LEFT JOIN participants t ON t.conversation_id = p.conversation_id AND t.person_id = r.id
         AND p.patient_id IS NULL AND r.role <> 'patient'
     WHERE i.portal_id IN";

impl Store {
    /// The next leg of each of these portals, the oldest that is not sent; none of a portal where nothing waits. What is deleted
    /// goes first, unless it is still on its way itself: it waits for nobody who could read what was written before. A leg
    /// that does not open is its portal's matter alone.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn next_legs(
        &self,
        portals: &[PortalId],
    ) -> Result<Vec<(PortalId, Result<Leg, StoreError>)>, StoreError> {
        self.legs_by(LEGS, portals).await
    }

    /// The legs of these portals that were added last, for the fault of that name.
    #[cfg(feature = "faults")]
    pub(crate) async fn newest_legs(
        &self,
        portals: &[PortalId],
    ) -> Result<Vec<(PortalId, Result<Leg, StoreError>)>, StoreError> {
        self.legs_by(&LEGS.replace(", MIN(seq))", ", MAX(seq))"), portals).await
    }

    async fn legs_by(
        &self,
        select: &str,
        portals: &[PortalId],
    ) -> Result<Vec<(PortalId, Result<Leg, StoreError>)>, StoreError> {
        let mut legs = Vec::with_capacity(portals.len());
        for portals in portals.chunks(lists::MOST) {
            let sql = with_list(select, 1, portals.len(), A_PORTAL_EACH);
            let mut query = sqlx::query_as::<_, LegRow>(AssertSqlSafe(sql));
            for portal in padded(portals) {
                query = query.bind(portal.as_str());
            }
            for row in query.fetch_all(&self.pool).await? {
                let portal = parsed(OUTBOX, &row.portal_id)?;
                legs.push((portal, self.leg(row).await));
            }
        }
        Ok(legs)
    }

    async fn leg(&self, row: LegRow) -> Result<Leg, StoreError> {
        let id: LegId = parsed(OUTBOX, &row.leg_id)?;
        let portal = conversations::portal((
            row.portal_id,
            row.conversation_id,
            row.patient_id,
            row.room_id,
            row.attempted,
            row.mode,
            row.mode_since,
            row.revision,
            row.revision_set,
        ))?;
        let key = self.portal_key(&portal).await?;
        let sender: Option<OwnedUserId> = row.sender_user_id.map(|id| matrix_id(OUTBOX, id)).transpose()?;
        let message: Option<MessageId> = row.message_id.map(|id| parsed(OUTBOX, &id)).transpose()?;
        let written = || {
            let (Some(by), Some(home), Some(source)) = (&row.sender_id, &row.home_id, row.source.clone())
            else {
                return Err(StoreError::Malformed("messages"));
            };
            let source = (parsed("messages", home)?, matrix_id("messages", source)?);
            Ok::<(PersonId, (PortalId, OwnedEventId)), _>((parsed("messages", by)?, source))
        };
        let content = match (row.says.as_str(), &message, row.notice, row.redacts) {
            ("void", _, None, Some(event)) => LegContent::Redaction {
                by: sender.clone().ok_or(StoreError::Malformed(OUTBOX))?,
                event: matrix_id(OUTBOX, event)?,
            },
            ("deletion", Some(_), None, None) => {
                let (writer, source) = written()?;
                let event = row.deleted_event.map(|id| matrix_id("mapping", id)).transpose()?;
                LegContent::Deletion { sender: writer, by: sender.clone(), event, source }
            }
            ("message", Some(message), None, None) => {
                let (writer, source) = written()?;
                let sealed = row.content.ok_or(StoreError::Malformed("messages"))?;
                let lane = row.lane.as_deref().map(|id| parsed::<PersonId>("messages", id)).transpose()?;
                let key = self.key(&record::owner(lane.as_ref(), &portal.conversation)).await?;
                let said = key.open_text(record::place("content", message), &sealed)?;
                LegContent::Message {
                    sender: writer,
                    said: serde_json::from_str(&said).map_err(|_| StoreError::Malformed("messages"))?,
                    about: row.about_event.map(|id| matrix_id("mapping", id)).transpose()?,
                    source,
                }
            }
            ("notice", None, Some(body), None) => LegContent::Notice {
                body: key.open_text(place("notice", &id), &body)?,
                about: row.notice_about.map(|id| matrix_id(OUTBOX, id)).transpose()?,
            },
            _ => return Err(StoreError::Malformed(OUTBOX)),
        };
        let ciphertext =
            row.ciphertext.map(|sealed| key.open_text(place("ciphertext", &id), &sealed)).transpose()?;
        Ok(Leg {
            seq: row.seq,
            portal,
            message: message.filter(|_| matches!(content, LegContent::Message { .. })),
            content,
            sent_at: Timestamp::from_millis(row.sent_at),
            sealed: ciphertext.zip(sender),
            held: row.state == "held",
            attempts: row.attempts,
            next_attempt_at: Timestamp::from_millis(row.next_attempt_at),
            id,
        })
    }

    /// Who is in these portals.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn members(&self, portals: &[PortalId]) -> Result<HashMap<PortalId, Members>, StoreError> {
        let mut members: HashMap<PortalId, Members> = HashMap::new();
        for portals in portals.chunks(lists::MOST) {
            let sql = with_list(MEMBERS, 1, portals.len(), "ORDER BY i.portal_id, i.user_id");
            let mut query = sqlx::query_as::<_, (String, String, i64)>(AssertSqlSafe(sql));
            for portal in padded(portals) {
                query = query.bind(portal.as_str());
            }
            for (portal, user_id, reads) in query.fetch_all(&self.pool).await? {
                let members = members.entry(parsed("portal_members", &portal)?).or_default();
                let user_id: OwnedUserId = matrix_id("portal_members", user_id)?;
                if reads == 1 {
                    members.readers.push(user_id);
                } else {
                    members.others.insert(user_id);
                }
            }
        }
        Ok(members)
    }

    /// These legs are encrypted, in one commit: from now on exactly these bytes are sent, by these users. Those that were;
    /// what is not to be sent any more is not among them.
    ///
    /// # Errors
    /// When the database fails; then none is.
    pub async fn legs_are_sealed(&self, legs: &[SealedLeg<'_>]) -> Result<HashSet<i64>, StoreError> {
        let mut keys = Vec::with_capacity(legs.len());
        for sealed in legs {
            keys.push(self.portal_key(&sealed.leg.portal).await?);
        }
        let mut kept = HashSet::new();
        let mut tx = self.begin_unordered().await?;
        for (sealed, key) in legs.iter().zip(keys) {
            let session = sealed.session_id.as_ref().map(|id| self.session_name(id));
            let result = sqlx::query(
                "UPDATE outbox SET ciphertext = $2, sender_user_id = $3, session = $4, state = 'waiting'
                 WHERE seq = $1 AND ciphertext IS NULL AND state IN ('waiting', 'held')",
            )
            .bind(sealed.leg.seq)
            .bind(key.seal(place("ciphertext", &sealed.leg.id), sealed.ciphertext.as_bytes()))
            .bind(sealed.sender.as_str())
            .bind(session.as_ref().map(SessionName::as_str))
            .execute(&mut *tx)
            .await?;
            if result.rows_affected() == 1 {
                kept.insert(sealed.leg.seq);
            }
        }
        self.commit(tx, CommitPoint::LegSealed).await?;
        Ok(kept)
    }

    /// Nobody in their portals can read these legs yet.
    ///
    /// # Errors
    /// When the database fails; then it is told of none.
    pub async fn legs_are_held(&self, legs: &[i64], at: Timestamp) -> Result<(), StoreError> {
        // Nothing is added behind them meanwhile.
        let mut tx = self.begin().await?;
        for seq in legs {
            // How long it had to wait is told from the first time.
            let held = "UPDATE outbox SET state = 'held', held_at = COALESCE(held_at, $2)
                 WHERE portal_id = (SELECT h.portal_id FROM outbox h WHERE h.seq = $1) AND seq >= $1
                     AND state = 'waiting' AND says IN ('message', 'notice') AND ciphertext IS NULL";
            sqlx::query(held).bind(seq).bind(at.millis()).execute(&mut *tx).await?;
        }
        self.commit(tx, CommitPoint::LegHeld).await
    }

    /// What a leg is about does not stand in its portal, so it is not sent.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn leg_is_void(&self, seq: i64) -> Result<(), StoreError> {
        let void = "UPDATE outbox SET state = 'withdrawn' WHERE seq = $1 AND state IN ('waiting', 'held')";
        self.alone(CommitPoint::LegVoid, sqlx::query(void).bind(seq)).await.map(drop)
    }

    /// Whether what a leg says may have been deleted since it was encrypted.
    #[must_use]
    pub fn may_be_taken_back(&self, leg: &Leg) -> bool {
        leg.message.as_ref().is_some_and(|message| self.taken_back.may_have(message))
    }

    /// A leg of which nothing was sent is not sent any more, if what it says was deleted. Whether it was.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn is_taken_back(&self, seq: i64) -> Result<bool, StoreError> {
        let sql = "UPDATE outbox SET state = 'withdrawn' WHERE seq = $1 AND says = 'message' AND state IN ('waiting', 'held')
             AND EXISTS (SELECT 1 FROM messages m WHERE m.id = outbox.message_id AND m.deleted_at IS NOT NULL)";
        let withdrawn = self.alone(CommitPoint::LegVoid, sqlx::query(sql).bind(seq)).await?;
        Ok(withdrawn.rows_affected() > 0)
    }

    /// Sending a leg failed; it is tried again not before `next`. Only a failure that does not pass counts as an
    /// attempt.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn leg_is_put_off(&self, seq: i64, counts: bool, next: Timestamp) -> Result<(), StoreError> {
        let sql = "UPDATE outbox SET attempts = attempts + $3, next_attempt_at = $2 WHERE seq = $1";
        let put_off = sqlx::query(sql).bind(seq).bind(next.millis()).bind(i64::from(counts));
        one_row(OUTBOX, &self.alone(CommitPoint::LegPutOff, put_off).await?)
    }

    /// Whether a leg stands in its room.
    ///
    /// # Errors
    /// When the database fails, or there is no such leg.
    pub async fn has_landed(&self, seq: i64) -> Result<bool, StoreError> {
        let (state,): (String,) =
            sqlx::query_as("SELECT state FROM outbox WHERE seq = $1").bind(seq).fetch_one(&self.pool).await?;
        Ok(state == "sent")
    }

    /// Legs stand in their rooms as these events, by the homeserver's answers. Their echoes may have told before; an unknown
    /// leg, and one that stands already, change nothing.
    ///
    /// # Errors
    /// When the database fails; then nothing of it is kept.
    pub async fn legs_have_landed(
        &self,
        legs: &[(LegId, OwnedEventId)],
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let mut news = false;
        for (leg, event) in legs {
            news |= landed(&mut tx, leg, event, at).await?.is_some();
        }
        match news {
            true => self.commit(tx, CommitPoint::LegLanded).await,
            // Their echoes have told already.
            false => self.leave(tx).await,
        }
    }
}
