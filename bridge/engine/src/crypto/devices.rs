//! The devices that people have published, as a machine knows them.

use std::{
    collections::HashMap,
    ops::Deref,
    sync::{MutexGuard, PoisonError},
};

use matrix_sdk_crypto::{olm::ShareInfo, store::CryptoStore as _};
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, RoomId, UserId};

use super::{CryptoError, Machine};

/// A device that somebody has published, with keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Whose it is.
    pub user_id: OwnedUserId,
    /// The device.
    pub device_id: OwnedDeviceId,
    /// Whether its owner's cross-signing identity has signed it.
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
    pub(super) async fn look_up(&self, people: impl Iterator<Item = &UserId>) -> Result<(), CryptoError> {
        self.olm().await.update_tracked_users(people).await?;
        self.flush().await
    }

    /// The devices that these people have published; asks for those whose devices may be others than they were.
    ///
    /// # Errors
    /// When the homeserver or the crypto store fails.
    pub(crate) async fn published(&self, people: &[OwnedUserId]) -> Result<Vec<Published>, CryptoError> {
        self.look_up(people.iter().map(Deref::deref)).await?;
        let mut published = Vec::with_capacity(people.len());
        for user_id in people {
            published.extend(self.devices_of(user_id).await?.into_iter().map(|device| device.published));
        }
        Ok(published)
    }

    /// The devices of somebody, as they were told last.
    pub(super) async fn devices_of(&self, user_id: &UserId) -> Result<Vec<Device>, CryptoError> {
        let asked_at = {
            let known = self.devices();
            if let Some(devices) = known.of.get(user_id) {
                return Ok(devices.clone());
            }
            known.changes
        };
        let mut devices = Vec::new();
        for device in self.olm().await.get_user_devices(user_id, None).await?.devices() {
            let sessions = match device.curve25519_key() {
                Some(key) => self.keys.get_sessions(&key.to_base64()).await?,
                None => None,
            };
            devices.push(Device {
                published: Published {
                    user_id: user_id.to_owned(),
                    device_id: device.device_id().to_owned(),
                    signed: device.is_cross_signed_by_owner(),
                    dehydrated: device.is_dehydrated(),
                },
                reachable: sessions.is_some_and(|sessions| !sessions.is_empty()),
            });
        }
        // A device that cannot be reached may begin Olm itself at any time; and what changed meanwhile is not known.
        let mut known = self.devices();
        let all_can = !devices.is_empty() && devices.iter().all(|device| device.reachable);
        if all_can && known.changes == asked_at {
            known.of.insert(user_id.to_owned(), devices.clone());
        }
        drop(known);
        Ok(devices)
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
