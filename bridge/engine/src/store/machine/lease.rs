//! Locks with a lease. Parlour itself needs none: the database is one process's (`Claim`), and a machine one owner's.

use matrix_sdk_common::cross_process_lock::{
    CrossProcessLockGeneration, FIRST_CROSS_PROCESS_LOCK_GENERATION,
};
use ruma::MilliSecondsSinceUnixEpoch;
use serde::{Deserialize, Serialize};

use super::{MachineStore, rows::Kind};
use crate::{
    commit_point::CommitPoint,
    store::{Statement, StoreError},
};

/// Who holds a lock, and until when, in milliseconds since the Unix epoch.
#[derive(Serialize, Deserialize)]
struct Lease {
    holder: String,
    expires_at: u64,
    generation: CrossProcessLockGeneration,
}

impl MachineStore {
    /// Takes a lock when it is free, has run out, or is `holder`'s already. The generation counts its holders.
    ///
    /// # Errors
    /// When the database fails.
    pub(super) async fn take_lease(
        &self,
        duration_ms: u32,
        key: &str,
        holder: &str,
    ) -> Result<Option<CrossProcessLockGeneration>, StoreError> {
        let row = self.named(Kind::LEASE, key);
        let mut tx = self.store.begin_unordered().await?;
        let found: Option<(Vec<u8>,)> = sqlx::query_as(
            "SELECT value FROM machine_values WHERE machine = $1 AND kind = $2 AND parent = $3 AND name = $4",
        )
        .bind(&self.machine)
        .bind(row.kind.0)
        .bind(&row.parent)
        .bind(&row.name)
        .fetch_optional(&mut *tx)
        .await?;
        let now = u64::from(MilliSecondsSinceUnixEpoch::now().get());
        let generation = match &found {
            None => FIRST_CROSS_PROCESS_LOCK_GENERATION,
            Some((sealed,)) => match self.opened::<Lease>(&row, sealed)? {
                held if held.holder == holder => held.generation,
                held if held.expires_at <= now => held.generation + 1,
                _ => return Ok(None),
            },
        };
        let lease = Lease { holder: holder.to_owned(), expires_at: now + u64::from(duration_ms), generation };
        let sealed = self.sealed(&row, &lease)?;
        // Whoever came in between has changed the row: theirs it is.
        let statement: Statement<'_> = match found {
            None => sqlx::query(
                "INSERT INTO machine_values (machine, kind, parent, name, value) VALUES ($1, $2, $3, $4, $5)
                 ON CONFLICT (machine, kind, parent, name) DO NOTHING",
            ),
            Some(_) => sqlx::query(
                "UPDATE machine_values SET value = $5
                 WHERE machine = $1 AND kind = $2 AND parent = $3 AND name = $4 AND value = $6",
            ),
        };
        let statement =
            statement.bind(&self.machine).bind(row.kind.0).bind(&row.parent).bind(&row.name).bind(sealed);
        let statement = match found {
            None => statement,
            Some((before,)) => statement.bind(before),
        };
        if statement.execute(&mut *tx).await?.rows_affected() != 1 {
            return Ok(None);
        }
        self.store.commit(tx, CommitPoint::MachineSaved).await?;
        Ok(Some(generation))
    }
}
