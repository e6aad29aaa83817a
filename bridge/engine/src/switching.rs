//! Setting rooms to what they are to be like: who may write (S8, S16), and who is in them (S3). By state events that say the
//! same when they are sent again. What holds for a message is told by the room itself: the event that switches it comes in
//! the order of what is said there ([`Core::switched`]).

use futures_util::{FutureExt as _, StreamExt as _, stream};
use parlour_domain::{ConversationId, PORTAL_EVENT, PortalId, PortalKind};
use ruma::{OwnedUserId, RoomId, UserId};
use serde_json::{Value, json};

use crate::{
    commit_point::CommitPoint,
    crypto::CryptoError,
    engine::Core,
    faults::faulty,
    homeserver::encoded,
    portals::{levels, mode, people_of, says_what_it_is, topic},
    store::{Conversation, People, Portal},
    turns::{MOST_TURNS, Party},
};

impl Core {
    /// Sets the rooms of a conversation to what they are to be like, where they are not. One that cannot be set keeps no other
    /// from being set.
    ///
    /// # Errors
    /// The last one of homeserver and database; trying again goes on where it stopped.
    pub(crate) async fn set_rooms(&self, id: &ConversationId) -> Result<(), CryptoError> {
        self.set_rooms_but(id, &[]).await
    }

    /// The same without those that are being made.
    ///
    /// # Errors
    /// As [`Self::set_rooms`].
    pub(crate) async fn set_rooms_but(
        &self,
        id: &ConversationId,
        in_making: &[PortalId],
    ) -> Result<(), CryptoError> {
        let mut portals = self.store.portals_to_set(id).await?;
        portals.retain(|portal| !in_making.contains(&portal.id));
        if portals.is_empty() {
            return Ok(());
        }
        // What is read now is no older than what the portals are to be set to.
        let Some(conversation) = self.store.conversation(id).await? else { return Ok(()) };
        let people = self.store.people_in(id).await?;
        let (conversation, people) = (&conversation, &people);
        let set = portals.into_iter().map(|portal| {
            async move {
            let set = self.set_room(conversation, &portal, people).await;
            if let Err(error) = &set {
                tracing::warn!(conversation = %portal.conversation, portal = %portal.id, %error, "a room is not set yet");
            }
            set
            }
            .boxed()
        });
        let outcome = stream::iter(set)
            .buffer_unordered(MOST_TURNS)
            .fold(Ok(()), |all: Result<(), _>, set| async { if set.is_err() { set } else { all } });
        let outcome = outcome.await;
        self.changed(id);
        outcome
    }

    /// Who is not to be in it goes first: whoever is not listed among those who read has the level of those who write. Who is
    /// to be in it comes last, for the same reason.
    async fn set_room(
        &self,
        conversation: &Conversation,
        portal: &Portal,
        people: &People,
    ) -> Result<(), CryptoError> {
        let Some(room_id) = &portal.room_id else { return Ok(()) };
        if faulty!(self.settings, ExcludedStay) && !people.former.is_empty() {
            return Ok(self.store.portal_is_set(&portal.id, portal.revision).await?);
        }
        let party = Party::Setting(portal.conversation.clone());
        for user_id in self.strangers_in(portal, room_id, people).await? {
            let bot = self.ghosts.bot().await?;
            self.turns.take(&party, self.homeserver.kick(bot.intent(), room_id, &user_id)).await?;
            self.store.not_joined(&portal.id, &user_id).await?;
        }
        let mut mode = mode(conversation, portal, people);
        if faulty!(self.settings, SwitchForgotten) && people.is_open(portal) {
            mode = portal.mode.unwrap_or(mode);
        }
        let says = says_what_it_is(portal, people, Some(portal.revision));
        // What it is comes first: it says nothing that is not about to be, whose spoke is closed is told so before anything else,
        // and a room that is switched lacks nothing.
        self.set_state(&party, room_id, PORTAL_EVENT, &says, |now| now == Some(&says)).await?;
        // Not looked for first: Synapse 1.163 takes one state event in a room after the other, and one that we asked for before we
        // ended may still be under way. After this one it has come.
        let levels = serde_json::to_value(levels(portal, people, mode))?;
        self.put_state(&party, room_id, "m.room.power_levels", &levels).await?;
        self.set_state(&party, room_id, PORTAL_EVENT, &says, |now| now == Some(&says)).await?;
        if self.sets_topics || portal.kind() == PortalKind::Hub {
            let topic = json!({ "topic": topic(&self.settings, portal, people).unwrap_or_default() });
            // It can be in there a second time (Matrix v1.19 client-server §m.room.topic), and none says what an empty one says.
            let is_said =
                |now: Option<&Value>| now.unwrap_or(&json!({ "topic": "" }))["topic"] == topic["topic"];
            self.set_state(&party, room_id, "m.room.topic", &topic, is_said).await?;
        }
        let mut outcome = Ok(());
        for participant in people_of(portal, people) {
            let user_id = &participant.person.user_id;
            if self.store.has_joined(&portal.id, user_id).await? {
                continue;
            }
            // Perhaps they are to come no more: what is asked for since then is done next.
            if self.store.portal(&portal.id).await?.revision != portal.revision {
                return outcome;
            }
            let came = match portal.kind() {
                PortalKind::Hub => self.invite(&party, portal, room_id, user_id).await,
                PortalKind::Spoke => self.join_person(&party, portal, room_id, user_id).await,
            };
            // One who cannot come keeps no other from it.
            outcome = outcome.and(came);
            self.looks.news.notify_one();
            // Something may be held for them.
            self.wake_senders(std::slice::from_ref(&portal.id));
        }
        outcome?;
        Ok(self.store.portal_is_set(&portal.id, portal.revision).await?)
    }

