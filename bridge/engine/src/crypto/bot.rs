//! Receiving: the inbox of a device is one filtered `/sync`, lossless also after we were down. The bot lives by it;
//! a ghost's is looked into now and then, so that it stays empty and its Olm sessions can heal.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::Duration,
};

use matrix_sdk_common::deserialized_responses::{
    AlgorithmInfo, ProcessedToDeviceEvent, VerificationLevel, VerificationState, WithheldCode,
};
use matrix_sdk_crypto::{
    DecryptionSettings, EncryptionSyncChanges, MegolmError, TrustRequirement,
    store::CryptoStore as _,
    types::events::room::encrypted::{EncryptedEvent, RoomEventEncryptionScheme},
    vodozemac::olm::PreKeyMessage,
};
use parlour_domain::rules::SenderTrust;
use ruma::{
    OwnedUserId, RoomId, UInt, UserId,
    api::client::{
        filter::{Filter, FilterDefinition, RoomEventFilter},
        sync::sync_events,
    },
    events::AnyToDeviceEvent,
    serde::Raw,
};
use serde_json::{Value, value::RawValue};
use tokio::sync::watch;

use super::{CryptoError, Machine, Machines};
use crate::{commit_point::CommitPoint, reading::receipts_in, store::MegolmIndex};

/// Everything is taken in; what is trusted is a rule's matter.
pub(super) const RECEIVING: DecryptionSettings =
    DecryptionSettings { sender_device_trust_requirement: TrustRequirement::Untrusted };

const POLL: Duration = Duration::from_secs(30);

/// A decrypted event.
pub struct Deciphered {
    /// The event's inner type.
    pub event_type: String,
    /// Its inner content.
    pub content: Value,
    /// What decryption tells about its sender.
    pub trust: SenderTrust,
    /// Where in its session it was encrypted.
    pub index: MegolmIndex,
}

/// Why an event cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// Its key is not there yet.
    KeyMissing,
    /// Its sender's client did not let us have the key.
    KeyWithheld,
    /// It will never be readable: garbled, or encrypted in a way that nobody knows.
    Garbled,
}

/// What a look into the bot's inbox brought.
#[derive(Debug, Default)]
pub struct News {
    /// Whether keys may have come.
    pub keys: bool,
    /// People whose devices changed.
    pub devices: Vec<OwnedUserId>,
    /// Whether there are receipts.
    pub receipts: bool,
    /// Whether somebody could not read what this user of ours has sent: a repair is wished for.
    pub repairs: bool,
    /// Whether it was not waited for to the end, because the homeserver has much to do. There may be news.
    pub gave_up: bool,
}

impl Machine {
    /// Reads an `m.room.encrypted` event of a portal. For the bot's machine.
    ///
    /// # Errors
    /// When the crypto store or the homeserver fails; the outer error passes, the inner one is the event's.
    pub async fn decipher(
        &self,
        room: &RoomId,
        sender: &UserId,
        event: &RawValue,
    ) -> Result<Result<Deciphered, Unreadable>, CryptoError> {
        self.olm().await.update_tracked_users([sender]).await?;
        self.flush().await?;
        let encrypted: Raw<EncryptedEvent> = Raw::from_json(event.to_owned());
        let decrypted = self.olm().await.decrypt_room_event(&encrypted, room, &RECEIVING).await;
        let decrypted = match decrypted {
            Ok(decrypted) => decrypted,
            Err(MegolmError::Store(error)) => return Err(error.into()),
            Err(error) => return Ok(Err(unreadable(&error))),
        };
        let trust = match &decrypted.encryption_info.verification_state {
            VerificationState::Verified
            | VerificationState::Unverified(VerificationLevel::UnverifiedIdentity) => {
                SenderTrust::CrossSigned
            }
            VerificationState::Unverified(
                VerificationLevel::UnsignedDevice
                | VerificationLevel::None(_)
                | VerificationLevel::VerificationViolation,
            ) => match self.keys.get_user_identity(sender).await? {
                Some(_) => SenderTrust::Unsigned,
                None => SenderTrust::NoIdentity,
            },
            VerificationState::Unverified(VerificationLevel::MismatchedSender) => SenderTrust::Mismatched,
        };
        let Some(index) = index_of(&encrypted) else { return Ok(Err(Unreadable::Garbled)) };
        let mut event: Value = decrypted.event.deserialize_as_unchecked()?;
        let event_type = event["type"].as_str().unwrap_or_default().to_owned();
        Ok(Ok(Deciphered { event_type, content: event["content"].take(), trust, index }))
    }

