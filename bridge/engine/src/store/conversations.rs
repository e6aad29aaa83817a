//! Conversations and their portals.

use std::collections::HashSet;

use parlour_domain::{
    ConversationId, ConversationName, Mode, NewConversation, PersonId, PortalId, PortalKind, Subject,
    Timestamp,
};
use ruma::{OwnedRoomId, RoomId, UserId};

use super::{
    NewLeg, Store, StoreError, matrix_id, one_row, parsed,
    seal::{Owner, Place},
    transaction::Transaction,
};
use crate::commit_point::CommitPoint;

/// A conversation as it stands.
#[derive(Clone, Debug)]
pub struct Conversation {
    /// Its id.
    pub id: ConversationId,
    /// The staff's name for it.
    pub name: ConversationName,
    /// What patients see.
    pub subject: Option<Subject>,
    /// Who may write.
    pub mode: Mode,
    /// Who owns it.
    pub owner: PersonId,
    /// Whether all its rooms stand.
    pub ready: bool,
    /// Whether the bot has said what a laned reply is.
    pub lanes_told: bool,
}

/// A room bound to a conversation.
#[derive(Clone, Debug)]
pub struct Portal {
    /// Its id.
    pub id: PortalId,
    /// Whose it is.
    pub conversation: ConversationId,
    /// The patient of a spoke; none is the hub.
    pub patient: Option<PersonId>,
    /// The room, once it is made.
    pub room_id: Option<OwnedRoomId>,
    /// Whether making the room was begun before.
    pub attempted: Option<Timestamp>,
    /// Who may write in it, as its room's own events tell up to what is handled now; none before the room is made.
    pub mode: Option<Mode>,
    /// Since when that holds, by the homeserver's clock.
    pub mode_since: Timestamp,
    /// Which revision of what its room is to be like was known when this was read.
    pub revision: i64,
    /// To which revision its room was set.
    pub revision_set: i64,
}

impl Portal {
    /// Hub or spoke.
    #[must_use]
    pub fn kind(&self) -> PortalKind {
        if self.patient.is_some() { PortalKind::Spoke } else { PortalKind::Hub }
    }
}

/// A request that its client may make again when it has heard no answer: it chose a key for it.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// The key, which is the caller's own.
    pub key: &'a str,
    /// What is asked for; it is the same when the request is made again.
    pub body: &'a str,
}

/// What writing a new conversation down came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begun {
    /// It is written down.
    Now,
    /// The same request has begun this one before.
    Before(ConversationId),
    /// Another request of the caller's had this key.
    Otherwise,
}

const CONVERSATION: &str = "conversations";
type ConversationRow = (String, Vec<u8>, Option<Vec<u8>>, String, String, i64, i64);

fn place<'a>(column: &'static str, id: &'a ConversationId) -> Place<'a> {
    Place { table: CONVERSATION, column, row: id.as_str() }
}

const PORTAL: &str = "portals";
pub(super) type PortalRow =
    (String, String, Option<String>, Option<String>, Option<i64>, Option<String>, i64, i64, i64);

/// `SELECT` of what [`portal`] reads, and what follows it.
macro_rules! portals {
    ($rest:literal) => {
        concat!(
            "SELECT id, conversation_id, patient_id, room_id, attempted, mode, mode_since, revision, revision_set FROM portals ",
            $rest
        )
    };
}
pub(super) use portals;

pub(super) fn portal(
    (id, conversation, patient, room_id, attempted, mode, mode_since, revision, revision_set): PortalRow,
) -> Result<Portal, StoreError> {
    Ok(Portal {
        id: parsed(PORTAL, &id)?,
        conversation: parsed(PORTAL, &conversation)?,
        patient: patient.map(|id| parsed(PORTAL, &id)).transpose()?,
        room_id: room_id.map(|id| matrix_id(PORTAL, id)).transpose()?,
        attempted: attempted.map(Timestamp::from_millis),
        mode: mode.map(|mode| parsed(PORTAL, &mode)).transpose()?,
        mode_since: Timestamp::from_millis(mode_since),
        revision,
        revision_set,
    })
}

