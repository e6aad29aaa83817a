//! Ghosts and the bot: who stands for whom, made when first needed, joined where they speak.

use std::sync::Arc;

use parlour_domain::{Chance, Person, PersonId};
use ruma::{OwnedDeviceId, OwnedUserId, ServerName, UserId};
use tokio::sync::{Mutex, Notify};

use crate::{
    crypto::{CryptoError, Machine, Machines},
    homeserver::Homeserver,
    store::{OurUser, Portal, Store, StoreError},
};

/// The prefix of every localpart in our namespace, as the registration claims it.
pub(crate) const NAMESPACE: &str = "_parlour_";

/// The bot's localpart.
pub(crate) const BOT: &str = "_parlour_bot";

pub(crate) struct Ghosts {
    pub(crate) server_name: ruma::OwnedServerName,
    pub(crate) practice: String,
    pub(crate) store: Store,
    pub(crate) homeserver: Homeserver,
    pub(crate) machines: Machines,
    pub(crate) chance: Arc<dyn Chance>,
    pub(crate) turn: Mutex<Turn>,
    /// Told when one of the people is new in a portal.
    pub(crate) came: Arc<Notify>,
    /// Told when a user of ours is in a room where it was not.
    pub(crate) spoke_first: Arc<Notify>,
}

/// The bot's user id.
pub(crate) fn bot_user_id(server_name: &ServerName) -> Option<OwnedUserId> {
    UserId::parse(format!("@{BOT}:{server_name}")).ok()
}

/// How many ghosts that sleep are looked after together with those that are awake: a thousand of them within nine hours.
const SLEEPERS_A_ROUND: i64 = 20;

/// Whose turn it is of the ghosts that sleep.
pub(crate) struct Turn {
    /// Those that come before all others.
    first: Vec<OurUser>,
    /// The one that was looked after last.
    last: String,
}

impl Turn {
    /// It begins with those that are named, and goes on anywhere: a process that never lives long must not always begin
    /// with the same.
    pub(crate) fn beginning_with(first: Vec<OurUser>, chance: &dyn Chance) -> Self {
        Self { first, last: format!("@{NAMESPACE}{}", PersonId::from_bytes(chance.bytes())) }
    }
}

impl Ghosts {
    /// Whether a user is one of ours: the bot or a ghost.
    pub(crate) fn is_ours(&self, user_id: &UserId) -> bool {
        user_id.server_name() == self.server_name && user_id.localpart().starts_with(NAMESPACE)
    }

    /// The bot's machine.
    pub(crate) async fn bot(&self) -> Result<Arc<Machine>, CryptoError> {
        let user_id = bot_user_id(&self.server_name).ok_or(StoreError::Malformed("server name"))?;
        let fresh = self.fresh(user_id, None);
        let bot = self.store.our_user_or(&fresh).await?;
        self.machines.of(&bot, &self.practice).await
    }

    /// The machine of a person's ghost.
    pub(crate) async fn of(&self, person: &Person) -> Result<Arc<Machine>, CryptoError> {
        let opaque = PersonId::from_bytes(self.chance.bytes());
        let user_id = UserId::parse(format!("@{NAMESPACE}{opaque}:{}", self.server_name))
            .map_err(|_| StoreError::Malformed("server name"))?;
        let ghost = self.store.our_user_or(&self.fresh(user_id, Some(person.id.clone()))).await?;
        self.machines.of(&ghost, person.name.as_str()).await
    }

    /// The machine of a user of ours.
    pub(crate) async fn by_user(&self, user_id: &UserId) -> Result<Arc<Machine>, CryptoError> {
        let ours = self.store.our_user(user_id).await?.ok_or(StoreError::Malformed("our_users"))?;
        match self.stands_for(&ours).await? {
            Some(person) => self.of(&person).await,
            None => self.bot().await,
        }
    }

    /// Whom a user of ours stands for; nobody is the bot.
    async fn stands_for(&self, ours: &OurUser) -> Result<Option<Person>, StoreError> {
        let Some(person) = &ours.person else { return Ok(None) };
        self.store.person(person).await?.map(Some).ok_or(StoreError::Malformed("our_users"))
    }

    /// Wakes the next ghosts in turn, so that the inbox of one that does not speak is looked into as well: there it may say
    /// that somebody could not read what it has sent.
    pub(crate) async fn wake_sleepers(&self) -> Result<(), StoreError> {
        let mut turn = self.turn.lock().await;
        for ghost in std::mem::take(&mut turn.first) {
            if !self.wakes(&ghost).await {
                turn.first.push(ghost);
            }
        }
        let mut next = self.store.ghosts_after(&turn.last, SLEEPERS_A_ROUND).await?;
        if next.is_empty() {
            next = self.store.ghosts_after("", SLEEPERS_A_ROUND).await?;
        }
        for ghost in next {
            self.wakes(&ghost).await;
            turn.last = ghost.user_id.into();
        }
        Ok(())
    }

    /// Has a ghost awake; whether it is. One that is not keeps no other from it.
    async fn wakes(&self, ghost: &OurUser) -> bool {
        let woken = async {
            let person = self.stands_for(ghost).await?.ok_or(StoreError::Malformed("our_users"))?;
            self.machines.look_after(ghost, person.name.as_str()).await
        };
        match woken.await {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(user_id = %ghost.user_id, %error, "a ghost does not wake; trying again");
                false
            }
        }
    }

    fn fresh(&self, user_id: OwnedUserId, person: Option<PersonId>) -> OurUser {
        OurUser { user_id, person, device_id: self.fresh_device(), ready: false, former_device: None }
    }

    /// An id for a device that has never been.
    pub(crate) fn fresh_device(&self) -> OwnedDeviceId {
        PersonId::from_bytes(self.chance.bytes()).as_str()[..16].to_uppercase().into()
    }

    /// Joins somebody to a portal's room; said again, nothing happens.
    pub(crate) async fn join(&self, portal: &Portal, user_id: &UserId) -> Result<(), CryptoError> {
        let Some(room_id) = &portal.room_id else { return Ok(()) };
        if self.store.has_joined(&portal.id, user_id).await? {
            return Ok(());
        }
        let bot = self.bot().await?;
        if bot.intent().user_id != user_id {
            self.homeserver.join(bot.intent(), room_id, user_id).await?;
        }
        self.store.joined(&portal.id, user_id).await?;
        if self.is_ours(user_id) {
            self.spoke_first.notify_one()
        } else {
            self.came.notify_one()
        }
        Ok(())
    }
}
