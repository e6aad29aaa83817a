//! What the Olm machines keep: matrix-sdk-crypto's `CryptoStore` on the one database, for all our users.
//!
//! One file, though past 500 lines: the trait is one.

mod ahead;
#[cfg(all(test, feature = "certify"))]
mod certification;
mod changes;
#[cfg(feature = "faults")]
mod clear;
mod lease;
pub(super) mod remembered;
mod rows;
mod saving;

use std::{collections::HashMap, fmt, sync::Arc};

use async_trait::async_trait;
use matrix_sdk_common::{cross_process_lock::CrossProcessLockGeneration, locks::RwLock};
use matrix_sdk_crypto::{
    Account, CryptoStoreError, DeviceData, GossipRequest, SecretInfo, Session, TrackedUser, UserIdentityData,
    olm::{
        Curve25519PublicKey, InboundGroupSession, OlmMessageHash, OutboundGroupSession, PickledAccount,
        PickledSession, PrivateCrossSigningIdentity, SenderDataType, StaticAccountData,
    },
    store::{
        CryptoStore,
        types::{
            BackupKeys, Changes, DehydratedDeviceKey, PendingChanges, RoomKeyCounts, RoomKeyWithheldEntry,
            RoomPendingKeyBundleDetails, RoomSettings, StoredRoomKeyBundleData,
        },
    },
};
use ruma::{
    DeviceId, OwnedDeviceId, OwnedUserId, RoomId, TransactionId, UserId, events::secret::request::SecretName,
};
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use self::{
    rows::{Kind, SESSIONS, SessionRow, VALUES},
    saving::{Standing, Write},
};
use super::{Store, StoreError};
use crate::commit_point::CommitPoint;

/// What the Olm machine of one user of ours keeps. Its clones are one and the same; a machine that is opened anew
/// gets a new one ([`Store::machine_store`]). When a save fails, all later ones do, too: then the machine knows what
/// the database does not, and must be opened anew.
#[derive(Clone)]
pub struct MachineStore {
    store: Store,
    user: OwnedUserId,
    /// The user's name in the column `machine`.
    machine: String,
    /// Whose account it is, once it has been read or written.
    account: Arc<RwLock<Option<StaticAccountData>>>,
    standing: Arc<Mutex<Standing>>,
}

impl fmt::Debug for MachineStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MachineStore").field("user", &self.user).finish_non_exhaustive()
    }
}

impl From<StoreError> for CryptoStoreError {
    fn from(error: StoreError) -> Self {
        Self::backend(error)
    }
}

/// What belongs to the device, and must not outlive it.
///
/// The account, the Olm sessions and the outbound Megolm sessions hold ratchets and one-time keys that have been used
/// since the backup was made. The hashes of read Olm messages are of those sessions. Requests for keys, and the place
/// in the inbox, are the old device's. Followed users are followed anew, so that everybody's devices are asked for. A
/// lock's holder is not alive.
///
/// All else stays. It is the user's, or the room's, not the device's: the private and public identities, the
/// sessions to decrypt with and where they are backed up, the backup's and the dehydrated device's keys, secrets that
/// came, room settings (which guard against a room's being downgraded), bundles, and why a session was withheld. The
/// devices of others stay, because a known device's keys must not change unnoticed. Custom values hold only the
/// machine's own marks of migrations and generations.
const OF_THE_DEVICE: [Kind; 8] = [
    Kind::ACCOUNT,
    Kind::OLM_SESSION,
    Kind::OUTBOUND_SESSION,
    Kind::MESSAGE_HASH,
    Kind::KEY_REQUEST,
    Kind::NEXT_BATCH,
    Kind::TRACKED_USER,
    Kind::LEASE,
];

impl Store {
    /// What the machine of a user of ours keeps.
    #[must_use]
    pub fn machine_store(&self, user: &UserId) -> MachineStore {
        MachineStore {
            store: self.clone(),
            user: user.to_owned(),
            machine: self.practice_key().name(&["machine", user.as_str()]),
            account: Arc::default(),
            standing: Arc::new(Mutex::new(Standing::Whole)),
        }
    }
}

impl MachineStore {
    /// Forgets the device, for a database that comes from a backup: what it used since must not be used again. Identity
    /// and everything that can be read stay; the next machine is a new device. No machine of the user may be open.
    ///
    /// # Errors
    /// When the database fails; then nothing is forgotten.
    pub async fn begin_new_epoch(&self) -> Result<(), StoreError> {
        let mut writes: Vec<Write> = OF_THE_DEVICE.into_iter().map(Write::RemoveKind).collect();
        writes.push(Write::RemoveUnder(Kind::DEVICE, self.parent(Kind::DEVICE, self.user.as_str())));
        self.commit(&writes, CommitPoint::MachineRenewed).await?;
        *self.account.write() = None;
        Ok(())
    }

