//! One message in the practice API: what became of it, and that it is deleted. Each caller names it by the event that they see,
//! in the hub, or in a patient's own room.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::{Path, State},
};
use parlour_domain::{ConversationId, InvalidText, Person, Role, Timestamp, may_delete};
use parlour_engine::{MessageStatus, Read, Recorded, Store, Way};
use ruma::OwnedEventId;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Edge,
    auth::Caller,
    body::whole,
    conversations::{SMALL_BODY, read},
    error::Refused,
};

/// The message that an event of the caller's own room is; any other is not there.
async fn found(
    store: &Store,
    caller: &Person,
    id: &ConversationId,
    event_id: String,
) -> Result<Recorded, Refused> {
    let event_id: OwnedEventId = event_id.try_into().map_err(|_| Refused::NotFound)?;
    if !store.may_see(id, &caller.id).await? {
        return Err(Refused::NotFound);
    }
    let own = (caller.role == Role::Patient).then_some(&caller.id);
    let portals = store.portals(id).await?;
    let portal = portals.iter().find(|portal| portal.patient.as_ref() == own).ok_or(Refused::NotFound)?;
    store.message_at(&portal.id, &event_id).await?.ok_or(Refused::NotFound)
}

/// Why a message is deleted.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Why {
    reason: Option<String>,
}

/// `DELETE /_parlour/v1/conversations/{id}/messages/{event_id}` (S18): one's own message, or, for managers who take part, any,
/// with a reason.
pub(crate) async fn delete(
    Caller(caller): Caller,
    State(edge): State<Arc<Edge>>,
    Path((id, event_id)): Path<(String, String)>,
    body: Body,
) -> Result<Json<Value>, Refused> {
    let id: ConversationId = id.parse().map_err(|_| Refused::NotFound)?;
    let message = found(edge.engine.store(), &caller, &id, event_id).await?;
    let body = whole(body, SMALL_BODY).await?;
    let why: Why = if body.is_empty() { Why::default() } else { read(&body)? };
    let unfit = |reason: InvalidText| Refused::BadJson(format!("`reason`: {reason}"));
    let reason = why.reason.map(|reason| reason.parse().map_err(unfit)).transpose()?;
    may_delete(&caller, &message.writer, reason.as_ref())?;
    edge.engine.delete(&id, &message.id, &caller.id, reason).await?;
    Ok(Json(json!({ "message": message.id, "deleted": true })))
}

/// `GET /_parlour/v1/conversations/{id}/messages/{event_id}/status` (S12): for staff, what became of it for everybody whom it is
/// for, by name; for a patient, which staff have read it, and nothing of anybody else (S17).
pub(crate) async fn status(
    Caller(caller): Caller,
    State(edge): State<Arc<Edge>>,
    Path((id, event_id)): Path<(String, String)>,
) -> Result<Json<Value>, Refused> {
    let id: ConversationId = id.parse().map_err(|_| Refused::NotFound)?;
    let store = edge.engine.store();
    let message = found(store, &caller, &id, event_id).await?;
    let status = store.status_of(&message.id).await?;
    let mut told = json!({
        "message": message.id,
        "accepted_at": status.sent_at.millis(),
        "deleted_at": status.deleted_at.map(Timestamp::millis),
    });
    if caller.role == Role::Patient {
        let by_staff = status.reads.iter().filter(|read| read.person.role.is_staff());
        told["read_by"] = by_staff
            .map(|read| json!({ "name": read.person.name.as_str(), "read_at": read.at.millis() }))
            .collect();
        return Ok(Json(told));
    }
    let people = store.people_in(&id).await?;
    let for_whom = people.everybody().filter(|person| person.id != message.writer).filter_map(|person| {
        let read = status.reads.iter().find(|read| read.person.id == person.id);
        // Staff who do not take part any more are named where they have read it.
        let takes_part = people.participants.iter().any(|participant| participant.person.id == person.id);
        if person.role.is_staff() && !takes_part && read.is_none() {
            return None;
        }
        Some(of_person(person, way_to(person, &status)?, read))
    });
    told["people"] = for_whom.collect();
    told["read"] = status.reads.len().into();
    Ok(Json(told))
}

/// How a message comes to somebody: by its leg, or because it was written where they are. None is nobody whom it is for.
fn way_to<'a>(person: &Person, status: &'a MessageStatus) -> Option<Option<&'a Way>> {
    let by_leg = |patient: Option<&Person>| {
        status.ways.iter().find(|way| way.patient.as_ref() == patient.map(|patient| &patient.id))
    };
    match person.role.is_staff() {
        false => by_leg(Some(person)).map(Some),
        // A patient's message has a leg to the hub; what colleagues write stands there.
        true => Some(by_leg(None)),
    }
}

/// What became of a message for one person. Delivered is what was read: nothing else proves it yet.
fn of_person(person: &Person, way: Option<&Way>, read: Option<&Read>) -> Value {
    let state = match (read, way) {
        (Some(_), _) => "read",
        (None, Some(way)) => &way.state,
        (None, None) => "sent",
    };
    let read_at = read.map(|read| read.at.millis());
    json!({
        "user_id": person.user_id,
        "name": person.name.as_str(),
        "role": person.role.as_str(),
        "status": state,
        "held_at": way.and_then(|way| way.held_at).map(Timestamp::millis),
        "sent_at": way.and_then(|way| way.landed_at).map(Timestamp::millis),
        "sent_as": way.and_then(|way| way.event_id.as_ref()),
        "delivered_at": read_at,
        "read_at": read_at,
        "implied": read.is_some_and(|read| read.implied),
        "read_up_to": read.map(|read| &read.event_id),
    })
}
