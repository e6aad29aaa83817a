//! Reading ahead: where many people are met at once, what machines ask one by one is asked of the database together.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use ruma::{OwnedRoomId, OwnedUserId};
use sqlx::{AssertSqlSafe, FromRow, any::AnyRow};

use super::{
    MachineStore,
    remembered::{Change, Rows},
    rows::{Kind, SESSIONS},
};
use crate::store::{
    StoreError,
    lists::{self, padded, with_list},
};

const UNDER: &str =
    "SELECT parent, name, value FROM machine_values WHERE machine = $1 AND kind = $2 AND parent IN";
const NAMED: &str = "SELECT name, name, value FROM machine_values WHERE machine = $1 AND kind = $2 AND parent = '' AND name IN";
const PARENTS: &str =
    "SELECT DISTINCT parent FROM machine_values WHERE machine = $1 AND kind = $2 AND parent IN";
const NAMES: &str =
    "SELECT name FROM machine_values WHERE machine = $1 AND kind = $2 AND parent = '' AND name IN";
const SENDERS: &str =
    "SELECT DISTINCT sender_key FROM machine_inbound_sessions WHERE machine = $1 AND sender_key IN";
const OF_ROOMS: &str = "SELECT room, session FROM machine_inbound_sessions WHERE machine = $1 AND room IN";

impl Kind {
    /// Whether it is what is known of people's devices and identities, which is remembered.
    pub(super) fn is_of_people(self) -> bool {
        [Self::DEVICE.0, Self::IDENTITY.0].contains(&self.0)
    }

    /// Whether its names stand under others that are asked for together.
    pub(super) fn has_parents(self) -> bool {
        [Self::DEVICE.0, Self::OLM_SESSION.0].contains(&self.0)
    }

    /// Whether at least of its absence something is remembered.
    fn is_remembered(self) -> bool {
        self.is_of_people() || [Self::OLM_SESSION.0, Self::OUTBOUND_SESSION.0].contains(&self.0)
    }
}

/// The question that these rows answer; none where nothing of the kind is remembered.
pub(super) fn question(kind: Kind, parent: &str, name: Option<&str>) -> Option<String> {
    let of = if kind.has_parents() { parent } else { name? };
    kind.is_remembered().then(|| format!("{}/{of}", kind.0))
}

/// The question for a session to decrypt with, whose absence is remembered.
pub(super) fn session(room: &str, session: &str) -> String {
    format!("session/{room}/{session}")
}

/// The question for sessions of a sender, whose absence is remembered.
pub(super) fn sender(sender_key: &str) -> String {
    format!("sender/{sender_key}")
}

/// What changes when a row is written.
pub(super) fn changed_by(kind: Kind, parent: &str, name: &str) -> Vec<Change> {
    question(kind, parent, Some(name)).map(Change::Answer).into_iter().collect()
}

/// What changes when everything under a name is gone.
pub(super) fn changed_under(kind: Kind, parent: &str) -> Vec<Change> {
    if kind.has_parents() { changed_by(kind, parent, "") } else { changed_of(kind) }
}

/// What changes when all of a kind are gone.
pub(super) fn changed_of(kind: Kind) -> Vec<Change> {
    if kind.is_remembered() { vec![Change::All] } else { Vec::new() }
}

impl MachineStore {
    /// Whether it was read that there is nothing for this question.
    pub(super) fn is_known_not_to_be(&self, question: &str) -> bool {
        self.store.remembered.get(&self.machine, question).is_ok_and(|rows| rows.is_empty())
    }

    /// Reads the devices and identities of these people that are not remembered.
    ///
    /// # Errors
    /// When the database fails.
    pub(crate) async fn read_people(&self, people: &[OwnedUserId]) -> Result<(), StoreError> {
        let parents = people.iter().map(|user_id| self.parent(Kind::DEVICE, user_id.as_str())).collect();
        self.read_all(Kind::DEVICE, UNDER, parents).await?;
        let names = people.iter().map(|user_id| self.named(Kind::IDENTITY, user_id.as_str()).name).collect();
        self.read_all(Kind::IDENTITY, NAMED, names).await
    }

    async fn read_all(&self, kind: Kind, select: &str, words: Vec<String>) -> Result<(), StoreError> {
        let questions = words.into_iter().map(|word| (format!("{}/{word}", kind.0), word));
        let (unknown, asked_at) = self.store.remembered.unanswered(&self.machine, questions);
        for some in unknown.chunks(lists::MOST) {
            let rows: Vec<(String, String, Vec<u8>)> = self.ask(select, Some(kind), some).await?;
            let mut of: HashMap<String, Vec<(String, Vec<u8>)>> = HashMap::new();
            for (word, name, value) in rows {
                of.entry(word).or_default().push((name, value));
            }
            let answers = some
                .iter()
                .map(|(question, word)| (question.clone(), Arc::new(of.remove(word).unwrap_or_default())));
            self.store.remembered.keep(&self.machine, asked_at, answers);
        }
        Ok(())
    }

