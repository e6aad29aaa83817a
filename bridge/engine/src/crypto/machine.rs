//! One user's machine: its keys, and the requests that it asks for.

use std::{
    ops::Deref,
    sync::atomic::{AtomicBool, Ordering},
};

use matrix_sdk_crypto::{
    CollectStrategy, EncryptionSettings, OlmMachine,
    store::CryptoStore as _,
    types::requests::{AnyOutgoingRequest, ToDeviceRequest, UploadSigningKeysRequest},
};
use ruma::{
    OwnedUserId, RoomId, TransactionId,
    api::client::{keys, to_device::send_event_to_device},
    events::AnyMessageLikeEventContent,
    serde::Raw,
};
use serde_json::{Value, json};
use tokio::sync::{Mutex, RwLock, RwLockReadGuard};

use super::CryptoError;
use crate::{
    commit_point::CommitPoint,
    ghosts::BOT,
    homeserver::{Homeserver, HomeserverError, Intent},
    store::MachineStore,
};

/// What became of an attempt to encrypt.
pub enum Sealed {
    /// The content of the `m.room.encrypted` event, and the session it was encrypted with.
    Ciphertext {
        /// The content, as an object.
        content: Value,
        /// The Megolm session.
        session_id: String,
    },
    /// Nobody in the room has a cross-signed device: whoever signs in later could not read it.
    NobodyCanRead,
}

/// The machine of the bot or of a ghost. It neither asks for room keys nor forwards any: the SDK's feature for that
/// is not compiled in.
pub struct Machine {
    pub(super) intent: Intent,
    /// Read to work with it; written where all that it saves is one commit, which nobody else may be in the middle of.
    /// Neither is held while the homeserver is waited for.
    pub(super) olm: RwLock<OlmMachine>,
    pub(super) keys: MachineStore,
    pub(super) homeserver: Homeserver,
    /// Sharing and encrypting are one step: encrypting without a live session is not survivable.
    sealing: Mutex<()>,
    /// The machine's own requests go out one batch at a time.
    sending: Mutex<()>,
    /// Its inbox is looked into by one at a time, so that nothing is taken in twice.
    pub(super) looking: Mutex<()>,
    /// Whether the operator was told that the homeserver has other one-time keys of this device.
    clashed: AtomicBool,
}

impl Machine {
    pub(super) fn new(intent: Intent, olm: OlmMachine, keys: MachineStore, homeserver: Homeserver) -> Self {
        let olm = RwLock::new(olm);
        Self {
            intent,
            olm,
            keys,
            homeserver,
            sealing: Mutex::new(()),
            sending: Mutex::new(()),
            looking: Mutex::new(()),
            clashed: AtomicBool::new(false),
        }
    }

