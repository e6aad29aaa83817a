//! The devices that people have published, as a machine knows them.

use std::{
    collections::{HashMap, HashSet},
    ops::Deref,
    sync::{MutexGuard, PoisonError},
};

use matrix_sdk_crypto::{LocalTrust, olm::ShareInfo, store::CryptoStore as _};
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, RoomId, UserId};

use super::{CryptoError, Machine};

/// A device that somebody has published, with keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Whose it is.
    pub user_id: OwnedUserId,
    /// The device.
    pub device_id: OwnedDeviceId,
    /// Whether its owner's cross-signing identity has signed it, or it counts without.
    pub signed: bool,
    /// Whether it says that it is a dehydrated one (MSC3814).
    pub dehydrated: bool,
}

/// A device that somebody has published, as far as it matters for what is sent to it.
#[derive(Clone)]
pub(super) struct Device {
    published: Published,
    /// Whether there is an Olm session with it.
    reachable: bool,
}

/// What is known of people's devices, until they are asked for anew.
#[derive(Default)]
pub(super) struct KnownDevices {
    of: HashMap<OwnedUserId, Vec<Device>>,
    /// How often something was new.
    changes: u64,
}

impl Device {
    fn of(device: &matrix_sdk_crypto::Device, reachable: &HashSet<String>, trusted: bool) -> Self {
        let key = device.curve25519_key().map(|key| key.to_base64());
        Self {
            published: Published {
                user_id: device.user_id().to_owned(),
                device_id: device.device_id().to_owned(),
                signed: trusted,
                dehydrated: device.is_dehydrated(),
            },
            reachable: key.is_some_and(|key| reachable.contains(&key)),
        }
    }

    /// Whether it gets the session of a room that its owner is in.
    pub(super) fn can_read(&self) -> bool {
        self.published.signed && self.reachable
    }
}

impl Machine {
    /// Asks for the devices of these people that may be others than they were, in one query.
    ///
    /// # Errors
    /// When the homeserver or the crypto store fails.
    pub(super) async fn look_up(&self, people: &[OwnedUserId]) -> Result<(), CryptoError> {
        self.olm().await.update_tracked_users(people.iter().map(Deref::deref)).await?;
        self.keys.read_people(people).await?;
        self.flush().await?;
        // Those who have changed.
        self.keys.read_people(people).await.map_err(CryptoError::from)
    }

    /// The devices that these people have published; asks for those whose devices may be others than they were.
    ///
    /// # Errors
    /// When the homeserver or the crypto store fails.
    pub(crate) async fn published(&self, people: &[OwnedUserId]) -> Result<Vec<Published>, CryptoError> {
        self.look_up(people).await?;
        let mut devices = self.devices_of(people).await?;
        let in_order = people.iter().filter_map(|user_id| devices.remove(user_id)).flatten();
        Ok(in_order.map(|device| device.published).collect())
    }

    /// The devices of these people, as they were told last.
    pub(super) async fn devices_of(
        &self,
        people: &[OwnedUserId],
    ) -> Result<HashMap<OwnedUserId, Vec<Device>>, CryptoError> {
        let mut of = HashMap::new();
        let mut unknown = Vec::new();
        let asked_at = {
            let known = self.devices();
            for user_id in people {
                match known.of.get(user_id) {
                    Some(devices) => drop(of.insert(user_id.clone(), devices.clone())),
                    None => unknown.push(user_id.clone()),
                }
            }
            known.changes
        };
        let mut found = Vec::new();
        for user_id in unknown {
            let devices = self.olm().await.get_user_devices(&user_id, None).await?;
            found.push((user_id, devices));
        }
        let devices = found.iter().flat_map(|(_, devices)| devices.devices());
        let keys: Vec<_> = devices.filter_map(|device| Some(device.curve25519_key()?.to_base64())).collect();
        let reachable = self.keys.with_olm(&keys).await?;
        for (user_id, devices) in found {
            let devices = self.trusted(&user_id, devices.devices().collect()).await?;
            let devices: Vec<_> =
                devices.iter().map(|(device, trusted)| Device::of(device, &reachable, *trusted)).collect();
            // A device that cannot be reached may begin Olm itself at any time; and what changed meanwhile is not known.
            let all_can = !devices.is_empty() && devices.iter().all(|device| device.reachable);
            let mut known = self.devices();
            if all_can && known.changes == asked_at {
                known.of.insert(user_id.clone(), devices.clone());
            }
            drop(known);
            of.insert(user_id, devices);
        }
        Ok(of)
    }

    /// Which devices of somebody are believed to be theirs: those that their identity has signed; and where clients are allowed
    /// that know nothing of cross-signing, those of accounts that have no identity. The library that gives keys out is told
    /// which are not: it knows all devices or the signed ones, and nothing in between.
    async fn trusted(
        &self,
        user_id: &UserId,
        devices: Vec<matrix_sdk_crypto::Device>,
    ) -> Result<Vec<(matrix_sdk_crypto::Device, bool)>, CryptoError> {
        let allowed = self.allow_unsigned && self.olm().await.get_identity(user_id, None).await?.is_none();
        let mut all = Vec::with_capacity(devices.len());
        for device in devices {
            let trusted = allowed || device.is_cross_signed_by_owner();
            let trust = match self.allow_unsigned && !trusted {
                true => LocalTrust::BlackListed,
                false => LocalTrust::Unset,
            };
            if device.local_trust_state() != trust {
                device.set_local_trust(trust).await?;
            }
            all.push((device, trusted));
        }
        Ok(all)
    }

    fn devices(&self) -> MutexGuard<'_, KnownDevices> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something about these people's devices may be new.
    pub(super) fn forget_devices<'a>(&self, users: impl Iterator<Item = &'a OwnedUserId>) {
        let mut known = self.devices();
        known.changes += 1;
        users.for_each(|user_id| drop(known.of.remove(user_id)));
    }

    /// From which message on a device can read the session that is used in a room now; none is from none on.
    pub(crate) async fn reads_from(
        &self,
        room: &RoomId,
        user_id: &UserId,
        device_id: &DeviceId,
    ) -> Result<Option<u32>, CryptoError> {
        let Some(session) = self.keys.get_outbound_group_session(room).await? else { return Ok(None) };
        let pickle = session.pickle().await;
        // What it has, and what is on its way to it.
        let given = pickle.requests.values().map(|(_, given)| given).chain([&pickle.shared_with_set]);
        let to_it = given.filter_map(|given| given.get(user_id)?.get(device_id));
        let from = to_it.filter_map(|info| match info {
            ShareInfo::Shared(shared) => Some(shared.message_index),
            ShareInfo::Withheld(_) => None,
        });
        Ok(from.min())
    }
}
