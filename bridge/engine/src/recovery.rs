//! After a backup was restored. The database is older than the world: its keys have been used since, and its rooms have
//! gone on. So every user of ours gets a new device before anything is sent, and the rooms are read back.
//!
//! `parlour restore` marks the database. One that was put back in another way is noticed by what stands in the rooms: a
//! leg that it has not even encrypted ([`Core::catch_up`]).
//!
//! Where the homeserver alone was put back from a copy, its world is older than the database. It may not know a ghost, gives
//! away one-time keys that were used, and has lost room keys on their way. A new device would not do: whose client has seen
//! more than the homeserver now remembers is not told of it. So every device is published again as it was, with new
//! one-time keys, and begins new sessions.

use parlour_domain::Timestamp;

use crate::{crypto::CryptoError, engine::Core, store::StoreError};

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

    /// Has every user of ours published again. What lies in the bot's inbox is taken in before: it goes with the old device.
    ///
    /// # Errors
    /// When homeserver or database fail; it can be said again.
    pub(crate) async fn publish_again(&self) -> Result<(), CryptoError> {
        let bot = self.ghosts.bot().await?;
        match bot.receive_from_the_beginning(&self.ghosts.machines).await {
            // It does not know the bot any more, who then has no inbox either.
            Err(error) if !error.may_pass() => tracing::warn!(%error, "the bot's inbox cannot be read"),
            outcome => outcome?,
        }
        self.store.publish_again().await?;
        self.ghosts.machines.put_all_to_sleep().await;
        Ok(())
    }

    /// Reads all rooms back to what is known. What stands in a room is not sent again; what cannot be read any more is
    /// reported to whoever wrote it. Only then is anything sent.
    ///
    /// # Errors
    /// When homeserver or database fail; trying again goes on where it stopped.
    pub(crate) async fn recover(&self) -> Result<(), CryptoError> {
        let begun: Timestamp = self.clock.now();
        let rooms = self.read_all_back().await?;
        let bot = self.ghosts.bot().await?;
        let mut unknown = 0;
        for room_id in self.homeserver.joined_rooms(bot.intent()).await? {
            if !self.store.knows_room(&room_id).await? {
                unknown += 1;
            }
        }
        self.store.recovered().await?;
        let took = self.clock.now().millis() - begun.millis();
        tracing::warn!(rooms, milliseconds = took, "the rooms are read back");
        if unknown > 0 {
            tracing::error!(
                rooms = unknown,
                "rooms were made after the backup; their conversations must be begun again"
            );
        }
        Ok(())
    }

    /// Reads all rooms back; how many there are.
    ///
    /// # Errors
    /// When homeserver or database fail in a way that passes.
    pub(crate) async fn read_all_back(&self) -> Result<usize, CryptoError> {
        let portals = self.store.portals_made().await?;
        for portal in &portals {
            match self.read_back(portal).await {
                Err(error) if !error.may_pass() => {
                    // One room that is gone keeps no other from going on.
                    tracing::error!(portal = %portal.id, %error, "a room cannot be read back");
                }
                outcome => outcome?,
            }
        }
        Ok(portals.len())
    }
}
