//! Sealing: many messages of one user of ours, each for another room, are encrypted together. One query asks for all
//! readers' devices, one claim for up to 250 of them, one message to devices carries the keys of all rooms, and what the
//! machine keeps of it is two commits.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Deref,
    sync::{Arc, PoisonError},
};

use matrix_sdk_crypto::{CollectStrategy, EncryptionSettings, types::requests::ToDeviceRequest};
use ruma::{
    OwnedRoomId, OwnedTransactionId, OwnedUserId, TransactionId,
    api::client::to_device::send_event_to_device,
    events::{AnyMessageLikeEventContent, AnyToDeviceEventContent, ToDeviceEventType},
    serde::Raw,
    to_device::DeviceIdOrAllDevices,
};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{CryptoError, Machine, devices::Device};
use crate::{commit_point::CommitPoint, ghosts::BOT};

/// How many people's one-time keys one request claims.
const MOST_CLAIMED: usize = 250;
/// How many messages one request sends to devices.
const MOST_MESSAGES: usize = 250;

/// A message to be encrypted for a room.
pub struct ToSeal {
    /// The room.
    pub room: OwnedRoomId,
    /// Who is to read it.
    pub readers: Vec<OwnedUserId>,
    /// The type of the event inside.
    pub event_type: &'static str,
    /// Its content.
    pub content: Value,
}

/// What became of an attempt to encrypt.
pub enum Sealed {
    /// The content of the `m.room.encrypted` event, and the session it was encrypted with.
    Ciphertext {
        /// The content, as an object.
        content: Value,
        /// The Megolm session.
        session_id: String,
    },
    /// Nobody in the room has a cross-signed device that can be reached: whoever signs in later could not read it.
    NobodyCanRead,
}

type Messages = BTreeMap<OwnedUserId, BTreeMap<DeviceIdOrAllDevices, Raw<AnyToDeviceEventContent>>>;

/// Messages to devices that go by one request, and the requests of the machine's that it stands for.
struct Parcel {
    event_type: ToDeviceEventType,
    messages: Messages,
    count: usize,
    /// With the place of the message whose room's session it gives.
    stands_for: Vec<(usize, OwnedTransactionId)>,
}

impl Parcel {
    /// The same for the same requests of the machine's, so that devices get it once when it is sent again because nobody has
    /// heard that it had arrived.
    fn id(&self) -> OwnedTransactionId {
        let ids: BTreeSet<_> = self.stands_for.iter().map(|(_, id)| id.as_str()).collect();
        let mut digest = Sha256::new();
        ids.into_iter().for_each(|id| digest.update(id));
        digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect::<String>().into()
    }
}

/// An error that several messages share.
pub(crate) type Failed = Arc<CryptoError>;

/// What has become of a message to be encrypted, once that is known.
type Outcome = Option<Result<Sealed, Failed>>;

impl Machine {
    /// Encrypts each of these messages for the devices of its readers that their own identity has signed, sharing the
    /// rooms' sessions with those that do not have them. Answers in the same order. What cannot be done for one keeps no
    /// other from being encrypted; nothing is lost by trying again. With the `others` Olm is begun too: they are written to
    /// next.
    ///
    /// # Errors
    /// When the crypto store fails, or people's devices cannot be asked for.
    pub async fn seal(
        &self,
        batch: &[ToSeal],
        others: Vec<OwnedUserId>,
    ) -> Result<Vec<Result<Sealed, Failed>>, CryptoError> {
        let _sealing = self.sealing.lock().await;
        let readers: BTreeSet<_> = batch.iter().flat_map(|to_seal| &to_seal.readers).cloned().collect();
        let readers: Vec<_> = readers.into_iter().collect();
        self.look_up(&readers).await?;
        let everybody: BTreeSet<_> = readers.iter().cloned().chain(others).collect();
        let unclaimed = self.begin_olm(&everybody.into_iter().collect::<Vec<_>>()).await?;
        let devices = self.devices_of(&readers).await?;
        let can_read =
            |reader: &OwnedUserId| devices.get(reader).is_some_and(|d| d.iter().any(Device::can_read));
        let mut outcomes = Vec::with_capacity(batch.len());
        for to_seal in batch {
            let failed = to_seal.readers.iter().find_map(|reader| unclaimed.get(reader));
            outcomes.push(match failed {
                Some(error) => Some(Err(Arc::clone(error))),
                // Any other device does not get the room's session.
                None if to_seal.readers.iter().any(can_read) => None,
                None => Some(Ok(Sealed::NobodyCanRead)),
            });
        }
        let rooms: Vec<_> = batch.iter().map(|to_seal| to_seal.room.clone()).collect();
        self.keys.read_rooms(&rooms).await?;
        self.share(batch, &mut outcomes).await?;
        self.encrypt(batch, &mut outcomes).await?;
        let all = outcomes.into_iter().map(|outcome| outcome.unwrap_or(Ok(Sealed::NobodyCanRead)));
        Ok(all.collect())
    }

