//! Conversations in the practice API: staff see their own whole, a patient sees what is theirs and nothing else.

use std::{fmt, sync::Arc, time::Duration};

use axum::{
    Json,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
};
use parlour_domain::{ConversationId, InvalidText, Mode, NewConversation, Person, Role, TeamId, may_change};
use parlour_engine::{Conversation, Request, Store};
use ruma::{OwnedRoomId, OwnedUserId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{Edge, auth::Caller, body::whole, error::Refused, events::SendingNow, openapi::mode};

/// The largest body: a thousand patients by their user ids.
const LARGEST_BODY: usize = 512 << 10;

/// What a conversation is to be.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = NewConversation)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wanted {
    /// The staff's own name for it, in one line. Patients never see it.
    #[schema(min_length = 1, max_length = 120)]
    pub(super) name: String,
    /// What patients see beside the practice's name, in one line.
    #[schema(min_length = 1, max_length = 120)]
    pub(super) subject: Option<String>,
    /// Who may write.
    #[schema(schema_with = mode)]
    pub(super) mode: Mode,
    /// Other staff who take part.
    #[serde(default)]
    #[schema(value_type = Vec<String>, max_items = 200)]
    pub(super) staff: Vec<OwnedUserId>,
    /// The patients; none makes it a conversation of staff alone.
    #[serde(default)]
    #[schema(value_type = Vec<String>, max_items = 1000)]
    pub(super) patients: Vec<OwnedUserId>,
    /// Who of the staff writes besides the owner when it is one-way.
    #[serde(default)]
    #[schema(value_type = Vec<String>, max_items = 200)]
    pub(super) senders: Vec<OwnedUserId>,
}

/// Names of people stand in it.
impl fmt::Debug for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wanted").finish_non_exhaustive()
    }
}

/// How long an answer waits for the rooms.
pub(super) const A_MOMENT: Duration = Duration::from_secs(2);
/// With more patients than this no homeserver makes the rooms within a moment.
const MOST_IN_A_MOMENT: usize = 10;

/// Begins a conversation, for staff (S6-S9).
///
/// With an `Idempotency-Key`, the same request made again begins no other.
#[utoipa::path(
    post,
    path = "/_parlour/v1/conversations",
    tag = "conversations",
    operation_id = "begin_conversation",
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible characters, chosen by the client.")),
    request_body = Wanted,
    responses(
        (status = CREATED, body = Seen, description = "All rooms stand, with everybody in them."),
        (status = ACCEPTED, body = Seen, description = "It is written down, `ready` is false, and its rooms are made."),
    ),
)]
pub(crate) async fn begin(
    caller: Result<Caller, Refused>,
    State(edge): State<Arc<Edge>>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<Seen>), Refused> {
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
    let senders = people(store, "senders", &wanted.senders).await?;
    let new = NewConversation::new(&caller, name, subject, wanted.mode, &staff, &patients)?;
    let new = new.with_senders(&senders)?;
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

/// What of a conversation is to be another: one of the two, or both.
#[derive(Deserialize, ToSchema)]
#[schema(as = ChangedConversation)]
#[serde(deny_unknown_fields)]
pub(crate) struct Changed {
    /// Who may write.
    #[schema(schema_with = mode, required = false)]
    mode: Option<Mode>,
    /// Who of the staff may write besides the owner when it is one-way: all of them.
    #[schema(value_type = Option<Vec<String>>)]
    senders: Option<Vec<OwnedUserId>>,
}

/// A body that says what is to be another: two hundred staff by their user ids.
pub(super) const SMALL_BODY: usize = 64 << 10;
/// How long an answer waits for the rooms to be as they are to be: to switch fifty of them takes less.
pub(super) const SET_WITHIN: Duration = Duration::from_secs(5);

/// Changes who may write, for its owner, and for managers who take part (S16).
#[utoipa::path(
    patch,
    path = "/_parlour/v1/conversations/{id}",
    tag = "conversations",
    operation_id = "change_conversation",
    params(("id" = String, Path, description = "The conversation.")),
    request_body = Changed,
    responses(
        (status = OK, body = Seen, description = "It holds in all rooms."),
        (status = ACCEPTED, body = Seen, description = "It is written down, and holds in all but `switching` rooms."),
    ),
)]
pub(crate) async fn change(
    Caller(caller): Caller,
    State(edge): State<Arc<Edge>>,
    Path(id): Path<String>,
    body: Body,
) -> Result<(StatusCode, Json<Seen>), Refused> {
    let store = edge.engine.store();
    let conversation = own(store, &caller, &id).await?;
    let id = conversation.id;
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

/// Conversations, newest first.
#[derive(Serialize, ToSchema)]
pub(crate) struct Conversations {
    conversations: Vec<Seen>,
}

/// The caller's own conversations.
#[utoipa::path(
    get,
    path = "/_parlour/v1/conversations",
    tag = "conversations",
    operation_id = "conversations",
    responses((status = OK, body = Conversations, description = "All of them, newest first.")),
)]
pub(crate) async fn list(
    Caller(caller): Caller,
    State(edge): State<Arc<Edge>>,
) -> Result<Json<Conversations>, Refused> {
    let store = edge.engine.store();
    let mut all = Vec::new();
    for conversation in store.conversations_of(&caller.id).await? {
        all.push(shown(store, &caller, &conversation).await?);
    }
    Ok(Json(Conversations { conversations: all }))
}