    /// Those of these devices, by their Curve25519 keys in base64, that there is an Olm session with.
    ///
    /// # Errors
    /// When the database fails.
    pub(crate) async fn with_olm(&self, keys: &[String]) -> Result<HashSet<String>, StoreError> {
        let parents: Vec<_> = keys.iter().map(|key| self.parent(Kind::OLM_SESSION, key)).collect();
        let words =
            parents.iter().map(|parent| (format!("{}/{parent}", Kind::OLM_SESSION.0), parent.clone()));
        let present = self.present(PARENTS, Some(Kind::OLM_SESSION), words.collect()).await?;
        let both = keys.iter().zip(parents);
        Ok(both.filter_map(|(key, parent)| present.contains(&parent).then(|| key.clone())).collect())
    }

    /// Reads which of these rooms have a session that is encrypted with.
    ///
    /// # Errors
    /// When the database fails.
    pub(crate) async fn read_rooms(&self, rooms: &[OwnedRoomId]) -> Result<(), StoreError> {
        let names = rooms.iter().map(|room| self.named(Kind::OUTBOUND_SESSION, room.as_str()).name);
        let words = names.map(|name| (format!("{}/{name}", Kind::OUTBOUND_SESSION.0), name)).collect();
        self.present(NAMES, Some(Kind::OUTBOUND_SESSION), words).await.map(drop)
    }

    /// Reads of which of these devices, by their Curve25519 keys in base64, there are sessions to decrypt with.
    ///
    /// # Errors
    /// When the database fails.
    pub(crate) async fn read_senders(&self, keys: &[String]) -> Result<(), StoreError> {
        let names = keys.iter().map(|key| self.hashed(SESSIONS, "sender_key", key));
        let words = names.map(|name| (sender(&name), name)).collect();
        self.present(SENDERS, None, words).await.map(drop)
    }

    /// Those of these sessions, by room and id, that can be decrypted with.
    ///
    /// # Errors
    /// When the database fails.
    pub(crate) async fn with_sessions(
        &self,
        sessions: &[(OwnedRoomId, String)],
    ) -> Result<HashSet<String>, StoreError> {
        let mut present = HashSet::new();
        for some in sessions.chunks(lists::MOST) {
            let names: Vec<_> = some.iter().map(|(room, id)| self.session_names(room.as_str(), id)).collect();
            let asked_at = self.store.remembered.unanswered(&self.machine, std::iter::empty()).1;
            // Of a room there are more, from before.
            let in_rooms = with_list(OF_ROOMS, 2, some.len(), "AND session IN");
            let sql = with_list(&in_rooms, 2 + padded(&names).count(), some.len(), "");
            let mut query = sqlx::query_as(AssertSqlSafe(sql)).bind(&self.machine);
            for (room, _) in padded(&names) {
                query = query.bind(room);
            }
            for (_, name) in padded(&names) {
                query = query.bind(name);
            }
            let rows: Vec<(String, String)> = query.fetch_all(&self.store.pool).await?;
            let found: HashSet<_> = rows.into_iter().collect();
            let mut missing = Vec::new();
            for ((_, id), row) in some.iter().zip(&names) {
                if found.contains(row) {
                    present.insert(id.clone());
                } else {
                    missing.push((session(&row.0, &row.1), Rows::default()));
                }
            }
            self.store.remembered.keep(&self.machine, asked_at, missing);
        }
        Ok(present)
    }

    /// The rows of a kind, or of a table without kinds, that stand under these words, each given after its question.
    async fn ask<R>(
        &self,
        select: &str,
        kind: Option<Kind>,
        some: &[(String, String)],
    ) -> Result<Vec<R>, StoreError>
    where
        R: for<'r> FromRow<'r, AnyRow> + Send + Unpin,
    {
        let first = 2 + usize::from(kind.is_some());
        let sql = with_list(select, first, some.len(), "");
        let mut query = sqlx::query_as(AssertSqlSafe(sql)).bind(&self.machine);
        if let Some(kind) = kind {
            query = query.bind(kind.0);
        }
        for (_, word) in padded(some) {
            query = query.bind(word);
        }
        Ok(query.fetch_all(&self.store.pool).await?)
    }

