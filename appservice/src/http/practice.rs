//! What a practice says of itself: name, hours, emergency words. For everybody, and the same for everybody.

use std::sync::Arc;

use axum::{Json, extract::State};
use parlour_domain::{Standing, Timestamp};
use serde::Serialize;
use utoipa::ToSchema;

use super::Edge;
use crate::config::Week;

/// The answer.
#[derive(Serialize, ToSchema)]
#[schema(as = Practice)]
pub(crate) struct Shown {
    /// As patients see it.
    name: String,
    /// Where it is, for its hours.
    #[schema(examples("Europe/Dublin"))]
    time_zone: Option<String>,
    /// When it is there.
    hours: Option<Week>,
    /// Days on which it is closed, whatever the weekday.
    #[schema(examples(json!(["2026-12-25"])))]
    holidays: Vec<String>,
    /// What to do in an emergency, in one line.
    emergency: Option<String>,
    /// Whether it is there now; null where nobody has said when it is.
    open: Option<bool>,
    /// When it is there again, where it is closed.
    opens_at: Option<i64>,
}

/// What the practice says of itself: name, hours, emergency words.
#[utoipa::path(
    get,
    path = "/_parlour/v1/practice",
    tag = "practice",
    security(()),
    responses((status = OK, body = Shown, description = "The same for everybody.")),
)]
pub(crate) async fn practice(State(edge): State<Arc<Edge>>) -> Json<Shown> {
    let practice = edge.practice.clone();
    // They were checked at the start.
    let standing = practice.opening_hours().ok().flatten().map(|hours| hours.at(edge.clock.now()));
    let opens_at = match standing {
        Some(Standing::Closed(until)) => until.map(Timestamp::millis),
        Some(Standing::Open) | None => None,
    };
    Json(Shown {
        name: practice.name,
        time_zone: practice.time_zone,
        hours: practice.hours,
        holidays: practice.holidays,
        emergency: practice.emergency,
        open: standing.map(|standing| standing == Standing::Open),
        opens_at,
    })
}