    /// Has the device be published again, as one that the homeserver does not know: with its keys and new one-time keys. Who
    /// was given the rooms' sessions counts as not given. No machine of the user may be open.
    ///
    /// # Errors
    /// When the database fails; then nothing is changed.
    pub async fn publish_again(&self) -> Result<(), StoreError> {
        let row = self.sole(Kind::ACCOUNT);
        let mut writes = vec![Write::RemoveKind(Kind::OUTBOUND_SESSION), Write::RemoveKind(Kind::NEXT_BATCH)];
        if let Some(mut account) = self.value::<PickledAccount>(&row).await? {
            account.shared = false;
            account.uploaded_signed_key_count = 0;
            writes.push(self.put(row, &account)?);
        }
        self.commit(&writes, CommitPoint::MachineRenewed).await
    }

    /// Forgets how far the inbox has been read: it is read from its beginning.
    ///
    /// # Errors
    /// When the database fails.
    pub(crate) async fn forget_place(&self) -> Result<(), StoreError> {
        self.save(Write::RemoveKind(Kind::NEXT_BATCH)).await
    }

    /// The machine saves nothing any more: another one is to be opened in its place.
    pub(crate) async fn close(&self) {
        *self.standing.lock().await = Standing::Behind;
    }

    /// The database that it is in.
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// Whether a save did not come to its end, so that the machine's memory is ahead of the database. While somebody
    /// saves just now it is not known yet.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.standing.try_lock().is_ok_and(|standing| *standing == Standing::Behind)
    }

    fn get_static_account(&self) -> Option<StaticAccountData> {
        self.account.read().clone()
    }

    async fn own_account(&self) -> Result<StaticAccountData, StoreError> {
        if self.get_static_account().is_none() {
            self.load_account().await?;
        }
        self.get_static_account().ok_or(StoreError::Malformed(VALUES))
    }
}

const SESSION: &str = "SELECT room, session, backed_up_to, value FROM machine_inbound_sessions
     WHERE machine = $1 AND room = $2 AND session = $3";
const ALL_SESSIONS: &str =
    "SELECT room, session, backed_up_to, value FROM machine_inbound_sessions WHERE machine = $1";
const SESSIONS_OF_ROOM: &str = "SELECT room, session, backed_up_to, value FROM machine_inbound_sessions
     WHERE machine = $1 AND room = $2";
const SESSIONS_OF_SENDER: &str = "SELECT room, session, backed_up_to, value FROM machine_inbound_sessions
     WHERE machine = $1 AND sender_key = $2 AND sender_data = $3 AND session > $4 ORDER BY session LIMIT $5";
const SESSIONS_TO_BACK_UP: &str = "SELECT room, session, backed_up_to, value FROM machine_inbound_sessions
     WHERE machine = $1 AND (backed_up_to IS NULL OR backed_up_to <> $2) LIMIT $3";
// No version is equal to none.
const COUNTS: &str = "SELECT COUNT(*), COUNT(CASE WHEN backed_up_to = $2 THEN 1 END)
     FROM machine_inbound_sessions WHERE machine = $1";

