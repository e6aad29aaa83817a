//! A transaction of the database's.
//!
//! It is not sqlx's: that one gives its connection back to the pool also when a commit has failed, and SQLite, which has
//! ended the transaction by itself when its disk was full, leaves sqlx counting one that is open for ever. This one gives
//! back only a connection whose transaction has ended well, and closes any other, which undoes whatever was open.

use std::ops::{Deref, DerefMut};

use sqlx::{Any, AnyConnection, AnyPool, pool::PoolConnection};

/// A transaction that is open until it is committed or left; dropped, it is undone.
pub(super) struct Transaction {
    connection: PoolConnection<Any>,
    open: bool,
}

impl Transaction {
    /// Begins one, by this statement.
    pub(super) async fn begin(pool: &AnyPool, statement: &'static str) -> Result<Self, sqlx::Error> {
        let mut tx = Self { connection: pool.acquire().await?, open: true };
        sqlx::raw_sql(statement).execute(&mut *tx).await?;
        Ok(tx)
    }

    /// Makes what was written true.
    pub(super) async fn commit(mut self) -> Result<(), sqlx::Error> {
        sqlx::raw_sql("COMMIT").execute(&mut *self).await?;
        self.open = false;
        Ok(())
    }

    /// Ends it without anything written.
    pub(super) async fn leave(mut self) -> Result<(), sqlx::Error> {
        sqlx::raw_sql("ROLLBACK").execute(&mut *self).await?;
        self.open = false;
        Ok(())
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if self.open {
            self.connection.close_on_drop();
        }
    }
}

impl Deref for Transaction {
    type Target = AnyConnection;
    fn deref(&self) -> &AnyConnection {
        &self.connection
    }
}

impl DerefMut for Transaction {
    fn deref_mut(&mut self) -> &mut AnyConnection {
        &mut self.connection
    }
}