    /// The place up to which the device's inbox was read.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn place(&self) -> Result<Option<String>, CryptoError> {
        Ok(self.olm().await.store().next_batch_token().await?)
    }

    /// Takes in what is new in the device's inbox: keys, device lists, key counts. Where it is told when the homeserver has
    /// much to do, it waits for it at most half a minute, and not any longer when it has: Synapse looks whether there is
    /// something at each event in each room of the bot's. The place up to which it was read is kept with what it brought.
    /// With `others`, they hear of changed devices too: the bot's inbox is the one that speaks for all.
    ///
    /// # Errors
    /// When the homeserver or a store fails; then the same news comes again.
    pub async fn receive(
        &self,
        others: Option<&Machines>,
        waits_unless: Option<watch::Receiver<bool>>,
    ) -> Result<News, CryptoError> {
        let _alone = self.looking.lock().await;
        let since = self.olm().await.store().next_batch_token().await?;
        let mut request = sync_events::v3::Request::new();
        let waits_unless = waits_unless.filter(|crowded| !*crowded.borrow());
        request.timeout = waits_unless.as_ref().map(|_| POLL);
        request.filter = Some(sync_events::v3::Filter::FilterDefinition(inbox_filter(since.is_none())));
        request.since = since;
        let asked = self.homeserver.request(CommitPoint::ReadInbox, &self.intent, request);
        let answer = match waits_unless {
            None => asked.await?,
            Some(mut crowded) => tokio::select! {
                answer = asked => answer?,
                // What was about to be told is told again.
                Ok(_) = crowded.wait_for(|crowded| *crowded) => return Ok(News { gave_up: true, ..News::default() }),
            },
        };
        let (keys, devices) = (!answer.to_device.events.is_empty(), answer.device_lists.changed.clone());
        if let (Some(others), false) = (others, devices.is_empty()) {
            others.devices_changed(&answer.device_lists).await?;
        }
        let changes = EncryptionSyncChanges {
            to_device_events: answer.to_device.events,
            changed_devices: &answer.device_lists,
            one_time_keys_counts: &answer.device_one_time_keys_count,
            unused_fallback_keys: answer.device_unused_fallback_key_types.as_deref(),
            next_batch_token: Some(answer.next_batch),
        };
        let known = self.sessions_with_senders(&changes.to_device_events).await?;
        let rooms = answer.rooms.join.iter();
        let receipts: Vec<_> =
            rooms.flat_map(|(room, joined)| receipts_in(room, &joined.ephemeral.events)).collect();
        // Written down before anything is taken in: afterwards nothing would tell of it again.
        let receipts = self.keys.store().receipts_came(&receipts).await?;
        let ours = &self.intent.user_id;
        let mut wished_now = BTreeSet::new();
        for reader in begun_anew(&changes.to_device_events, &known) {
            if self.keys.store().repair_is_wished(ours, &reader).await? {
                wished_now.insert(reader);
            }
        }
        let events = self.take_in(changes).await?;
        let unwedged = self.unwedged(&events, &known).await?;
        for reader in unwedged.difference(&wished_now) {
            self.keys.store().repair_is_wished(ours, reader).await?;
        }
        // An earlier wish stays, whatever this look has brought.
        for reader in wished_now.difference(&unwedged) {
            self.keys.store().repair_is_needless(ours, reader).await?;
        }
        // The news is taken in whatever becomes of our own requests, which are asked for again; `flush` has told.
        let _ = self.flush().await;
        Ok(News { keys, devices, receipts, repairs: !unwedged.is_empty(), gave_up: false })
    }

    /// As [`Machine::receive`], without waiting, of everything that lies in the device's inbox, wherever it was read to.
    ///
    /// # Errors
    /// When the homeserver or a store fails; it can be said again.
    pub(super) async fn receive_from_the_beginning(&self) -> Result<(), CryptoError> {
        self.keys.forget_place().await?;
        // The look that finds nothing is the last.
        while self.receive(None, None).await?.keys {}
        Ok(())
    }

    /// Takes news in, in one commit: a process that ended between a new Olm session and the room key that came with it
    /// would have lost the key.
    pub(super) async fn take_in(
        &self,
        changes: EncryptionSyncChanges<'_>,
    ) -> Result<Vec<ProcessedToDeviceEvent>, CryptoError> {
        let olm = self.olm.write().await;
        let taken_in = async { Ok::<_, CryptoError>(olm.receive_sync_changes(changes, &RECEIVING).await?) };
        Ok(self.keys.in_one_commit(taken_in).await?.0)
    }

    /// Whose devices have begun Olm anew, because they could not read what we sent (Matrix v1.19 client-server
    /// §Recovering from undecryptable messages). Some say so with `m.dummy`. matrix-sdk 0.18 makes the new session and
    /// never sends its `m.dummy`: the session comes with the next key that the device has for us.
    async fn unwedged(
        &self,
        events: &[ProcessedToDeviceEvent],
        known: &Known,
    ) -> Result<BTreeSet<OwnedUserId>, CryptoError> {
        let mut unwedged = BTreeSet::new();
        for event in events {
            let ProcessedToDeviceEvent::Decrypted { raw, encryption_info } = event else { continue };
            let kind: Option<String> = raw.get_field("type").ok().flatten();
            let anew = match &encryption_info.algorithm_info {
                AlgorithmInfo::OlmV1Curve25519AesSha2 { curve25519_public_key_base64: key } => {
                    let known = known.get(key).filter(|known| !known.is_empty());
                    match known {
                        Some(known) => !self.sessions_with(key).await?.is_subset(known),
                        None => false,
                    }
                }
                AlgorithmInfo::MegolmV1AesSha2 { .. } => false,
            };
            if anew || kind.as_deref() == Some("m.dummy") {
                unwedged.insert(encryption_info.sender.clone());
            }
        }
        Ok(unwedged)
    }

    /// The Olm sessions that there are with the devices which have sent these events, by the device's key.
    async fn sessions_with_senders(&self, events: &[Raw<AnyToDeviceEvent>]) -> Result<Known, CryptoError> {
        let mut known = HashMap::new();
        for event in events {
            let content: Option<Value> = event.get_field("content").ok().flatten();
            if let Some(key) = content.as_ref().and_then(|content| content["sender_key"].as_str()) {
                known.insert(key.to_owned(), self.sessions_with(key).await?);
            }
        }
        Ok(known)
    }

    async fn sessions_with(&self, key: &str) -> Result<HashSet<String>, CryptoError> {
        let sessions = self.keys.get_sessions(key).await?.unwrap_or_default();
        Ok(sessions.iter().map(|session| session.session_id().to_owned()).collect())
    }
}

