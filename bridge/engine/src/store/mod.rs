//! The store: all SQL is here, portable between SQLite and PostgreSQL.

mod conversations;
mod inbox;
mod outbox;
mod people;
mod record;
mod settings;

use std::path::Path;

use sqlx::{
    Any, AnyPool, Transaction,
    any::{AnyPoolOptions, install_default_drivers},
};

pub use conversations::{Conversation, Participant, Portal};
pub use inbox::{Arrived, InboxRow, Outcome, RelayedMessage};
pub use outbox::{Leg, LegContent, NewLeg};
pub use people::OurUser;

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database did not answer, or refused.
    #[error("the database failed: {0}")]
    Driver(#[from] sqlx::Error),
    /// The schema could not be brought up to date.
    #[error("the database could not be brought up to date: {0}")]
    Migration(#[from] sqlx::migrate::MigrateError),
    /// A row holds what cannot be.
    #[error("a row of `{0}` makes no sense")]
    Malformed(&'static str),
    /// A write touched another number of rows than it must.
    #[error("a write to `{table}` touched {rows} rows instead of one")]
    WrongNumber {
        /// Where.
        table: &'static str,
        /// How many.
        rows: u64,
    },
}

impl StoreError {
    /// Whether the cause lies in the database's being busy, full or away, and may pass by itself.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Driver(sqlx::Error::Database(error)) => {
                !(error.is_unique_violation()
                    || error.is_foreign_key_violation()
                    || error.is_check_violation())
            }
            Self::Driver(error) => !matches!(
                error,
                sqlx::Error::RowNotFound | sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_)
            ),
            Self::Migration(_) | Self::Malformed(_) | Self::WrongNumber { .. } => false,
        }
    }
}

/// The one database of a practice.
#[derive(Clone)]
pub struct Store {
    pool: AnyPool,
}

impl Store {
    /// Opens the SQLite database at `file`, makes it when it is not there, and brings its schema up to date.
    ///
    /// # Errors
    /// When the file cannot be opened or written.
    pub async fn open(file: &Path) -> Result<Self, StoreError> {
        install_default_drivers();
        let mut url = url::Url::parse("sqlite:///").map_err(|_| StoreError::Malformed("url"))?;
        url.set_path(&file.to_string_lossy());
        url.set_query(Some("mode=rwc"));
        let pool = AnyPoolOptions::new()
            .max_connections(4)
            .after_connect(|connection, _| {
                Box::pin(async move {
                    for pragma in [
                        "PRAGMA busy_timeout = 10000",
                        "PRAGMA journal_mode = WAL",
                        "PRAGMA synchronous = FULL",
                        "PRAGMA foreign_keys = ON",
                    ] {
                        sqlx::query(pragma).execute(&mut *connection).await?;
                    }
                    Ok(())
                })
            })
            .connect(url.as_str())
            .await?;
        sqlx::migrate!("../../migrations/common").run(&pool).await?;
        Ok(Self { pool })
    }

    /// A transaction that takes SQLite's write lock at once, so that it never fails half way for want of it.
    async fn begin(&self) -> Result<Transaction<'static, Any>, StoreError> {
        Ok(self.pool.begin_with("BEGIN IMMEDIATE").await?)
    }

    /// Ends all connections; what was committed stays.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// A single-row write that touched exactly one row.
fn one_row(table: &'static str, result: &sqlx::any::AnyQueryResult) -> Result<(), StoreError> {
    match result.rows_affected() {
        1 => Ok(()),
        rows => Err(StoreError::WrongNumber { table, rows }),
    }
}

/// Reads a stored value back into its type.
fn parsed<T: std::str::FromStr>(table: &'static str, value: &str) -> Result<T, StoreError> {
    value.parse().map_err(|_| StoreError::Malformed(table))
}

/// Reads a stored Matrix id back into its type.
fn matrix_id<T: TryFrom<String>>(table: &'static str, value: String) -> Result<T, StoreError> {
    T::try_from(value).map_err(|_| StoreError::Malformed(table))
}
