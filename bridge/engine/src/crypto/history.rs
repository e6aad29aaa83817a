//! History for who is invited (MSC4268): the sessions of a room in one encrypted file, and where it lies and how it opens as a
//! message to each of their devices. Their own client takes it in when it accepts the invitation of whoever sent it.

use std::io::Read as _;

use matrix_sdk_crypto::{
    AttachmentEncryptor, CollectStrategy,
    types::{events::room_key_bundle::RoomKeyBundleContent, room_history::RoomKeyBundle},
};
use ruma::{RoomId, UserId, events::room::EncryptedFile};

use super::{CryptoError, Machine, devices::Device};
use crate::commit_point::CommitPoint;

impl Machine {
    /// Hands on what can be read of a room to the devices of somebody that their own identity has signed, before they are
    /// invited by this user. Handed on again, it is the same. Whether they have any such device.
    ///
    /// # Errors
    /// When homeserver or crypto store fail.
    pub async fn share_history(&self, room: &RoomId, reader: &UserId) -> Result<bool, CryptoError> {
        let sealing = self.sealing.lock().await;
        let readers = [reader.to_owned()];
        self.look_up(&readers).await?;
        // Not within the condition: the machine is asked for again behind it, and a writer may wait in between.
        let missing = self.olm().await.get_missing_sessions([reader].into_iter()).await?;
        if let Some((id, claim)) = missing {
            let response = self.homeserver.request(CommitPoint::ClaimKeys, &self.intent, claim).await?;
            self.olm().await.mark_request_as_sent(&id, &response).await?;
        }
        self.forget_devices(readers.iter());
        let devices = self.devices_of(&readers).await?;
        if !devices.values().flatten().any(Device::can_read) {
            tracing::info!(%room, "who is invited has no device yet that history could be handed on to");
            return Ok(false);
        }
        // Nobody waits for the file.
        drop(sealing);
        let bundle = self.history_of(room).await?;
        if bundle.is_empty() {
            return Ok(true);
        }
        let sessions = bundle.room_keys.len();
        let mut plain = &*serde_json::to_vec(&bundle)?;
        let (mut file, mut encrypting) = (Vec::new(), AttachmentEncryptor::new(&mut plain));
        // From memory into memory.
        if encrypting.read_to_end(&mut file).is_err() {
            return Ok(false);
        }
        let info = encrypting.finish();
        let url = self.homeserver.upload(&self.intent, file).await?;
        let file = EncryptedFile::new(url, info.encryption_info, info.hashes);
        let content = RoomKeyBundleContent { room_id: room.to_owned(), file };
        let strategy = CollectStrategy::IdentityBasedStrategy;
        let requests = self.olm().await.share_room_key_bundle_data(reader, &strategy, content).await?;
        for request in requests {
            let messages = request.messages.clone();
            let response = self.send_to_devices(&request.event_type, &request.txn_id, messages).await?;
            self.olm().await.mark_request_as_sent(&request.txn_id, &response).await?;
        }
        tracing::info!(%room, sessions, "history is handed on");
        Ok(true)
    }

    /// All sessions of a room, also those that their senders' clients have not marked as to be shared: the room's rules say that
    /// who is in it sees what was said before.
    async fn history_of(&self, room: &RoomId) -> Result<RoomKeyBundle, CryptoError> {
        let olm = self.olm().await;
        let mut bundle = olm.store().build_room_key_bundle(room).await?;
        for withheld in std::mem::take(&mut bundle.withheld) {
            let Some(session_id) = withheld.megolm_session_id() else { continue };
            if let Some(session) = olm.store().get_inbound_group_session(room, session_id).await? {
                bundle.room_keys.push(session.export().await.into());
            }
        }
        Ok(bundle)
    }
}
