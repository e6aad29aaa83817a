//! Who takes part in a conversation (S3), changed at any time by its owner, and by managers who take part.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use parlour_domain::{ConversationId, Person, TakingPartError, TeamId};
use parlour_engine::{Conversation, EngineError, Store, Team};
use ruma::UserId;
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    Edge,
    auth::Caller,
    conversations::{A_MOMENT, Nothing, SET_WITHIN, Seen, Wanted, own, whole_of},
    error::Refused,
};

/// Where it is asked.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct At {
    /// The conversation.
    id: String,
    /// A user id, or the id of a team.
    participant: String,
}

/// Who is to take part or not.
enum Whom {
    Person(Person),
    Team(Team),
}

/// What is asked for.
struct Asked {
    conversation: Conversation,
    whom: Whom,
}

/// Whoever may not see a conversation does not learn that it is there, nor who is known to the practice.
async fn asked(
    store: &Store,
    caller: &Person,
    At { id, participant: whom }: At,
    goes: bool,
) -> Result<Asked, Refused> {
    let conversation = own(store, caller, &id).await?;
    // Everybody may go themselves; nobody else than those who say who takes part lets anybody in.
    if goes && caller.user_id == whom {
        return Ok(Asked { conversation, whom: Whom::Person(caller.clone()) });
    }
    parlour_domain::may_change(caller, &conversation.owner).map_err(|_| TakingPartError::NotYours)?;
    let nobody = || Refused::NobodyLikeThat("participants");
    let whom = match whom.parse::<TeamId>() {
        Ok(team) => Whom::Team(store.team(&team).await?.ok_or_else(nobody)?),
        Err(_) => {
            let user_id = UserId::parse(whom).map_err(|_| nobody())?;
            Whom::Person(store.person_of(&user_id).await?.ok_or_else(nobody)?)
        }
    };
    Ok(Asked { conversation, whom })
}

/// Includes somebody, or a team, for its owner, and for managers who take part (S3).
///
/// Staff are invited, and see the whole of it; a patient sees what is said from then on. Asked again, nothing changes.
#[utoipa::path(
    put,
    path = "/_parlour/v1/conversations/{id}/participants/{participant}",
    tag = "conversations",
    operation_id = "include",
    params(At),
    responses(
        (status = OK, body = Seen, description = "Patients are in their rooms, and staff are invited."),
        (status = ACCEPTED, body = Seen, description = "It is written down, and takes longer."),
    ),
)]
pub(crate) async fn include(
    Caller(caller): Caller,
    State(edge): State<Arc<Edge>>,
    Path(at): Path<At>,
) -> Result<(StatusCode, Json<Seen>), Refused> {
    let store = edge.engine.store();
    let Asked { conversation, whom } = asked(store, &caller, at, false).await?;
    let included = match &whom {
        Whom::Team(team) => edge.engine.include_team(&conversation.id, team, &caller).await,
        Whom::Person(person) => edge.engine.include(&conversation.id, person, &caller).await,
    };
    match (included, whom) {
        (Err(EngineError::TakingPart(TakingPartError::StaffOnly)), Whom::Person(person)) => {
            return Err(Refused::StaffOnly(Box::new(offer(store, &conversation, &person).await?)));
        }
        (included, _) => included?,
    }
    edge.engine.made_within(&conversation.id, A_MOMENT).await?;
    answer(&edge, &caller, &conversation.id).await
}

/// Excludes somebody, or a team, for its owner, and for managers who take part; everybody may exclude themselves (S3).
///
/// Nothing of what is said from then on reaches them.
#[utoipa::path(
    delete,
    path = "/_parlour/v1/conversations/{id}/participants/{participant}",
    tag = "conversations",
    operation_id = "exclude",
    params(At),
    responses(
        (status = OK, body = Seen, description = "The rooms are closed to them."),
        (status = ACCEPTED, body = Seen, description = "It is written down, and takes longer."),
    ),
)]
pub(crate) async fn exclude(
    Caller(caller): Caller,
    State(edge): State<Arc<Edge>>,
    Path(at): Path<At>,
) -> Result<(StatusCode, Json<Seen>), Refused> {
    let Asked { conversation, whom } = asked(edge.engine.store(), &caller, at, true).await?;
    match &whom {
        Whom::Team(team) => edge.engine.exclude_team(&conversation.id, team, &caller).await?,
        Whom::Person(person) => edge.engine.exclude(&conversation.id, person, &caller).await?,
    }
    answer(&edge, &caller, &conversation.id).await
}

async fn answer(
    edge: &Edge,
    caller: &Person,
    id: &ConversationId,
) -> Result<(StatusCode, Json<Seen>), Refused> {
    let store = edge.engine.store();
    if !caller.role.is_staff() {
        // How long it takes tells of others.
        let conversation = store.conversation(id).await?.ok_or(Refused::NotFound)?;
        return Ok((StatusCode::OK, Json(whole_of(store, caller, &conversation).await?)));
    }
    let all = edge.engine.set_within(id, SET_WITHIN).await?;
    let conversation = store.conversation(id).await?.ok_or(Refused::NotFound)?;
    let status = if all && conversation.ready { StatusCode::OK } else { StatusCode::ACCEPTED };
    let whole = match store.may_see(id, &caller.id).await? {
        true => whole_of(store, caller, &conversation).await?,
        false => Seen::Nothing(Nothing {}),
    };
    Ok((status, Json(whole)))
}

/// The conversation that may be begun instead (JOIN-5): what `POST /_parlour/v1/conversations` takes.
async fn offer(store: &Store, conversation: &Conversation, whom: &Person) -> Result<Wanted, Refused> {
    let people = store.people_in(&conversation.id).await?;
    Ok(Wanted {
        name: conversation.name.as_str().to_owned(),
        subject: conversation.subject.as_ref().map(|subject| subject.as_str().to_owned()),
        mode: conversation.mode,
        staff: people.staff().map(|staff| staff.person.user_id.clone()).collect(),
        patients: vec![whom.user_id.clone()],
        senders: people
            .staff()
            .filter(|staff| staff.may_send_one_way)
            .map(|staff| staff.person.user_id.clone())
            .collect(),
    })
}
