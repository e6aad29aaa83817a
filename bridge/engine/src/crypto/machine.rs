//! One user's machine: its keys, and the requests that it asks for.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicBool, Ordering},
};

use matrix_sdk_crypto::{
    OlmMachine,
    store::CryptoStore as _,
    types::requests::{AnyOutgoingRequest, UploadSigningKeysRequest},
};
use ruma::{DeviceKeyAlgorithm, DeviceKeyId, RoomId, TransactionId, api::client::keys};
use serde_json::{Value, json};
use tokio::sync::{Mutex, RwLock, RwLockReadGuard};

use super::{CryptoError, devices::KnownDevices};
use crate::{
    commit_point::CommitPoint,
    homeserver::{Homeserver, HomeserverError, Intent},
    store::MachineStore,
};

/// The machine of the bot or of a ghost. It neither asks for room keys nor forwards any: the SDK's feature for that
/// is not compiled in.
pub struct Machine {
    pub(super) intent: Intent,
    /// Read to work with it; written where all that it saves is one commit, which nobody else may be in the middle of.
    /// Neither is held while the homeserver is waited for.
    pub(super) olm: RwLock<OlmMachine>,
    pub(super) keys: MachineStore,
    pub(super) homeserver: Homeserver,
    /// Whether devices count that nobody has signed.
    pub(super) allow_unsigned: bool,
    /// Sharing and encrypting are one step: encrypting without a live session is not survivable.
    pub(super) sealing: Mutex<()>,
    pub(super) devices: std::sync::Mutex<KnownDevices>,
    /// The Megolm sessions that the bot has learned of this machine.
    pub(super) learned: std::sync::Mutex<HashSet<String>>,
    /// The machine's own requests go out one batch at a time.
    sending: Mutex<()>,
    /// Its inbox is looked into by one at a time, so that nothing is taken in twice.
    pub(super) looking: Mutex<()>,
    /// Whether the operator was told that the homeserver has other one-time keys of this device.
    clashed: AtomicBool,
}

impl Machine {
    pub(super) fn new(
        intent: Intent,
        olm: OlmMachine,
        keys: MachineStore,
        homeserver: Homeserver,
        allow_unsigned: bool,
    ) -> Self {
        let olm = RwLock::new(olm);
        Self {
            intent,
            olm,
            keys,
            homeserver,
            allow_unsigned,
            sealing: Mutex::new(()),
            devices: std::sync::Mutex::default(),
            learned: std::sync::Mutex::default(),
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

    pub(super) async fn send(
        &self,
        id: &TransactionId,
        request: &AnyOutgoingRequest,
    ) -> Result<(), CryptoError> {
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
                // Each of the devices is asked for with what it has sent.
                self.keys.read_senders(&curve_keys(&response)).await?;
                self.olm().await.mark_request_as_sent(id, &response).await?;
                self.forget_devices(query.device_keys.keys());
            }
            AnyOutgoingRequest::KeysClaim(claim) => {
                let response = homeserver.request(CommitPoint::ClaimKeys, intent, claim.clone()).await?;
                self.olm().await.mark_request_as_sent(id, &response).await?;
            }
            AnyOutgoingRequest::ToDeviceRequest(message) => {
                let response = self
                    .send_to_devices(&message.event_type, &message.txn_id, message.messages.clone())
                    .await?;
                self.olm().await.mark_request_as_sent(id, &response).await?;
            }
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
}

/// The Curve25519 keys of all devices that an answer tells of, in base64.
fn curve_keys(response: &keys::get_keys::v3::Response) -> Vec<String> {
    let devices = response.device_keys.values().flat_map(|devices| devices.values());
    let keys = devices.filter_map(|device| {
        let device = device.deserialize().ok()?;
        let id = DeviceKeyId::from_parts(DeviceKeyAlgorithm::Curve25519, &device.device_id);
        device.keys.get(&id).cloned()
    });
    keys.collect()
}

/// The body of `POST /keys/device_signing/upload`; an application service needs no interactive auth (MSC4190).
fn signing_keys(keys: &UploadSigningKeysRequest) -> Value {
    json!({
        "master_key": keys.master_key,
        "self_signing_key": keys.self_signing_key,
        "user_signing_key": keys.user_signing_key,
    })
}
