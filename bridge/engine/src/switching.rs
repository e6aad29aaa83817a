//! Switching between one-way and two-way (S8, S16): each room is set to the mode of its conversation, by state events
//! that say the same when they are sent again. What holds for a message is told by the room itself: the event that switches
//! it comes in the order of what is said there ([`Core::switched`]).

use futures_util::{StreamExt as _, stream};
use parlour_domain::{ConversationId, EmergencyWords, Mode, PORTAL_EVENT, PortalKind};
use ruma::RoomId;
use serde_json::{Value, json};

use crate::{
    commit_point::CommitPoint,
    crypto::CryptoError,
    engine::Core,
    faults::faulty,
    homeserver::encoded,
    portals::{levels, people_of, says_what_it_is},
    store::{Participant, Portal},
    turns::{MAKING, Party},
};

impl Core {
    /// Sets the rooms of a conversation to its mode, where they were set to another. One that cannot be set keeps no other
    /// from being set.
    ///
    /// # Errors
    /// The last one of homeserver and database; trying again goes on where it stopped.
    pub(crate) async fn set_rooms(&self, id: &ConversationId) -> Result<(), CryptoError> {
        if faulty!(self.settings, SwitchForgotten) {
            return Ok(());
        }
        let portals = self.store.portals_to_set(id).await?;
        if portals.is_empty() {
            return Ok(());
        }
        let Some(conversation) = self.store.conversation(id).await? else { return Ok(()) };
        let participants = self.store.participants(id).await?;
        let (mode, participants) = (conversation.mode, &participants);
        let set = portals.into_iter().map(|portal| async move {
            let set = self.set_room(&portal, participants, mode).await;
            if let Err(error) = &set {
                tracing::warn!(conversation = %portal.conversation, portal = %portal.id, %error, "a room is not switched yet");
            }
            set
        });
        let outcome = stream::iter(set)
            .buffer_unordered(MAKING)
            .fold(Ok(()), |all: Result<(), _>, set| async { if set.is_err() { set } else { all } });
        let outcome = outcome.await;
        self.changed(id);
        outcome
    }

    async fn set_room(
        &self,
        portal: &Portal,
        participants: &[Participant],
        mode: Mode,
    ) -> Result<(), CryptoError> {
        let Some(room_id) = &portal.room_id else { return Ok(()) };
        let party = Party::Making(portal.conversation.clone());
        // What clients show comes first: it says nothing that is not about to be, and a room that is switched lacks nothing.
        self.set_state(&party, room_id, PORTAL_EVENT, &says_what_it_is(portal, mode)).await?;
        let levels = serde_json::to_value(levels(&people_of(portal, participants), mode))?;
        self.set_state(&party, room_id, "m.room.power_levels", &levels).await?;
        if self.sets_topics && portal.kind() == PortalKind::Spoke {
            let words = self.settings.emergency.as_ref().map_or("", EmergencyWords::as_str);
            self.set_state(&party, room_id, "m.room.topic", &json!({ "topic": words })).await?;
        }
        Ok(self.store.portal_is_set(&portal.id, mode).await?)
    }

    /// `PUT /rooms/{roomId}/state/{eventType}` as the bot (Matrix v1.19 client-server §Sending events to a room). The same
    /// content again is no event.
    async fn set_state(
        &self,
        party: &Party,
        room_id: &RoomId,
        event_type: &str,
        content: &Value,
    ) -> Result<(), CryptoError> {
        let bot = self.ghosts.bot().await?;
        let path = format!("/_matrix/client/v3/rooms/{}/state/{event_type}", encoded(room_id.as_str()));
        let put = http::Method::PUT;
        let set = self.homeserver.call(CommitPoint::SetState, Some(bot.intent()), put, &path, content);
        self.turns.take(party, set).await?;
        Ok(())
    }
}
