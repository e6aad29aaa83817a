//! What the homeserver asks of us (Matrix v1.19 application-service), and what monitoring does.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::{Path, State},
    http::StatusCode,
};
use serde_json::{Value, json};

use super::{Edge, auth::TheHomeserver, body::whole, error::Refused};

/// The largest transaction: 100 events of at most 65,536 bytes, and what the homeserver adds to each.
const LARGEST_BODY: usize = 9 << 20;

/// `PUT /_matrix/app/v1/transactions/{id}`: kept in one commit before the answer. Each event is known by its own id; that of
/// the transaction only tells whether one before it is missing.
pub(crate) async fn transaction(
    who: Result<TheHomeserver, Refused>,
    Path(id): Path<String>,
    State(edge): State<Arc<Edge>>,
    body: Body,
) -> Result<Json<Value>, Refused> {
    let body = whole(body, if who.is_ok() { LARGEST_BODY } else { 0 }).await;
    who?;
    let body = body?;
    edge.engine.accept(&id, &body).await?;
    Ok(Json(json!({})))
}

/// `GET /_matrix/app/v1/users/{id}` and `…/rooms/{alias}`: whoever we act as is made beforehand.
pub(crate) async fn not_known(_: TheHomeserver) -> Refused {
    Refused::NotFound
}

/// `POST /_matrix/app/v1/ping`: the homeserver reaches us, with the right token.
pub(crate) async fn ping(_: TheHomeserver) -> Json<Value> {
    Json(json!({}))
}

/// The process answers.
pub(crate) async fn live() -> StatusCode {
    StatusCode::OK
}

/// Messages travel: the bot receives.
pub(crate) async fn ready(State(edge): State<Arc<Edge>>) -> StatusCode {
    if edge.engine.travels() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}
