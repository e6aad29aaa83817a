//! Conversations in the practice API: staff see their own whole, a patient sees what is theirs and nothing else.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
};
use parlour_domain::{ConversationId, InvalidText, Mode, NewConversation, Person, Role, may_change};
use parlour_engine::{Conversation, Request, Sending, Store};
use ruma::OwnedUserId;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Edge, auth::Caller, body::whole, error::Refused};

/// The largest body: a thousand patients by their user ids.
const LARGEST_BODY: usize = 512 << 10;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    name: String,
    subject: Option<String>,
    mode: Mode,
    #[serde(default)]
    staff: Vec<OwnedUserId>,
    #[serde(default)]
    patients: Vec<OwnedUserId>,
}

/// How long an answer waits for the rooms.
pub(super) const A_MOMENT: Duration = Duration::from_secs(2);
/// With more patients than this no homeserver makes the rooms within a moment.
const MOST_IN_A_MOMENT: usize = 10;

/// `POST /_parlour/v1/conversations` (S6-S9): 201 with the conversation when everybody is in it within a moment; else 202,
/// `ready` false, and the rest is made. With an `Idempotency-Key`, the same request made again begins no other.
pub(crate) async fn begin(
    caller: Result<Caller, Refused>,
    State(edge): State<Arc<Edge>>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<Value>), Refused> {
    let body = whole(body, if caller.is_ok() { LARGEST_BODY } else { 0 }).await;
    let Caller(caller) = caller?;
    // Who may not begin one does not hear what would be wrong with it.
    if !caller.role.is_staff() {
        return Err(parlour_domain::NewConversationError::CallerIsNotStaff.into());
    }
    let body = body?;
    let key = request_key(&headers)?;
    let wanted: Wanted = read(&body)?;
    // However it is spaced.
    let same = serde_json::from_slice::<Value>(&body).map_err(|_| Refused::NotJson)?.to_string();
    let unfit =
        |field: &'static str| move |reason: InvalidText| Refused::BadJson(format!("`{field}`: {reason}"));
    let name = wanted.name.parse().map_err(unfit("name"))?;
    let subject = wanted.subject.map(|subject| subject.parse().map_err(unfit("subject"))).transpose()?;
    let store = edge.engine.store();
    let staff = people(store, "staff", &wanted.staff).await?;
    let patients = people(store, "patients", &wanted.patients).await?;
    let new = NewConversation::new(&caller, name, subject, wanted.mode, &staff, &patients)?;
    let id = edge.engine.begin(&new, key.map(|key| Request { key, body: &same })).await?;
    if new.patients.len() <= MOST_IN_A_MOMENT {
        edge.engine.made_within(&id, A_MOMENT).await?;
    }
    let conversation = store.conversation(&id).await?.ok_or(Refused::NotFound)?;
    let status = if conversation.ready { StatusCode::CREATED } else { StatusCode::ACCEPTED };
    Ok((status, Json(whole_of(store, &caller, &conversation).await?)))
}

/// The key that a client has chosen for a request that it may make again
/// (draft-ietf-httpapi-idempotency-key-header-07); with or without the quotation marks that belong around it.
fn request_key(headers: &HeaderMap) -> Result<Option<&str>, Refused> {
    let mut keys = headers.get_all("idempotency-key").iter();
    let Some(key) = keys.next() else { return Ok(None) };
    let key = key.to_str().map_err(|_| Refused::BadKey)?;
    let key = key.strip_prefix('"').and_then(|key| key.strip_suffix('"')).unwrap_or(key);
    let fits = (1..=255).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
    if fits && keys.next().is_none() { Ok(Some(key)) } else { Err(Refused::BadKey) }
}

/// What is to be another.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Changed {
    mode: Option<Mode>,
    /// Who may write besides the owner when it is one-way: all of them.
    senders: Option<Vec<OwnedUserId>>,
}

/// A body that says what is to be another: two hundred staff by their user ids.
pub(super) const SMALL_BODY: usize = 64 << 10;
/// How long an answer waits for the rooms to be as they are to be: to switch fifty of them takes less.
pub(super) const SET_WITHIN: Duration = Duration::from_secs(5);

/// `PATCH /_parlour/v1/conversations/{id}` (S16), for its owner, and for managers who take part: 200 when it holds in all rooms; 202 when that takes longer, and the rest is switched.
pub(crate) async fn change(
    Caller(caller): Caller,
    State(edge): State<Arc<Edge>>,
    Path(id): Path<String>,
    body: Body,
) -> Result<(StatusCode, Json<Value>), Refused> {
    let id: ConversationId = id.parse().map_err(|_| Refused::NotFound)?;
    let store = edge.engine.store();
    if !store.may_see(&id, &caller.id).await? {
        return Err(Refused::NotFound);
    }
    let conversation = store.conversation(&id).await?.ok_or(Refused::NotFound)?;
    may_change(&caller, &conversation.owner)?;
    let body = whole(body, SMALL_BODY).await?;
    let wanted: Changed = read(&body)?;
    if wanted.mode.is_none() && wanted.senders.is_none() {
        return Err(Refused::BadJson("`mode` or `senders` is needed".to_owned()));
    }
    if let Some(senders) = &wanted.senders {
        let participants = store.participants(&id).await?;
        let named = senders.iter().map(|user_id| {
            let staff = participants.iter().map(|p| &p.person).filter(|person| person.role.is_staff());
            let person = staff.into_iter().find(|person| person.user_id == *user_id);
            person.map(|person| person.id.clone()).ok_or(Refused::NobodyLikeThat("senders"))
        });
        let named = named.collect::<Result<Vec<_>, _>>()?;
        edge.engine.set_senders(&id, &named, &caller.id).await?;
    }
    if let Some(mode) = wanted.mode {
        edge.engine.set_mode(&id, mode, &caller.id).await?;
    }
    let all = edge.engine.set_within(&id, SET_WITHIN).await?;
    let conversation = store.conversation(&id).await?.ok_or(Refused::NotFound)?;
    // Rooms that are in the making are switched when they stand.
    let status = if all && conversation.ready { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(whole_of(store, &caller, &conversation).await?)))
}

