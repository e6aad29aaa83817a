//! After a backup was restored. The database is older than the world: its keys have been used since, and its rooms have
//! gone on. So every user of ours gets a new device before anything is sent, and the rooms are read back.
//!
//! `parlour restore` marks the database. One that was put back in another way is noticed by what stands in the rooms: a
//! leg that it has not even encrypted ([`Core::take_in`]).
//!
//! Where the homeserver alone was put back from a copy, its world is older than the database. It may not know a ghost, gives
//! away one-time keys that were used, and has lost room keys on their way. A new device would not do: whose client has seen
//! more than the homeserver now remembers is not told of it. So every device is published again as it was, with new
//! one-time keys, and begins new sessions.

use std::sync::atomic::Ordering;

use parlour_domain::{Mode, PORTAL_EVENT, Person, PortalId, PortalKind, Timestamp};
use serde_json::Value;

use crate::{
    crypto::CryptoError,
    engine::Core,
    intake::mode_in,
    portals::mode,
    store::{Conversation, Portal, StoreError},
};

/// How often all rooms are read back, a second after each other, while some of them fail: what still fails then is left
/// alone.
const MOST_LOOKS_BACK: u32 = 10;

impl Core {
    /// Gives every user of ours a new device, where the database has been restored and they have not got one since.
    ///
    /// # Errors
    /// When the database fails; what was renewed stays.
    pub(crate) async fn renew_devices(&self) -> Result<(), StoreError> {
        let Some(epoch) = self.store.restored_at().await? else { return Ok(()) };
        let users = self.store.users_before(epoch).await?;
        if users.is_empty() {
            return Ok(());
        }
        tracing::warn!(
            at = %epoch, devices = users.len(),
            "the database comes from a backup: every device is renewed, and the rooms are read back"
        );
        self.ghosts.machines.put_all_to_sleep().await;
        for user in users {
            self.store.renew_device(&user.user_id, &self.ghosts.fresh_device(), epoch).await?;
        }
        Ok(())
    }

    /// The database is older than the world, and nobody has marked it: from here on it is as if it were.
    ///
    /// # Errors
    /// When the database fails; then it is noticed again.
    pub(crate) async fn notice_restore(&self) -> Result<(), StoreError> {
        tracing::error!(
            "legs stand in rooms that this database has never sent: it was put back from a copy by other means than \
             `parlour restore`, and is dealt with as if by that"
        );
        self.store.is_restored(self.clock.now()).await
    }

    /// The homeserver was put back from a copy: every user of ours is published again, each when its machine wakes.
    ///
    /// # Errors
    /// When the database fails; it can be said again.
    pub(crate) async fn publish_again(&self) -> Result<(), StoreError> {
        tracing::error!(
            "the homeserver's database was put back from a copy: what was said after that copy is gone from its rooms, and \
             stands in the record alone; keys are published again, and the rooms are read back"
        );
        self.store.publish_again(self.clock.now()).await
    }

    /// Reads all rooms back to what is known. What stands in a room is not sent again; what cannot be read any more is
    /// reported to whoever wrote it. Only then is anything sent.
    ///
    /// # Errors
    /// When homeserver or database fail; trying again goes on where it stopped.
    pub(crate) async fn recover(&self) -> Result<(), CryptoError> {
        let begun: Timestamp = self.clock.now();
        let _nobody_else = self.catching_up.lock().await;
        let read = self.read_all_back().await?;
        self.find_members().await?;
        let is_back = self.store.homeserver_is_back().await?;
        // Both may be: then the rooms tell what they know better, before they are told the rest.
        if !is_back || self.store.restored_at().await?.is_some() {
            self.find_changes().await?;
        }
        if is_back {
            self.store.all_are_to_be_set(begun).await?;
        }
        let bot = self.ghosts.bot().await?;
        let mut unknown = 0;
        for room_id in self.homeserver.joined_rooms(bot.intent()).await? {
            if !self.store.knows_room(&room_id).await? {
                unknown += 1;
            }
        }
        self.store.recovered(&read, bot.place().await?.as_deref()).await?;
        let took = self.clock.now().millis() - begun.millis();
        tracing::warn!(rooms = read.len(), milliseconds = took, "the rooms are read back");
        if unknown > 0 {
            tracing::error!(
                rooms = unknown,
                "rooms were made after the backup; their conversations must be begun again"
            );
        }
        Ok(())
    }

    /// Who is in which room is asked anew: database and homeserver are of different times.
    async fn find_members(&self) -> Result<(), CryptoError> {
        let bot = self.ghosts.bot().await?;
        for portal in self.store.portals_made().await? {
            let Some(room_id) = &portal.room_id else { continue };
            match self.homeserver.members(bot.intent(), room_id).await {
                Ok(members) => self.store.members_are(&portal.id, &members).await?,
                Err(error) if error.is_passing() => return Err(error.into()),
                Err(error) => {
                    tracing::error!(portal = %portal.id, %error, "a room does not tell who is in it")
                }
            }
        }
        Ok(())
    }

