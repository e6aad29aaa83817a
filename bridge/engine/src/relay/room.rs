//! What the state of a portal's room says: who comes and leaves, and who may write.

use parlour_domain::{Mode, PortalKind, Timestamp};
use ruma::{RoomId, UserId};

use crate::{
    crypto::CryptoError,
    engine::Core,
    homeserver::encoded,
    intake::{Event, may_write, mode_in},
    notices,
    store::{InboxRow, Outcome, Portal},
};

impl Core {
    /// Who may write from here on: what stands before it was written under the mode of before (S16).
    pub(super) async fn switched(
        &self,
        row: &InboxRow,
        event: &Event,
        mode: Mode,
    ) -> Result<Outcome, CryptoError> {
        let portal = self.store.portal(&row.portal).await?;
        let since = Timestamp::from(event.origin_server_ts);
        if portal.mode == Some(mode) {
            return Ok(Outcome::Nothing);
        }
        // It came late, and another has followed it; or the homeserver's clock was set back.
        if since < portal.mode_since
            && let Some(room_id) = &portal.room_id
            && self.mode_now(room_id).await? != Some(mode)
        {
            return Ok(Outcome::Nothing);
        }
        let words = notices::switched(portal.kind(), mode).to_owned();
        let notice = self.leg_ids.word(&event.event_id, &portal.id, words, self.clock.now());
        Ok(Outcome::Switched { event_id: event.event_id.clone(), mode, since, notice: Box::new(notice) })
    }

    /// Somebody is in a portal: what was held for them goes out.
    pub(super) async fn came(&self, row: &InboxRow, event: &Event) -> Result<Outcome, CryptoError> {
        if let Some(Ok(user_id)) = event.state_key.as_deref().map(UserId::parse)
            && !self.store.has_joined(&row.portal, &user_id).await?
        {
            self.store.joined(&row.portal, &user_id).await?;
            self.wake_senders(std::slice::from_ref(&row.portal));
        }
        Ok(Outcome::Nothing)
    }

    /// Somebody is no longer in a portal. Nothing more is sent to them, and staff hear of it.
    pub(super) async fn left(&self, row: &InboxRow, event: &Event) -> Result<Outcome, CryptoError> {
        let Some(Ok(user_id)) = event.state_key.as_deref().map(UserId::parse) else {
            return Ok(Outcome::Nothing);
        };
        if self.is_in(row, &user_id).await? {
            // They have come back, and this came late.
            return Ok(Outcome::Nothing);
        }
        let participants = self.store.participants(&row.conversation).await?;
        let portals = self.store.portals(&row.conversation).await?;
        let hub = portals.iter().find(|portal| portal.kind() == PortalKind::Hub);
        let person = participants.iter().find(|p| p.person.user_id == user_id);
        let notice = hub.zip(person).map(|(hub, person)| {
            let words = notices::left(person.person.name.as_str());
            Box::new(self.leg_ids.word(&event.event_id, &hub.id, words, self.clock.now()))
        });
        Ok(Outcome::Left { user_id, event_id: event.event_id.clone(), notice })
    }

    /// Whether somebody is in a portal's room, as the homeserver has it now.
    async fn is_in(&self, row: &InboxRow, user_id: &UserId) -> Result<bool, CryptoError> {
        let Some(room_id) = self.store.portal(&row.portal).await?.room_id else { return Ok(false) };
        let bot = self.ghosts.bot().await?;
        let event = format!("m.room.member/{}", encoded(user_id.as_str()));
        let member = self.homeserver.state(bot.intent(), &room_id, &event).await?;
        Ok(member.is_some_and(|content| content["membership"] == "join"))
    }

    /// Whether the sender of an event might write when the homeserver took it into a portal's room, by the power levels that
    /// stood there then. Times tell of two events of a room only nearly which was the first, and the event that tells of a
    /// switch may come late.
    ///
    /// # Errors
    /// When the homeserver fails.
    pub(super) async fn might_write(&self, home: &Portal, event: &Event) -> Result<bool, CryptoError> {
        let Some(room_id) = &home.room_id else { return Ok(false) };
        let bot = self.ghosts.bot().await?;
        let levels = self.homeserver.levels_at(bot.intent(), room_id, &event.event_id).await?;
        Ok(levels.is_some_and(|levels| may_write(&levels, &event.sender)))
    }

    /// The mode that a room has now, as the homeserver tells; none when it tells nothing.
    ///
    /// # Errors
    /// When the homeserver fails.
    pub(crate) async fn mode_now(&self, room_id: &RoomId) -> Result<Option<Mode>, CryptoError> {
        let bot = self.ghosts.bot().await?;
        let levels = self.homeserver.state(bot.intent(), room_id, "m.room.power_levels").await?;
        Ok(levels.map(|levels| mode_in(&levels)))
    }
}
