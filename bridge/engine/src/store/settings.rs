//! Values that the engine made once and keeps.

use super::{Store, StoreError};

impl Store {
    /// The value kept under a name; `fresh` becomes it when there is none yet.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn setting_or(&self, name: &'static str, fresh: &str) -> Result<String, StoreError> {
        sqlx::query("INSERT INTO settings (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING")
            .bind(name)
            .bind(fresh)
            .execute(&self.pool)
            .await?;
        let (value,): (String,) = sqlx::query_as("SELECT value FROM settings WHERE name = $1")
            .bind(name)
            .fetch_one(&self.pool)
            .await?;
        Ok(value)
    }
}