    /// The machine, for one call.
    pub(super) async fn olm(&self) -> RwLockReadGuard<'_, OlmMachine> {
        self.olm.read().await
    }

    /// As whom it acts, device included.
    #[must_use]
    pub fn intent(&self) -> &Intent {
        &self.intent
    }

    /// Publishes device and cross-signing identity, the device signed from its first upload on; repeatable.
    pub(super) async fn publish(&self) -> Result<(), CryptoError> {
        let requests = self.olm().await.bootstrap_cross_signing(false).await?;
        if let Some(upload) = requests.upload_keys_req {
            self.send(upload.request_id(), upload.request()).await?;
        }
        let path = "/_matrix/client/v3/keys/device_signing/upload";
        let body = signing_keys(&requests.upload_signing_keys_req);
        let point = CommitPoint::UploadIdentity;
        self.homeserver.call(point, Some(&self.intent), http::Method::POST, path, &body).await?;
        let response = self
            .homeserver
            .request(CommitPoint::UploadSignatures, &self.intent, requests.upload_signatures_req)
            .await?;
        if !response.failures.is_empty() {
            return Err(HomeserverError::Nonsense("/keys/signatures/upload").into());
        }
        self.olm().await.mark_request_as_sent(&TransactionId::new(), &response).await?;
        self.olm().await.update_tracked_users([&*self.intent.user_id]).await?;
        self.flush().await
    }

    /// Sends what the machine asks for: key uploads, queries, signatures. One that fails keeps no other from being
    /// sent; only a failed query is the caller's matter, who is about to decide by its answer.
    pub(super) async fn flush(&self) -> Result<(), CryptoError> {
        let _one_batch = self.sending.lock().await;
        let mut outcome = Ok(());
        let requests = self.olm().await.outgoing_requests().await?;
        for request in requests {
            if let Err(error) = self.send(request.request_id(), request.request()).await {
                if matches!(error, CryptoError::Homeserver(HomeserverError::KeyClash)) {
                    self.clashes();
                    continue;
                }
                tracing::warn!(user_id = %self.intent.user_id, %error, "a request of a machine failed");
                if matches!(request.request(), AnyOutgoingRequest::KeysQuery(_)) {
                    outcome = Err(error);
                }
            }
        }
        outcome
    }

    /// Somebody else has published one-time keys of this device. Whoever takes one of those cannot be read; whoever takes
    /// the fallback key can.
    fn clashes(&self) {
        if !self.clashed.swap(true, Ordering::Relaxed) {
            tracing::error!(
                user_id = %self.intent.user_id,
                "the homeserver has other one-time keys of this device: the database was put back from a copy, or another \
                 Parlour uses it; stop the other, or put the copy back with `parlour restore`, which renews the devices"
            );
        }
    }

    /// Encrypts for the devices of these people that their own identity has signed, sharing the room's session
    /// with those that do not have it.
    ///
    /// # Errors
    /// When the homeserver or the crypto store fails; nothing is lost by trying again.
    pub async fn seal(
        &self,
        room: &RoomId,
        readers: &[OwnedUserId],
        event_type: &str,
        content: &Value,
    ) -> Result<Sealed, CryptoError> {
        let _sealing = self.sealing.lock().await;
        let users = || readers.iter().map(Deref::deref);
        self.olm().await.update_tracked_users(users()).await?;
        self.flush().await?;
        if !self.somebody_can_read(readers).await? {
            return Ok(Sealed::NobodyCanRead);
        }
        let mut missing = self.olm().await.get_missing_sessions(users()).await?;
        if missing.is_some() && self.looks_before_claiming().await {
            missing = self.olm().await.get_missing_sessions(users()).await?;
        }
        if let Some((id, claim)) = missing {
            let response = self.homeserver.request(CommitPoint::ClaimKeys, &self.intent, claim).await?;
            self.olm().await.mark_request_as_sent(&id, &response).await?;
        }
        if !self.somebody_can_be_reached(readers).await? {
            // No one-time key was to be had of any device: the room's session would reach nobody.
            return Ok(Sealed::NobodyCanRead);
        }
        let settings = EncryptionSettings {
            sharing_strategy: CollectStrategy::IdentityBasedStrategy,
            ..EncryptionSettings::default()
        };
        let shares = self.olm().await.share_room_key(room, users(), settings).await?;
        for share in &shares {
            self.send_to_device(share).await?;
        }
        let content: Raw<AnyMessageLikeEventContent> =
            Raw::from_json(serde_json::value::to_raw_value(content)?);
        let encrypted = self.olm().await.encrypt_room_event_raw(room, event_type, &content).await?;
        Ok(Sealed::Ciphertext {
            content: encrypted.content.deserialize_as_unchecked()?,
            session_id: encrypted.encryption_info.session_id().unwrap_or_default().to_owned(),
        })
    }

    /// Looks into a ghost's inbox before it begins Olm with devices: they may have begun it already, and of two sessions
    /// that cross nobody can tell whether the other side has lost one. Whether it has looked.
    async fn looks_before_claiming(&self) -> bool {
        if self.intent.user_id.localpart() == BOT {
            // It does all the time.
            return false;
        }
        match self.receive(None, false).await {
            Ok(_) => true,
            Err(error) => {
                tracing::warn!(user_id = %self.intent.user_id, %error, "a ghost speaks without a look into its inbox");
                false
            }
        }
    }

    async fn somebody_can_read(&self, readers: &[OwnedUserId]) -> Result<bool, CryptoError> {
        for user_id in readers {
            let devices = self.olm().await.get_user_devices(user_id, None).await?;
            if devices.devices().any(|device| device.is_cross_signed_by_owner()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether there is an Olm session with any device that would get the room's session.
    async fn somebody_can_be_reached(&self, readers: &[OwnedUserId]) -> Result<bool, CryptoError> {
        for user_id in readers {
            let devices = self.olm().await.get_user_devices(user_id, None).await?;
            for device in devices.devices().filter(|device| device.is_cross_signed_by_owner()) {
                let Some(key) = device.curve25519_key() else { continue };
                let sessions = self.keys.get_sessions(&key.to_base64()).await?;
                if sessions.is_some_and(|sessions| !sessions.is_empty()) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// The Megolm session that is used in a room now, if there is one.
    pub(crate) async fn session_in(&self, room: &RoomId) -> Result<Option<String>, CryptoError> {
        let session = self.keys.get_outbound_group_session(room).await?;
        Ok(session.map(|session| session.session_id().to_owned()))
    }

    /// Uses the Megolm session of a room no longer: the next message begins another, whose key goes to everybody.
    pub(crate) async fn leave_session(&self, room: &RoomId) -> Result<(), CryptoError> {
        let _sealing = self.sealing.lock().await;
        self.olm().await.discard_room_key(room).await?;
        Ok(())
    }

    async fn send(&self, id: &TransactionId, request: &AnyOutgoingRequest) -> Result<(), CryptoError> {
        let (homeserver, intent) = (&self.homeserver, &self.intent);
        match request {
            AnyOutgoingRequest::KeysUpload(upload) => {
                let response = homeserver.request(CommitPoint::UploadKeys, intent, upload.clone()).await?;
                self.olm().await.mark_request_as_sent(id, &response).await?;
            }
            AnyOutgoingRequest::KeysQuery(query) => {
                let mut request = keys::get_keys::v3::Request::new();
                request.device_keys = query.device_keys.clone();
                request.timeout = query.timeout;
                let response = homeserver.request(CommitPoint::QueryKeys, intent, request).await?;
                self.olm().await.mark_request_as_sent(id, &response).await?;
            }
            AnyOutgoingRequest::KeysClaim(claim) => {
                let response = homeserver.request(CommitPoint::ClaimKeys, intent, claim.clone()).await?;
                self.olm().await.mark_request_as_sent(id, &response).await?;
            }
            AnyOutgoingRequest::ToDeviceRequest(share) => self.send_to_device(share).await?,
            AnyOutgoingRequest::SignatureUpload(upload) => {
                let response =
                    homeserver.request(CommitPoint::UploadSignatures, intent, upload.clone()).await?;
                self.olm().await.mark_request_as_sent(id, &response).await?;
            }
            // Verification in a room: nobody verifies interactively with the bot or with a ghost.
            AnyOutgoingRequest::RoomMessage(_) => {
                tracing::debug!("a verification request is left unanswered")
            }
        }
        Ok(())
    }

    async fn send_to_device(&self, share: &ToDeviceRequest) -> Result<(), CryptoError> {
        let request = send_event_to_device::v3::Request::new_raw(
            share.event_type.clone(),
            share.txn_id.clone(),
            share.messages.clone(),
        );
        let response = self.homeserver.request(CommitPoint::SendToDevices, &self.intent, request).await?;
        self.olm().await.mark_request_as_sent(&share.txn_id, &response).await?;
        Ok(())
    }
}

/// The body of `POST /keys/device_signing/upload`; an application service needs no interactive auth (MSC4190).
fn signing_keys(keys: &UploadSigningKeysRequest) -> Value {
    json!({
        "master_key": keys.master_key,
        "self_signing_key": keys.self_signing_key,
        "user_signing_key": keys.user_signing_key,
    })
}
