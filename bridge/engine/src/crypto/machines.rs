//! All machines of this process: made when first needed, one a user of ours.

use std::{collections::HashMap, sync::Arc, time::Duration};

use matrix_sdk_crypto::{EncryptionSyncChanges, OlmMachine};
use parlour_domain::{Clock, Timestamp};
use ruma::{DeviceId, OwnedUserId, UserId, api::client::sync::sync_events::DeviceLists};
use serde_json::{Value, json};
use tokio::sync::{Mutex, OnceCell, RwLock};

use super::{CryptoError, Machine};
use crate::{
    commit_point::CommitPoint,
    homeserver::{Homeserver, HomeserverError, Intent, encoded},
    store::{DeviceNews, MachineStore, OurUser, Store, StoreError},
};

/// How often one inbox is looked into at a time; a look brings up to a hundred keys.
const MOST_LOOKS: usize = 20;

/// The machines, and the accounts on the homeserver that they belong to.
pub struct Machines {
    homeserver: Homeserver,
    store: Store,
    clock: Arc<dyn Clock>,
    /// Whether devices count that nobody has signed.
    allow_unsigned: bool,
    awake: Mutex<HashMap<OwnedUserId, Awake>>,
    /// Held for reading while a machine wakes, for writing while all hear of changed devices: none misses a change.
    waking: RwLock<()>,
}

/// A machine that is awake, or about to be.
struct Awake {
    machine: Arc<OnceCell<Arc<Machine>>>,
    used: Timestamp,
}

impl Machines {
    /// None awake yet.
    #[must_use]
    pub fn new(homeserver: Homeserver, store: Store, clock: Arc<dyn Clock>, allow_unsigned: bool) -> Self {
        Self { homeserver, store, clock, allow_unsigned, awake: Mutex::default(), waking: RwLock::default() }
    }

    /// The machine of one of our users, who is made on the homeserver first where needed: account, device, keys,
    /// identity, name. Each step can be repeated.
    ///
    /// # Errors
    /// When homeserver, database or crypto store fail; trying again goes on where it stopped.
    pub async fn of(&self, user: &OurUser, display_name: &str) -> Result<Arc<Machine>, CryptoError> {
        let cell = self.cell(user, self.clock.now()).await;
        if let Some(machine) = cell.get() {
            return Ok(Arc::clone(machine));
        }
        let _waking = self.waking.read().await;
        // Meanwhile all may have been put to sleep, and what was known of the user may be another.
        let cell = self.cell(user, self.clock.now()).await;
        cell.get_or_try_init(|| self.wake(&user.user_id, display_name)).await.cloned()
    }

    /// As [`Machines::of`], so that the machine is awake the next time the inboxes are emptied. It does not count as used.
    ///
    /// # Errors
    /// When homeserver, database or crypto store fail.
    pub async fn look_after(&self, ghost: &OurUser, display_name: &str) -> Result<(), CryptoError> {
        let _waking = self.waking.read().await;
        let cell = self.cell(ghost, Timestamp::from_millis(0)).await;
        cell.get_or_try_init(|| self.wake(&ghost.user_id, display_name)).await.map(drop)
    }

    async fn cell(&self, user: &OurUser, used: Timestamp) -> Arc<OnceCell<Arc<Machine>>> {
        let mut awake = self.awake.lock().await;
        let known =
            awake.entry(user.user_id.clone()).or_insert_with(|| Awake { machine: Arc::default(), used });
        known.used = known.used.max(used);
        // One whose memory is ahead of the database saves nothing any more, and a new one takes its place.
        if known.machine.get().is_some_and(|machine| machine.keys.is_behind()) {
            known.machine = Arc::default();
        }
        Arc::clone(&known.machine)
    }

    /// Puts machines to sleep that nobody has used for this long.
    pub async fn put_to_sleep(&self, idle: Duration) {
        let now = self.clock.now().millis();
        let idle = i64::try_from(idle.as_millis()).unwrap_or(i64::MAX);
        self.awake.lock().await.retain(|user_id, known| {
            let in_use = Arc::strong_count(&known.machine) > 1
                || known.machine.get().is_some_and(|machine| Arc::strong_count(machine) > 1);
            in_use || user_id.localpart() == crate::ghosts::BOT || now - known.used.millis() < idle
        });
    }

    /// Puts all machines to sleep, also those that somebody uses just now, who must use another one then.
    pub async fn put_all_to_sleep(&self) {
        let _waking = self.waking.write().await;
        for machine in self.all_awake().await {
            machine.keys.close().await;
        }
        self.awake.lock().await.clear();
    }

    /// How many machines are awake.
    pub async fn awake(&self) -> usize {
        self.awake.lock().await.values().filter(|known| known.machine.initialized()).count()
    }