/// The Olm sessions that there are with devices, by the device's key.
type Known = HashMap<String, HashSet<String>>;

/// Who has sent messages by which another Olm session begins than those that there are with their device (Matrix v1.19
/// client-server §m.olm.v1.curve25519-aes-sha2: type 0; it says which session it begins, and is repeated until it is answered).
fn begun_anew(events: &[Raw<AnyToDeviceEvent>], known: &Known) -> BTreeSet<OwnedUserId> {
    let begins = |event: &&Raw<AnyToDeviceEvent>| {
        let content: Value = event.get_field("content").ok().flatten().unwrap_or_default();
        let sessions = content["sender_key"].as_str().and_then(|key| known.get(key));
        let Some(sessions) = sessions.filter(|sessions| !sessions.is_empty()) else { return false };
        let messages = content["ciphertext"].as_object().into_iter().flat_map(|messages| messages.values());
        messages.filter(|message| message["type"] == 0).any(|message| {
            let first = message["body"].as_str().and_then(|body| PreKeyMessage::from_base64(body).ok());
            first.is_some_and(|first| !sessions.contains(&first.session_id()))
        })
    };
    events.iter().filter(begins).filter_map(|event| event.get_field("sender").ok().flatten()).collect()
}

/// Session and index of a Megolm event.
fn index_of(event: &Raw<EncryptedEvent>) -> Option<MegolmIndex> {
    let event = event.deserialize().ok()?;
    match &event.content.scheme {
        RoomEventEncryptionScheme::MegolmV1AesSha2(content) => Some(MegolmIndex {
            session_id: content.session_id.clone(),
            index: content.ciphertext.message_index(),
        }),
        _ => None,
    }
}

fn unreadable(error: &MegolmError) -> Unreadable {
    match error {
        MegolmError::MissingRoomKey(Some(code)) if *code != WithheldCode::NoOlm => Unreadable::KeyWithheld,
        MegolmError::MissingRoomKey(_) => Unreadable::KeyMissing,
        MegolmError::Decryption(
            matrix_sdk_crypto::vodozemac::megolm::DecryptionError::UnknownMessageIndex(..),
        ) => Unreadable::KeyMissing,
        _ => Unreadable::Garbled,
    }
}

/// To-device messages, device lists and receipts only: no timeline, no state, no presence, no account data.
/// The first look needs no rooms at all; later ones do, for the device lists of those who are in them.
fn inbox_filter(is_first: bool) -> FilterDefinition {
    let mut filter = FilterDefinition::default();
    filter.room.rooms = is_first.then(Vec::new);
    filter.presence = Filter::ignore_all();
    filter.account_data = Filter::ignore_all();
    filter.room.timeline = RoomEventFilter::ignore_all();
    // Synapse reads so many events of each room before it leaves them all out.
    filter.room.timeline.limit = Some(UInt::from(1_u8));
    filter.room.state = RoomEventFilter::ignore_all();
    filter.room.ephemeral.types = Some(vec!["m.receipt".to_owned()]);
    filter.room.account_data = RoomEventFilter::ignore_all();
    filter
}