    /// Those of these words, each given after the question that its absence answers, that a statement finds. Of the others
    /// it is remembered that there is nothing, until there is.
    async fn present(
        &self,
        select: &str,
        kind: Option<Kind>,
        words: Vec<(String, String)>,
    ) -> Result<HashSet<String>, StoreError> {
        let (unknown, asked_at) = self.store.remembered.unanswered(&self.machine, words.into_iter());
        let mut present = HashSet::new();
        for some in unknown.chunks(lists::MOST) {
            let rows: Vec<(String,)> = self.ask(select, kind, some).await?;
            let found: HashSet<_> = rows.into_iter().map(|(word,)| word).collect();
            let missing = some.iter().filter(|(_, word)| !found.contains(word));
            let missing = missing.map(|(question, _)| (question.clone(), Rows::default()));
            self.store.remembered.keep(&self.machine, asked_at, missing);
            present.extend(found);
        }
        Ok(present)
    }
}

#[cfg(test)]
mod tests {
    use matrix_sdk_crypto::{EncryptionSettings, OlmMachine, olm::SenderDataType, store::CryptoStore as _};
    use ruma::{device_id, owned_room_id, owned_user_id};

    use crate::store::testing::TestDatabase;

    /// Absence that outlived its time would have a machine claim keys anew, use a session twice, or lose one.
    #[tokio::test]
    async fn what_was_read_as_absent_is_found_once_it_is_there() {
        let database = TestDatabase::sqlite();
        let store = database.open().await.expect("a store");
        let (ours, room) = (owned_user_id!("@ghost:x"), owned_room_id!("!a:x"));
        let keys = store.machine_store(&ours);
        let olm =
            OlmMachine::with_store(&ours, device_id!("D"), keys.clone(), None).await.expect("a machine");
        let curve_key = olm.identity_keys().curve25519;
        let theirs = || async {
            keys.get_inbound_group_sessions_for_device_batch(curve_key, SenderDataType::DeviceInfo, None, 9)
                .await
                .expect("read")
                .len()
        };
        keys.read_rooms(std::slice::from_ref(&room)).await.expect("read");
        keys.read_senders(&[curve_key.to_base64()]).await.expect("read");
        assert!(keys.get_outbound_group_session(&room).await.expect("read").is_none());
        assert_eq!(theirs().await, 0);

        let nobody = std::iter::empty();
        olm.share_room_key(&room, nobody, EncryptionSettings::default()).await.expect("a session");
        let session = keys.get_outbound_group_session(&room).await.expect("read").expect("a session");
        assert_eq!(theirs().await, 1);
        let id = session.session_id().to_owned();
        let named = [(room.clone(), id.clone()), (room.clone(), "another".to_owned())];
        assert_eq!(keys.with_sessions(&named).await.expect("read"), [id.clone()].into());
        assert!(keys.get_inbound_group_session(&room, &id).await.expect("read").is_some());
        assert!(keys.get_inbound_group_session(&room, "another").await.expect("read").is_none());

        // Another machine, which has none of it, learns the session.
        let other = store.machine_store(&owned_user_id!("@bot:x"));
        let bot =
            OlmMachine::with_store(&owned_user_id!("@bot:x"), device_id!("B"), other.clone(), None).await;
        let bot = bot.expect("a machine");
        assert_eq!(other.with_sessions(&named).await.expect("read"), [].into());
        assert!(other.get_inbound_group_session(&room, &id).await.expect("read").is_none());
        let exported = olm.store().export_room_keys(|_| true).await.expect("exported");
        bot.store().import_exported_room_keys(exported, |_, _| {}).await.expect("imported");
        assert!(other.get_inbound_group_session(&room, &id).await.expect("read").is_some());
        assert_eq!(other.with_sessions(&named).await.expect("read"), [id].into());
    }

    #[tokio::test]
    async fn devices_that_are_read_ahead_are_those_that_were_saved_last() {
        let database = TestDatabase::sqlite();
        let store = database.open().await.expect("a store");
        let (ours, stranger) = (owned_user_id!("@ghost:x"), owned_user_id!("@stranger:x"));
        let keys = store.machine_store(&ours);
        let both = [ours.clone(), stranger.clone()];
        keys.read_people(&both).await.expect("read");
        assert!(keys.get_user_devices(&ours).await.expect("read").is_empty());
        // A machine saves its own device when it is made, and its identity.
        let olm =
            OlmMachine::with_store(&ours, device_id!("D"), keys.clone(), None).await.expect("a machine");
        olm.bootstrap_cross_signing(false).await.expect("an identity");
        for _ in 0..2 {
            assert!(keys.get_device(&ours, device_id!("D")).await.expect("read").is_some());
            assert!(keys.get_device(&ours, device_id!("E")).await.expect("read").is_none());
            assert!(keys.get_device(&stranger, device_id!("D")).await.expect("read").is_none());
            assert!(keys.get_user_identity(&ours).await.expect("read").is_some());
            assert!(keys.get_user_identity(&stranger).await.expect("read").is_none());
            keys.read_people(&both).await.expect("read");
        }
        assert!(keys.with_olm(&[olm.identity_keys().curve25519.to_base64()]).await.expect("read").is_empty());
    }
}