    async fn all_awake(&self) -> Vec<Arc<Machine>> {
        self.awake.lock().await.values().filter_map(|known| known.machine.get().cloned()).collect()
    }

    async fn wake(&self, user_id: &UserId, display_name: &str) -> Result<Arc<Machine>, CryptoError> {
        let user = self.store.our_user(user_id).await?.ok_or(StoreError::Malformed("our_users"))?;
        let intent = Intent { user_id: user.user_id.clone(), device_id: Some(user.device_id.clone()) };
        let keys = self.store.machine_store(&user.user_id);
        if !user.ready {
            // The same device once more: its former self goes first, with the one-time keys that the homeserver has of it,
            // and what lies in its inbox is taken in before.
            let again = user.former_device.as_deref().filter(|former| *former == user.device_id);
            if again.is_some() {
                match self.open(&intent, &keys).await?.receive_from_the_beginning().await {
                    // The homeserver does not know it any more, and has no inbox for it either.
                    Err(error) if !error.may_pass() => {
                        tracing::warn!(%user_id, %error, "the inbox of a former device cannot be read");
                    }
                    outcome => outcome?,
                }
            }
            self.register(&intent, again).await?;
            if again.is_some() {
                keys.publish_again().await?;
            }
        }
        let machine = Arc::new(self.open(&intent, &keys).await?);
        if !user.ready {
            machine.publish().await?;
            self.name(machine.intent(), display_name).await?;
            if user.former_device.is_some() {
                self.end_other_devices(machine.intent()).await?;
            }
            self.store.our_user_is_ready(&user.user_id).await?;
        }
        Ok(machine)
    }

    async fn open(&self, intent: &Intent, keys: &MachineStore) -> Result<Machine, CryptoError> {
        let device_id = intent.device_id.as_deref().ok_or(StoreError::Malformed("our_users"))?;
        let olm = OlmMachine::with_store(&intent.user_id, device_id, keys.clone(), None).await?;
        // What changed while we were down was told to nobody.
        olm.mark_all_tracked_users_as_dirty().await?;
        Ok(Machine::new(intent.clone(), olm, keys.clone(), self.homeserver.clone(), self.allow_unsigned))
    }

    /// Tells every machine that is awake whose devices have changed. Written down first: afterwards nothing would tell of
    /// it again; and nobody reads that before the machines have heard.
    pub(crate) async fn devices_changed(&self, changed: &DeviceLists) -> Result<(), StoreError> {
        let _waking = self.waking.write().await;
        self.store.devices_may_have_changed(&changed.changed, self.clock.now()).await?;
        let machines = self.all_awake().await;
        let none = std::collections::BTreeMap::new();
        for machine in machines {
            let changes = EncryptionSyncChanges {
                to_device_events: Vec::new(),
                changed_devices: changed,
                one_time_keys_counts: &none,
                unused_fallback_keys: None,
                next_batch_token: None,
            };
            if let Err(error) = machine.take_in(changes).await {
                // Asleep, it hears of everything when it wakes: all devices are asked for anew then.
                tracing::error!(user_id = %machine.intent().user_id, %error, "a ghost did not hear of changed devices");
                self.awake.lock().await.remove(&machine.intent().user_id);
            }
        }
        Ok(())
    }

    /// Whose devices may have changed, of which every machine that is awake has heard: what one of them is asked for is as
    /// new as the news.
    ///
    /// # Errors
    /// When the database fails.
    pub(crate) async fn device_news(&self, most: i64) -> Result<Vec<DeviceNews>, StoreError> {
        let _waking = self.waking.read().await;
        self.store.device_news(most, self.clock.now()).await
    }

    /// Looks into the inboxes of all ghosts that are awake, until they are empty (Matrix v1.19 client-server
    /// §Send-to-device messaging: what was fetched is deleted with the next fetch).
    pub async fn empty_inboxes(&self) {
        let machines = self.all_awake().await;
        for machine in machines {
            if machine.intent().user_id.localpart() == crate::ghosts::BOT {
                continue;
            }
            // As long as there are keys in it there may be more; the look that finds none deletes what was found. Whoever
            // keeps sending must not keep the other ghosts waiting.
            for _ in 0..MOST_LOOKS {
                match machine.receive(None, None).await {
                    Ok(news) if news.keys => {}
                    Ok(_) => break,
                    Err(error) => {
                        tracing::warn!(user_id = %machine.intent().user_id, %error, "a ghost's inbox stays full");
                        break;
                    }
                }
            }
        }
    }