impl Store {
    /// Writes a new conversation down, with its participants and portals, none of them made yet; but only once for one
    /// `request`, however often it is made.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn add_conversation(
        &self,
        id: &ConversationId,
        new: &NewConversation,
        portals: &[(PortalId, Option<PersonId>)],
        request: Option<Request<'_>>,
        at: Timestamp,
    ) -> Result<Begun, StoreError> {
        // What its client has chosen may say anything, so it is kept as a hash.
        let request = request.map(|request| {
            let name = self.practice_key().name(&["request", new.owner.as_str(), request.key]);
            (name, self.practice_key().name(&["request-body", request.body]))
        });
        let (name, body) = request.unzip();
        let mut tx = self.begin_unordered().await?;
        if !self.add_row(&mut tx, id, new, (name.as_deref(), body.as_deref()), at).await? {
            let sql = "SELECT id, request_body FROM conversations WHERE request = $1";
            let (before, same): (String, Option<String>) =
                sqlx::query_as(sql).bind(name).fetch_one(&mut *tx).await?;
            self.leave(tx).await?;
            let before = parsed(CONVERSATION, &before)?;
            return Ok(if same == body { Begun::Before(before) } else { Begun::Otherwise });
        }
        for person in new.staff.iter().chain(&new.patients) {
            sqlx::query(
                "INSERT INTO participants (conversation_id, person_id, may_send_one_way, since) VALUES ($1, $2, $3, $4)",
            )
            .bind(id.as_str())
            .bind(person.as_str())
            .bind(i64::from(*person == new.owner || new.senders.contains(person)))
            .bind(0)
            .execute(&mut *tx)
            .await?;
        }
        for (portal, patient) in portals {
            sqlx::query("INSERT INTO portals (id, conversation_id, patient_id) VALUES ($1, $2, $3)")
                .bind(portal.as_str())
                .bind(id.as_str())
                .bind(patient.as_ref().map(PersonId::as_str))
                .execute(&mut *tx)
                .await?;
        }
        self.commit(tx, CommitPoint::ConversationKept).await?;
        Ok(Begun::Now)
    }

    /// Writes the conversation itself down, unless its request has begun one before.
    async fn add_row(
        &self,
        tx: &mut Transaction,
        id: &ConversationId,
        new: &NewConversation,
        (request, body): (Option<&str>, Option<&str>),
        at: Timestamp,
    ) -> Result<bool, StoreError> {
        let key = self.keys.make(tx, &Owner::Conversation(id.clone())).await?;
        let subject = new.subject.as_ref();
        let added = sqlx::query(
            "INSERT INTO conversations (id, name, subject, mode, owner_id, created_at, request, request_body)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (request) DO NOTHING",
        )
        .bind(id.as_str())
        .bind(key.seal(place("name", id), new.name.as_str().as_bytes()))
        .bind(subject.map(|subject| key.seal(place("subject", id), subject.as_str().as_bytes())))
        .bind(new.mode.as_str())
        .bind(new.owner.as_str())
        .bind(at.millis())
        .bind(request)
        .bind(body)
        .execute(&mut **tx)
        .await?;
        Ok(added.rows_affected() == 1)
    }

    async fn conversation_of_row(
        &self,
        (id, name, subject, mode, owner, ready, lanes_told): ConversationRow,
    ) -> Result<Conversation, StoreError> {
        let id: ConversationId = parsed(CONVERSATION, &id)?;
        let key = self.key(&Owner::Conversation(id.clone())).await?;
        let name = key.open_text(place("name", &id), &name)?;
        let subject = subject.map(|subject| key.open_text(place("subject", &id), &subject)).transpose()?;
        Ok(Conversation {
            name: parsed(CONVERSATION, &name)?,
            subject: subject.map(|subject| parsed(CONVERSATION, &subject)).transpose()?,
            mode: parsed(CONVERSATION, &mode)?,
            owner: parsed(CONVERSATION, &owner)?,
            ready: ready == 1,
            lanes_told: lanes_told == 1,
            id,
        })
    }

    async fn conversations_of_rows(
        &self,
        rows: Vec<ConversationRow>,
    ) -> Result<Vec<Conversation>, StoreError> {
        let mut conversations = Vec::with_capacity(rows.len());
        for row in rows {
            conversations.push(self.conversation_of_row(row).await?);
        }
        Ok(conversations)
    }

    /// The conversation with this id.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn conversation(&self, id: &ConversationId) -> Result<Option<Conversation>, StoreError> {
        let row = sqlx::query_as(
            "SELECT id, name, subject, mode, owner_id, ready, lanes_told FROM conversations WHERE id = $1",
        )
        .bind(id.as_str())
        .fetch_optional(&self.pool)
        .await?;
        match row {
            Some(row) => self.conversation_of_row(row).await.map(Some),
            None => Ok(None),
        }
    }

    /// All conversations, newest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn conversations(&self) -> Result<Vec<Conversation>, StoreError> {
        let rows = sqlx::query_as(
            "SELECT id, name, subject, mode, owner_id, ready, lanes_told FROM conversations
             ORDER BY created_at DESC, id",
        )
        .fetch_all(&self.pool)
        .await?;
        self.conversations_of_rows(rows).await
    }

    /// The conversations that a person may see, newest first: those that they take part in, and a patient those that they took
    /// part in, which are still theirs to read.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn conversations_of(&self, person: &PersonId) -> Result<Vec<Conversation>, StoreError> {
        let rows = sqlx::query_as(
            "SELECT c.id, c.name, c.subject, c.mode, c.owner_id, c.ready, c.lanes_told FROM conversations c
             WHERE c.id IN (SELECT t.conversation_id FROM participants t WHERE t.person_id = $1
                            UNION SELECT p.conversation_id FROM portals p WHERE p.patient_id = $1)
             ORDER BY c.created_at DESC, c.id",
        )
        .bind(person.as_str())
        .fetch_all(&self.pool)
        .await?;
        self.conversations_of_rows(rows).await
    }

    /// The conversations whose rooms are not all made, or not all as they are to be, oldest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn unfinished_conversations(&self) -> Result<Vec<ConversationId>, StoreError> {
        let rows: Vec<(String,)> = sqlx::query_as(
            "SELECT id FROM conversations c WHERE ready = 0 OR EXISTS (
                     SELECT 1 FROM portals p WHERE p.conversation_id = c.id AND p.revision_set < p.revision AND p.room_id IS NOT NULL)
                 ORDER BY created_at, id",
        )
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(|(id,)| parsed(CONVERSATION, id)).collect()
    }

    /// All rooms of a conversation stand, and whom they need is in them; unless another was asked for meanwhile. Whether they
    /// do.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn conversation_is_ready(&self, id: &ConversationId) -> Result<bool, StoreError> {
        // In order with those who ask for another.
        let mut tx = self.begin().await?;
        let ready = sqlx::query(
            "UPDATE conversations SET ready = 1 WHERE id = $1
                 AND NOT EXISTS (SELECT 1 FROM portals p WHERE p.conversation_id = $1 AND p.ready = 0)",
        );
        let ready = ready.bind(id.as_str()).execute(&mut *tx).await?;
        self.commit(tx, CommitPoint::ConversationReady).await?;
        Ok(ready.rows_affected() == 1)
    }

    /// A conversation's portals, the hub first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn portals(&self, id: &ConversationId) -> Result<Vec<Portal>, StoreError> {
        self.portals_by(
            portals!("WHERE conversation_id = $1 ORDER BY patient_id IS NOT NULL, patient_id"),
            id,
        )
        .await
    }

    /// Those portals of a conversation that a statement names.
    pub(super) async fn portals_by(
        &self,
        sql: &'static str,
        id: &ConversationId,
    ) -> Result<Vec<Portal>, StoreError> {
        let rows: Vec<PortalRow> = sqlx::query_as(sql).bind(id.as_str()).fetch_all(&self.pool).await?;
        rows.into_iter().map(portal).collect()
    }

    /// The portals of a conversation that are not ready, the hub last.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn unready_portals(&self, id: &ConversationId) -> Result<Vec<Portal>, StoreError> {
        let sql =
            portals!("WHERE conversation_id = $1 AND ready = 0 ORDER BY patient_id IS NULL, patient_id");
        self.portals_by(sql, id).await
    }

    /// The rooms of all portals.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn rooms(&self) -> Result<HashSet<OwnedRoomId>, StoreError> {
        let rows: Vec<(String,)> = sqlx::query_as("SELECT room_id FROM portals WHERE room_id IS NOT NULL")
            .fetch_all(&self.pool)
            .await?;
        rows.into_iter().map(|(id,)| matrix_id(PORTAL, id)).collect()
    }

    /// The portal with this id.
    ///
    /// # Errors
    /// When the database fails, or there is none.
    pub async fn portal(&self, id: &PortalId) -> Result<Portal, StoreError> {
        let row = sqlx::query_as(portals!("WHERE id = $1")).bind(id.as_str()).fetch_one(&self.pool).await?;
        portal(row)
    }

    /// Whether a room is a portal of ours.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn knows_room(&self, room_id: &RoomId) -> Result<bool, StoreError> {
        let row: Option<(String,)> = sqlx::query_as("SELECT id FROM portals WHERE room_id = $1")
            .bind(room_id.as_str())
            .fetch_optional(&self.pool)
            .await?;
        Ok(row.is_some())
    }

    /// The portal that a room is.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn portal_in(&self, room_id: &RoomId) -> Result<Option<Portal>, StoreError> {
        let row: Option<PortalRow> = sqlx::query_as(portals!("WHERE room_id = $1"))
            .bind(room_id.as_str())
            .fetch_optional(&self.pool)
            .await?;
        row.map(portal).transpose()
    }

    /// The making of a portal's room begins: after a crash it is to be looked for before it is made again.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn portal_is_attempted(&self, id: &PortalId, at: Timestamp) -> Result<(), StoreError> {
        let sql = "UPDATE portals SET attempted = $2 WHERE id = $1";
        let attempted = sqlx::query(sql).bind(id.as_str()).bind(at.millis());
        one_row(PORTAL, &self.alone(CommitPoint::PortalAttempted, attempted).await?)
    }

    /// A portal has its room, which was made with this mode.
    ///
    /// # Errors
    /// When the database fails, or it has one already.
    pub async fn portal_is_made(
        &self,
        id: &PortalId,
        room_id: &RoomId,
        mode: Mode,
    ) -> Result<(), StoreError> {
        let sql = "UPDATE portals SET room_id = $2, mode = $3 WHERE id = $1 AND room_id IS NULL";
        let made = sqlx::query(sql).bind(id.as_str()).bind(room_id.as_str()).bind(mode.as_str());
        one_row(PORTAL, &self.alone(CommitPoint::PortalMade, made).await?)
    }

    /// A portal's room has whom it needs: they were joined. What the bot says there first, if anything.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn portal_is_ready(&self, id: &PortalId, word: Option<&NewLeg>) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let sql = "UPDATE portals SET ready = 1 WHERE id = $1 AND room_id IS NOT NULL";
        one_row(PORTAL, &sqlx::query(sql).bind(id.as_str()).execute(&mut *tx).await?)?;
        if let Some(word) = word {
            self.add(&mut tx, std::slice::from_ref(word), None, word.sent_at).await?;
        }
        self.commit(tx, CommitPoint::PortalReady).await
    }

    /// Whether somebody was joined to a portal before.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn has_joined(&self, portal: &PortalId, user_id: &UserId) -> Result<bool, StoreError> {
        let row: Option<(String,)> =
            sqlx::query_as("SELECT user_id FROM portal_members WHERE portal_id = $1 AND user_id = $2")
                .bind(portal.as_str())
                .bind(user_id.as_str())
                .fetch_optional(&self.pool)
                .await?;
        Ok(row.is_some())
    }

    /// Somebody was joined to a portal.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn joined(&self, portal: &PortalId, user_id: &UserId) -> Result<(), StoreError> {
        let sql = "INSERT INTO portal_members (portal_id, user_id) VALUES ($1, $2) ON CONFLICT DO NOTHING";
        let came = sqlx::query(sql).bind(portal.as_str()).bind(user_id.as_str());
        self.alone(CommitPoint::MemberCame, came).await.map(drop)
    }

    /// Somebody turned out not to be in a portal.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn not_joined(&self, portal: &PortalId, user_id: &UserId) -> Result<(), StoreError> {
        let gone = sqlx::query("DELETE FROM portal_members WHERE portal_id = $1 AND user_id = $2")
            .bind(portal.as_str())
            .bind(user_id.as_str());
        self.alone(CommitPoint::MemberGone, gone).await.map(drop)
    }
}
