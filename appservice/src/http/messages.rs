//! One message in the practice API: what became of it, and that it is deleted. Each caller names it by the event that they see,
//! in the hub, or in a patient's own room.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::{Path, State},
};
use parlour_domain::{InvalidText, MessageId, Person, Role, Timestamp, may_delete};
use parlour_engine::{EngineError, MessageStatus, Portal, Read, Store, StoreError, Way};
use ruma::{OwnedEventId, OwnedUserId};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema, openapi::Schema};

use super::{
    Edge,
    auth::Caller,
    body::whole,
    conversations::{SMALL_BODY, own, read},
    error::Refused,
    openapi::{one_of, role},
};

/// Where it is asked.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct At {
    /// The conversation.
    id: String,
    /// The event that the caller sees, in the hub, or in a patient's own room.
    event_id: String,
}

/// The caller's own room, and the event in it.
async fn place(
    store: &Store,
    caller: &Person,
    At { id, event_id }: At,
) -> Result<(Portal, OwnedEventId), Refused> {
    let event_id: OwnedEventId = event_id.try_into().map_err(|_| Refused::NotFound)?;
    let id = own(store, caller, &id).await?.id;
    let patient = (caller.role == Role::Patient).then_some(&caller.id);
    let mut portals = store.portals(&id).await?.into_iter();
    let portal = portals.find(|portal| portal.patient.as_ref() == patient).ok_or(Refused::NotFound)?;
    Ok((portal, event_id))
}

/// Why a message is deleted.
#[derive(Default, Deserialize, ToSchema)]
#[schema(as = Deletion)]
#[serde(deny_unknown_fields)]
pub(crate) struct Why {
    /// Needed for another's message; at most 500 characters.
    #[schema(max_length = 500)]
    reason: Option<String>,
}

/// That a message is deleted.
#[derive(Serialize, ToSchema)]
pub(crate) struct Deleted {
    /// Its id in the record; `null` for what is not in it, because it was refused or waited for something.
    #[schema(value_type = Option<String>)]
    message: Option<MessageId>,
    deleted: bool,
}

/// Deletes a message (S18).
///
/// One's own, or, for managers who take part, any, with a reason. It disappears from all rooms, and stays in the record. What was
/// refused, or waits for something, goes from the room that it was written in.
#[utoipa::path(
    delete,
    path = "/_parlour/v1/conversations/{id}/messages/{event_id}",
    tag = "messages",
    operation_id = "delete_message",
    params(At),
    request_body(content = Option<Why>, description = "May be missing where no reason is needed."),
    responses((status = OK, body = Deleted, description = "It is written down; the rooms follow within moments.")),
)]
pub(crate) async fn delete(
    Caller(caller): Caller,
    State(edge): State<Arc<Edge>>,
    Path(at): Path<At>,
    body: Body,
) -> Result<Json<Deleted>, Refused> {
    let store = edge.engine.store();
    let (portal, event_id) = place(store, &caller, at).await?;
    let body = whole(body, SMALL_BODY).await?;
    let why: Why = if body.is_empty() { Why::default() } else { read(&body)? };
    let unfit = |reason: InvalidText| Refused::BadJson(format!("`reason`: {reason}"));
    let reason = why.reason.map(|reason| reason.parse().map_err(unfit)).transpose()?;
    for _ in 0..TRIES {
        let message = store.message_at(&portal.id, &event_id).await?.map(|found| (found.id, found.writer));
        let said = match message {
            Some(message) => Some(message),
            None => store.reaction_at(&portal.id, &event_id).await?,
        };
        if let Some((message, writer)) = said {
            may_delete(&caller, &writer, reason.as_ref())?;
            edge.engine.delete(&portal.conversation, &message, &caller.id, reason).await?;
            return Ok(Json(Deleted { message: Some(message), deleted: true }));
        }
        let writer = store.unrecorded_at(&portal, &event_id).await?.ok_or(Refused::NotFound)?;
        let writer = store.person_of(&writer).await?.ok_or(Refused::NotFound)?;
        may_delete(&caller, &writer.id, reason.as_ref())?;
        match edge.engine.remove(&portal, &event_id, &caller.id, reason.clone()).await {
            // It was handled meanwhile, and is a message of the record now.
            Err(EngineError::Store(StoreError::Overtaken)) => {}
            removed => return Ok(Json(removed.map(|()| Deleted { message: None, deleted: true })?)),
        }
    }
    Err(Refused::NotFound)
}

/// How often it is looked at anew what something is that is handled meanwhile.
const TRIES: usize = 3;

