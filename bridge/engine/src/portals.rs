//! Making a conversation's portals: a saga of steps that can each be repeated, so that a crash anywhere leaves
//! nothing to be cleaned up and nothing made twice.

use parlour_domain::{Mode, PORTAL_EVENT, PortalKind, PowerFacts, hub_topic, power_levels, spoke_name};
use ruma::{OwnedRoomId, OwnedUserId};
use serde_json::{Value, json};

use crate::{
    commit_point::CommitPoint,
    crypto::CryptoError,
    engine::Core,
    faults::faulty,
    homeserver::HomeserverError,
    store::{Conversation, Participant, Portal},
};

/// So long the homeserver may take to make a room, by far, when nobody waits for it any more.
const LONGEST_MAKING_MILLIS: i64 = 5_000;

/// How far the making of something has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// It is made.
    Done,
    /// It may be in the making by an earlier attempt: look again soon.
    Waiting,
}

/// What has become of an earlier attempt to make a room.
enum Earlier {
    No,
    Perhaps,
    Made(OwnedRoomId),
}

impl Core {
    /// Makes what is missing of a conversation: rooms, people, the ghosts that are there from the beginning. The hub
    /// comes last, so that as a rule nobody writes before everybody can read; what is written before waits. What fails in
    /// one portal keeps no other from being made.
    pub(crate) async fn make_portals(&self, conversation: &Conversation) -> Result<Progress, CryptoError> {
        let participants = self.store.participants(&conversation.id).await?;
        let (mut outcome, mut progress) = (Ok(()), Progress::Done);
        for mut portal in self.store.portals(&conversation.id).await?.into_iter().rev() {
            match self.make_portal(conversation, &mut portal, &participants).await {
                Ok(Progress::Done) => {}
                Ok(Progress::Waiting) => progress = Progress::Waiting,
                Err(error) => {
                    tracing::warn!(
                        conversation = %conversation.id, portal = %portal.id, %error,
                        "a portal is not made yet"
                    );
                    outcome = Err(error);
                }
            }
            self.wake_senders(&[portal.id]);
        }
        outcome?;
        if progress == Progress::Done {
            self.store.conversation_is_ready(&conversation.id).await?;
        }
        Ok(progress)
    }

    async fn make_portal(
        &self,
        conversation: &Conversation,
        portal: &mut Portal,
        participants: &[Participant],
    ) -> Result<Progress, CryptoError> {
        let people = people_of(portal, participants);
        if portal.room_id.is_none() {
            let room_id = self.make_room(conversation, portal, &people, participants).await?;
            if room_id.is_none() {
                return Ok(Progress::Waiting);
            }
            portal.room_id = room_id;
        }
        for person in people {
            let owner = person.person.id == conversation.owner;
            if faulty!(self.settings, OwnerOnly) && person.person.role.is_staff() && !owner {
                continue;
            }
            self.ghosts.join(portal, &person.person.user_id).await?;
        }
        for ghost in first_ghosts(conversation, portal, participants) {
            let machine = self.ghosts.of(&ghost.person).await?;
            self.ghosts.join(portal, &machine.intent().user_id).await?;
        }
        Ok(Progress::Done)
    }

    /// The portal's room; none while an earlier attempt may still be making it.
    async fn make_room(
        &self,
        conversation: &Conversation,
        portal: &Portal,
        people: &[&Participant],
        participants: &[Participant],
    ) -> Result<Option<OwnedRoomId>, CryptoError> {
        let room_id = match self.room_made_before(portal).await? {
            Earlier::Made(room_id) => room_id,
            Earlier::Perhaps => return Ok(None),
            Earlier::No => {
                self.store.portal_is_attempted(&portal.id, self.clock.now()).await?;
                let patients = participants.iter().filter(|p| !p.person.role.is_staff()).count();
                let request = self.room_request(conversation, portal, people, patients);
                let bot = self.ghosts.bot().await?;
                let path = "/_matrix/client/v3/createRoom";
                let answer = self
                    .homeserver
                    .call(CommitPoint::CreateRoom, Some(bot.intent()), http::Method::POST, path, &request)
                    .await;
                if answer.as_ref().is_err_and(HomeserverError::is_passing) {
                    // It may be at it until now.
                    self.store.portal_is_attempted(&portal.id, self.clock.now()).await?;
                }
                let answer = answer?;
                let room_id = answer["room_id"].as_str().and_then(|id| OwnedRoomId::try_from(id).ok());
                room_id.ok_or(HomeserverError::Nonsense(path))?
            }
        };
        self.store.portal_is_made(&portal.id, &room_id).await?;
        Ok(Some(room_id))
    }

