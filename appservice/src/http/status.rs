//! What the apps show beside "connected" (S5): whether messages travel, and how long the oldest has waited.

use std::sync::Arc;

use axum::{Json, extract::State};
use parlour_domain::Clock as _;
use serde::Serialize;

use super::Edge;
use crate::edge::SystemClock;

/// The answer of `GET /_parlour/v1/status`.
#[derive(Serialize)]
pub(crate) struct Status {
    /// `connected`, or `disconnected`: then nothing is delivered for now, and nothing is lost.
    status: &'static str,
    /// Whether the homeserver answers Parlour, and Parlour the homeserver.
    homeserver: bool,
    /// Whether Parlour's own database answers.
    bridge: bool,
    /// For how many seconds the oldest message has waited to be sent; null when none waits. Who cannot read yet does not
    /// count.
    oldest_leg_seconds: Option<i64>,
}

/// `GET /_parlour/v1/status`, without a token: a token could not be looked up while the homeserver or the database is
/// away, which is when it is asked most. It says nothing about anybody.
pub(crate) async fn status(State(edge): State<Arc<Edge>>) -> Json<Status> {
    let homeserver = edge.engine.travels();
    let figures = edge.engine.figures().await.ok();
    let oldest = figures.and_then(|figures| figures.oldest_waiting);
    Json(Status {
        status: if homeserver && figures.is_some() { "connected" } else { "disconnected" },
        homeserver,
        bridge: figures.is_some(),
        oldest_leg_seconds: oldest.map(|since| (SystemClock.now().millis() - since.millis()).max(0) / 1000),
    })
}
