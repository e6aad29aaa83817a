//! Teams in the practice API: staff see them, managers make and change them.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::{Path, State},
    http::StatusCode,
};
use parlour_domain::{InvalidText, TeamId, TeamName, may_team};
use parlour_engine::Team;
use ruma::OwnedUserId;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Edge,
    auth::Caller,
    body::whole,
    conversations::{SMALL_BODY, people, read},
    error::Refused,
};

/// More teams than this no practice has.
const MOST: usize = 500;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    name: String,
    #[serde(default)]
    members: Vec<OwnedUserId>,
}

/// What is to be another.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Changed {
    name: Option<String>,
    /// All of them.
    members: Option<Vec<OwnedUserId>>,
}

fn named(name: &str) -> Result<TeamName, Refused> {
    name.parse().map_err(|reason: InvalidText| Refused::BadJson(format!("`name`: {reason}")))
}

fn shown(team: &Team) -> Value {
    let members = team.members.iter();
    json!({
        "id": team.id,
        "name": team.name.as_str(),
        "members": members
            .map(|person| json!({ "user_id": person.user_id, "name": person.name.as_str() }))
            .collect::<Vec<_>>(),
    })
}

/// `GET /_parlour/v1/teams`, for staff: all of them, by name.
pub(crate) async fn list(
    Caller(caller): Caller,
    State(edge): State<Arc<Edge>>,
) -> Result<Json<Value>, Refused> {
    if !caller.role.is_staff() {
        return Err(Refused::NotFound);
    }
    let teams = edge.engine.store().teams().await?;
    Ok(Json(json!({ "teams": teams.iter().map(shown).collect::<Vec<_>>() })))
}

/// `POST /_parlour/v1/teams`, for managers: 201 with the team.
pub(crate) async fn add(
    Caller(caller): Caller,
    State(edge): State<Arc<Edge>>,
    body: Body,
) -> Result<(StatusCode, Json<Value>), Refused> {
    // Who may not make one does not hear what would be wrong with it.
    may_team(&caller, &[])?;
    let wanted: Wanted = read(&whole(body, SMALL_BODY).await?)?;
    let name = named(&wanted.name)?;
    let store = edge.engine.store();
    let members = people(store, "members", &wanted.members).await?;
    may_team(&caller, &members)?;
    if store.teams().await?.len() >= MOST {
        return Err(Refused::BadJson(format!("a practice has at most {MOST} teams")));
    }
    let team = edge.engine.add_team(name, members).await?;
    Ok((StatusCode::CREATED, Json(shown(&team))))
}

/// `PATCH /_parlour/v1/teams/{id}`, for managers: whoever comes into it takes part in all conversations of the team, and whoever
/// leaves it goes from all of them. 200 when that is written down; the rooms follow.
pub(crate) async fn change(
    Caller(caller): Caller,
    State(edge): State<Arc<Edge>>,
    Path(id): Path<String>,
    body: Body,
) -> Result<Json<Value>, Refused> {
    may_team(&caller, &[])?;
    let id: TeamId = id.parse().map_err(|_| Refused::NotFound)?;
    let store = edge.engine.store();
    let team = store.team(&id).await?.ok_or(Refused::NotFound)?;
    let wanted: Changed = read(&whole(body, SMALL_BODY).await?)?;
    if wanted.name.is_none() && wanted.members.is_none() {
        return Err(Refused::BadJson("`name` or `members` is needed".to_owned()));
    }
    let name = wanted.name.as_deref().map(named).transpose()?;
    let members = match &wanted.members {
        Some(members) => Some(people(store, "members", members).await?),
        None => None,
    };
    may_team(&caller, members.as_deref().unwrap_or_default())?;
    edge.engine.change_team(&team, name.as_ref(), members.as_deref(), &caller).await?;
    let team = store.team(&id).await?.ok_or(Refused::NotFound)?;
    Ok(Json(shown(&team)))
}
