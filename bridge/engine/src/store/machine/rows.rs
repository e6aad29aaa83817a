//! A machine's rows: named by keyed hashes, sealed, read one by one.

use std::sync::Arc;

use matrix_sdk_crypto::olm::{InboundGroupSession, PickledInboundGroupSession};
use serde::{Serialize, de::DeserializeOwned};
use zeroize::Zeroizing;

use super::{MachineStore, ahead, remembered::Rows, saving::Write};
use crate::store::{StoreError, seal::Place};

pub(super) const VALUES: &str = "machine_values";
pub(super) const SESSIONS: &str = "machine_inbound_sessions";

/// What kind of value a row holds: the column `kind`.
#[derive(Clone, Copy)]
pub(super) struct Kind(pub(super) &'static str);

impl Kind {
    /// The Olm account: identity keys, one-time keys.
    pub(super) const ACCOUNT: Self = Self("account");
    /// The private cross-signing keys.
    pub(super) const PRIVATE_IDENTITY: Self = Self("private-identity");
    /// How far the inbox has been read.
    pub(super) const NEXT_BATCH: Self = Self("next-batch");
    /// The key that a key backup is read with.
    pub(super) const BACKUP_KEY: Self = Self("backup-key");
    /// The version of the key backup.
    pub(super) const BACKUP_VERSION: Self = Self("backup-version");
    /// The key of a dehydrated device.
    pub(super) const DEHYDRATION_KEY: Self = Self("dehydration-key");
    /// Olm sessions: the other device's key, the session.
    pub(super) const OLM_SESSION: Self = Self("olm-session");
    /// Megolm sessions that are encrypted with: the room.
    pub(super) const OUTBOUND_SESSION: Self = Self("outbound-session");
    /// Devices: the user, the device.
    pub(super) const DEVICE: Self = Self("device");
    /// Public identities: the user.
    pub(super) const IDENTITY: Self = Self("identity");
    /// Users whose devices are followed: the user.
    pub(super) const TRACKED_USER: Self = Self("tracked-user");
    /// Olm messages that have been read: the other device's key, the message's hash.
    pub(super) const MESSAGE_HASH: Self = Self("message-hash");
    /// Requests for keys and secrets: the request.
    pub(super) const KEY_REQUEST: Self = Self("key-request");
    /// Secrets that came: the secret's name, the secret.
    pub(super) const SECRET: Self = Self("secret");
    /// Why a session was not given to us: the room, the session.
    pub(super) const WITHHELD: Self = Self("withheld");
    /// How a room is encrypted: the room.
    pub(super) const ROOM_SETTINGS: Self = Self("room-settings");
    /// Bundles of room keys that were offered: the room, the user.
    pub(super) const KEY_BUNDLE: Self = Self("key-bundle");
    /// Rooms that a bundle is awaited for: the room.
    pub(super) const PENDING_BUNDLE: Self = Self("pending-bundle");
    /// Rooms whose keys were all fetched from the backup: the room.
    pub(super) const KEYS_FETCHED: Self = Self("keys-fetched");
    /// What the machine keeps besides: the key.
    pub(super) const CUSTOM: Self = Self("custom");
    /// Who holds a lock, and how long: the lock.
    pub(super) const LEASE: Self = Self("lease");
}

/// Which row of `machine_values`.
pub(super) struct Row {
    pub(super) kind: Kind,
    pub(super) parent: String,
    pub(super) name: String,
}

/// A row of `machine_inbound_sessions` as it is read: room, session, backup, value.
pub(super) type SessionRow = (String, String, Option<String>, Vec<u8>);

const ONE: &str =
    "SELECT name, value FROM machine_values WHERE machine = $1 AND kind = $2 AND parent = $3 AND name = $4";
const UNDER: &str = "SELECT name, value FROM machine_values WHERE machine = $1 AND kind = $2 AND parent = $3";

impl MachineStore {
    /// The name that a word of a machine has in a column; no other machine, kind or column has the same.
    pub(super) fn hashed(&self, kind: &str, column: &str, word: &str) -> String {
        self.store.practice_key().name(&["machine", &self.machine, kind, column, word])
    }

    /// The row of a kind that has one.
    pub(super) fn sole(&self, kind: Kind) -> Row {
        Row { kind, parent: String::new(), name: String::new() }
    }

    /// The row of a kind with names.
    pub(super) fn named(&self, kind: Kind, name: &str) -> Row {
        Row { kind, parent: String::new(), name: self.hashed(kind.0, "name", name) }
    }

    /// The row of a kind whose names stand under others.
    pub(super) fn under(&self, kind: Kind, parent: &str, name: &str) -> Row {
        Row { kind, parent: self.parent(kind, parent), name: self.hashed(kind.0, "name", name) }
    }

    pub(super) fn parent(&self, kind: Kind, parent: &str) -> String {
        self.hashed(kind.0, "parent", parent)
    }

    fn row_of(&self, row: &Row) -> String {
        let Row { kind, parent, name } = row;
        format!("{}/{}/{parent}/{name}", self.machine, kind.0)
    }

    fn session_row_of(&self, room: &str, session: &str) -> String {
        format!("{}/{room}/{session}", self.machine)
    }

    /// A value, sealed for its row.
    pub(super) fn sealed<T: Serialize + ?Sized>(&self, row: &Row, value: &T) -> Result<Vec<u8>, StoreError> {
        let place = Place { table: VALUES, column: "value", row: &self.row_of(row) };
        Ok(self.store.practice_key().seal(place, &written(VALUES, value)?))
    }

    /// A session, sealed for its row.
    pub(super) fn sealed_session(
        &self,
        room: &str,
        session: &str,
        pickle: &PickledInboundGroupSession,
    ) -> Result<Vec<u8>, StoreError> {
        let place = Place { table: SESSIONS, column: "value", row: &self.session_row_of(room, session) };
        Ok(self.store.practice_key().seal(place, &written(SESSIONS, pickle)?))
    }

    /// The writing of a value.
    pub(super) fn put<T: Serialize + ?Sized>(&self, row: Row, value: &T) -> Result<Write, StoreError> {
        let sealed = self.sealed(&row, value)?;
        Ok(Write::Put(row, sealed))
    }

    pub(super) fn opened<T: DeserializeOwned>(&self, row: &Row, sealed: &[u8]) -> Result<T, StoreError> {
        let place = Place { table: VALUES, column: "value", row: &self.row_of(row) };
        let plain = self.store.practice_key().open(place, sealed)?;
        serde_json::from_slice(&plain).map_err(|_| StoreError::Malformed(VALUES))
    }

    /// The value of a row.
    pub(super) async fn value<T: DeserializeOwned>(&self, row: &Row) -> Result<Option<T>, StoreError> {
        let found = Self::noted(self.rows(row.kind, &row.parent, Some(&row.name)).await)?;
        Self::noted(found.first().map(|(_, sealed)| self.opened(row, sealed)).transpose())
    }

    /// Rows of a kind under one name: one of them, or all.
    async fn rows(&self, kind: Kind, parent: &str, name: Option<&str>) -> Result<Rows, StoreError> {
        let Some(question) = ahead::question(kind, parent, name) else {
            return Ok(Arc::new(self.read_rows(kind, parent, name).await?));
        };
        let rows = match self.store.remembered.get(&self.machine, &question) {
            Ok(rows) => rows,
            Err(asked_at) if kind.is_of_people() => {
                // Somebody's devices are read together.
                let name = name.filter(|_| !kind.has_parents());
                let rows = Arc::new(self.read_rows(kind, parent, name).await?);
                self.store.remembered.keep(&self.machine, asked_at, [(question, Arc::clone(&rows))]);
                rows
            }
            Err(_) => return Ok(Arc::new(self.read_rows(kind, parent, name).await?)),
        };
        Ok(match name {
            Some(wanted) if kind.has_parents() => {
                Arc::new(rows.iter().filter(|(name, _)| name == wanted).cloned().collect())
            }
            _ => rows,
        })
    }

    async fn read_rows(
        &self,
        kind: Kind,
        parent: &str,
        name: Option<&str>,
    ) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let query = sqlx::query_as(if name.is_some() { ONE } else { UNDER });
        let query = query.bind(&self.machine).bind(kind.0).bind(parent);
        let query = match name {
            Some(name) => query.bind(name),
            None => query,
        };
        Ok(query.fetch_all(&self.store.pool).await?)
    }

    /// All values of a kind whose names stand under none.
    pub(super) async fn values<T: DeserializeOwned>(&self, kind: Kind) -> Result<Vec<T>, StoreError> {
        self.values_at(kind, String::new()).await
    }

    /// All values of a kind under one name.
    pub(super) async fn values_under<T: DeserializeOwned>(
        &self,
        kind: Kind,
        parent: &str,
    ) -> Result<Vec<T>, StoreError> {
        self.values_at(kind, self.parent(kind, parent)).await
    }

    async fn values_at<T: DeserializeOwned>(&self, kind: Kind, parent: String) -> Result<Vec<T>, StoreError> {
        let found = Self::noted(self.rows(kind, &parent, None).await)?;
        let mut row = Row { kind, parent, name: String::new() };
        let mut values = Vec::with_capacity(found.len());
        for (name, sealed) in found.iter() {
            row.name.clone_from(name);
            values.push(Self::noted(self.opened(&row, sealed))?);
        }
        Ok(values)
    }

    pub(super) fn opened_sessions(
        &self,
        rows: Vec<SessionRow>,
    ) -> Result<Vec<InboundGroupSession>, StoreError> {
        rows.into_iter().map(|row| self.opened_session(row)).collect()
    }

    pub(super) fn opened_session(
        &self,
        (room, session, backed_up_to, sealed): SessionRow,
    ) -> Result<InboundGroupSession, StoreError> {
        let place = Place { table: SESSIONS, column: "value", row: &self.session_row_of(&room, &session) };
        let plain = self.store.practice_key().open(place, &sealed)?;
        let mut pickle: PickledInboundGroupSession =
            serde_json::from_slice(&plain).map_err(|_| StoreError::Malformed(SESSIONS))?;
        // The column knows: marking a session as backed up does not seal it anew.
        pickle.backed_up = backed_up_to.is_some();
        InboundGroupSession::from_pickle(pickle).map_err(|_| StoreError::Malformed(SESSIONS))
    }
}

fn written<T: Serialize + ?Sized>(table: &'static str, value: &T) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    serde_json::to_vec(value).map(Zeroizing::new).map_err(|_| StoreError::Malformed(table))
}
