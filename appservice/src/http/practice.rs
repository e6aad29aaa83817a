//! What a practice says of itself: name, hours, emergency words. For everybody, and the same for everybody.

use std::sync::Arc;

use axum::{Json, extract::State};
use parlour_domain::{Standing, Timestamp};
use serde_json::{Value, json};

use super::Edge;

/// `GET /_parlour/v1/practice`, without a token. `open` is null where nobody has said when the practice is there.
pub(crate) async fn practice(State(edge): State<Arc<Edge>>) -> Json<Value> {
    let practice = &edge.practice;
    // They were checked at the start.
    let standing = practice.opening_hours().ok().flatten().map(|hours| hours.at(edge.clock.now()));
    let opens_at = match standing {
        Some(Standing::Closed(until)) => until.map(Timestamp::millis),
        Some(Standing::Open) | None => None,
    };
    Json(json!({
        "name": practice.name,
        "time_zone": practice.time_zone,
        "hours": practice.hours,
        "holidays": practice.holidays,
        "emergency": practice.emergency,
        "open": standing.map(|standing| standing == Standing::Open),
        "opens_at": opens_at,
    }))
}
