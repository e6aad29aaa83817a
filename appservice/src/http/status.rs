//! What the apps show beside "connected" (S5): whether messages travel, and how long the oldest has waited.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::{ToSchema, openapi::Schema};

use super::{Edge, openapi::one_of};

/// Whether messages travel.
#[derive(Serialize, ToSchema)]
pub(crate) struct Status {
    /// `connected`, or `disconnected`: then nothing is delivered for now, and nothing is lost.
    #[schema(schema_with = connected_or_not)]
    status: &'static str,
    /// Whether the homeserver answers Parlour, and Parlour the homeserver.
    homeserver: bool,
    /// Whether Parlour's own database answers.
    bridge: bool,
    /// For how many seconds the oldest message has waited to be sent; null when none has for ten seconds. Who cannot read yet
    /// does not count.
    oldest_leg_seconds: Option<i64>,
}

/// What is on its way in good order tells nobody that somebody has written (S17).
const LEAST_SECONDS: i64 = 10;
const CONNECTED: &str = "connected";
const DISCONNECTED: &str = "disconnected";

fn connected_or_not() -> Schema {
    one_of([CONNECTED, DISCONNECTED])
}

/// Whether messages travel (S5).
///
/// Without a token: a token could not be looked up while the homeserver or the database is away, which is when it is asked most.
/// It says nothing about anybody.
#[utoipa::path(
    get,
    path = "/_parlour/v1/status",
    tag = "practice",
    security(()),
    responses((status = OK, body = Status, description = "How it is now. No answer at all means `disconnected`.")),
)]
pub(crate) async fn status(State(edge): State<Arc<Edge>>) -> Json<Status> {
    let homeserver = edge.engine.travels();
    let figures = edge.engine.figures().await.ok();
    let oldest = figures.and_then(|figures| figures.oldest_waiting);
    let seconds = oldest.map(|since| (edge.clock.now().millis() - since.millis()) / 1000);
    Json(Status {
        status: if homeserver && figures.is_some() { CONNECTED } else { DISCONNECTED },
        homeserver,
        bridge: figures.is_some(),
        oldest_leg_seconds: seconds.filter(|seconds| *seconds >= LEAST_SECONDS),
    })
}
