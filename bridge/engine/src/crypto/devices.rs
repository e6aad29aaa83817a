//! The devices that people have published, as a machine knows them.

use std::ops::Deref;

use matrix_sdk_crypto::{store::CryptoStore as _, types::requests::ToDeviceRequest};
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

impl Machine {
    /// The devices that these people have published; asks for those whose devices may be others than they were.
    ///
    /// # Errors
    /// When the homeserver or the crypto store fails.
    pub(crate) async fn published(&self, people: &[OwnedUserId]) -> Result<Vec<Published>, CryptoError> {
        self.olm().await.update_tracked_users(people.iter().map(Deref::deref)).await?;
        self.flush().await?;
        let mut published = Vec::with_capacity(people.len());
        for user_id in people {
            let devices = self.olm().await.get_user_devices(user_id, None).await?;
            published.extend(devices.devices().map(|device| Published {
                user_id: user_id.clone(),
                device_id: device.device_id().to_owned(),
                signed: device.is_cross_signed_by_owner(),
                dehydrated: device.is_dehydrated(),
            }));
        }
        Ok(published)
    }

    /// Whether the session that is used in a room now was given to a device, or is about to be.
    pub(crate) async fn shares_with(
        &self,
        room: &RoomId,
        user_id: &UserId,
        device_id: &DeviceId,
    ) -> Result<bool, CryptoError> {
        let Some(session) = self.keys.get_outbound_group_session(room).await? else { return Ok(false) };
        let pickle = session.pickle().await;
        let sent = pickle.shared_with_set.get(user_id).is_some_and(|devices| devices.contains_key(device_id));
        let mut requests = pickle.requests.values().map(|(request, _)| &**request);
        Ok(sent || requests.any(|request| names(request, user_id, device_id)))
    }
}

fn names(request: &ToDeviceRequest, user_id: &UserId, device_id: &DeviceId) -> bool {
    let device = ruma::to_device::DeviceIdOrAllDevices::DeviceId(device_id.to_owned());
    request.messages.get(user_id).is_some_and(|devices| devices.contains_key(&device))
}
