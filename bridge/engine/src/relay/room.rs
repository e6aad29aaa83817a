//! What the state of a portal's room says: who comes and leaves, and who may write.

use parlour_domain::{Mode, PortalKind, Timestamp, rules::is_at_home};
use ruma::{RoomId, UserId, api::client::sync::sync_events::DeviceLists};

use crate::{
    crypto::CryptoError,
    engine::Core,
    intake::{Event, may_write, mode_in},
    notices,
    store::{Departure, InboxRow, NewLeg, Outcome, ParticipantChange, Portal},
};

/// Since when those take part with whom a conversation was made.
const FROM_THE_BEGINNING: Timestamp = Timestamp::from_millis(0);

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
        // Whose spoke is closed has been told why.
        let people = self.store.people_in(&row.conversation).await?;
        let notice = people.is_open(&portal).then(|| {
            let words = notices::switched(portal.kind(), mode).to_owned();
            Box::new(self.leg_ids.word(&event.event_id, &portal.id, words, self.clock.now()))
        });
        Ok(Outcome::Switched { event_id: event.event_id.clone(), mode, since, notice })
    }

    /// The hub was set to a revision: who was included by then takes part from here on, and staff hear of it.
    pub(super) async fn revised(
        &self,
        row: &InboxRow,
        event: &Event,
        revision: i64,
    ) -> Result<Outcome, CryptoError> {
        let people = self.store.people_in(&row.conversation).await?;
        let new = people.patients().filter(|patient| patient.since.is_none() && patient.revision <= revision);
        let notices = new.map(|patient| {
            let words = notices::includes(patient.person.name.as_str());
            let kind = format!("included {}", patient.person.id);
            NewLeg {
                id: self.leg_ids.id(&kind, &event.event_id, &row.portal),
                ..self.leg_ids.word(&event.event_id, &row.portal, words, self.clock.now())
            }
        });
        let since = Timestamp::from(event.origin_server_ts);
        Ok(Outcome::Revised { revision, since, notices: notices.collect() })
    }

    /// Somebody is in a portal: what was held for them goes out. Who does not take part, and was let in all the same, is put out
    /// again.
    pub(super) async fn came(&self, row: &InboxRow, event: &Event) -> Result<Outcome, CryptoError> {
        let Some(Ok(user_id)) = event.state_key.as_deref().map(UserId::parse) else {
            return Ok(Outcome::Nothing);
        };
        if !self.store.has_joined(&row.portal, &user_id).await? {
            self.store.joined(&row.portal, &user_id).await?;
            self.wake_senders(std::slice::from_ref(&row.portal));
        }
        if self.ghosts.is_ours(&user_id) {
            return Ok(Outcome::Nothing);
        }
        let people = self.store.people_in(&row.conversation).await?;
        let participant = people.participants.iter().find(|p| p.person.user_id == user_id);
        if participant.is_some_and(|participant| participant.since != Some(FROM_THE_BEGINNING)) {
            self.devices_may_be_others(&user_id).await?;
            self.looks.news.notify_one();
        }
        let portal = self.store.portal(&row.portal).await?;
        if portal.kind() == PortalKind::Hub && participant.is_none_or(|p| !p.person.role.is_staff()) {
            tracing::warn!(conversation = %row.conversation, "somebody is in a hub who does not take part");
            self.store.is_to_be_set(&portal, self.clock.now()).await?;
            self.wake_maker(&row.conversation);
        }
        Ok(Outcome::Nothing)
    }

    /// The homeserver tells of nobody's devices what has changed while they shared no room with us: they are asked for anew.
    ///
    /// # Errors
    /// When the database fails.
    pub(crate) async fn devices_may_be_others(&self, user_id: &UserId) -> Result<(), CryptoError> {
        let mut changed = DeviceLists::new();
        changed.changed.push(user_id.to_owned());
        Ok(self.ghosts.machines.devices_changed(&changed).await?)
    }

    /// Somebody is no longer in a portal. Nothing more is sent to them; and when they have gone by themselves they do not take
    /// part any more, and staff hear of it.
    pub(super) async fn left(&self, row: &InboxRow, event: &Event) -> Result<Outcome, CryptoError> {
        let Some(Ok(user_id)) = event.state_key.as_deref().map(UserId::parse) else {
            return Ok(Outcome::Nothing);
        };
        let portals = self.store.portals(&row.conversation).await?;
        let Some(room_id) =
            portals.iter().find(|portal| portal.id == row.portal).and_then(|p| p.room_id.clone())
        else {
            return Ok(Outcome::Nothing);
        };
        let bot = self.ghosts.bot().await?;
        let membership = self.homeserver.membership(bot.intent(), &room_id, &user_id).await?;
        if matches!(membership.as_deref(), Some("join" | "invite")) {
            // They have come back, or are invited again, and this came late.
            return Ok(Outcome::Nothing);
        }
        let by_themselves = event.sender == user_id;
        let people = self.store.people_in(&row.conversation).await?;
        let hub = portals.iter().find(|portal| portal.kind() == PortalKind::Hub);
        let home = portals.iter().find(|portal| portal.id == row.portal);
        let person = people.everybody().find(|person| person.user_id == user_id);
        let departure = hub
            .zip(home)
            .zip(person)
            .filter(|((_, home), person)| by_themselves && is_at_home(person, home.patient.as_ref()));
        let departure = departure.map(|((hub, home), person)| {
            let (now, name) = (self.clock.now(), person.name.as_str());
            let id = |kind| self.leg_ids.id(kind, &event.event_id, &hub.id);
            Box::new(Departure {
                change: ParticipantChange {
                    conversation: row.conversation.clone(),
                    by: person.clone(),
                    whom: person.clone(),
                    hub: hub.id.clone(),
                    spoke: home.id.clone(),
                    to_staff: Some(self.leg_ids.word(&event.event_id, &hub.id, notices::left(name), now)),
                    to_patient: None,
                    found: false,
                    by_name: false,
                    succession: id("succession"),
                },
                is_last: self.leg_ids.word(&event.event_id, &hub.id, notices::is_last(name), now),
            })
        });
        let at = Timestamp::from(event.origin_server_ts);
        Ok(Outcome::Left { user_id, event_id: event.event_id.clone(), at, departure })
    }

    /// The mode that a portal's room had when the homeserver took an event into it, and whether its sender's level was enough to
    /// write then. Times tell of two events of a room only nearly which was the first, and the event that tells of a switch may
    /// come late.
    ///
    /// # Errors
    /// When the homeserver fails.
    pub(super) async fn mode_at(
        &self,
        home: &Portal,
        event: &Event,
    ) -> Result<Option<(Mode, bool)>, CryptoError> {
        let Some(room_id) = &home.room_id else { return Ok(None) };
        let bot = self.ghosts.bot().await?;
        let levels = self.homeserver.levels_at(bot.intent(), room_id, &event.event_id).await?;
        Ok(levels.map(|levels| (mode_in(&levels), may_write(&levels, &event.sender))))
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
