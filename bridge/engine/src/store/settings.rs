//! Values that the engine made once and keeps.

use super::{Store, StoreError, seal::Place};
use crate::{commit_point::CommitPoint, secret::Secret};

impl Store {
    /// The value kept under a name, none when there is none yet.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn remembers(&self, name: &'static str) -> Result<Option<String>, StoreError> {
        let place = Place { table: "settings", column: "value", row: name };
        let found: Option<(Vec<u8>,)> = sqlx::query_as("SELECT value FROM settings WHERE name = $1")
            .bind(name)
            .fetch_optional(&self.pool)
            .await?;
        found.map(|(value,)| self.practice_key().open_text(place, &value)).transpose()
    }

    /// Keeps a value under a name.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn remember(&self, name: &'static str, value: &str) -> Result<(), StoreError> {
        let place = Place { table: "settings", column: "value", row: name };
        let kept = sqlx::query(
            "INSERT INTO settings (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        )
        .bind(name)
        .bind(self.practice_key().seal(place, value.as_bytes()));
        self.alone(CommitPoint::SettingKept, kept).await.map(drop)
    }

    /// The secret kept under a name; `fresh` becomes it when there is none yet.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn secret_or(&self, name: &'static str, fresh: Secret) -> Result<Secret, StoreError> {
        let place = Place { table: "settings", column: "value", row: name };
        let find = "SELECT value FROM settings WHERE name = $1";
        let mut tx = self.begin().await?;
        let found: Option<(Vec<u8>,)> = sqlx::query_as(find).bind(name).fetch_optional(&mut *tx).await?;
        if let Some((value,)) = found {
            self.leave(tx).await?;
            return self.practice_key().open_text(place, &value).map(Secret::new);
        }
        sqlx::query("INSERT INTO settings (name, value) VALUES ($1, $2)")
            .bind(name)
            .bind(self.practice_key().seal(place, fresh.reveal().as_bytes()))
            .execute(&mut *tx)
            .await?;
        self.commit(tx, CommitPoint::SettingKept).await?;
        Ok(fresh)
    }
}
