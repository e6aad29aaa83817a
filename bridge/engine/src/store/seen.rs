//! What is known of people's devices: when the homeserver saw them, and that they may be others meanwhile.

use std::collections::HashMap;

use parlour_domain::{PortalId, Timestamp};
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};
use sqlx::AssertSqlSafe;

use super::{
    Store, StoreError,
    lists::{self, padded, with_list},
    matrix_id, parsed,
    transaction::Transaction,
};
use crate::{commit_point::CommitPoint, homeserver::DeviceSeen};

/// What is known of somebody's devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// When the homeserver was asked last.
    pub looked_at: Option<Timestamp>,
    /// When it was heard last that they may be others, unless that is dealt with.
    pub news_at: Option<Timestamp>,
    /// The devices, also those that are there no longer.
    pub devices: Vec<KnownDevice>,
}

impl Known {
    /// The device of this name, if it is there.
    #[must_use]
    pub fn device(&self, id: &DeviceId) -> Option<&KnownDevice> {
        self.devices.iter().find(|device| device.device_id == id && !device.gone)
    }
}

/// A device of somebody's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownDevice {
    /// The device.
    pub device_id: OwnedDeviceId,
    /// When it was heard of first.
    pub heard_at: Timestamp,
    /// When it was seen last, as far as the homeserver has told. (Every five seconds Synapse writes down who was seen, and
    /// until that is done tells of what it writes as if it had not been.)
    pub seen_at: Option<Timestamp>,
    /// Whether it is a dehydrated one.
    pub dehydrated: bool,
    /// Whether it is there no longer.
    pub gone: bool,
    /// Whether it is still to be found out if something is to be sent again for it.
    pub fresh: bool,
}

/// Somebody whose devices may have changed, or were never asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceNews {
    /// Who.
    pub user_id: OwnedUserId,
    /// How often that was heard; never, when they were never asked for.
    pub times: i64,
    /// When it was heard last.
    pub at: Timestamp,
}

const LOOKS: &str = "device_looks";

type DeviceRow = (
    String,
    Option<i64>,
    Option<i64>,
    Option<String>,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Option<i64>,
);