/// One of the caller's own conversations; any other is not there.
#[utoipa::path(
    get,
    path = "/_parlour/v1/conversations/{id}",
    tag = "conversations",
    operation_id = "conversation",
    params(("id" = String, Path, description = "The conversation.")),
    responses((status = OK, body = Seen, description = "As the caller may see it.")),
)]
pub(crate) async fn one(
    Caller(caller): Caller,
    State(edge): State<Arc<Edge>>,
    Path(id): Path<String>,
) -> Result<Json<Seen>, Refused> {
    let store = edge.engine.store();
    let conversation = own(store, &caller, &id).await?;
    Ok(Json(whole_of(store, &caller, &conversation).await?))
}

/// One of the caller's own conversations. Any other is not there, nor is what is no id.
pub(super) async fn own(store: &Store, caller: &Person, id: &str) -> Result<Conversation, Refused> {
    let id: ConversationId = id.parse().map_err(|_| Refused::NotFound)?;
    if !store.may_see(&id, &caller.id).await? {
        return Err(Refused::NotFound);
    }
    store.conversation(&id).await?.ok_or(Refused::NotFound)
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

/// Somebody.
#[derive(Serialize, ToSchema)]
pub(crate) struct Named {
    #[schema(value_type = String)]
    user_id: OwnedUserId,
    name: String,
}

impl From<&Person> for Named {
    fn from(person: &Person) -> Self {
        Self { user_id: person.user_id.clone(), name: person.name.as_str().to_owned() }
    }
}

/// A patient, and their room.
#[derive(Serialize, ToSchema)]
pub(crate) struct PatientInRoom {
    #[serde(flatten)]
    patient: Named,
    /// Null until it is made.
    #[schema(value_type = Option<String>)]
    room_id: Option<OwnedRoomId>,
}

/// A conversation as staff see it.
#[derive(Serialize, ToSchema)]
pub(crate) struct ForStaff {
    #[schema(value_type = String)]
    id: ConversationId,
    /// The staff's own name for it.
    name: String,
    /// What patients see beside the practice's name.
    subject: Option<String>,
    /// Who may write.
    #[schema(schema_with = mode)]
    mode: Mode,
    #[schema(value_type = Option<String>)]
    owner: Option<OwnedUserId>,
    /// Who may write besides the owner when it is one-way.
    #[schema(value_type = Vec<String>)]
    senders: Vec<OwnedUserId>,
    /// Null until it is made.
    #[schema(value_type = Option<String>)]
    hub_room_id: Option<OwnedRoomId>,
    staff: Vec<Named>,
    patients: Vec<PatientInRoom>,
    /// The ids of the teams that take part.
    #[schema(value_type = Vec<String>)]
    teams: Vec<TeamId>,
    /// Those who took part and do not any more.
    former_patients: Vec<PatientInRoom>,
    /// Whether all rooms stand and everybody is in them.
    ready: bool,
    progress: RoomsMade,
    /// The last messages, and those of which something is still to be sent, newest first; not in a list of
    /// conversations.
    #[serde(skip_serializing_if = "Option::is_none")]
    sending: Option<Vec<SendingNow>>,
    /// How many of its rooms are not yet as they are to be; not in a list of conversations.
    #[serde(skip_serializing_if = "Option::is_none")]
    switching: Option<i64>,
}

/// How many rooms stand with everybody in them.
#[derive(Serialize, ToSchema)]
pub(crate) struct RoomsMade {
    made: i64,
    of: i64,
}

/// A conversation as a patient sees it (S17): neither the staff's name for it, nor who else is in it, nor how many, nor of its
/// other rooms.
#[derive(Serialize, ToSchema)]
pub(crate) struct ForPatient {
    #[schema(value_type = String)]
    id: ConversationId,
    subject: Option<String>,
    /// Who may write in their room.
    #[schema(schema_with = mode)]
    mode: Mode,
    /// Their own; null until it is made.
    #[schema(value_type = Option<String>)]
    room_id: Option<OwnedRoomId>,
    /// False when they were excluded or have left.
    takes_part: bool,
}

/// What is left to see for staff who have just excluded themselves: nothing.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Nothing {}

/// A conversation as the caller may see it.
#[derive(Serialize, ToSchema)]
#[schema(as = Conversation)]
#[serde(untagged)]
pub(crate) enum Seen {
    ForStaff(Box<ForStaff>),
    ForPatient(ForPatient),
    Nothing(Nothing),
}

/// A conversation as this person may see it, and for staff the messages that are under way in it, and how many rooms are
/// not yet as they are to be.
pub(super) async fn whole_of(
    store: &Store,
    caller: &Person,
    conversation: &Conversation,
) -> Result<Seen, Refused> {
    let mut whole = shown(store, caller, conversation).await?;
    if let Seen::ForStaff(whole) = &mut whole {
        whole.sending = Some(store.sending(&conversation.id).await?.iter().map(SendingNow::from).collect());
        whole.switching = Some(store.not_set(&conversation.id).await?);
    }
    Ok(whole)
}

async fn shown(store: &Store, caller: &Person, conversation: &Conversation) -> Result<Seen, Refused> {
    let portals = store.portals(&conversation.id).await?;
    let people = store.people_in(&conversation.id).await?;
    let subject = conversation.subject.as_ref().map(|subject| subject.as_str().to_owned());
    let spoke = |person: &Person| portals.iter().find(|portal| portal.patient.as_ref() == Some(&person.id));
    if caller.role == Role::Patient {
        let own = spoke(caller);
        return Ok(Seen::ForPatient(ForPatient {
            id: conversation.id.clone(),
            subject,
            mode: own.and_then(|portal| portal.mode).unwrap_or(conversation.mode),
            room_id: own.and_then(|portal| portal.room_id.clone()),
            takes_part: people.patients().any(|patient| patient.person.id == caller.id),
        }));
    }
    let in_room = |patient: &Person| PatientInRoom {
        patient: patient.into(),
        room_id: spoke(patient).and_then(|portal| portal.room_id.clone()),
    };
    let making = store.making(&conversation.id).await?.ok_or(Refused::NotFound)?;
    let owner = people.staff().find(|p| p.person.id == conversation.owner);
    let named = people.staff().filter(|p| p.may_send_one_way && p.person.id != conversation.owner);
    let hub = portals.iter().find(|portal| portal.patient.is_none());
    Ok(Seen::ForStaff(Box::new(ForStaff {
        id: conversation.id.clone(),
        name: conversation.name.as_str().to_owned(),
        subject,
        mode: conversation.mode,
        owner: owner.map(|owner| owner.person.user_id.clone()),
        senders: named.map(|p| p.person.user_id.clone()).collect(),
        hub_room_id: hub.and_then(|hub| hub.room_id.clone()),
        staff: people.staff().map(|p| Named::from(&p.person)).collect(),
        patients: people.patients().map(|p| in_room(&p.person)).collect(),
        teams: store.teams_in(&conversation.id).await?,
        former_patients: people.former_patients().map(in_room).collect(),
        ready: making.ready,
        progress: RoomsMade { made: making.made, of: making.of },
        sending: None,
        switching: None,
    })))
}
