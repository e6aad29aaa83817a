//! A portal's room as it is asked for, and whose it is.

use parlour_domain::{Mode, PORTAL_EVENT, PortalKind, PowerFacts, hub_topic, power_levels, spoke_name};
use ruma::{OwnedUserId, events::room::power_levels::RoomPowerLevelsEventContent};
use serde_json::{Value, json};

use crate::{
    engine::Settings,
    faults::faulty,
    store::{Conversation, Participant, Portal},
};

/// `POST /createRoom` with all that the room needs, so that it never stands half made.
pub(crate) fn room_request(
    settings: &Settings,
    conversation: &Conversation,
    portal: &Portal,
    people: &[&Participant],
    patients: usize,
) -> Value {
    let kind = portal.kind();
    let (name, topic) = match kind {
        PortalKind::Hub if faulty!(settings, HubUnnamed) => (String::new(), Some(hub_topic(patients))),
        PortalKind::Hub => (conversation.name.as_str().to_owned(), Some(hub_topic(patients))),
        PortalKind::Spoke if faulty!(settings, HubNameInSpoke) => {
            (conversation.name.as_str().to_owned(), None)
        }
        PortalKind::Spoke => {
            let topic = settings.emergency.as_ref().map(|words| words.as_str().to_owned());
            (spoke_name(&settings.practice, conversation.subject.as_ref()), topic)
        }
    };
    let state =
        |event_type: &str, content: Value| json!({ "type": event_type, "state_key": "", "content": content });
    let mut request = json!({
        "room_version": "12",
        "preset": "private_chat",
        "visibility": "private",
        "creation_content": { "m.federate": kind == PortalKind::Hub },
        "name": name,
        "power_level_content_override": levels(people, conversation.mode),
        "initial_state": [
            state("m.room.encryption", json!({ "algorithm": "m.megolm.v1.aes-sha2" })),
            state("m.room.history_visibility", json!({ "history_visibility": "shared" })),
            state("m.room.guest_access", json!({ "guest_access": "forbidden" })),
            state("m.room.join_rules", json!({ "join_rule": "invite" })),
            state(PORTAL_EVENT, says_what_it_is(portal, conversation.mode)),
        ],
    });
    // A topic that says nothing would be an event all the same.
    if let Some(topic) = topic {
        request["topic"] = topic.into();
    }
    request
}

/// The power levels of a portal that these people are in.
pub(crate) fn levels(people: &[&Participant], mode: Mode) -> RoomPowerLevelsEventContent {
    let listed: Vec<(OwnedUserId, bool)> =
        people.iter().map(|p| (p.person.user_id.clone(), p.may_send_one_way)).collect();
    power_levels(&PowerFacts { mode, people: &listed })
}

/// The content of the state event by which a portal says what it is.
pub(crate) fn says_what_it_is(portal: &Portal, mode: Mode) -> Value {
    json!({ "portal": portal.id, "kind": portal.kind().as_str(), "mode": mode.as_str() })
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
