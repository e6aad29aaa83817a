//! After a backup was restored. The database is older than the world: its keys have been used since, and its rooms have
//! gone on. So every user of ours gets a new device before anything is sent, and the rooms are read back.
//!
//! `parlour restore` marks the database. One that was put back in another way is noticed by what stands in the rooms: a
//! leg that it has not even encrypted ([`Core::catch_up`]).

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
        for user in users {
            self.store.renew_device(&user.user_id, &self.ghosts.fresh_device(), epoch).await?;
        }
        self.ghosts.machines.forget().await;
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
