//! What a machine wants to be saved, as rows.

use matrix_sdk_crypto::{
    olm::InboundGroupSession,
    store::types::{Changes, DeviceChanges, IdentityChanges},
};

use super::{
    MachineStore,
    rows::{Kind, SESSIONS},
    saving::{Backup, Write},
};
use crate::store::StoreError;

impl MachineStore {
    /// The rows of a save. A save of this machine must be under way: sessions are pickled as they are now.
    pub(super) async fn rows_of(&self, changes: Changes) -> Result<Vec<Write>, StoreError> {
        let mut writes = Vec::new();
        for session in &changes.sessions {
            let pickle = session.pickle().await;
            let sender_key = pickle.sender_key.to_base64();
            writes.push(self.put(self.under(Kind::OLM_SESSION, &sender_key, session.session_id()), &pickle)?);
        }
        for session in &changes.inbound_group_sessions {
            writes.push(self.session_row(session, None).await?);
        }
        for session in &changes.outbound_group_sessions {
            let row = self.named(Kind::OUTBOUND_SESSION, session.room_id().as_str());
            writes.push(self.put(row, &session.pickle().await)?);
        }
        if let Some(identity) = &changes.private_identity {
            writes.push(self.put(self.sole(Kind::PRIVATE_IDENTITY), &identity.pickle().await)?);
        }
        self.people_rows(&changes.devices, &changes.identities, &mut writes)?;
        self.room_rows(&changes, &mut writes)?;
        self.account_rows(&changes, &mut writes)?;
        Ok(writes)
    }

    /// The row of a session to decrypt with. `version` is the backup that it comes from.
    pub(super) async fn session_row(
        &self,
        session: &InboundGroupSession,
        version: Option<&str>,
    ) -> Result<Write, StoreError> {
        let pickle = session.pickle().await;
        let backup = match version {
            Some(version) => Backup::In(self.backup(version)),
            // The machine takes the mark away when a better form of a session has come.
            None if !pickle.backed_up => Backup::Nowhere,
            None => Backup::AsBefore,
        };
        let (room, session) = self.session_names(pickle.room_id.as_str(), session.session_id());
        Ok(Write::PutSession {
            sealed: self.sealed_session(&room, &session, &pickle)?,
            sender_key: self.hashed(SESSIONS, "sender_key", &pickle.sender_key.to_base64()),
            sender_data: pickle.sender_data.to_type() as i64,
            room,
            session,
            backup,
        })
    }

    pub(super) fn session_names(&self, room: &str, session: &str) -> (String, String) {
        (self.hashed(SESSIONS, "room", room), self.hashed(SESSIONS, "session", session))
    }

    pub(super) fn backup(&self, version: &str) -> String {
        self.hashed(SESSIONS, "backed_up_to", version)
    }

    fn people_rows(
        &self,
        devices: &DeviceChanges,
        identities: &IdentityChanges,
        writes: &mut Vec<Write>,
    ) -> Result<(), StoreError> {
        for device in devices.new.iter().chain(&devices.changed) {
            let row = self.under(Kind::DEVICE, device.user_id().as_str(), device.device_id().as_str());
            writes.push(self.put(row, device)?);
        }
        for device in &devices.deleted {
            let row = self.under(Kind::DEVICE, device.user_id().as_str(), device.device_id().as_str());
            writes.push(Write::Remove(row));
        }
        for identity in identities.new.iter().chain(&identities.changed) {
            writes.push(self.put(self.named(Kind::IDENTITY, identity.user_id().as_str()), identity)?);
        }
        Ok(())
    }

    fn room_rows(&self, changes: &Changes, writes: &mut Vec<Write>) -> Result<(), StoreError> {
        for (room, entries) in &changes.withheld_session_info {
            for (session, entry) in entries {
                writes.push(self.put(self.under(Kind::WITHHELD, room.as_str(), session), entry)?);
            }
        }
        for (room, settings) in &changes.room_settings {
            writes.push(self.put(self.named(Kind::ROOM_SETTINGS, room.as_str()), settings)?);
        }
        for bundle in &changes.received_room_key_bundles {
            let room = bundle.bundle_data.room_id.as_str();
            writes.push(self.put(self.under(Kind::KEY_BUNDLE, room, bundle.sender_user.as_str()), bundle)?);
        }
        for room in &changes.room_key_backups_fully_downloaded {
            writes.push(self.put(self.named(Kind::KEYS_FETCHED, room.as_str()), &())?);
        }
        for (room, details) in &changes.rooms_pending_key_bundle {
            let row = self.named(Kind::PENDING_BUNDLE, room.as_str());
            writes.push(match details {
                Some(details) => self.put(row, details)?,
                None => Write::Remove(row),
            });
        }
        Ok(())
    }

    fn account_rows(&self, changes: &Changes, writes: &mut Vec<Write>) -> Result<(), StoreError> {
        for hash in &changes.message_hashes {
            writes.push(self.put(self.under(Kind::MESSAGE_HASH, &hash.sender_key, &hash.hash), &())?);
        }
        for request in &changes.key_requests {
            writes.push(self.put(self.named(Kind::KEY_REQUEST, request.request_id.as_str()), request)?);
        }
        for item in &changes.secrets {
            // Under its own hash: the same secret again is the same row.
            let row = self.under(Kind::SECRET, item.secret_name.as_str(), &item.secret);
            writes.push(self.put(row, item.secret.as_str())?);
        }
        if let Some(key) = &changes.backup_decryption_key {
            writes.push(self.put(self.sole(Kind::BACKUP_KEY), key)?);
        }
        if let Some(version) = &changes.backup_version {
            writes.push(self.put(self.sole(Kind::BACKUP_VERSION), version)?);
        }
        if let Some(key) = &changes.dehydrated_device_pickle_key {
            writes.push(self.put(self.sole(Kind::DEHYDRATION_KEY), key)?);
        }
        if let Some(token) = &changes.next_batch_token {
            writes.push(self.put(self.sole(Kind::NEXT_BATCH), token)?);
        }
        Ok(())
    }
}