impl Store {
    /// Devices of these users may be others from now on; those who are not people of ours do not matter. What was told of
    /// them before counts as old until it is dealt with.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn devices_may_have_changed(
        &self,
        users: &[OwnedUserId],
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin_unordered().await?;
        let mut people = 0;
        for user_id in users {
            let heard = sqlx::query(
                "INSERT INTO device_looks (user_id, news, news_at) SELECT user_id, 1, $2 FROM people WHERE user_id = $1
                 ON CONFLICT (user_id) DO UPDATE SET news = device_looks.news + 1, news_at = excluded.news_at",
            )
            .bind(user_id.as_str())
            .bind(at.millis())
            .execute(&mut *tx)
            .await?;
            people += heard.rows_affected();
        }
        if people == 0 { self.leave(tx).await } else { self.commit(tx, CommitPoint::DevicesKnown).await }
    }

    /// Whose devices may have changed, and who is in a portal and was never asked for; at most so many.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn device_news(&self, most: i64, now: Timestamp) -> Result<Vec<DeviceNews>, StoreError> {
        let rows: Vec<(String, i64, Option<i64>)> = sqlx::query_as(
            "SELECT user_id, news, news_at FROM device_looks WHERE news > 0
             UNION
             SELECT r.user_id, 0, NULL FROM people r
             WHERE EXISTS (SELECT 1 FROM portal_members m WHERE m.user_id = r.user_id)
                 AND NOT EXISTS (SELECT 1 FROM device_looks l
                     WHERE l.user_id = r.user_id AND (l.news > 0 OR l.looked_at IS NOT NULL))
             LIMIT $1",
        )
        .bind(most)
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter()
            .map(|(user_id, times, at)| {
                let at = at.map_or(now, Timestamp::from_millis);
                Ok(DeviceNews { user_id: matrix_id(LOOKS, user_id)?, times, at })
            })
            .collect()
    }

    /// What is known of these users' devices; who was never asked for is not among them.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn devices_known(
        &self,
        users: &[OwnedUserId],
    ) -> Result<HashMap<OwnedUserId, Known>, StoreError> {
        let mut known: HashMap<OwnedUserId, Known> = HashMap::with_capacity(users.len());
        for users in users.chunks(lists::MOST) {
            let sql = with_list(
                "SELECT l.user_id, l.looked_at, CASE WHEN l.news > 0 THEN l.news_at END,
                     d.device_id, d.heard_at, d.seen_at, d.dehydrated, d.gone, d.fresh
                 FROM device_looks l LEFT JOIN devices_seen d ON d.user_id = l.user_id
                 WHERE l.user_id IN",
                1,
                users.len(),
                "ORDER BY l.user_id, d.device_id",
            );
            let mut query = sqlx::query_as(AssertSqlSafe(sql));
            for user_id in padded(users) {
                query = query.bind(user_id.as_str());
            }
            let rows: Vec<DeviceRow> = query.fetch_all(&self.pool).await?;
            for (user_id, looked_at, news_at, device, heard_at, seen_at, dehydrated, gone, fresh) in rows {
                let known = known.entry(matrix_id(LOOKS, user_id)?).or_default();
                known.looked_at = looked_at.map(Timestamp::from_millis);
                known.news_at = news_at.map(Timestamp::from_millis);
                known.devices.extend(device.map(|device_id| KnownDevice {
                    device_id: device_id.into(),
                    heard_at: Timestamp::from_millis(heard_at.unwrap_or_default()),
                    seen_at: seen_at.map(Timestamp::from_millis),
                    dehydrated: dehydrated == Some(1),
                    gone: gone == Some(1),
                    fresh: fresh == Some(1),
                }));
            }
        }
        Ok(known)
    }

    /// These are somebody's devices now, in one commit. What is new among them is fresh, unless they were never asked for
    /// before.
    ///
    /// # Errors
    /// When the database fails; then nothing of it is kept.
    pub async fn devices_are(
        &self,
        user_id: &UserId,
        devices: &[DeviceSeen],
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin_unordered().await?;
        let look: Option<(Option<i64>, Option<i64>)> = sqlx::query_as(
            "SELECT looked_at, CASE WHEN news > 0 THEN news_at END FROM device_looks WHERE user_id = $1",
        )
        .bind(user_id.as_str())
        .fetch_optional(&mut *tx)
        .await?;
        let known: Vec<(String,)> = sqlx::query_as("SELECT device_id FROM devices_seen WHERE user_id = $1")
            .bind(user_id.as_str())
            .fetch_all(&mut *tx)
            .await?;
        let heard_at = look.and_then(|(_, news_at)| news_at).unwrap_or(at.millis());
        let fresh = look.and_then(|(before, _)| before).is_some();
        let is_known = |device: &DeviceSeen| known.iter().any(|(id,)| *id == device.device_id.as_str());
        // One that was not heard of is news as well.
        let unheard_of = fresh && !devices.iter().all(is_known);
        sqlx::query(
            "INSERT INTO device_looks (user_id, looked_at) VALUES ($1, $2)
             ON CONFLICT (user_id) DO UPDATE SET looked_at = excluded.looked_at,
                 news = CASE WHEN $3 = 1 AND device_looks.news = 0 THEN 1 ELSE device_looks.news END,
                 news_at = CASE WHEN $3 = 1 AND device_looks.news = 0 THEN $2 ELSE device_looks.news_at END",
        )
        .bind(user_id.as_str())
        .bind(at.millis())
        .bind(i64::from(unheard_of))
        .execute(&mut *tx)
        .await?;
        // All are gone but those that are told of below.
        sqlx::query(
            "UPDATE devices_seen SET gone = 1, seen_at = CASE WHEN dehydrated = 1 THEN $2 ELSE seen_at END
             WHERE user_id = $1 AND gone = 0",
        )
        .bind(user_id.as_str())
        .bind(at.millis())
        .execute(&mut *tx)
        .await?;
        for device in devices {
            let seen_at = device.seen_at.map(Timestamp::millis);
            sqlx::query(
                "INSERT INTO devices_seen (user_id, device_id, seen_at, dehydrated, gone, fresh, heard_at)
                 VALUES ($1, $2, $3, $4, 0, $5, $6)
                 ON CONFLICT (user_id, device_id) DO UPDATE SET gone = 0,
                     seen_at = COALESCE(excluded.seen_at, devices_seen.seen_at), dehydrated = excluded.dehydrated",
            )
            .bind(user_id.as_str())
            .bind(device.device_id.as_str())
            .bind(seen_at)
            .bind(i64::from(device.dehydrated))
            .bind(i64::from(fresh))
            .bind(heard_at)
            .execute(&mut *tx)
            .await?;
        }
        self.commit(tx, CommitPoint::DevicesKnown).await
    }

    /// Who is waited for in which portal: its people, where legs are held.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn waited_for(&self) -> Result<Vec<(OwnedUserId, PortalId)>, StoreError> {
        let rows: Vec<(String, String)> = sqlx::query_as(
            "SELECT r.user_id, p.id FROM outbox o
             JOIN portals p ON p.id = o.portal_id
             JOIN people r ON r.id = p.patient_id
             WHERE o.state = 'held'
             UNION SELECT r.user_id, p.id FROM outbox o
             JOIN portals p ON p.id = o.portal_id
             JOIN participants t ON t.conversation_id = p.conversation_id
             JOIN people r ON r.id = t.person_id
             WHERE o.state = 'held' AND p.patient_id IS NULL AND r.role <> 'patient'",
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter()
            .map(|(user, portal)| Ok((matrix_id("people", user)?, parsed("portals", &portal)?)))
            .collect()
    }

    /// What was heard of somebody's devices is dealt with, and these are no longer fresh. What was heard meanwhile stays.
    pub(super) async fn news_is_dealt_with(
        tx: &mut Transaction,
        news: &DeviceNews,
        fresh: &[OwnedDeviceId],
    ) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE device_looks SET news = CASE WHEN news > $2 THEN news - $2 ELSE 0 END WHERE user_id = $1",
        )
        .bind(news.user_id.as_str())
        .bind(news.times)
        .execute(&mut **tx)
        .await?;
        for device_id in fresh {
            sqlx::query("UPDATE devices_seen SET fresh = 0 WHERE user_id = $1 AND device_id = $2")
                .bind(news.user_id.as_str())
                .bind(device_id.as_str())
                .execute(&mut **tx)
                .await?;
        }
        Ok(())
    }
}
