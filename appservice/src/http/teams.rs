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
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    Edge,
    auth::Caller,
    body::whole,
    conversations::{Named, SMALL_BODY, people, read},
    error::Refused,
};

/// More teams than this no practice has.
const MOST: usize = 500;

/// What a team is to be.
#[derive(Deserialize, ToSchema)]
#[schema(as = NewTeam)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wanted {
    /// In one line.
    #[schema(min_length = 1)]
    name: String,
    /// The user ids of staff.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    members: Vec<OwnedUserId>,
}

/// What of a team is to be another: one of the two, or both.
#[derive(Deserialize, ToSchema)]
#[schema(as = ChangedTeam)]
#[serde(deny_unknown_fields)]
pub(crate) struct Changed {
    /// In one line.
    name: Option<String>,
    /// The user ids of all of them.
    #[schema(value_type = Option<Vec<String>>)]
    members: Option<Vec<OwnedUserId>>,
}

fn named(name: &str) -> Result<TeamName, Refused> {
    name.parse().map_err(|reason: InvalidText| Refused::BadJson(format!("`name`: {reason}")))
}

/// A team.
#[derive(Serialize, ToSchema)]
#[schema(as = Team)]
pub(crate) struct Shown {
    #[schema(value_type = String)]
    id: TeamId,
    name: String,
    members: Vec<Named>,
}

impl From<&Team> for Shown {
    fn from(team: &Team) -> Self {
        let members = team.members.iter().map(Named::from).collect();
        Self { id: team.id.clone(), name: team.name.as_str().to_owned(), members }
    }
}

/// All teams, by name.
#[derive(Serialize, ToSchema)]
#[schema(as = Teams)]
pub(crate) struct List {
    teams: Vec<Shown>,
}

/// All teams, for staff.
#[utoipa::path(
    get,
    path = "/_parlour/v1/teams",
    tag = "teams",
    operation_id = "teams",
    responses((status = OK, body = List, description = "By name.")),
)]
pub(crate) async fn list(
    Caller(caller): Caller,
    State(edge): State<Arc<Edge>>,
) -> Result<Json<List>, Refused> {
    if !caller.role.is_staff() {
        return Err(Refused::NotFound);
    }
    let teams = edge.engine.store().teams().await?;
    Ok(Json(List { teams: teams.iter().map(Shown::from).collect() }))
}

/// Makes a team, for managers.
#[utoipa::path(
    post,
    path = "/_parlour/v1/teams",
    tag = "teams",
    operation_id = "add_team",
    request_body = Wanted,
    responses((status = CREATED, body = Shown, description = "The team.")),
)]
pub(crate) async fn add(
    Caller(caller): Caller,
    State(edge): State<Arc<Edge>>,
    body: Body,
) -> Result<(StatusCode, Json<Shown>), Refused> {
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
    Ok((StatusCode::CREATED, Json((&team).into())))
}

/// Changes a team, for managers.
///
/// Whoever comes into it takes part in all conversations of the team, and whoever leaves it goes from all of them.
#[utoipa::path(
    patch,
    path = "/_parlour/v1/teams/{id}",
    tag = "teams",
    operation_id = "change_team",
    params(("id" = String, Path, description = "The team.")),
    request_body = Changed,
    responses((status = OK, body = Shown, description = "It is written down; the rooms follow.")),
)]
pub(crate) async fn change(
    Caller(caller): Caller,
    State(edge): State<Arc<Edge>>,
    Path(id): Path<String>,
    body: Body,
) -> Result<Json<Shown>, Refused> {
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
    Ok(Json((&team).into()))
}