    /// Account and device (Matrix v1.19 application-service §Server admin style permissions; MSC4190). In between, `former` is
    /// ended.
    async fn register(&self, intent: &Intent, former: Option<&DeviceId>) -> Result<(), HomeserverError> {
        let body = json!({
            "type": "m.login.application_service",
            "username": intent.user_id.localpart(),
            "inhibit_login": true,
        });
        match self
            .homeserver
            .call(
                CommitPoint::Register,
                None,
                http::Method::POST,
                "/_matrix/client/v3/register?kind=user",
                &body,
            )
            .await
        {
            Ok(_) => {}
            Err(error) if error.is("M_USER_IN_USE") => {}
            Err(error) => return Err(error),
        }
        if let Some(former) = former {
            self.end_device(intent, former).await?;
        }
        let Some(device_id) = &intent.device_id else { return Ok(()) };
        let path = format!("/_matrix/client/v3/devices/{}", encoded(device_id.as_str()));
        let user = Intent::user(&intent.user_id);
        self.homeserver
            .call(
                CommitPoint::MakeDevice,
                Some(&user),
                http::Method::PUT,
                &path,
                &json!({ "display_name": "Parlour" }),
            )
            .await?;
        Ok(())
    }

    /// Ends every device of a user of ours but the one that it has now: the one before it, and those that a database has had
    /// which was put back by a backup.
    async fn end_other_devices(&self, intent: &Intent) -> Result<(), CryptoError> {
        let (path, user) = ("/_matrix/client/v3/devices", Intent::user(&intent.user_id));
        let point = CommitPoint::ReadDevices;
        let told = self.homeserver.call(point, Some(&user), http::Method::GET, path, &Value::Null).await?;
        let devices = told["devices"].as_array().ok_or(HomeserverError::Nonsense(path))?;
        for device in devices.iter().filter_map(|device| device["device_id"].as_str()) {
            let device = <&DeviceId>::from(device);
            if intent.device_id.as_deref() != Some(device) {
                self.end_device(intent, device).await?;
            }
        }
        Ok(())
    }

    /// Ends a device, so that nobody encrypts for it any longer (MSC4190: without interactive auth). One that is not there
    /// is ended.
    async fn end_device(&self, intent: &Intent, device: &DeviceId) -> Result<(), HomeserverError> {
        let path = format!("/_matrix/client/v3/devices/{}", encoded(device.as_str()));
        let (point, user) = (CommitPoint::EndDevice, Intent::user(&intent.user_id));
        match self.homeserver.call(point, Some(&user), http::Method::DELETE, &path, &json!({})).await {
            Err(error) if error.is("M_NOT_FOUND") => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    async fn name(&self, intent: &Intent, display_name: &str) -> Result<Value, HomeserverError> {
        let path = format!("/_matrix/client/v3/profile/{}/displayname", encoded(intent.user_id.as_str()));
        self.homeserver
            .call(
                CommitPoint::SetName,
                Some(intent),
                http::Method::PUT,
                &path,
                &json!({ "displayname": display_name }),
            )
            .await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use parlour_domain::{Person, PersonId, Role};
    use ruma::owned_user_id;

    use super::*;
    use crate::{Secret, store::testing::TestDatabase};

    struct Still;

    impl Clock for Still {
        fn now(&self) -> Timestamp {
            Timestamp::from_millis(1)
        }
    }

    /// Whoever read the news before would look with the devices of before, and count it as dealt with.
    #[tokio::test]
    async fn news_of_devices_is_not_read_before_the_machines_have_heard_it() {
        let database = TestDatabase::sqlite();
        let store = database.open().await.expect("a store");
        let ann = owned_user_id!("@ann:x");
        let person = Person {
            id: PersonId::from_bytes([1; 16]),
            user_id: ann.clone(),
            role: Role::Patient,
            name: "Ann Byrne".parse().expect("a name"),
            record_number: None,
        };
        store.put_person(&person).await.expect("kept");
        let homeserver = Homeserver::new("http://127.0.0.1:9", Secret::new(String::new())).expect("a client");
        let machines = Arc::new(Machines::new(homeserver, store.clone(), Arc::new(Still), false));
        // A machine wakes: the others cannot hear meanwhile.
        let waking = machines.waking.read().await;
        let hears = tokio::spawn({
            let (machines, mut changed) = (Arc::clone(&machines), DeviceLists::new());
            changed.changed.push(ann.clone());
            async move { machines.devices_changed(&changed).await }
        });
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(store.device_news(10, Still.now()).await.expect("read"), [], "nothing is written before");
        drop(waking);
        hears.await.expect("it ends").expect("heard");
        let news = machines.device_news(10).await.expect("read");
        assert_eq!(news.into_iter().map(|news| news.user_id).collect::<Vec<_>>(), [ann]);
        // It is written, and the machines are still hearing it.
        let hearing = machines.waking.write().await;
        let early = tokio::time::timeout(Duration::from_millis(200), machines.device_news(10)).await;
        assert!(early.is_err(), "nobody reads it before they have");
        drop(hearing);
        assert_eq!(machines.device_news(10).await.expect("read").len(), 1);
    }
}