    /// Whoever is in a hub, or invited into it, and does not take part: as its room tells, which knows more than was written down
    /// before a crash.
    async fn strangers_in(
        &self,
        portal: &Portal,
        room_id: &RoomId,
        people: &People,
    ) -> Result<Vec<OwnedUserId>, CryptoError> {
        if portal.kind() == PortalKind::Spoke {
            return Ok(Vec::new());
        }
        let bot = self.ghosts.bot().await?;
        let mut members = self.homeserver.members(bot.intent(), room_id).await?;
        members.retain(|user_id| {
            !self.ghosts.is_ours(user_id) && !people.staff().any(|staff| staff.person.user_id == *user_id)
        });
        Ok(members)
    }

    /// Invites one of the staff into the hub, who then sees the whole of it (MSC4268): what can be read there is handed on to
    /// their devices, and their client takes it in when it accepts. From now on they get what is said there.
    async fn invite(
        &self,
        party: &Party,
        portal: &Portal,
        room_id: &RoomId,
        user_id: &UserId,
    ) -> Result<(), CryptoError> {
        let bot = self.ghosts.bot().await?;
        self.devices_may_be_others(user_id).await?;
        match bot.share_history(room_id, user_id).await {
            Ok(true) => {}
            // A new starter may sign in tomorrow.
            Ok(false) => self.store.history_is_due(&portal.id, user_id).await?,
            Err(error) if error.may_pass() => return Err(error),
            Err(error) => tracing::error!(portal = %portal.id, %error, "history is not handed on"),
        }
        self.turns.take(party, self.homeserver.invite(bot.intent(), room_id, user_id)).await?;
        Ok(self.store.joined(&portal.id, user_id).await?)
    }

    /// Hands history on to those who were invited when they had no device for it.
    ///
    /// # Errors
    /// When homeserver or database fail in a way that passes; the next time goes on where this one stopped.
    pub(crate) async fn share_what_is_due(&self) -> Result<(), CryptoError> {
        let (mut without_device, mut outcome) = (None, Ok(()));
        for (portal, user_id) in self.store.history_due().await? {
            if without_device.as_ref() == Some(&user_id) {
                continue;
            }
            let Some(room_id) = self.store.portal(&portal).await?.room_id else { continue };
            match self.ghosts.bot().await?.share_history(&room_id, &user_id).await {
                Ok(true) => self.store.history_is_shared(&portal, &user_id).await?,
                Ok(false) => without_device = Some(user_id),
                // One keeps no other from it.
                Err(error) if error.may_pass() => outcome = Err(error),
                Err(error) => {
                    tracing::error!(portal = %portal, %error, "history is not handed on");
                    self.store.history_is_shared(&portal, &user_id).await?;
                }
            }
        }
        outcome
    }

    /// `PUT /rooms/{roomId}/state/{eventType}` as the bot (Matrix v1.19 client-server §Sending events to a room), unless it
    /// is said by what the room says now: to look costs the homeserver a tenth of what it costs to say it again.
    async fn set_state(
        &self,
        party: &Party,
        room_id: &RoomId,
        event_type: &str,
        content: &Value,
        is_said: impl Fn(Option<&Value>) -> bool,
    ) -> Result<(), CryptoError> {
        let bot = self.ghosts.bot().await?;
        let now = self.turns.take(party, self.homeserver.state(bot.intent(), room_id, event_type)).await?;
        match is_said(now.as_ref()) {
            true => Ok(()),
            false => self.put_state(party, room_id, event_type, content).await,
        }
    }

    async fn put_state(
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