/// What became of a message. Times are milliseconds since 1970.
#[derive(Serialize, ToSchema)]
#[schema(as = MessageStatus)]
#[serde(untagged)]
pub(crate) enum Status {
    /// For staff: for everybody whom it is for.
    ForStaff {
        #[schema(value_type = String)]
        message: MessageId,
        accepted_at: i64,
        deleted_at: Option<i64>,
        /// How many have read it, its writer not among them.
        read: usize,
        people: Vec<ForPerson>,
    },
    /// For a patient: which staff have read it, of their own words, and nothing of anybody else (S17).
    ForPatient {
        #[schema(value_type = String)]
        message: MessageId,
        accepted_at: i64,
        deleted_at: Option<i64>,
        read_by: Vec<ReadBy>,
    },
}

/// Somebody of the staff who has read it.
#[derive(Serialize, ToSchema)]
pub(crate) struct ReadBy {
    name: String,
    read_at: i64,
}

/// What became of a message for one person.
#[derive(Serialize, ToSchema)]
pub(crate) struct ForPerson {
    #[schema(value_type = String)]
    user_id: OwnedUserId,
    name: String,
    #[schema(schema_with = role)]
    role: &'static str,
    #[schema(schema_with = states)]
    status: String,
    /// Since when it had to wait for somebody who could read it.
    held_at: Option<i64>,
    sent_at: Option<i64>,
    /// The event that it is in their room.
    #[schema(value_type = Option<String>)]
    sent_as: Option<OwnedEventId>,
    delivered_at: Option<i64>,
    read_at: Option<i64>,
    /// Whether a later message was read.
    implied: bool,
    /// The event of the receipt.
    #[schema(value_type = Option<String>)]
    read_up_to: Option<OwnedEventId>,
}

fn states() -> Schema {
    one_of(["waiting", "held", "sent", "read", "failed", "withdrawn"])
}

/// What became of a message (S12).
///
/// For staff, for everybody whom it is for, by name; for a patient, which staff have read their own words.
#[utoipa::path(
    get,
    path = "/_parlour/v1/conversations/{id}/messages/{event_id}/status",
    tag = "messages",
    operation_id = "message_status",
    params(At),
    responses((status = OK, body = Status, description = "As the caller may know it.")),
)]
pub(crate) async fn status(
    Caller(caller): Caller,
    State(edge): State<Arc<Edge>>,
    Path(at): Path<At>,
) -> Result<Json<Status>, Refused> {
    let store = edge.engine.store();
    let (portal, event_id) = place(store, &caller, at).await?;
    let message = store.message_at(&portal.id, &event_id).await?.ok_or(Refused::NotFound)?;
    let status = store.status_of(&message.id).await?;
    let (accepted_at, deleted_at) = (status.sent_at.millis(), status.deleted_at.map(Timestamp::millis));
    if caller.role == Role::Patient {
        // Who of the staff has read a colleague's words, and when, may come of what another patient has written (S17).
        let is_own = message.writer == caller.id;
        let by_staff = status.reads.iter().filter(|read| is_own && read.person.role.is_staff());
        let read_by = by_staff
            .map(|read| ReadBy { name: read.person.name.as_str().to_owned(), read_at: read.at.millis() })
            .collect();
        return Ok(Json(Status::ForPatient { message: message.id, accepted_at, deleted_at, read_by }));
    }
    let people = store.people_in(&portal.conversation).await?;
    let for_whom = people.everybody().filter(|person| person.id != message.writer).filter_map(|person| {
        let read = status.reads.iter().find(|read| read.person.id == person.id);
        // Staff who do not take part any more are named where they have read it.
        let takes_part = people.participants.iter().any(|participant| participant.person.id == person.id);
        if person.role.is_staff() && !takes_part && read.is_none() {
            return None;
        }
        Some(of_person(person, way_to(person, &status)?, read))
    });
    let (people, read) = (for_whom.collect(), status.reads.len());
    Ok(Json(Status::ForStaff { message: message.id, accepted_at, deleted_at, read, people }))
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
fn of_person(person: &Person, way: Option<&Way>, read: Option<&Read>) -> ForPerson {
    let state = match (read, way) {
        (Some(_), _) => "read",
        (None, Some(way)) => &way.state,
        (None, None) => "sent",
    };
    let read_at = read.map(|read| read.at.millis());
    ForPerson {
        user_id: person.user_id.clone(),
        name: person.name.as_str().to_owned(),
        role: person.role.as_str(),
        status: state.to_owned(),
        held_at: way.and_then(|way| way.held_at).map(Timestamp::millis),
        sent_at: way.and_then(|way| way.landed_at).map(Timestamp::millis),
        sent_as: way.and_then(|way| way.event_id.clone()),
        delivered_at: read_at,
        read_at,
        implied: read.is_some_and(|read| read.implied),
        read_up_to: read.map(|read| read.event_id.clone()),
    }
}