pub(super) fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Refused> {
    serde_json::from_slice(body).map_err(|error| match error.is_data() {
        true => Refused::BadJson(error.to_string()),
        false => Refused::NotJson,
    })
}

/// `GET /_parlour/v1/conversations`: the caller's own, newest first.
pub(crate) async fn list(
    Caller(caller): Caller,
    State(edge): State<Arc<Edge>>,
) -> Result<Json<Value>, Refused> {
    let store = edge.engine.store();
    let mut all = Vec::new();
    for conversation in store.conversations_of(&caller.id).await? {
        all.push(shown(store, &caller, &conversation).await?);
    }
    Ok(Json(json!({ "conversations": all })))
}

/// `GET /_parlour/v1/conversations/{id}`: one of the caller's own; any other is not there.
pub(crate) async fn one(
    Caller(caller): Caller,
    State(edge): State<Arc<Edge>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Refused> {
    let id: ConversationId = id.parse().map_err(|_| Refused::NotFound)?;
    let store = edge.engine.store();
    if !store.may_see(&id, &caller.id).await? {
        return Err(Refused::NotFound);
    }
    let conversation = store.conversation(&id).await?.ok_or(Refused::NotFound)?;
    Ok(Json(whole_of(store, &caller, &conversation).await?))
}

pub(super) async fn people(
    store: &Store,
    list: &'static str,
    wanted: &[OwnedUserId],
) -> Result<Vec<Person>, Refused> {
    let mut people = Vec::with_capacity(wanted.len());
    for user_id in wanted {
        people.push(store.person_of(user_id).await?.ok_or(Refused::NobodyLikeThat(list))?);
    }
    Ok(people)
}

/// A conversation as this person may see it, and for staff the messages that are under way in it, and how many rooms are
/// not yet as they are to be.
pub(super) async fn whole_of(
    store: &Store,
    caller: &Person,
    conversation: &Conversation,
) -> Result<Value, Refused> {
    let mut whole = shown(store, caller, conversation).await?;
    if caller.role.is_staff() {
        whole["sending"] = store.sending(&conversation.id).await?.iter().map(sending).collect();
        whole["switching"] = store.not_set(&conversation.id).await?.into();
    }
    Ok(whole)
}

/// How far a message has come.
pub(super) fn sending(sending: &Sending) -> Value {
    json!({
        "message": sending.message,
        "event_id": sending.event_id,
        "sent": sending.sent,
        "held": sending.held,
        "waiting": sending.waiting,
        "failed": sending.failed,
        "of": sending.of,
        "read": sending.read,
        "deleted": sending.deleted,
    })
}

/// A conversation as this person may see it (S17): a patient hears neither the staff's name for it, nor who else
/// is in it, nor how many, nor of its other rooms.
async fn shown(store: &Store, caller: &Person, conversation: &Conversation) -> Result<Value, Refused> {
    let portals = store.portals(&conversation.id).await?;
    let people = store.people_in(&conversation.id).await?;
    let subject = conversation.subject.as_ref().map(|subject| subject.as_str());
    let mode = conversation.mode.as_str();
    if caller.role == Role::Patient {
        let own = portals.iter().find(|portal| portal.patient.as_ref() == Some(&caller.id));
        let room_id = own.and_then(|portal| portal.room_id.clone());
        let mode = own.and_then(|portal| portal.mode).unwrap_or(conversation.mode).as_str();
        let takes_part = people.patients().any(|patient| patient.person.id == caller.id);
        return Ok(json!({
            "id": conversation.id,
            "subject": subject,
            "mode": mode,
            "room_id": room_id,
            "takes_part": takes_part,
        }));
    }
    let entry = |person: &Person| {
        let spoke = portals.iter().find(|portal| portal.patient.as_ref() == Some(&person.id));
        let room_id = spoke.and_then(|portal| portal.room_id.clone());
        let mut entry = json!({ "user_id": person.user_id, "name": person.name.as_str() });
        if person.role == Role::Patient {
            entry["room_id"] = json!(room_id);
        }
        entry
    };
    let making = store.making(&conversation.id).await?.ok_or(Refused::NotFound)?;
    let owner = people.staff().find(|p| p.person.id == conversation.owner);
    let named = people.staff().filter(|p| p.may_send_one_way && p.person.id != conversation.owner);
    let senders: Vec<_> = named.map(|p| &p.person.user_id).collect();
    Ok(json!({
        "id": conversation.id,
        "name": conversation.name.as_str(),
        "subject": subject,
        "mode": mode,
        "owner": owner.map(|owner| &owner.person.user_id),
        "senders": senders,
        "hub_room_id": portals.iter().find(|portal| portal.patient.is_none()).and_then(|hub| hub.room_id.clone()),
        "staff": people.staff().map(|p| entry(&p.person)).collect::<Vec<_>>(),
        "patients": people.patients().map(|p| entry(&p.person)).collect::<Vec<_>>(),
        "teams": store.teams_in(&conversation.id).await?,
        "former_patients": people.former_patients().map(entry).collect::<Vec<_>>(),
        "ready": making.ready,
        "progress": { "made": making.made, "of": making.of },
    }))
}