    /// Begins Olm with the devices of these people that there is no session with. Those for whom that failed.
    async fn begin_olm(&self, readers: &[OwnedUserId]) -> Result<HashMap<OwnedUserId, Failed>, CryptoError> {
        let (mut looked, mut failed) = (false, HashMap::new());
        for some in readers.chunks(MOST_CLAIMED) {
            let mut missing = self.olm().await.get_missing_sessions(some.iter().map(Deref::deref)).await?;
            if missing.is_some() && !looked {
                looked = true;
                if self.looks_before_claiming().await {
                    missing = self.olm().await.get_missing_sessions(some.iter().map(Deref::deref)).await?;
                }
            }
            let Some((id, claim)) = missing else { continue };
            let claimed: Vec<_> = claim.one_time_keys.keys().cloned().collect();
            match self.homeserver.request(CommitPoint::ClaimKeys, &self.intent, claim).await {
                Ok(response) => self.olm().await.mark_request_as_sent(&id, &response).await?,
                Err(error) => {
                    let error = Arc::new(CryptoError::from(error));
                    failed.extend(claimed.iter().map(|user_id| (user_id.clone(), Arc::clone(&error))));
                }
            }
            self.forget_devices(claimed.iter());
        }
        Ok(failed)
    }

    /// Looks into a ghost's inbox before it begins Olm with devices: they may have begun it already, and of two sessions
    /// that cross nobody can tell whether the other side has lost one. Whether it has looked.
    async fn looks_before_claiming(&self) -> bool {
        if self.intent.user_id.localpart() == BOT {
            // It does all the time.
            return false;
        }
        match self.receive(None, None).await {
            Ok(_) => true,
            Err(error) => {
                tracing::warn!(user_id = %self.intent.user_id, %error, "a ghost speaks without a look into its inbox");
                false
            }
        }
    }

    /// Gives the rooms' sessions to the devices that do not have them, by as few requests as can be. Of messages about which
    /// it is known what becomes of them nothing is given.
    async fn share(&self, batch: &[ToSeal], outcomes: &mut [Outcome]) -> Result<(), CryptoError> {
        let mut shares = Vec::new();
        {
            let olm = self.olm.write().await;
            let shared = async {
                for (place, to_seal) in
                    batch.iter().enumerate().filter(|(place, _)| outcomes[*place].is_none())
                {
                    let settings = EncryptionSettings {
                        sharing_strategy: if self.allow_unsigned {
                            CollectStrategy::AllDevices
                        } else {
                            CollectStrategy::IdentityBasedStrategy
                        },
                        ..EncryptionSettings::default()
                    };
                    let users = to_seal.readers.iter().map(Deref::deref);
                    let requests = olm.share_room_key(&to_seal.room, users, settings).await?;
                    shares.extend(requests.into_iter().map(|request| (place, request)));
                }
                Ok::<_, CryptoError>(())
            };
            self.keys.in_one_commit(shared).await?;
        }
        for parcel in packed(&shares) {
            match self.send_to_devices(&parcel.event_type, &parcel.id(), parcel.messages).await {
                Ok(response) => {
                    let olm = self.olm.write().await;
                    let marked = async {
                        for (_, id) in &parcel.stands_for {
                            olm.mark_request_as_sent(id, &response).await?;
                        }
                        Ok::<_, CryptoError>(())
                    };
                    self.keys.in_one_commit(marked).await?;
                }
                Err(error) => {
                    let error = Arc::new(error);
                    for (place, _) in parcel.stands_for {
                        outcomes[place] = Some(Err(Arc::clone(&error)));
                    }
                }
            }
        }
        Ok(())
    }

