//! Who is in which room, where that is not what was asked for; and to whom a room's history is still to be handed on.

use parlour_domain::{PortalId, Timestamp};
use ruma::{OwnedUserId, UserId};

use super::{Portal, Store, StoreError, matrix_id, parsed};
use crate::commit_point::CommitPoint;

impl Store {
    /// A portal's room is to be set anew: somebody is in it who does not take part, or it is not what it was set to.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn is_to_be_set(&self, portal: &Portal, at: Timestamp) -> Result<(), StoreError> {
        let mut tx = self.begin_unordered().await?;
        Self::portal_is_to_be_set(&mut tx, &portal.conversation, portal.patient.as_ref(), at).await?;
        self.commit(tx, CommitPoint::ParticipantsKept).await
    }

    /// These users are in a portal's room, and no others, as the homeserver tells.
    ///
    /// # Errors
    /// When the database fails; then nothing of it is kept.
    pub async fn members_are(&self, portal: &PortalId, members: &[OwnedUserId]) -> Result<(), StoreError> {
        let mut tx = self.begin_unordered().await?;
        sqlx::query("DELETE FROM portal_members WHERE portal_id = $1")
            .bind(portal.as_str())
            .execute(&mut *tx)
            .await?;
        for user_id in members {
            sqlx::query("INSERT INTO portal_members (portal_id, user_id) VALUES ($1, $2)")
                .bind(portal.as_str())
                .bind(user_id.as_str())
                .execute(&mut *tx)
                .await?;
        }
        self.commit(tx, CommitPoint::MemberCame).await
    }

    /// Somebody who was invited has no device yet that history could be handed on to.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn history_is_due(&self, portal: &PortalId, user_id: &UserId) -> Result<(), StoreError> {
        let sql = "INSERT INTO history_due (portal_id, user_id) VALUES ($1, $2) ON CONFLICT DO NOTHING";
        let due = sqlx::query(sql).bind(portal.as_str()).bind(user_id.as_str());
        self.alone(CommitPoint::MemberCame, due).await.map(drop)
    }

    /// To whom history is to be handed on when they have a device, in which portal: those who take part and are in it, or
    /// invited.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn history_due(&self) -> Result<Vec<(PortalId, OwnedUserId)>, StoreError> {
        let rows: Vec<(String, String)> = sqlx::query_as(
            "SELECT d.portal_id, d.user_id FROM history_due d
             JOIN portal_members i ON i.portal_id = d.portal_id AND i.user_id = d.user_id
             JOIN portals p ON p.id = d.portal_id JOIN people w ON w.user_id = d.user_id
             JOIN participants t ON t.conversation_id = p.conversation_id AND t.person_id = w.id
             ORDER BY d.user_id, d.portal_id",
        )
        .fetch_all(&self.pool)
        .await?;
        let due = rows.into_iter().map(|(portal, user_id)| {
            Ok((parsed("portals", &portal)?, matrix_id("portal_members", user_id)?))
        });
        due.collect()
    }

    /// History was handed on to somebody.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn history_is_shared(&self, portal: &PortalId, user_id: &UserId) -> Result<(), StoreError> {
        let sql = "DELETE FROM history_due WHERE portal_id = $1 AND user_id = $2";
        let shared = sqlx::query(sql).bind(portal.as_str()).bind(user_id.as_str());
        self.alone(CommitPoint::MemberCame, shared).await.map(drop)
    }
}
