//! After a backup was restored: what the database must forget, and what it has caught up with. And what is to be told to a
//! homeserver that was.

use parlour_domain::{LegId, PortalId, Timestamp};
use ruma::{DeviceId, OwnedEventId, OwnedRoomId, UserId};

use super::{
    OurUser, Portal, Store, StoreError, conversations, matrix_id, one_row,
    people::{OurUserRow, our_user},
};
use crate::commit_point::CommitPoint;

impl Store {
    /// When the database was restored from a backup, unless that is dealt with.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn restored_at(&self) -> Result<Option<Timestamp>, StoreError> {
        let found: Option<(i64,)> = sqlx::query_as("SELECT at FROM incidents WHERE kind = 'restored'")
            .fetch_optional(&self.pool)
            .await?;
        Ok(found.map(|(at,)| Timestamp::from_millis(at)))
    }

    /// The database is older than the world: it was put back from a copy that nobody has marked.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn is_restored(&self, at: Timestamp) -> Result<(), StoreError> {
        let sql = "INSERT INTO incidents (kind, at) VALUES ('restored', $1) ON CONFLICT DO NOTHING";
        self.alone(CommitPoint::RestoreNoticed, sqlx::query(sql).bind(at.millis())).await.map(drop)
    }

    /// Whether an event that says it is this leg may be it, as far as the database knows: it was encrypted, or is a
    /// redaction or a reaction, which nobody encrypts.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn may_stand(&self, leg: &LegId) -> Result<bool, StoreError> {
        let found: Option<(i64,)> = sqlx::query_as(
            "SELECT seq FROM outbox o WHERE leg_id = $1 AND (session IS NOT NULL OR says IN ('void', 'deletion')
                 OR EXISTS (SELECT 1 FROM messages m WHERE m.id = o.message_id AND m.kind = 'reaction'))",
        )
        .bind(leg.as_str())
        .fetch_optional(&self.pool)
        .await?;
        Ok(found.is_some())
    }

    /// The users of ours that have another device than one from the time of an incident.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn users_before(&self, epoch: Timestamp) -> Result<Vec<OurUser>, StoreError> {
        let rows: Vec<OurUserRow> = sqlx::query_as(
            "SELECT user_id, person_id, device_id, ready, former_device FROM our_users WHERE epoch <> $1",
        )
        .bind(epoch.millis())
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(our_user).collect()
    }

    /// Gives a user of ours another device: what the old one used is forgotten, and its identity signs the new one. Said
    /// again before it is done, it is begun anew.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn renew_device(
        &self,
        user_id: &UserId,
        device: &DeviceId,
        epoch: Timestamp,
    ) -> Result<(), StoreError> {
        self.machine_store(user_id).begin_new_epoch().await?;
        let renewed = sqlx::query(
            "UPDATE our_users SET former_device = device_id, device_id = $2, ready = 0, epoch = $3 WHERE user_id = $1",
        )
        .bind(user_id.as_str())
        .bind(device.as_str())
        .bind(epoch.millis());
        one_row("our_users", &self.alone(CommitPoint::DeviceRenewed, renewed).await?)
    }

    /// Whether the homeserver was put back from a copy, and that is not dealt with.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn homeserver_is_back(&self) -> Result<bool, StoreError> {
        let found: Option<(i64,)> = sqlx::query_as("SELECT at FROM incidents WHERE kind = 'homeserver-back'")
            .fetch_optional(&self.pool)
            .await?;
        Ok(found.is_some())
    }

    /// The homeserver was put back from a copy: every user of ours is to be published again with the same device, whose
    /// former self is ended first. In one commit.
    ///
    /// # Errors
    /// When the database fails; then nothing of it is kept.
    pub async fn publish_again(&self, at: Timestamp) -> Result<(), StoreError> {
        let mut tx = self.begin_unordered().await?;
        sqlx::query("UPDATE our_users SET former_device = device_id, ready = 0").execute(&mut *tx).await?;
        sqlx::query("INSERT INTO incidents (kind, at) VALUES ('homeserver-back', $1) ON CONFLICT DO NOTHING")
            .bind(at.millis())
            .execute(&mut *tx)
            .await?;
        self.commit(tx, CommitPoint::DeviceRenewed).await
    }

    /// The room and the event of the legs that landed last, each in another portal, which a homeserver that goes on still has;
    /// of those only that landed since it was put back, if ever it was. The last one first, at most `most`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn landed_last(&self, most: i64) -> Result<Vec<(OwnedRoomId, OwnedEventId)>, StoreError> {
        // Of the last thousand: one broadcast to all may be a few hundred of them.
        let found: Vec<(String, String)> = sqlx::query_as(
            "SELECT p.room_id, o.event_id
             FROM (SELECT portal_id, MAX(landing) AS last
                   FROM (SELECT portal_id, landing FROM outbox
                         WHERE landing > (SELECT lost_up_to FROM intake WHERE one = 1) AND event_id IS NOT NULL
                         ORDER BY landing DESC LIMIT 1000) latest
                   GROUP BY portal_id ORDER BY last DESC LIMIT $1) l
             JOIN outbox o ON o.landing = l.last
             JOIN portals p ON p.id = o.portal_id
             WHERE p.room_id IS NOT NULL
             ORDER BY l.last DESC",
        )
        .bind(most)
        .fetch_all(&self.pool)
        .await?;
        let legs = found.into_iter();
        legs.map(|(room, event)| Ok((matrix_id("portals", room)?, matrix_id("outbox", event)?))).collect()
    }

    /// All portals that have a room.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn portals_made(&self) -> Result<Vec<Portal>, StoreError> {
        let sql = conversations::portals!("WHERE room_id IS NOT NULL ORDER BY id");
        sqlx::query_as(sql).fetch_all(&self.pool).await?.into_iter().map(conversations::portal).collect()
    }

    /// The database has caught up with the rooms. What stands in none of those that were read was not sent, and is
    /// encrypted anew. Where the homeserver had gone back, everything is known up to `place`, and of what had landed nothing need
    /// be there.
    ///
    /// # Errors
    /// When the database fails; then nothing of it is kept.
    pub async fn recovered(&self, read: &[PortalId], place: Option<&str>) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        for portal in read {
            sqlx::query(
                "UPDATE outbox SET ciphertext = NULL WHERE portal_id = $1 AND state IN ('waiting', 'held')",
            )
            .bind(portal.as_str())
            .execute(&mut *tx)
            .await?;
        }
        sqlx::query(
            "UPDATE intake SET caught_up_to = $1, lost_up_to = COALESCE((SELECT MAX(landing) FROM outbox), 0)
             WHERE one = 1 AND EXISTS (SELECT 1 FROM incidents WHERE kind = 'homeserver-back')",
        )
        .bind(place)
        .execute(&mut *tx)
        .await?;
        sqlx::query("DELETE FROM incidents WHERE kind IN ('restored', 'homeserver-back')")
            .execute(&mut *tx)
            .await?;
        self.commit(tx, CommitPoint::Recovered).await
    }
}
