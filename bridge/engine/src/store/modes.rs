//! The modes of conversations: what was asked for, what rooms were set to, and what holds in them.

use parlour_domain::{ConversationId, Mode, PersonId, PortalId, Timestamp};

use super::{
    Portal, Store, StoreError,
    conversations::portals,
    one_row,
    record::{ledger, ledger_of_conversation},
    transaction::Transaction,
};
use crate::{commit_point::CommitPoint, store::InboxRow};

/// A portal is to be another than its room is, since the time `$at`. No revision ever comes again, also where a database was put
/// back.
macro_rules! revise {
    ($at:literal, $rest:literal) => {
        concat!(
            "UPDATE portals SET revision = CASE WHEN revision < ",
            $at,
            " THEN ",
            $at,
            " ELSE revision + 1 END ",
            $rest
        )
    };
}

/// The mode that a portal `p` of a conversation `c` is to have (`parlour_domain::mode_of_portal`).
macro_rules! wanted_mode {
    () => {
        "CASE WHEN p.patient_id IS NULL OR EXISTS (SELECT 1 FROM participants t
             WHERE t.conversation_id = p.conversation_id AND t.person_id = p.patient_id) THEN c.mode ELSE 'one-way' END"
    };
}

impl Store {
    /// Somebody asks for a mode: it is the conversation's, and its rooms are to be set to it. Whether that is news.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn set_mode(
        &self,
        id: &ConversationId,
        mode: Mode,
        by: &PersonId,
        at: Timestamp,
    ) -> Result<bool, StoreError> {
        self.change_mode(id, mode, Some(by), at).await
    }

    /// Somebody names who may write in a conversation also when it is one-way, besides its owner: these of its staff, and no
    /// others. Its hub is to be set to it. Whether that is news.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn set_senders(
        &self,
        id: &ConversationId,
        senders: &[PersonId],
        by: &PersonId,
        at: Timestamp,
    ) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let people: Vec<(String, i64, i64)> = sqlx::query_as(
            "SELECT t.person_id, t.may_send_one_way, CASE WHEN t.person_id = c.owner_id THEN 1 ELSE 0 END
             FROM participants t JOIN conversations c ON c.id = t.conversation_id
             JOIN people p ON p.id = t.person_id WHERE c.id = $1 AND p.role <> 'patient'",
        )
        .bind(id.as_str())
        .fetch_all(&mut *tx)
        .await?;
        let mut news = false;
        for (person, may_send, owns) in people {
            let named = owns == 1 || senders.iter().any(|sender| sender.as_str() == person);
            if named == (may_send == 1) {
                continue;
            }
            news = true;
            sqlx::query(
                "UPDATE participants SET may_send_one_way = $3 WHERE conversation_id = $1 AND person_id = $2",
            )
            .bind(id.as_str())
            .bind(&person)
            .bind(i64::from(named))
            .execute(&mut *tx)
            .await?;
            let what = if named { "sender-named" } else { "sender-unnamed" };
            ledger_of_conversation(&mut tx, id, Some(by), what, Some(&person), at).await?;
        }
        if !news {
            self.leave(tx).await?;
            return Ok(false);
        }
        // Who may write stands in its hub alone.
        Self::portal_is_to_be_set(&mut tx, id, None, at).await?;
        self.commit(tx, CommitPoint::ModeKept).await?;
        Ok(true)
    }

    async fn change_mode(
        &self,
        id: &ConversationId,
        mode: Mode,
        by: Option<&PersonId>,
        at: Timestamp,
    ) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let changed = sqlx::query("UPDATE conversations SET mode = $2 WHERE id = $1 AND mode <> $2")
            .bind(id.as_str())
            .bind(mode.as_str())
            .execute(&mut *tx)
            .await?;
        if changed.rows_affected() == 0 {
            self.leave(tx).await?;
            return Ok(false);
        }
        sqlx::query(revise!("$2", "WHERE conversation_id = $1"))
            .bind(id.as_str())
            .bind(at.millis())
            .execute(&mut *tx)
            .await?;
        let what = if by.is_some() { "mode-asked" } else { "mode-found" };
        ledger_of_conversation(&mut tx, id, by, what, Some(mode.as_str()), at).await?;
        self.commit(tx, CommitPoint::ModeKept).await?;
        Ok(true)
    }

    /// The database is older than its rooms, and one of them tells which mode the conversation has: it is not switched back.
    ///
    /// # Errors
    /// When the database fails; then nothing is changed.
    pub async fn mode_is_found(
        &self,
        id: &ConversationId,
        mode: Mode,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        self.change_mode(id, mode, None, at).await.map(drop)
    }

    /// A portal of a conversation is to be another than its room is: the spoke of a patient, or the hub.
    pub(super) async fn portal_is_to_be_set(
        tx: &mut Transaction,
        id: &ConversationId,
        patient: Option<&PersonId>,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        sqlx::query(revise!("$3", "WHERE conversation_id = $1 AND COALESCE(patient_id, '') = $2"))
            .bind(id.as_str())
            .bind(patient.map_or("", PersonId::as_str))
            .bind(at.millis())
            .execute(&mut **tx)
            .await?;
        Ok(())
    }

    /// The portals of a conversation whose rooms are not as they are to be, the hub last.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn portals_to_set(&self, id: &ConversationId) -> Result<Vec<Portal>, StoreError> {
        let sql = portals!(
            "WHERE conversation_id = $1 AND revision_set < revision AND room_id IS NOT NULL
             ORDER BY patient_id IS NULL, patient_id"
        );
        self.portals_by(sql, id).await
    }

    /// A portal's room was set to a revision. What was to be another since then still is.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn portal_is_set(&self, id: &PortalId, revision: i64) -> Result<(), StoreError> {
        let set = sqlx::query("UPDATE portals SET revision_set = $2 WHERE id = $1 AND revision_set < $2");
        let set = set.bind(id.as_str()).bind(revision);
        self.alone(CommitPoint::PortalSet, set).await.map(drop)
    }

    /// What rooms were set to is not known any more: each is to be set again.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn all_are_to_be_set(&self, at: Timestamp) -> Result<(), StoreError> {
        let forgotten = sqlx::query(revise!("$1", "WHERE room_id IS NOT NULL")).bind(at.millis());
        self.alone(CommitPoint::PortalSet, forgotten).await.map(drop)
    }

    /// How many rooms of a conversation are not as they are to be: who is in them, who may write.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn not_set(&self, id: &ConversationId) -> Result<i64, StoreError> {
        let sql = concat!(
            "SELECT COUNT(*) FROM portals p JOIN conversations c ON c.id = p.conversation_id
             WHERE c.id = $1 AND p.room_id IS NOT NULL AND (p.revision_set < p.revision OR p.mode <> ",
            wanted_mode!(),
            ")"
        );
        let (count,): (i64,) = sqlx::query_as(sql).bind(id.as_str()).fetch_one(&self.pool).await?;
        Ok(count)
    }

    /// From here on a mode holds in a portal: an event of its room says so.
    pub(super) async fn switched(
        &self,
        tx: &mut Transaction,
        row: &InboxRow,
        event_id: &ruma::EventId,
        (mode, since): (Mode, Timestamp),
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let switched = sqlx::query("UPDATE portals SET mode = $2, mode_since = $3 WHERE id = $1")
            .bind(row.portal.as_str())
            .bind(mode.as_str())
            .bind(since.millis())
            .execute(&mut **tx)
            .await?;
        one_row("portals", &switched)?;
        // Where the room was set otherwise since, that is told next; and where it was not, it is to be set again.
        let otherwise = concat!(
            revise!("$2", "WHERE id = ("),
            "    SELECT p.id FROM portals p JOIN conversations c ON c.id = p.conversation_id
                 WHERE p.id = $1 AND p.mode <> ",
            wanted_mode!(),
            ")"
        );
        sqlx::query(otherwise).bind(row.portal.as_str()).bind(at.millis()).execute(&mut **tx).await?;
        ledger(tx, &row.conversation, event_id, None, "mode", Some(mode.as_str()), at).await
    }
}