    /// The room that an earlier attempt has made for a portal, when we heard no answer: it says so itself. The homeserver
    /// may still be making it, if that was just now: it goes on when whoever asked is gone.
    async fn room_made_before(&self, portal: &Portal) -> Result<Earlier, CryptoError> {
        let Some(attempted) = portal.attempted else { return Ok(Earlier::No) };
        let bot = self.ghosts.bot().await?;
        for room_id in self.homeserver.joined_rooms(bot.intent()).await? {
            if self.store.knows_room(&room_id).await? {
                continue;
            }
            let says = self.homeserver.state(bot.intent(), &room_id, PORTAL_EVENT).await?;
            if says.is_some_and(|content| content["portal"] == portal.id.as_str()) {
                return Ok(Earlier::Made(room_id));
            }
        }
        let ago = self.clock.now().millis() - attempted.millis();
        // What seems to lie ahead was before the clock was set back.
        Ok(if (0..LONGEST_MAKING_MILLIS).contains(&ago) { Earlier::Perhaps } else { Earlier::No })
    }

    /// `POST /createRoom` with all that the room needs, so that it never stands half made.
    fn room_request(
        &self,
        conversation: &Conversation,
        portal: &Portal,
        people: &[&Participant],
        patients: usize,
    ) -> Value {
        let kind = portal.kind();
        let mode = if faulty!(self.settings, OneWayOpen) { Mode::TwoWay } else { conversation.mode };
        let listed: Vec<(OwnedUserId, bool)> =
            people.iter().map(|p| (p.person.user_id.clone(), p.may_send_one_way)).collect();
        let (name, topic) = match kind {
            PortalKind::Hub if faulty!(self.settings, HubUnnamed) => (String::new(), hub_topic(patients)),
            PortalKind::Hub => (conversation.name.as_str().to_owned(), hub_topic(patients)),
            PortalKind::Spoke if faulty!(self.settings, HubNameInSpoke) => {
                (conversation.name.as_str().to_owned(), String::new())
            }
            PortalKind::Spoke => {
                (spoke_name(&self.settings.practice, conversation.subject.as_ref()), String::new())
            }
        };
        let state = |event_type: &str, content: Value| json!({ "type": event_type, "state_key": "", "content": content });
        json!({
            "room_version": "12",
            "preset": "private_chat",
            "visibility": "private",
            "creation_content": { "m.federate": kind == PortalKind::Hub },
            "name": name,
            "topic": topic,
            "power_level_content_override": power_levels(&PowerFacts { mode, people: &listed }),
            "initial_state": [
                state("m.room.encryption", json!({ "algorithm": "m.megolm.v1.aes-sha2" })),
                state("m.room.history_visibility", json!({ "history_visibility": "shared" })),
                state("m.room.guest_access", json!({ "guest_access": "forbidden" })),
                state("m.room.join_rules", json!({ "join_rule": "invite" })),
                state(PORTAL_EVENT, json!({
                    "portal": portal.id,
                    "kind": kind.as_str(),
                    "mode": conversation.mode.as_str(),
                })),
            ],
        })
    }
}

/// The people whose own accounts belong into a portal.
pub(crate) fn people_of<'a>(portal: &Portal, participants: &'a [Participant]) -> Vec<&'a Participant> {
    participants
        .iter()
        .filter(|participant| match &portal.patient {
            None => participant.person.role.is_staff(),
            Some(patient) => participant.person.id == *patient,
        })
        .collect()
}

/// The ghosts that are in a portal from the beginning: the owner's in each spoke, and a single patient's in the hub.
/// The others come when they first speak.
fn first_ghosts<'a>(
    conversation: &Conversation,
    portal: &Portal,
    participants: &'a [Participant],
) -> Vec<&'a Participant> {
    let patients: Vec<_> = participants.iter().filter(|p| !p.person.role.is_staff()).collect();
    match portal.kind() {
        PortalKind::Spoke => participants.iter().filter(|p| p.person.id == conversation.owner).collect(),
        PortalKind::Hub if patients.len() == 1 => patients,
        PortalKind::Hub => Vec::new(),
    }
}