fn at_most(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

#[async_trait]
impl CryptoStore for MachineStore {
    type Error = StoreError;

    async fn load_account(&self) -> Result<Option<Account>, StoreError> {
        let Some(pickle) = self.value(&self.sole(Kind::ACCOUNT)).await? else { return Ok(None) };
        let account = Account::from_pickle(pickle).map_err(|_| StoreError::Malformed(VALUES))?;
        *self.account.write() = Some(account.static_data().clone());
        Ok(Some(account))
    }

    async fn load_identity(&self) -> Result<Option<PrivateCrossSigningIdentity>, StoreError> {
        let Some(pickle) = self.value(&self.sole(Kind::PRIVATE_IDENTITY)).await? else { return Ok(None) };
        let identity = PrivateCrossSigningIdentity::from_pickle(pickle);
        identity.map(Some).map_err(|_| StoreError::Malformed(VALUES))
    }

    async fn save_changes(&self, changes: Changes) -> Result<(), StoreError> {
        let save = self.begin_save().await?;
        let writes = self.rows_of(changes).await?;
        self.end_save(save, writes).await
    }

    async fn save_pending_changes(&self, changes: PendingChanges) -> Result<(), StoreError> {
        let Some(account) = changes.account else { return Ok(()) };
        self.save(self.put(self.sole(Kind::ACCOUNT), &account.pickle())?).await?;
        *self.account.write() = Some(account.static_data().clone());
        Ok(())
    }

    async fn save_inbound_group_sessions(
        &self,
        sessions: Vec<InboundGroupSession>,
        backed_up_to_version: Option<&str>,
    ) -> Result<(), StoreError> {
        let save = self.begin_save().await?;
        let mut writes = Vec::with_capacity(sessions.len());
        for session in &sessions {
            writes.push(self.session_row(session, backed_up_to_version).await?);
        }
        self.end_save(save, writes).await
    }

    async fn get_sessions(&self, sender_key: &str) -> Result<Option<Vec<Session>>, StoreError> {
        let pickles: Vec<PickledSession> = self.values_under(Kind::OLM_SESSION, sender_key).await?;
        if pickles.is_empty() {
            return Ok(None);
        }
        let own = self.get_own_device().await?.as_device_keys().clone();
        let sessions = pickles.into_iter().map(|pickle| Session::from_pickle(own.clone(), pickle));
        sessions.collect::<Result<_, _>>().map(Some).map_err(|_| StoreError::Malformed(VALUES))
    }

    async fn get_inbound_group_session(
        &self,
        room_id: &RoomId,
        session_id: &str,
    ) -> Result<Option<InboundGroupSession>, StoreError> {
        let (room, session) = self.session_names(room_id.as_str(), session_id);
        if self.is_known_not_to_be(&ahead::session(&room, &session)) {
            return Ok(None);
        }
        let found = sqlx::query_as(SESSION)
            .bind(&self.machine)
            .bind(room)
            .bind(session)
            .fetch_optional(&self.store.pool)
            .await;
        let found: Option<SessionRow> = Self::noted(found.map_err(StoreError::from))?;
        Self::noted(found.map(|row| self.opened_session(row)).transpose())
    }

    async fn get_withheld_info(
        &self,
        room_id: &RoomId,
        session_id: &str,
    ) -> Result<Option<RoomKeyWithheldEntry>, StoreError> {
        self.value(&self.under(Kind::WITHHELD, room_id.as_str(), session_id)).await
    }

    async fn get_withheld_sessions_by_room_id(
        &self,
        room_id: &RoomId,
    ) -> Result<Vec<RoomKeyWithheldEntry>, StoreError> {
        self.values_under(Kind::WITHHELD, room_id.as_str()).await
    }

    async fn get_inbound_group_sessions(&self) -> Result<Vec<InboundGroupSession>, StoreError> {
        let rows: Vec<SessionRow> =
            sqlx::query_as(ALL_SESSIONS).bind(&self.machine).fetch_all(&self.store.pool).await?;
        self.opened_sessions(rows)
    }

    async fn inbound_group_session_counts(
        &self,
        backup_version: Option<&str>,
    ) -> Result<RoomKeyCounts, StoreError> {
        let (total, backed_up): (i64, i64) = sqlx::query_as(COUNTS)
            .bind(&self.machine)
            .bind(backup_version.map(|version| self.backup(version)))
            .fetch_one(&self.store.pool)
            .await?;
        let count = |rows: i64| usize::try_from(rows).map_err(|_| StoreError::Malformed(SESSIONS));
        Ok(RoomKeyCounts { total: count(total)?, backed_up: count(backed_up)? })
    }

    async fn get_inbound_group_sessions_by_room_id(
        &self,
        room_id: &RoomId,
    ) -> Result<Vec<InboundGroupSession>, StoreError> {
        let (room, _) = self.session_names(room_id.as_str(), "");
        let rows: Vec<SessionRow> = sqlx::query_as(SESSIONS_OF_ROOM)
            .bind(&self.machine)
            .bind(room)
            .fetch_all(&self.store.pool)
            .await?;
        self.opened_sessions(rows)
    }

    async fn get_inbound_group_sessions_for_device_batch(
        &self,
        curve_key: Curve25519PublicKey,
        sender_data_type: SenderDataType,
        after_session_id: Option<String>,
        limit: usize,
    ) -> Result<Vec<InboundGroupSession>, StoreError> {
        let sender_key = self.hashed(SESSIONS, "sender_key", &curve_key.to_base64());
        if self.is_known_not_to_be(&ahead::sender(&sender_key)) {
            return Ok(Vec::new());
        }
        // The order is that of the hashes: any will do, as long as it stays the same.
        let after = after_session_id.map(|id| self.session_names("", &id).1).unwrap_or_default();
        let rows: Vec<SessionRow> = sqlx::query_as(SESSIONS_OF_SENDER)
            .bind(&self.machine)
            .bind(sender_key)
            .bind(sender_data_type as i64)
            .bind(after)
            .bind(at_most(limit))
            .fetch_all(&self.store.pool)
            .await?;
        self.opened_sessions(rows)
    }

    async fn inbound_group_sessions_for_backup(
        &self,
        backup_version: &str,
        limit: usize,
    ) -> Result<Vec<InboundGroupSession>, StoreError> {
        let rows: Vec<SessionRow> = sqlx::query_as(SESSIONS_TO_BACK_UP)
            .bind(&self.machine)
            .bind(self.backup(backup_version))
            .bind(at_most(limit))
            .fetch_all(&self.store.pool)
            .await?;
        self.opened_sessions(rows)
    }

    async fn mark_inbound_group_sessions_as_backed_up(
        &self,
        backup_version: &str,
        room_and_session_ids: &[(&RoomId, &str)],
    ) -> Result<(), StoreError> {
        let save = self.begin_save().await?;
        let version = self.backup(backup_version);
        let writes = room_and_session_ids.iter().map(|(room_id, session_id)| {
            let (room, session) = self.session_names(room_id.as_str(), session_id);
            Write::BackedUp { room, session, version: version.clone() }
        });
        let writes = writes.collect();
        self.end_save(save, writes).await
    }

    async fn reset_backup_state(&self) -> Result<(), StoreError> {
        // Sessions are marked with the version that they are in: in any other they are not.
        Ok(())
    }

    async fn load_backup_keys(&self) -> Result<BackupKeys, StoreError> {
        Ok(BackupKeys {
            decryption_key: self.value(&self.sole(Kind::BACKUP_KEY)).await?,
            backup_version: self.value(&self.sole(Kind::BACKUP_VERSION)).await?,
        })
    }

    async fn load_dehydrated_device_pickle_key(&self) -> Result<Option<DehydratedDeviceKey>, StoreError> {
        self.value(&self.sole(Kind::DEHYDRATION_KEY)).await
    }

    async fn delete_dehydrated_device_pickle_key(&self) -> Result<(), StoreError> {
        self.save(Write::Remove(self.sole(Kind::DEHYDRATION_KEY))).await
    }

    async fn get_outbound_group_session(
        &self,
        room_id: &RoomId,
    ) -> Result<Option<OutboundGroupSession>, StoreError> {
        let row = self.named(Kind::OUTBOUND_SESSION, room_id.as_str());
        let Some(pickle) = self.value(&row).await? else { return Ok(None) };
        let own = self.own_account().await?;
        let session = OutboundGroupSession::from_pickle(own.device_id, own.identity_keys, pickle);
        session.map(Some).map_err(|_| StoreError::Malformed(VALUES))
    }

    async fn load_tracked_users(&self) -> Result<Vec<TrackedUser>, StoreError> {
        self.values(Kind::TRACKED_USER).await
    }

    async fn save_tracked_users(&self, users: &[(&UserId, bool)]) -> Result<(), StoreError> {
        let save = self.begin_save().await?;
        let writes = users.iter().map(|&(user_id, dirty)| {
            let row = self.named(Kind::TRACKED_USER, user_id.as_str());
            self.put(row, &TrackedUser { user_id: user_id.to_owned(), dirty })
        });
        let writes = writes.collect::<Result<_, _>>()?;
        self.end_save(save, writes).await
    }

    async fn get_device(
        &self,
        user_id: &UserId,
        device_id: &DeviceId,
    ) -> Result<Option<DeviceData>, StoreError> {
        self.value(&self.under(Kind::DEVICE, user_id.as_str(), device_id.as_str())).await
    }

    async fn get_user_devices(
        &self,
        user_id: &UserId,
    ) -> Result<HashMap<OwnedDeviceId, DeviceData>, StoreError> {
        let devices: Vec<DeviceData> = self.values_under(Kind::DEVICE, user_id.as_str()).await?;
        Ok(devices.into_iter().map(|device| (device.device_id().to_owned(), device)).collect())
    }

    async fn get_own_device(&self) -> Result<DeviceData, StoreError> {
        let own = self.own_account().await?;
        let device = self.get_device(&own.user_id, &own.device_id).await?;
        device.ok_or(StoreError::Malformed(VALUES))
    }

    async fn get_user_identity(&self, user_id: &UserId) -> Result<Option<UserIdentityData>, StoreError> {
        self.value(&self.named(Kind::IDENTITY, user_id.as_str())).await
    }

    async fn is_message_known(&self, message_hash: &OlmMessageHash) -> Result<bool, StoreError> {
        let row = self.under(Kind::MESSAGE_HASH, &message_hash.sender_key, &message_hash.hash);
        Ok(self.value::<()>(&row).await?.is_some())
    }

    async fn get_outgoing_secret_requests(
        &self,
        request_id: &TransactionId,
    ) -> Result<Option<GossipRequest>, StoreError> {
        self.value(&self.named(Kind::KEY_REQUEST, request_id.as_str())).await
    }

    async fn get_secret_request_by_info(
        &self,
        secret_info: &SecretInfo,
    ) -> Result<Option<GossipRequest>, StoreError> {
        // Requests are few.
        let requests: Vec<GossipRequest> = self.values(Kind::KEY_REQUEST).await?;
        Ok(requests.into_iter().find(|request| request.info == *secret_info))
    }

    async fn get_unsent_secret_requests(&self) -> Result<Vec<GossipRequest>, StoreError> {
        let requests: Vec<GossipRequest> = self.values(Kind::KEY_REQUEST).await?;
        Ok(requests.into_iter().filter(|request| !request.sent_out).collect())
    }

    async fn delete_outgoing_secret_requests(&self, request_id: &TransactionId) -> Result<(), StoreError> {
        self.save(Write::Remove(self.named(Kind::KEY_REQUEST, request_id.as_str()))).await
    }

    async fn get_secrets_from_inbox(
        &self,
        secret_name: &SecretName,
    ) -> Result<Vec<Zeroizing<String>>, StoreError> {
        let secrets: Vec<String> = self.values_under(Kind::SECRET, secret_name.as_str()).await?;
        Ok(secrets.into_iter().map(Zeroizing::new).collect())
    }

    async fn delete_secrets_from_inbox(&self, secret_name: &SecretName) -> Result<(), StoreError> {
        let parent = self.parent(Kind::SECRET, secret_name.as_str());
        self.save(Write::RemoveUnder(Kind::SECRET, parent)).await
    }

    async fn get_room_settings(&self, room_id: &RoomId) -> Result<Option<RoomSettings>, StoreError> {
        self.value(&self.named(Kind::ROOM_SETTINGS, room_id.as_str())).await
    }

    async fn get_received_room_key_bundle_data(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
    ) -> Result<Option<StoredRoomKeyBundleData>, StoreError> {
        self.value(&self.under(Kind::KEY_BUNDLE, room_id.as_str(), user_id.as_str())).await
    }

    async fn get_pending_key_bundle_details_for_room(
        &self,
        room_id: &RoomId,
    ) -> Result<Option<RoomPendingKeyBundleDetails>, StoreError> {
        self.value(&self.named(Kind::PENDING_BUNDLE, room_id.as_str())).await
    }

    async fn get_all_rooms_pending_key_bundles(
        &self,
    ) -> Result<Vec<RoomPendingKeyBundleDetails>, StoreError> {
        self.values(Kind::PENDING_BUNDLE).await
    }

    async fn has_downloaded_all_room_keys(&self, room_id: &RoomId) -> Result<bool, StoreError> {
        Ok(self.value::<()>(&self.named(Kind::KEYS_FETCHED, room_id.as_str())).await?.is_some())
    }

    async fn get_custom_value(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.value(&self.named(Kind::CUSTOM, key)).await
    }

    async fn set_custom_value(&self, key: &str, value: Vec<u8>) -> Result<(), StoreError> {
        self.save(self.put(self.named(Kind::CUSTOM, key), &value)?).await
    }

    async fn remove_custom_value(&self, key: &str) -> Result<(), StoreError> {
        self.save(Write::Remove(self.named(Kind::CUSTOM, key))).await
    }

    async fn try_take_leased_lock(
        &self,
        lease_duration_ms: u32,
        key: &str,
        holder: &str,
    ) -> Result<Option<CrossProcessLockGeneration>, StoreError> {
        self.take_lease(lease_duration_ms, key, holder).await
    }

    async fn next_batch_token(&self) -> Result<Option<String>, StoreError> {
        self.value(&self.sole(Kind::NEXT_BATCH)).await
    }

    async fn close(&self) -> Result<(), StoreError> {
        // The database is everybody's: it is closed with `Store::close`.
        Ok(())
    }

    async fn reopen(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn get_size(&self) -> Result<Option<usize>, StoreError> {
        Ok(None)
    }
}
