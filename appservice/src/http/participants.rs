//! Who takes part in a conversation (S3), changed at any time by its owner, and by managers who take part.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use parlour_domain::{ConversationId, Person, TakingPartError};
use parlour_engine::{Conversation, EngineError, Store};
use ruma::UserId;
use serde_json::{Value, json};

use super::{
    Edge,
    auth::Caller,
    conversations::{A_MOMENT, SET_WITHIN, whole_of},
    error::Refused,
};

/// Whose participation is asked for, in which conversation.
struct Asked {
    conversation: Conversation,
    whom: Person,
}

/// Whoever may not see a conversation does not learn that it is there, nor who is known to the practice.
async fn asked(store: &Store, caller: &Person, (id, user_id): (String, String)) -> Result<Asked, Refused> {
    let id: ConversationId = id.parse().map_err(|_| Refused::NotFound)?;
    if !store.may_see(&id, &caller.id).await? {
        return Err(Refused::NotFound);
    }
    let conversation = store.conversation(&id).await?.ok_or(Refused::NotFound)?;
    if caller.user_id == user_id {
        return Ok(Asked { conversation, whom: caller.clone() });
    }
    parlour_domain::may_change(caller, &conversation.owner).map_err(|_| TakingPartError::NotYours)?;
    let user_id = UserId::parse(user_id).map_err(|_| Refused::NobodyLikeThat("participants"))?;
    let whom = store.person_of(&user_id).await?.ok_or(Refused::NobodyLikeThat("participants"))?;
    Ok(Asked { conversation, whom })
}

/// `PUT /_parlour/v1/conversations/{id}/participants/{user_id}` (S3): 200 with the conversation when they are in their room; 202
/// when that takes longer, and it is done all the same. Asked again, nothing changes.
pub(crate) async fn include(
    Caller(caller): Caller,
    State(edge): State<Arc<Edge>>,
    Path(path): Path<(String, String)>,
) -> Result<(StatusCode, Json<Value>), Refused> {
    let store = edge.engine.store();
    let Asked { conversation, whom } = asked(store, &caller, path).await?;
    match edge.engine.include(&conversation.id, &whom, &caller).await {
        Err(EngineError::TakingPart(TakingPartError::StaffOnly)) => {
            return Err(Refused::StaffOnly(Box::new(offer(store, &conversation, &whom).await?)));
        }
        included => included?,
    }
    edge.engine.made_within(&conversation.id, A_MOMENT).await?;
    answer(&edge, &caller, &conversation.id).await
}

/// `DELETE /_parlour/v1/conversations/{id}/participants/{user_id}` (S3): 200 when their room is closed to them, 202 when that
/// takes longer, and it is done all the same; with the conversation, unless it is not the caller's any more.
pub(crate) async fn exclude(
    Caller(caller): Caller,
    State(edge): State<Arc<Edge>>,
    Path(path): Path<(String, String)>,
) -> Result<(StatusCode, Json<Value>), Refused> {
    let Asked { conversation, whom } = asked(edge.engine.store(), &caller, path).await?;
    edge.engine.exclude(&conversation.id, &whom, &caller).await?;
    answer(&edge, &caller, &conversation.id).await
}

async fn answer(
    edge: &Edge,
    caller: &Person,
    id: &ConversationId,
) -> Result<(StatusCode, Json<Value>), Refused> {
    let all = edge.engine.set_within(id, SET_WITHIN).await?;
    let store = edge.engine.store();
    let conversation = store.conversation(id).await?.ok_or(Refused::NotFound)?;
    let status = if all && conversation.ready { StatusCode::OK } else { StatusCode::ACCEPTED };
    let whole = match store.may_see(id, &caller.id).await? {
        true => whole_of(store, caller, &conversation).await?,
        false => json!({}),
    };
    Ok((status, Json(whole)))
}

/// The conversation that may be begun instead (JOIN-5): what `POST /_parlour/v1/conversations` takes.
async fn offer(store: &Store, conversation: &Conversation, whom: &Person) -> Result<Value, Refused> {
    let people = store.people_in(&conversation.id).await?;
    Ok(json!({
        "name": conversation.name.as_str(),
        "subject": conversation.subject.as_ref().map(|subject| subject.as_str()),
        "mode": conversation.mode.as_str(),
        "staff": people.staff().map(|staff| &staff.person.user_id).collect::<Vec<_>>(),
        "patients": [whom.user_id],
    }))
}
