//! The store: all SQL is here, the same statements for SQLite and PostgreSQL. What must not be read by whoever holds
//! the database is sealed ([`seal`]).

mod conversations;
mod copy;
mod database;
mod deleting;
mod figures;
mod inbox;
mod kept;
#[cfg(feature = "faults")]
mod leaks;
mod leaving;
mod lists;
mod machine;
mod membership;
mod modes;
mod outbox;
mod outcome;
mod participants;
mod people;
mod progress;
mod reading;
mod record;
mod recovery;
mod removing;
mod repairs;
mod seal;
mod seen;
mod sending;
mod settings;
mod teams;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod transaction;

use std::sync::Arc;

use sqlx::{Any, AnyPool, Database, any::AnyQueryResult, query::Query};

pub use conversations::{Begun, Conversation, Portal, Request};
pub use copy::CopyError;
pub use database::DatabaseUrl;
pub use deleting::Deletion;
pub use figures::Figures;
pub use inbox::{Arrived, InboxRow, MegolmIndex, RelayedMessage};
pub use kept::KeptUntil;
pub use machine::MachineStore;
pub use outbox::{Leg, LegContent, NewLeg, Says};
pub use outcome::{Closed, Departure, Outcome, SaysClosed};
pub use participants::{Participant, ParticipantChange, ParticipantsAre, People, TakingPart};
pub use people::OurUser;
pub use progress::{Making, Sending};
pub use reading::{DueReceipt, MessageStatus, Read, Receipt, Way};
pub use record::Recorded;
pub use removing::Removal;
pub use repairs::{Landed, Repair, SentLeg, SessionName, UnreadableSession, Why};
pub use seal::{InvalidMasterKey, MasterKey};
pub use seen::{DeviceNews, Known, KnownDevice};
pub use sending::SealedLeg;
pub use teams::{Asking, Team};

use crate::commit_point::{CommitPoint, through};
use database::{Backend, Claim};
use transaction::Transaction;

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database did not answer, or refused.
    #[error("the database failed: {0}")]
    Driver(#[from] sqlx::Error),
    /// The schema could not be brought up to date.
    #[error("the database could not be brought up to date: {0}")]
    Migration(#[from] sqlx::migrate::MigrateError),
    /// Another process works with this database.
    #[error("another Parlour runs on this database; stop it first")]
    InUse,
    /// Another process has worked with this database since this one was cut off from it.
    #[error("another Parlour has worked with this database meanwhile; start this one again")]
    Taken,
    /// What keeps other processes out could not be made.
    #[error("the database cannot be kept for this process alone: {0}")]
    Claim(#[source] std::io::Error),
    /// The master key is not the one that this database was sealed with.
    #[error("the master key does not open this database; give the one that it was made with")]
    WrongMasterKey,
    /// A leg stands in a room that this database has never encrypted.
    #[error("the database is older than the world: it was put back from a copy")]
    Older,
    /// What something was to be done with was deleted meanwhile.
    #[error("what this is about was deleted meanwhile")]
    Overtaken,
    /// An Olm machine's memory is ahead of what was saved of it.
    #[error("an Olm machine was not saved and must be opened anew")]
    MachineBehind,
    /// A sealed value does not open.
    #[error("a sealed value in `{table}.{column}` does not open")]
    Sealed {
        /// Where.
        table: &'static str,
        /// Which.
        column: &'static str,
    },
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
                // PostgreSQL's classes of values that make no sense, and of constraints.
                let code = error.code().filter(|code| code.len() == 5);
                !(error.is_unique_violation()
                    || error.is_foreign_key_violation()
                    || error.is_check_violation()
                    || code.is_some_and(|code| code.starts_with("22") || code.starts_with("23")))
            }
            Self::Driver(error) => !matches!(
                error,
                sqlx::Error::RowNotFound | sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_)
            ),
            Self::InUse | Self::Claim(_) | Self::MachineBehind | Self::Older | Self::Overtaken => true,
            Self::Migration(_)
            | Self::Taken
            | Self::WrongMasterKey
            | Self::Sealed { .. }
            | Self::Malformed(_)
            | Self::WrongNumber { .. } => false,
        }
    }
}

/// The one database of a practice, kept by one process.
#[derive(Clone)]
pub struct Store {
    pool: AnyPool,
    backend: Backend,
    keys: seal::Keyring,
    claim: Arc<Claim>,
    remembered: machine::remembered::Remembered,
    taken_back: sending::TakenBack,
}

impl Store {
    /// A transaction that writes rows in an order: no other such transaction runs beside it, and none fails half way
    /// for want of a lock.
    async fn begin(&self) -> Result<Transaction, StoreError> {
        let mut tx = self.begin_unordered().await?;
        if self.backend == Backend::Postgres {
            sqlx::query(database::IN_ORDER).execute(&mut *tx).await?;
        }
        Ok(tx)
    }

    /// A transaction that writes rows which stand in no order.
    async fn begin_unordered(&self) -> Result<Transaction, StoreError> {
        let mut tx = Transaction::begin(&self.pool, self.backend.begin()).await?;
        self.claim.hold(&mut tx).await?;
        Ok(tx)
    }

    /// One statement that is a transaction by itself, for rows that stand in no order.
    async fn alone(
        &self,
        point: CommitPoint,
        statement: Statement<'_>,
    ) -> Result<AnyQueryResult, StoreError> {
        let mut tx = self.begin_unordered().await?;
        let result = statement.execute(&mut *tx).await?;
        self.commit(tx, point).await?;
        Ok(result)
    }

    /// Makes a transaction true. There is no other way.
    async fn commit(&self, tx: Transaction, point: CommitPoint) -> Result<(), StoreError> {
        through(point, tx.commit()).await?;
        Ok(())
    }

    /// Ends a transaction in which nothing was written.
    async fn leave(&self, tx: Transaction) -> Result<(), StoreError> {
        Ok(tx.leave().await?)
    }

    /// Lets go of the database as a broken connection would, and goes on as if nothing had happened.
    #[cfg(test)]
    async fn give_up_for_a_test(&self) {
        self.claim.give_up().await;
    }

    /// Ends all connections; what was committed stays.
    pub async fn close(&self) {
        self.pool.close().await;
        self.claim.give_up().await;
    }
}

type Statement<'q> = Query<'q, Any, <Any as Database>::Arguments>;

/// A single-row write that touched exactly one row.
fn one_row(table: &'static str, result: &AnyQueryResult) -> Result<(), StoreError> {
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