    async fn encrypt(&self, batch: &[ToSeal], outcomes: &mut [Outcome]) -> Result<(), CryptoError> {
        let olm = self.olm.write().await;
        let encrypted = async {
            for (to_seal, outcome) in batch.iter().zip(outcomes).filter(|(_, outcome)| outcome.is_none()) {
                let content: Raw<AnyMessageLikeEventContent> =
                    Raw::from_json(serde_json::value::to_raw_value(&to_seal.content)?);
                let encrypted =
                    olm.encrypt_room_event_raw(&to_seal.room, to_seal.event_type, &content).await?;
                *outcome = Some(Ok(Sealed::Ciphertext {
                    content: encrypted.content.deserialize_as_unchecked()?,
                    session_id: encrypted.encryption_info.session_id().unwrap_or_default().to_owned(),
                }));
            }
            Ok::<_, CryptoError>(())
        };
        self.keys.in_one_commit(encrypted).await
    }

    /// `PUT /sendToDevice` (Matrix v1.19 client-server §Send-to-device messaging).
    pub(super) async fn send_to_devices(
        &self,
        event_type: &ToDeviceEventType,
        id: &TransactionId,
        messages: Messages,
    ) -> Result<send_event_to_device::v3::Response, CryptoError> {
        let request = send_event_to_device::v3::Request::new_raw(event_type.clone(), id.to_owned(), messages);
        Ok(self.homeserver.request(CommitPoint::SendToDevices, &self.intent, request).await?)
    }

    /// Takes in sessions that a ghost has made for rooms, unless it has them, so that the bot can hand history on
    /// (MSC4268).
    ///
    /// # Errors
    /// When a crypto store fails.
    pub async fn learn_sessions(
        &self,
        ghost: &Machine,
        sessions: &[(OwnedRoomId, String)],
    ) -> Result<(), CryptoError> {
        let learned = || ghost.learned.lock().unwrap_or_else(PoisonError::into_inner);
        let new: Vec<_> = {
            let learned = learned();
            sessions.iter().filter(|(_, session_id)| !learned.contains(session_id)).cloned().collect()
        };
        let known = self.keys.with_sessions(&new).await?;
        let mut exported = Vec::new();
        for (room, session_id) in new.iter().filter(|(_, session_id)| !known.contains(session_id.as_str())) {
            // This one alone: `export_room_keys` would open all that the ghost has.
            let found = ghost.olm().await.store().get_inbound_group_session(room, session_id).await?;
            if let Some(session) = found {
                exported.push(session.export().await);
            }
        }
        if !exported.is_empty() {
            self.olm().await.store().import_exported_room_keys(exported, |_, _| {}).await?;
        }
        learned().extend(new.into_iter().map(|(_, session_id)| session_id));
        Ok(())
    }
}

/// What the machine wants to be sent to devices, in as few requests as can be. To one device there is one message in a
/// request, and they stay in order.
fn packed(shares: &[(usize, Arc<ToDeviceRequest>)]) -> Vec<Parcel> {
    let mut parcels: Vec<Parcel> = Vec::new();
    for (message, share) in shares {
        let messages: Vec<_> = share
            .messages
            .iter()
            .flat_map(|(user, devices)| devices.iter().map(move |(device, message)| (user, device, message)))
            .collect();
        let fits = |parcel: &Parcel| {
            parcel.count + messages.len() <= MOST_MESSAGES
                && !messages.iter().any(|(user, device, _)| {
                    parcel.messages.get(*user).is_some_and(|devices| devices.contains_key(*device))
                })
        };
        let last = parcels.iter().rposition(|parcel| parcel.event_type == share.event_type);
        let place = last.filter(|place| fits(&parcels[*place])).unwrap_or_else(|| {
            parcels.push(Parcel {
                event_type: share.event_type.clone(),
                messages: Messages::new(),
                count: 0,
                stands_for: Vec::new(),
            });
            parcels.len() - 1
        });
        let parcel = &mut parcels[place];
        parcel.count += messages.len();
        parcel.stands_for.push((*message, share.txn_id.clone()));
        for (user, device, message) in messages {
            parcel.messages.entry(user.clone()).or_default().insert(device.clone(), message.clone());
        }
    }
    parcels
}
