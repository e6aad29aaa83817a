//! A portal's room as it is asked for, and whose it is.

use parlour_domain::{
    Mode, PORTAL_EVENT, PortalKind, PowerFacts, hub_topic, mode_of_portal, power_levels, spoke_name,
};
use ruma::{OwnedUserId, events::room::power_levels::RoomPowerLevelsEventContent};
use serde_json::{Value, json};

use crate::{
    engine::Settings,
    faults::faulty,
    store::{Conversation, Participant, People, Portal},
};

/// `POST /createRoom` with all that the room needs, so that it never stands half made.
pub(crate) fn room_request(
    settings: &Settings,
    conversation: &Conversation,
    portal: &Portal,
    people: &People,
) -> Value {
    let kind = portal.kind();
    let name = match kind {
        PortalKind::Hub if faulty!(settings, HubUnnamed) => String::new(),
        PortalKind::Spoke if !faulty!(settings, HubNameInSpoke) => {
            spoke_name(&settings.practice, conversation.subject.as_ref())
        }
        PortalKind::Hub | PortalKind::Spoke => conversation.name.as_str().to_owned(),
    };
    let topic = topic(settings, portal, people).filter(|topic| !topic.is_empty());
    let mode = mode(conversation, portal, people);
    let state =
        |event_type: &str, content: Value| json!({ "type": event_type, "state_key": "", "content": content });
    let mut request = json!({
        "room_version": "12",
        "preset": "private_chat",
        "visibility": "private",
        "creation_content": { "m.federate": kind == PortalKind::Hub },
        "name": name,
        "power_level_content_override": levels(portal, people, mode),
        "initial_state": [
            state("m.room.encryption", json!({ "algorithm": "m.megolm.v1.aes-sha2" })),
            state("m.room.history_visibility", json!({ "history_visibility": "shared" })),
            state("m.room.guest_access", json!({ "guest_access": "forbidden" })),
            state("m.room.join_rules", json!({ "join_rule": "invite" })),
            state(PORTAL_EVENT, says_what_it_is(portal, people, None)),
        ],
    });
    // A topic that says nothing would be an event all the same.
    if let Some(topic) = topic {
        request["topic"] = topic.into();
    }
    request
}

/// The mode that a portal is to have.
pub(crate) fn mode(conversation: &Conversation, portal: &Portal, people: &People) -> Mode {
    mode_of_portal(conversation.mode, people.is_open(portal))
}

/// The topic of a portal: in the hub who reads what is written there, in a spoke what to do in an emergency, if anybody has
/// said.
pub(crate) fn topic(settings: &Settings, portal: &Portal, people: &People) -> Option<String> {
    match portal.kind() {
        PortalKind::Hub => Some(hub_topic(people.patients().count(), people.roster().spokes)),
        PortalKind::Spoke => settings.emergency.as_ref().map(|words| words.as_str().to_owned()),
    }
}

/// The power levels of a portal: those who take part in it, and the patient of a spoke also when they do not any more.
pub(crate) fn levels(portal: &Portal, people: &People, mode: Mode) -> RoomPowerLevelsEventContent {
    let listed: Vec<(OwnedUserId, bool)> = match &portal.patient {
        None => people.staff().map(|p| (p.person.user_id.clone(), p.may_send_one_way)).collect(),
        Some(patient) => people
            .everybody()
            .filter(|person| person.id == *patient)
            .map(|person| (person.user_id.clone(), false))
            .collect(),
    };
    power_levels(&PowerFacts { mode, people: &listed })
}

/// The content of the state event by which a portal says what it is; a hub also which revision it was set to. Who may write
/// is said by its power levels, and nowhere else.
pub(crate) fn says_what_it_is(portal: &Portal, people: &People, revision: Option<i64>) -> Value {
    let mut says = json!({
        "portal": portal.id,
        "kind": portal.kind().as_str(),
        "open": people.is_open(portal),
    });
    // What is said in the hub from this event on goes to whoever was included by then. How often something changes is no
    // patient's business.
    if let Some(revision) = revision.filter(|_| portal.kind() == PortalKind::Hub) {
        says["revision"] = revision.into();
    }
    says
}

/// The people whose own accounts belong into a portal.
pub(crate) fn people_of<'a>(portal: &Portal, people: &'a People) -> Vec<&'a Participant> {
    match &portal.patient {
        None => people.staff().collect(),
        Some(patient) => people.patients().filter(|p| p.person.id == *patient).collect(),
    }
}