    /// What a conversation became after the backup stays so: where its hub was set to a revision that the database has not set it
    /// to, and does not wait to set it to, the rooms tell its mode and who takes part. Elsewhere what is written down holds; who
    /// has gone by themselves is told by an event. All of it can be done again: it changes nothing of what it is decided by.
    async fn find_changes(&self) -> Result<(), CryptoError> {
        let everybody = self.store.people().await?;
        for conversation in self.store.conversations().await? {
            let portals = self.store.portals(&conversation.id).await?;
            let Some(hub) = portals.iter().find(|portal| portal.kind() == PortalKind::Hub) else { continue };
            let Some(says) = self.says(hub).await? else { continue };
            let revision = says["revision"].as_i64().unwrap_or(0);
            if revision > hub.revision_set && revision != hub.revision {
                self.rooms_tell(&conversation, &portals, hub, &everybody).await?;
            } else {
                self.rooms_are_told(&conversation, &portals).await?;
            }
        }
        Ok(())
    }

    /// The rooms of a conversation are newer than what is written down.
    async fn rooms_tell(
        &self,
        conversation: &Conversation,
        portals: &[Portal],
        hub: &Portal,
        everybody: &[Person],
    ) -> Result<(), CryptoError> {
        let people = self.store.people_in(&conversation.id).await?;
        let unready = self.store.unready_portals(&conversation.id).await?;
        let mut changes = Vec::new();
        for person in everybody {
            let takes_part =
                people.participants.iter().find(|participant| participant.person.id == person.id);
            let spoke = portals.iter().find(|portal| portal.patient.as_ref() == Some(&person.id));
            let portal = if person.role.is_staff() { Some(hub) } else { spoke };
            let Some(portal) = portal.filter(|portal| portal.room_id.is_some()) else { continue };
            let mut comes = self.store.has_joined(&portal.id, &person.user_id).await?;
            if comes && portal.kind() == PortalKind::Spoke {
                let Some(says) = self.says(portal).await? else { continue };
                comes = says["open"] != false;
            }
            // Whoever was still to come may have been kept from it by anything.
            let is_still_to_come = takes_part
                .is_some_and(|participant| participant.revision > hub.revision_set)
                || unready.iter().any(|unready| unready.id == portal.id);
            if comes != takes_part.is_some() && (comes || !is_still_to_come) {
                changes.push((person, comes));
            }
        }
        if let Some(mode) = self.mode_of(hub).await? {
            self.store.mode_is_found(&conversation.id, mode, self.clock.now()).await?;
        }
        // Those who came first, so that the last of the staff is not refused to go.
        changes.sort_by_key(|(_, comes)| !comes);
        let Some(owner) = everybody.iter().find(|person| person.id == conversation.owner) else {
            return Ok(());
        };
        for (person, comes) in changes {
            self.participation_is_found(hub, owner, person, comes).await?;
        }
        Ok(())
    }

    /// What is written down of a conversation is newer than its rooms: what is not as it was set is set again.
    async fn rooms_are_told(
        &self,
        conversation: &Conversation,
        portals: &[Portal],
    ) -> Result<(), CryptoError> {
        let people = self.store.people_in(&conversation.id).await?;
        for portal in portals {
            let Some(says) = self.says(portal).await? else { continue };
            let is_open = says["open"] != false;
            let is_right = self.mode_of(portal).await? == Some(mode(conversation, portal, &people));
            if is_open != people.is_open(portal) || !is_right {
                self.store.is_to_be_set(portal, self.clock.now()).await?;
            }
        }
        Ok(())
    }

    /// What a portal's room says it is; nothing when it cannot be read.
    async fn says(&self, portal: &Portal) -> Result<Option<Value>, CryptoError> {
        self.state_of(portal, PORTAL_EVENT).await
    }

    /// The mode that a portal's room has; none when it cannot be read.
    async fn mode_of(&self, portal: &Portal) -> Result<Option<Mode>, CryptoError> {
        Ok(self.state_of(portal, "m.room.power_levels").await?.map(|levels| mode_in(&levels)))
    }

    /// The content of a state event of a portal's room; none when it cannot be read.
    async fn state_of(&self, portal: &Portal, event_type: &str) -> Result<Option<Value>, CryptoError> {
        let Some(room_id) = &portal.room_id else { return Ok(None) };
        let bot = self.ghosts.bot().await?;
        match self.homeserver.state(bot.intent(), room_id, event_type).await {
            Ok(says) => Ok(says),
            Err(error) if error.is_passing() => Err(error.into()),
            Err(error) => {
                tracing::error!(portal = %portal.id, %error, "a room does not tell what it is");
                Ok(None)
            }
        }
    }

    /// Reads all rooms back; which. One that cannot be read holds up the others for some seconds, and no longer.
    ///
    /// # Errors
    /// When homeserver or database fail in a way that passes, or the database is older than the world.
    pub(crate) async fn read_all_back(&self) -> Result<Vec<PortalId>, CryptoError> {
        let portals = self.store.portals_made().await?;
        let (mut read, mut passing) = (Vec::with_capacity(portals.len()), None);
        for portal in &portals {
            match self.read_back(portal).await {
                Ok(()) => read.push(portal.id.clone()),
                Err(CryptoError::Database(error))
                    if error.may_pass() || matches!(error, StoreError::Taken) =>
                {
                    return Err(error.into());
                }
                Err(error) => {
                    tracing::error!(portal = %portal.id, %error, "a room cannot be read back");
                    passing = passing.or_else(|| error.may_pass().then_some(error));
                }
            }
        }
        match passing {
            // None at all can be read: that is no room's fault.
            Some(error) if read.is_empty() => Err(error),
            Some(error) if self.looks_back.fetch_add(1, Ordering::Relaxed) < MOST_LOOKS_BACK => Err(error),
            _ => {
                self.looks_back.store(0, Ordering::Relaxed);
                Ok(read)
            }
        }
    }
}
